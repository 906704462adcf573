"""Small runs of the recipes in processes of their own, which can be killed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests import processes
from tests.processes import Process

PEOPLE = 6
STEPS = 12
SMALL = {
    "documents": "fictional:nano",
    "size": PEOPLE,
    "max_steps": STEPS,
    "per_device_train_batch_size": 4,
    "save_strategy": "steps",
    "save_steps": 2,
    "save_total_limit": 2,
    "keep_checkpoints": "true",
    "evaluations": 3,
    "max_new_tokens": 4,
    "retention": "false",
    "learning_rate": 1e-3,
    "report_to": "none",
    "logging_steps": 1,
    "bf16": "false",
    "gradient_checkpointing": "false",
    "disable_tqdm": "true",
}
ARMS = {
    "masked": ("masked", {"model_name_or_path": "nano-ar"}),
    "masked-lora": (
        "masked",
        {"model_name_or_path": "nano-ar", "use_peft": "true", "lora_target_modules": "all-linear"},
    ),
    "diffusion": ("diffusion", {"model_name_or_path": "nano-diffusion", "frame": "chat"}),
    "diffusion-lora": (
        "diffusion",
        {"model_name_or_path": "nano-diffusion", "use_peft": "true", "lora_target_modules": "all-linear"},
    ),
}
_TIMES = ("seconds", "peak_memory_bytes")  # of results.json: what no two runs share


def start(arm: str, directory: Path, *, fault: Callable[[Path], None] | None = None, **settings: Any) -> Process:
    """Start a run of ``arm`` in a process of its own, in which ``fault`` is called first."""
    objective, own = ARMS[arm]
    options = {**SMALL, **own, "output_dir": directory, **settings}
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    directory.parent.mkdir(parents=True, exist_ok=True)
    return processes.start(_run, objective, arguments, directory, fault, output=Path(f"{directory}.log.txt"))


def finish(process: Process) -> int:
    """Wait for ``process``; its exit status, negative for a signal."""
    process.join(processes.PATIENCE)
    assert process.exitcode is not None, "the run hangs"
    return process.exitcode


def run(arm: str, directory: Path, **settings: Any) -> None:
    """A run of ``arm``, to its end."""
    assert finish(start(arm, directory, **settings)) == 0, log_of(directory)


def log_of(directory: Path) -> str:
    """What the runs in ``directory`` printed."""
    return Path(f"{directory}.log.txt").read_text(encoding="utf-8")


def weights(directory: Path) -> dict[str, bytes]:
    """The saved weights of a run, byte for byte."""
    return {path.name: path.read_bytes() for path in sorted(directory.glob("*.safetensors"))}


def scores(directory: Path) -> dict[str, Any]:
    """The `results.json` of a run without times."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: timeless(item) for key, item in value.items() if key not in _TIMES}
        return [timeless(item) for item in value] if isinstance(value, list) else value

    results = json.loads((directory / "results.json").read_text(encoding="utf-8"))
    results.pop("config")  # names the directory and whether it was resumed
    return timeless(results)


def _run(objective: str, arguments: Sequence[str], directory: Path, fault: Callable[[Path], None] | None) -> None:
    from kinject.commands.recipe import train
    from kinject.errors import exit_on_user_error

    if fault is not None:
        fault(directory)
    with exit_on_user_error():
        train(objective, arguments)
