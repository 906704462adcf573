"""Starts processes that work together: with `accelerate launch` as a user does, or forked, with the environment it gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.processes import PATIENCE, ROOT, run_ranks

CONFIGS = ROOT / "deepspeed_configs"
STRATEGIES = ["ddp", "zero1", "zero2", "zero3"]


def launch(strategy: str, *arguments: str) -> str:
    """Run `worker.py` with ``arguments`` under `deepspeed_configs/cpu/<strategy>.yaml` as a user does; what it printed."""
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", f"deepspeed_configs/cpu/{strategy}.yaml"]
    # Port 0: the launcher looks for a free one when it needs it. One that we found here could be taken by then.
    command += ["--main_process_port", "0", "--module", "tests.distributed.worker", *arguments]
    environment = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


def work(strategy: str, *arguments: str, processes: int = 2) -> None:
    """As `launch`, with processes that need not import everything anew."""
    with pytest.MonkeyPatch.context() as patch:
        environment = launch_environment(Path("deepspeed_configs", "cpu", f"{strategy}.yaml"), patch)
    environment |= {"DS_ACCELERATOR": "cpu"}
    run_ranks("tests.distributed.worker", *arguments, processes=processes, environment=environment)


def seen_by_all(folder: Path, job: str, processes: int = 2) -> list[dict[str, Any]]:
    """What every process saw of ``job``, by case."""
    files = [folder / f"{job}-{rank}-of-{processes}.json" for rank in range(processes)]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def launch_environment(config: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment that `accelerate launch --config_file` gives its processes."""
    from accelerate.commands import launch
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    given: list[dict[str, str]] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(launch, "deepspeed_launcher", lambda args: given.append(prepare_deepspeed_cmd_env(args)[1]))
    monkeypatch.setattr(launch, "multi_gpu_launcher", lambda args: given.append(prepare_multi_gpu_env(args)))
    launch.launch_command(launch.launch_command_parser().parse_args(["--config_file", str(config), "train.py"]))
    return given[0]
