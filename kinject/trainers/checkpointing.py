"""Checkpoints that can be trusted: none that is half-written or of another run is ever taken up.

The library writes a checkpoint file by file into its final place, and resumes from the one with the highest number. A
run that was killed in the middle of it, or ran out of disk space, leaves a folder that looks like any other. And nothing in
a folder says what was learned: every checkpoint of ours records its run's inputs, the documents and all that shapes the
steps, and a run with other inputs does not go on from it. A run that is told to stop saves a checkpoint.
"""

from __future__ import annotations

import io
import json
import logging
import shutil
import signal
import threading
import zipfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import SFTTrainer

from kinject.errors import ConfigurationError, RunStopped, TrainingError
from kinject.models.weights import all_finite
from kinject.trainers.run_inputs import _INPUTS, TRAINER_STATE, recorded_state, require_same_inputs

if TYPE_CHECKING:
    from types import FrameType

    from transformers import TrainerControl, TrainerState, TrainingArguments


# == DeepSpeed checkpoints for another number of processes than they were saved by.

_POINTER = "latest_universal"  # the file by which DeepSpeed finds the converted checkpoint


def needs_conversion(checkpoint: str | PathLike[str], processes: int) -> bool:
    """Whether ``checkpoint`` is of DeepSpeed, and of another number of processes than ``processes``.

    Raises:
        ConfigurationError: a DeepSpeed checkpoint without optimizer states.
    """
    folder = _sharded_folder(checkpoint)
    if folder is None:
        return False
    slices = len(list(folder.glob("*zero_pp_rank_*_optim_states.pt")))
    if slices == 0:
        raise ConfigurationError(
            f"checkpoint {Path(checkpoint).name}: {folder.name} holds no optimizer states; resume from a complete one."
        )
    return slices != processes


def to_universal(checkpoint: str | PathLike[str]) -> None:
    """Write the universal form of ``checkpoint`` beside its slices; one process calls this.

    Takes as much disk space again as weights and optimizer states do, in fp32.
    """
    from deepspeed.checkpoint.ds_to_universal import main as convert

    folder = _sharded_folder(checkpoint)
    assert folder is not None
    universal = folder.with_name(f"{folder.name}_universal")
    shutil.rmtree(universal, ignore_errors=True)  # of a run that was killed while it converted
    options = Namespace(
        input_folder=str(folder),
        output_folder=str(universal),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    with redirect_stdout(io.StringIO()):
        convert(options)


def universal_folder(checkpoint: str | PathLike[str]) -> Path | None:
    """Where the universal form of ``checkpoint`` lies, if it has one."""
    pointer = Path(checkpoint) / _POINTER
    return Path(checkpoint) / pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else None


def _sharded_folder(checkpoint: str | PathLike[str]) -> Path | None:
    pointer = Path(checkpoint) / "latest"
    return Path(checkpoint) / pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else None


logger = logging.getLogger(__name__)

_ASIDE = ".before"  # ends the name of a checkpoint that is written anew
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
    """The newest checkpoint in ``output_dir`` that was written to its end, if there is one.

    Where a run was killed while it wrote a checkpoint anew, that is the one from before, which was put aside.
    """
    beginnings = (f"{PREFIX_CHECKPOINT_DIR}-*", f".{PREFIX_CHECKPOINT_DIR}-*{_ASIDE}")
    folders = [path for beginning in beginnings for path in Path(output_dir).glob(beginning) if path.is_dir()]
    numbers = [path.name.removesuffix(_ASIDE).rpartition("-")[2] for path in folders]
    numbered = [
        (int(number), path.name, path) for number, path in zip(numbers, folders, strict=True) if number.isdecimal()
    ]
    for _, _, path in sorted(numbered, reverse=True):  # "." sorts before "c"
        if is_whole_checkpoint(path):
            return str(path)
        logger.warning("%s was not written to its end, and is passed over", path.name)
    return None


def _put_aside(folder: Path) -> Path | None:
    """Move a whole checkpoint out of the way of one that is written in its place; where to, if there is one."""
    aside = folder.with_name(f".{folder.name}{_ASIDE}")
    if not is_whole_checkpoint(folder):
        return aside if aside.is_dir() else None
    shutil.rmtree(aside, ignore_errors=True)
    return folder.rename(aside)


def _put_back(aside: Path) -> None:
    """Move a checkpoint that was put aside back, unless the new one is whole."""
    folder = aside.with_name(aside.name.removeprefix(".").removesuffix(_ASIDE))
    if is_whole_checkpoint(folder):
        shutil.rmtree(aside, ignore_errors=True)
        return
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


class CheckpointingTrainer(SFTTrainer):
    """Saves a checkpoint when it is told to stop (SIGTERM, Ctrl-C), stops where training diverges, resumes its own runs only.

    A loss that is nan or infinite, or gradients that are, end the run before the optimizer takes them up, in all processes
    at the same step; weights that are no finite numbers are not saved.

    Attributes:
        inputs: What the run learns and what shapes its steps, recorded in every checkpoint; see `require_same_inputs`.

    Raises, besides what `trl.SFTTrainer` does:
        TrainingError: from `train` and `save_model`, where training diverged.
        RunStopped: from `train`, after a signal, when the checkpoint is saved.
        ConfigurationError: from `train`, where a checkpoint cannot be written, such as on a full disk; those that were whole
            are left as they were. Or where the checkpoint to resume from is of a run with other inputs.
    """

    inputs: dict[str, Any]
    _begins_at = 0  # steps that were taken before this run
    _losses_finite: torch.Tensor | None = None  # since the last step of the optimizer, on the device
    _overflows = 0  # steps in a row whose gradients overflowed in fp16

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As `transformers.Trainer.train`."""
        self._losses_finite, self._overflows, self._begins_at = None, 0, 0
        if resume_from_checkpoint and isinstance(resume_from_checkpoint, (str, Path)):
            require_same_inputs(resume_from_checkpoint, self.inputs)
            self._begins_at = int(recorded_state(resume_from_checkpoint).get("global_step", 0))
        stopping = _StopCallback(self)
        self.add_callback(stopping)
        try:
            with stopping.listening():
                return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            self.remove_callback(stopping)

    def set_initial_training_values(self, *args: Any, **kwargs: Any) -> Any:
        """As the library's; a run that is resumed after its last step takes no other, also in the middle of an epoch."""
        epochs, steps_of_epoch, *others, max_steps = super().set_initial_training_values(*args, **kwargs)
        if self._begins_at >= max_steps:
            epochs = min(epochs, self._begins_at // steps_of_epoch)
        return (epochs, steps_of_epoch, *others, max_steps)

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
        state: Any = self.state.stateful_callbacks
        state[_INPUTS] = self.inputs
        aside = _put_aside(folder) if self.args.should_save else None
        self.accelerator.wait_for_everyone()
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:
            written = is_whole_checkpoint(folder)
            reason = _refusal_to_write(error)
            if not written and self.args.should_save:
                shutil.rmtree(folder, ignore_errors=True)  # gives its space back
            if aside is not None:
                _put_back(aside)
                aside = None
            if reason is None:
                raise
            kept = last_whole_checkpoint(folder.parent)
            how = (
                f"{Path(kept).name} is whole: free space and go on from it with the same command and "
                "--resume_from_checkpoint true"
                if kept
                else "There is no earlier one: free space and start again"
            )
            what = "what follows a checkpoint failed" if written else "the checkpoint cannot be written"
            raise ConfigurationError(f"{folder}: {what} ({reason}). {how}.") from error
        finally:
            if aside is not None:
                _put_back(aside)


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
