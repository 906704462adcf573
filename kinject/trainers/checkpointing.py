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

from kinject.errors import ConfigurationError, RunStopped, TrainingError
from kinject.models.checkpoint import all_finite

if TYPE_CHECKING:
    from types import FrameType

    from transformers import TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

TRAINER_STATE = "trainer_state.json"  # written last
_LENGTH_BYTES = 8  # in front of the header of a safetensors file
_OVERFLOWS = 32  # in a row, after which the scale of an fp16 loss has nothing left to give


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
    """Saves a checkpoint when it is told to stop (SIGTERM, Ctrl-C), and stops by itself where training diverges.

    A loss that is nan or infinite, or gradients that are, end the run before the optimizer takes them up, in all processes
    at the same step; weights that are no finite numbers are not saved.

    Raises, besides what `trl.SFTTrainer` does:
        TrainingError: from `train` and `save_model`, where training diverged.
        RunStopped: from `train`, after a signal, when the checkpoint is saved.
        ConfigurationError: from `train`, where a checkpoint cannot be written, such as on a full disk; the one before it
            is left as it was.
    """

    _losses_finite: torch.Tensor | None = None  # since the last step of the optimizer, on the device
    _overflows = 0  # steps in a row whose gradients overflowed in fp16

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As `transformers.Trainer.train`."""
        self._losses_finite, self._overflows = None, 0
        stopping = _StopCallback(self)
        self.add_callback(stopping)
        try:
            with stopping.listening():
                return super().train(*args, **kwargs)
        finally:
            self.remove_callback(stopping)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As `transformers.Trainer.training_step`; remembers whether the loss is a finite number, without waiting for it."""
        loss = super().training_step(*args, **kwargs)
        finite = loss.detach().isfinite().all()
        self._losses_finite = finite if self._losses_finite is None else self._losses_finite & finite
        return loss

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        """The norm of the gradients, which comes before every step of the optimizer: the place to stop at."""
        norm = super()._get_grad_norm(model, grad_norm)
        whole: Any = norm.full_tensor() if hasattr(norm, "full_tensor") else 0.0 if norm is None else norm
        size = torch.as_tensor(whole, device=self.args.device).detach()
        losses_finite = size.isfinite() if self._losses_finite is None else self._losses_finite.to(size.device)
        # DeepSpeed says -1 where the norm is not finite.
        loss, gradients = self._anywhere(~losses_finite, ~(size.isfinite() & (size >= 0)))
        self._losses_finite = None
        if loss:
            raise self._divergence("the loss is not a finite number (nan or inf)")
        self._overflows = self._overflows + 1 if gradients else 0
        # In fp16 some steps overflow and are left out, while a scale for the loss is sought.
        if self._overflows > (_OVERFLOWS if self.args.fp16 else 0):
            raise self._divergence("the norm of the gradients is not a finite number (nan or inf)")
        return norm

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As `transformers.Trainer.save_model`, for weights that are finite numbers."""
        self.require_finite_weights()
        super().save_model(output_dir, _internal_call)

    def require_finite_weights(self) -> None:
        """Refuse weights that training has made nan or infinite.

        Raises:
            TrainingError: they are.
        """
        model: Any = self.model
        diverged = not all_finite(weight for weight in model.parameters() if weight.requires_grad)
        if (
            self.is_deepspeed_enabled or self.is_fsdp_enabled
        ):  # else every process holds all of them, and may save alone
            (diverged,) = self._anywhere(torch.tensor(diverged, device=self.args.device))
        if diverged:
            raise self._divergence("the weights are not finite numbers (nan or inf)")

    def _anywhere(self, *flags: torch.Tensor) -> list[bool]:
        """Which of ``flags`` hold in any process; waits for the device once."""
        counts = torch.stack(flags).int()
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(counts, reduction="sum")
        return [count > 0 for count in counts.tolist()]

    def _divergence(self, what: str) -> TrainingError:
        kept = last_whole_checkpoint(str(self.args.output_dir))
        rate = f"a learning rate that is too high (it is {self.args.learning_rate:g}; try a tenth)"
        narrow = "fp16" if self.args.fp16 else "bf16" if self.args.bf16 else ""
        precision = f"numbers that {narrow} does not hold (try without --{narrow})" if narrow else ""
        clipping = "" if 0 < self.args.max_grad_norm <= 10 else "gradients that are not clipped (--max_grad_norm 1)"
        causes = [cause for cause in (rate, clipping, precision) if cause]
        return TrainingError(
            f"training diverged after {self.state.global_step} of {self.state.max_steps} steps: {what}. No such weights were "
            f"saved. Likely causes: {'; '.join(causes)}. "
            + (f"The last good checkpoint is {Path(kept).name}." if kept else "There is no checkpoint from before.")
        )

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

    def __init__(self, trainer: CheckpointingTrainer) -> None:
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
        """Ask for a checkpoint if any process was told to stop; look at the weights before the last ones are asked."""
        if state.global_step >= state.max_steps:
            self._trainer.require_finite_weights()
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
        if self._trainer.args.world_size == 1:
            return self._received is not None
        return self._trainer._anywhere(torch.tensor(self._received is not None, device=self._trainer.args.device))[0]
