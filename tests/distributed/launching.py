"""Starts processes that work together: with `accelerate launch` as a user does, or two by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "deepspeed_configs"
STRATEGIES = ["ddp", "zero1", "zero2", "zero3"]


def launch(strategy: str, *arguments: str, processes: int = 2, timeout: float = 900.0) -> str:
    """Run `worker.py` with ``arguments`` under `deepspeed_configs/cpu/<strategy>.yaml`; what it printed."""
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", f"deepspeed_configs/cpu/{strategy}.yaml", "--num_processes", str(processes)]
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
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


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


def run_two(module: str, *arguments: str, timeout: float = 300.0) -> list[str]:
    """Run ``module`` on two processes of one gloo group, as torchrun would; what each of them printed."""
    # As torchrun's agent, this process keeps the store that the others meet at: its port is taken before they start.
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "OMP_NUM_THREADS": "1"}
    shared |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "PYTHONPATH": str(ROOT)}
    with ExitStack() as files:
        # To files: one that waits for a reader while the other is read would keep both waiting.
        outputs = [files.enter_context(TemporaryFile("w+")) for _ in range(2)]
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=ROOT,
                env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            for rank, output in enumerate(outputs)
        ]
        try:
            statuses = [process.wait(timeout) for process in processes]
        finally:
            for process in processes:
                process.kill()
        for output in outputs:
            output.seek(0)
        printed = [output.read() for output in outputs]
    assert statuses == [0, 0], "\n".join(printed)[-4000:]
    return printed
