"""Checkpoints that can be trusted: whole ones only, one when a run is told to stop, and none of a run that diverged.

The library writes a checkpoint file by file into its final place, and resumes from the one with the highest number. A run that
is killed while it writes, or runs out of disk space, leaves a folder that looks like any other. What a checkpoint was trained
on is checked in `run_inputs.py`. Knows nothing of objectives and of the Hub.
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from kinject.errors import ConfigurationError, RunStopped, TrainingError
from kinject.models.weights import all_finite, main_process_works
from kinject.trainers.run_inputs import TRAINER_STATE

if TYPE_CHECKING:
    from types import FrameType

    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments


logger = logging.getLogger(__name__)

_ASIDE = ".before"  # ends the name of a whole checkpoint while another is written in its place
_LENGTH_BYTES = 8  # in front of the header of a safetensors file
_OVERFLOWS = 32  # steps in a row after which the scale of an fp16 loss cannot be halved any further


def is_whole(file: Path) -> bool:
    """Whether ``file`` of a checkpoint was written to its end, as far as its format shows it."""
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
    """Whether a run can go on from ``directory``: the trainer's state, written last, is there, and all files are whole."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    return (directory / TRAINER_STATE).is_file() and all(is_whole(file) for file in files)


def last_whole_checkpoint(output_dir: str | Path) -> str | None:
    """The newest checkpoint in ``output_dir`` that was written to its end, if there is one.

    If a run was killed while it overwrote a checkpoint, that is the earlier one, which was put aside.
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
    """Move a whole checkpoint aside while another is written in its place. Returns its new place; None if there is none."""
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


@contextmanager
def written_whole(trainer: Trainer, folder: Path) -> Iterator[None]:
    """Let the block write a checkpoint into ``folder``; if it fails, restore the whole checkpoint that was there before.

    Raises:
        ConfigurationError: the system refuses to write, such as on a full disk; it names the checkpoint to go on from.
    """
    saves = trainer.args.should_save
    aside = _put_aside(folder) if saves else None
    trainer.accelerator.wait_for_everyone()
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        written = is_whole_checkpoint(folder)
        reason = _refusal_to_write(error)
        if not written and saves:
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
    """Why the system refused to write a file, or None if ``error`` is about something else."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    said = str(error)
    # torch and safetensors write files in their own code, and raise their own errors.
    if isinstance(error, SafetensorError):
        return said.partition("I/O error: ")[2] or None
    return "torch.save was cut short" if "inline_container" in said or "PytorchStreamWriter" in said else None


class DivergenceGuard:
    """Ends a run whose loss, gradients or weights are not finite numbers, in all processes at the same step.

    Losses are checked on the device; the result is read once, before the optimizer's step, since reading waits for the device.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer: Any = trainer
        self._losses_finite: torch.Tensor | None = None  # since the last step of the optimizer, on the device
        self._overflows = 0  # steps in a row whose gradients overflowed in fp16

    def reset(self) -> None:
        """Forget an earlier run of the same trainer."""
        self._losses_finite, self._overflows = None, 0

    def see_loss(self, loss: torch.Tensor) -> None:
        """Remember whether the loss of a part of a step is a finite number."""
        finite = loss.detach().isfinite().all()
        self._losses_finite = finite if self._losses_finite is None else self._losses_finite & finite

    def see_gradients(self, norm: Any) -> None:
        """Look at the norm of the gradients, and at the losses since the last step.

        Raises:
            TrainingError: one is no finite number.
        """
        args = self._trainer.args
        whole: Any = norm.full_tensor() if hasattr(norm, "full_tensor") else 0.0 if norm is None else norm
        size = torch.as_tensor(whole, device=args.device).detach()
        losses_finite = size.isfinite() if self._losses_finite is None else self._losses_finite.to(size.device)
        # DeepSpeed returns -1 for a norm that is not finite.
        loss, gradients = in_any_process(self._trainer, ~losses_finite, ~(size.isfinite() & (size >= 0)))
        self._losses_finite = None
        if loss:
            raise self._divergence("the loss is not a finite number (nan or inf)")
        self._overflows = self._overflows + 1 if gradients else 0
        # In fp16 steps that overflow are skipped, until the scale of the loss has been lowered far enough.
        if self._overflows > (_OVERFLOWS if args.fp16 else 0):
            raise self._divergence("the norm of the gradients is not a finite number (nan or inf)")

    def require_finite_weights(self) -> None:
        """Refuse weights that became nan or infinite in training.

        Raises:
            TrainingError: they are.
        """
        trainer = self._trainer
        diverged = not all_finite(weight for weight in trainer.model.parameters() if weight.requires_grad)
        if (
            trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled
        ):  # else each holds all weights, and may call this alone
            (diverged,) = in_any_process(trainer, torch.tensor(diverged, device=trainer.args.device))
        if diverged:
            raise self._divergence("the weights are not finite numbers (nan or inf)")

    def _divergence(self, what: str) -> TrainingError:
        args, state = self._trainer.args, self._trainer.state
        kept = last_whole_checkpoint(str(args.output_dir))
        rate = f"a learning rate that is too high (it is {args.learning_rate:g}; try a tenth)"
        narrow = "fp16" if args.fp16 else "bf16" if args.bf16 else ""
        precision = f"numbers that {narrow} does not hold (try without --{narrow})" if narrow else ""
        clipping = "" if 0 < args.max_grad_norm <= 10 else "gradients that are not clipped (--max_grad_norm 1)"
        causes = [cause for cause in (rate, clipping, precision) if cause]
        return TrainingError(
            f"training diverged after {state.global_step} of {state.max_steps} steps: {what}. No such weights were saved. "
            f"Likely causes: {'; '.join(causes)}. "
            + (f"The last good checkpoint is {Path(kept).name}." if kept else "There is no checkpoint from before.")
        )


def in_any_process(trainer: Trainer, *flags: torch.Tensor) -> list[bool]:
    """Which of ``flags`` hold in any process; every process has to call this, and waits for its device once."""
    counts = torch.stack(flags).int()
    if trainer.args.world_size > 1:
        counts = trainer.accelerator.reduce(counts, reduction="sum")
    return [count > 0 for count in counts.tolist()]


class StopCallback(TrainerCallback):
    """Ends a run at the next step after SIGTERM or Ctrl-C, with a checkpoint; a second signal ends it at once."""

    def __init__(self, trainer: Trainer, guard: DivergenceGuard) -> None:
        self._trainer = trainer
        self._guard = guard
        self._received: signal.Signals | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle SIGTERM and SIGINT inside the block; in a thread other than the main one, which cannot, do nothing."""
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
        """Ask for a checkpoint if any process was told to stop; check the weights after the last step, before questions."""
        if state.global_step >= state.max_steps:
            self._guard.require_finite_weights()
        if self._asked():
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """End the run once its checkpoint is saved, by an error: after the library's own stop it would count as finished.

        Raises:
            RunStopped: a process was told to stop.
        """
        if self._asked():
            raise RunStopped(
                self._received or signal.SIGTERM,
                f"stopped at step {state.global_step} of {state.max_steps}; {PREFIX_CHECKPOINT_DIR}-{state.global_step} is "
                "saved. Go on with the same command and --resume_from_checkpoint true.",
            )

    def _asked(self) -> bool:
        """Whether any process got a signal. A launcher may signal only some, and all have to stop at the same step."""
        if self._trainer.args.world_size == 1:
            return self._received is not None
        received = torch.tensor(self._received is not None, device=self._trainer.args.device)
        return in_any_process(self._trainer, received)[0]


