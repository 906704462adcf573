"""Checkpoints that can be trusted: none that is half-written is ever taken up, and a run that is told to stop saves one.

The library writes a checkpoint file by file into its final place, and resumes from the one with the highest number. A
run that was killed in the middle of it, or ran out of disk space, leaves a folder that looks like any other.
"""

from __future__ import annotations

import json
import logging
import shutil
import signal
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import SFTTrainer

from kinject.errors import ConfigurationError, RunStopped

if TYPE_CHECKING:
    from types import FrameType

    from transformers import TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

TRAINER_STATE = "trainer_state.json"  # written last
_LENGTH_BYTES = 8  # in front of the header of a safetensors file


def is_whole(file: Path) -> bool:
    """Whether ``file`` of a checkpoint was written to its end, as far as its format tells."""
    try:
        if file.suffix == ".safetensors":
            with file.open("rb") as opened:
                length = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
                if length > file.stat().st_size:
                    return False
                header = json.loads(opened.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            return file.stat().st_size == _LENGTH_BYTES + length + max(ends, default=0)
        if file.suffix in (".pt", ".pth", ".bin"):
            return zipfile.is_zipfile(file)  # the directory of a zip archive stands at its end
        if file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))
        return True
    except (OSError, ValueError):
        return False


def is_whole_checkpoint(directory: Path) -> bool:
    """Whether a run can go on from ``directory``: the trainer's state is there, and no file ends too early."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    return (directory / TRAINER_STATE).is_file() and all(is_whole(file) for file in files)


def last_whole_checkpoint(output_dir: str | Path) -> str | None:
    """The newest checkpoint in ``output_dir`` that was written to its end, if there is one."""
    numbered = [
        (int(path.name.rpartition("-")[2]), path)
        for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if path.is_dir() and path.name.rpartition("-")[2].isdecimal()
    ]
    for _, path in sorted(numbered, reverse=True):
        if is_whole_checkpoint(path):
            return str(path)
        logger.warning("%s was not written to its end, and is passed over", path.name)
    return None


class CheckpointingTrainer(SFTTrainer):
    """Saves a checkpoint when it is told to stop (SIGTERM, Ctrl-C), and says how to go on.

    Raises, besides what `trl.SFTTrainer` does:
        RunStopped: from `train`, after a signal, when the checkpoint is saved.
        ConfigurationError: from `train`, where a checkpoint cannot be written, such as on a full disk; the one before it
            is left as it was.
    """

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As `transformers.Trainer.train`."""
        stopping = _StopCallback(self)
        self.add_callback(stopping)
        try:
            with stopping.listening():
                return super().train(*args, **kwargs)
        finally:
            self.remove_callback(stopping)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:
            reason = _refusal_to_write(error)
            if reason is None:
                raise
            shutil.rmtree(folder, ignore_errors=True)  # gives its space back
            kept = last_whole_checkpoint(folder.parent)
            how = (
                f"{Path(kept).name} is whole: free space and go on from it with the same command and "
                "--resume_from_checkpoint true"
                if kept
                else "There is no earlier one: free space and start again"
            )
            raise ConfigurationError(f"{folder}: the checkpoint cannot be written ({reason}). {how}.") from error


def _refusal_to_write(error: Exception) -> str | None:
    """Why the system would not write a file, or None if ``error`` is about something else."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    said = str(error)
    # torch and safetensors write by themselves, and raise errors of their own.
    if isinstance(error, SafetensorError):
        return said.partition("I/O error: ")[2] or None
    return "torch.save was cut short" if "inline_container" in said or "PytorchStreamWriter" in said else None


class _StopCallback(TrainerCallback):
    """Ends a run at the next step after SIGTERM or Ctrl-C, with a checkpoint; a second signal ends it at once."""

    def __init__(self, trainer: SFTTrainer) -> None:
        self._trainer = trainer
        self._received: signal.Signals | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals in, where that is possible: only the main thread of a process can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self._receive) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None:
            raise RunStopped(number, "stopped at once, without a checkpoint.")
        self._received = signal.Signals(number)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask for a checkpoint if any process was told to stop."""
        if self._asked():
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """End the run now that there is one; not by the library's stop, after which the run would count as finished."""
        if self._asked():
            raise RunStopped(
                self._received or signal.SIGTERM,
                f"stopped at step {state.global_step} of {state.max_steps}; {PREFIX_CHECKPOINT_DIR}-{state.global_step} is "
                "saved. Go on with the same command and --resume_from_checkpoint true.",
            )

    def _asked(self) -> bool:
        """Whether any process was: a launcher may pass a signal on to some of them, and all must stop at one step."""
        asked = self._received is not None
        if self._trainer.args.world_size > 1:
            device = self._trainer.accelerator.device
            asked = bool(self._trainer.accelerator.reduce(torch.tensor(int(asked), device=device), reduction="sum"))
        return asked
