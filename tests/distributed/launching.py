"""Starts `accelerate launch` as a user does, on a port of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STRATEGIES = ["ddp", "zero1", "zero2", "zero3"]


def launch(strategy: str, *arguments: str, processes: int = 2, timeout: float = 900.0) -> str:
    """Run `worker.py` with ``arguments`` under `deepspeed_configs/cpu/<strategy>.yaml`; what it printed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", f"deepspeed_configs/cpu/{strategy}.yaml", "--num_processes", str(processes)]
    command += ["--main_process_port", str(port), "--module", "tests.distributed.worker", *arguments]
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