# A DeepSpeed checkpoint holds the optimizer's states in one slice a process, and DeepSpeed refuses to load it on another number
# of processes. Its converter makes a universal checkpoint: every weight and optimizer state whole, by name (arXiv 2406.18820).

_POINTER = "latest_universal"  # the file by which DeepSpeed finds the converted checkpoint


def needs_conversion(checkpoint: str | PathLike[str], processes: int) -> bool:
    """Whether ``checkpoint`` is of DeepSpeed, and was written by another number of processes than ``processes``.

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

    Takes as much disk space as all weights and optimizer states in fp32.
    """
    from deepspeed.checkpoint.ds_to_universal import main as convert

    folder = _sharded_folder(checkpoint)
    assert folder is not None
    universal = folder.with_name(f"{folder.name}_universal")
    shutil.rmtree(universal, ignore_errors=True)  # left by a run that was killed while it converted
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
    """The folder with the universal form of ``checkpoint``, if it has one."""
    pointer = Path(checkpoint) / _POINTER
    return Path(checkpoint) / pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else None


def _sharded_folder(checkpoint: str | PathLike[str]) -> Path | None:
    pointer = Path(checkpoint) / "latest"
    return Path(checkpoint) / pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else None


def make_loadable(trainer: Trainer, checkpoint: str) -> None:
    """Let DeepSpeed load ``checkpoint`` whatever number of processes wrote it; every process has to call this."""
    config: dict[str, Any] = trainer.accelerator.state.deepspeed_plugin.deepspeed_config
    config.pop("checkpoint", None)
    if needs_conversion(checkpoint, trainer.args.world_size):
        with main_process_works() as works:  # many minutes for large models, longer than NCCL would wait
            if works:
                to_universal(checkpoint)
        config["checkpoint"] = {"load_universal": True}


def mend_universal(trainer: Trainer, checkpoint: str, weight_decays: Sequence[float]) -> None:
    """Correct the optimizer after a universal checkpoint was loaded, and delete its universal form; every process calls this.

    DeepSpeed gives every group the settings of the first one under ZeRO-3, and all weights one shared counter of steps, which
    each of them would then advance.

    Args:
        trainer: A trainer that has just loaded ``checkpoint``.
        checkpoint: The checkpoint with the universal form in it.
        weight_decays: The weight decay of each group of the optimizer.
    """
    optimizer: Any = trainer.optimizer
    for group, weight_decay in zip(optimizer.param_groups, weight_decays, strict=True):
        group["weight_decay"] = weight_decay
    for state in optimizer.state.values():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"] = state["step"].clone()
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        shutil.rmtree(universal_folder(checkpoint) or "")
        (Path(checkpoint) / _POINTER).unlink()
