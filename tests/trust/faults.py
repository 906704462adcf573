"""Ends this process in the middle of something, with what it was writing half-written.

Each takes the run's `output_dir`, and is called in the run's own process before it begins.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _at_call(owner: Any, name: str, number: int, act: Callable[..., None]) -> None:
    """Let ``act`` see the arguments of call ``number`` of ``owner.name``, before it happens."""
    real, calls = getattr(owner, name), iter(range(1, 10_000))

    def call(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == number:
            act(*args, **kwargs)
        return real(*args, **kwargs)

    setattr(owner, name, call)


def in_weights(directory: Path) -> None:
    """While the second checkpoint's weights are written."""
    from transformers import Trainer

    def act(trainer: Any, output_dir: str) -> None:
        _halve(next(Path(output_dir).glob("*.safetensors")))
        _die()

    _at_call(Trainer, "_save_optimizer_and_scheduler", 2, act)


def in_optimizer(directory: Path) -> None:
    """While the second checkpoint's optimizer state is written."""
    from transformers import Trainer

    def act(trainer: Any, output_dir: str) -> None:
        _halve(Path(output_dir) / "optimizer.pt")
        _die()

    _at_call(Trainer, "_save_scaler", 2, act)


def in_state(directory: Path) -> None:
    """While the third checkpoint's last file is written."""
    from transformers import TrainerState

    def act(state: Any, json_path: str) -> None:
        Path(json_path).write_text('{"best_global_step": null, "epoch": 3', encoding="utf-8")
        _die()

    _at_call(TrainerState, "save_to_json", 3, act)


def in_rotation(directory: Path) -> None:
    """While an old checkpoint is deleted."""
    from transformers import trainer

    def act(output_dir: str, **kwargs: Any) -> None:
        oldest = min(Path(output_dir).glob("checkpoint-*"), key=lambda path: path.stat().st_mtime)
        (oldest / "optimizer.pt").unlink()
        _die()

    _at_call(trainer, "rotate_checkpoints", 3, act)


def in_evaluation(directory: Path) -> None:
    """While questions are asked, the second time after training began."""
    from kinject.evaluation import callback

    _at_call(callback.QuestionAnsweringCallback, "_answer", 3, lambda *args, **kwargs: _die())


def in_results(directory: Path) -> None:
    """When `results.json` is about to take its place."""
    _at_call(os, "replace", 2, lambda *args, **kwargs: _die())


def in_best(directory: Path) -> None:
    """When the best weights are written, and about to take their place."""

    def act(fresh: Path, folder: Path) -> None:
        if folder.name == "best":
            _die()

    _at_call(Path, "rename", 1, act)


def at_the_end(directory: Path) -> None:
    """While the trained model is written."""
    from kinject.commands import inject

    def act(*args: Any) -> None:
        _halve(next(directory.glob("*.safetensors")))
        _die()

    _at_call(inject, "recorded_answers", 1, act)


def told_to_stop(directory: Path, number: signal.Signals, times: int) -> None:
    """By a signal that comes in the middle of the third step, ``times`` over."""
    from kinject.trainers import DocumentSFTTrainer

    def act(*args: Any, **kwargs: Any) -> None:
        for _ in range(times):
            signal.raise_signal(number)

    _at_call(DocumentSFTTrainer, "compute_loss", 3, act)


def watched(directory: Path) -> None:
    """Not at all, but list every file that is opened for writing, moved or deleted, in `written.txt` beside ``directory``.

    Caches that are filled when a library first runs on a machine are none of the run's: those of compiled modules are left
    out, and matplotlib's list of fonts is kept beside ``directory``.
    """
    sys.dont_write_bytecode = True
    os.environ["MPLCONFIGDIR"] = f"{directory}.matplotlib"
    log = os.open(f"{directory}.written.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)) and arguments[2] & writing:
            places = arguments[:1]
        elif event in ("os.rename", "os.mkdir", "shutil.rmtree", "os.truncate"):
            places = arguments[:2] if event == "os.rename" else arguments[:1]
        elif event in ("os.remove", "os.rmdir") and arguments[1] == -1:  # else relative to what rmtree is in
            places = arguments[:1]
        else:
            return
        for place in places:
            path = os.path.abspath(os.fsdecode(place))
            if not path.startswith(("/dev/", "/proc/")):
                os.write(log, f"{path}\n".encode())

    sys.addaudithook(hook)
