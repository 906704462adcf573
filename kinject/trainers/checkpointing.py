"""Checkpoints that can be trusted: none that is half-written or of another run is ever taken up.

The library writes a checkpoint file by file into its final place, and resumes from the one with the highest number. A
run that was killed in the middle of it, or ran out of disk space, leaves a folder that looks like any other. And nothing in
a folder says what was learned: every checkpoint of ours records its run's inputs, the documents and all that shapes the
steps, and a run with other inputs does not go on from it. A run that is told to stop saves a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import signal
import threading
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from enum import Enum
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
_INPUTS = "kinject_inputs"  # in the trainer's state, which is saved with every checkpoint
_ROWS = ("documents", "questions")  # inputs that are compared row by row
_HASHED = "the "  # begins the names of inputs that are hashes
_TAGGED = 8  # hexadecimal digits by which one document is told from another
# Settings that a resumed run may change: where and how often it writes, logs, saves and evaluates, and how fast it computes the
# same. All others shape the steps, or which weights are kept.
_FREE = {
    *("output_dir", "run_name", "project", "report_to", "disable_tqdm", "debug", "overwrite", "resume_from_checkpoint"),
    *("do_train", "do_eval", "do_predict", "prediction_loss_only", "batch_eval_metrics", "skip_memory_metrics"),
    *(
        "use_cpu",
        "use_cache",
        "local_rank",
        "deepspeed",
        "fsdp",
        "fsdp_config",
        "parallelism_config",
        "full_determinism",
    ),
    *(
        "bf16_full_eval",
        "fp16_full_eval",
        "remove_unused_columns",
        "label_names",
        "length_column_name",
        "dataset_num_proc",
    ),
    *("trust_remote_code", "enable_jit_checkpoint", "restore_callback_states_from_checkpoint"),
}
_FREE_BEGINNINGS = (
    *("logging_", "log_", "save_", "eval_", "per_device_eval_", "include_", "hub_", "push_", "trackio_", "dataloader_"),
    *("ddp_", "gradient_checkpointing", "activation_", "torch_compile", "torch_empty_cache_", "tpu_", "ray_"),
)
_STEP = "samples of a step (per_device_train_batch_size x gradient_accumulation_steps x processes)"
# As many samples of a step may be divided otherwise.
_BATCHED = ("per_device_train_batch_size", "gradient_accumulation_steps")
_LENGTHS = ("num_train_epochs", "max_steps")
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


def shaping_settings(args: TrainingArguments, free: Sequence[str] = ()) -> dict[str, Any]:
    """The settings among ``args`` that decide the steps of a run and which weights it keeps, by name, in JSON's types.

    Left out are `_FREE` ones, and those in ``free``; how the samples of a step are divided into processes, batches and
    accumulation; and how long the run is, where no step depends on it, so that such a run may be prolonged.
    """
    settings = {
        item.name: plain(getattr(args, item.name))
        for item in fields(args)
        if item.name not in _FREE and item.name not in free and not item.name.startswith(_FREE_BEGINNINGS)
    }
    batches = {name: settings.pop(name) for name in _BATCHED}
    together = args.train_batch_size * args.world_size
    settings[_STEP] = together * args.gradient_accumulation_steps
    if args.dataloader_drop_last:
        settings |= {**batches, "dataloader_drop_last": True}
    if settings.get("mask_ratio_per") == "batch" or settings.get("end_padding"):
        settings["per_device_train_batch_size"] = batches["per_device_train_batch_size"]
    if settings.get("train_sampling_strategy") != "random":
        settings["samples that are sorted together (per_device_train_batch_size x processes)"] = together
    endless = settings["lr_scheduler_type"] in ("constant", "constant_with_warmup") and not 0 < args.warmup_steps < 1
    laws = [str(settings.get(name, "")) for name in ("mask_ratio", "infill_ratio")]
    if endless and not any(law.strip().startswith("linear") for law in laws):
        settings = {name: value for name, value in settings.items() if name not in _LENGTHS}
    return settings


def row_tags(rows: Iterable[Mapping[str, Any]]) -> str:
    """Short hashes of ``rows``, in their order; their numbers, where they were read, and what was left open do not count."""
    free = ("fact", "read_from")
    told = (
        {name: value for name, value in row.items() if name not in free and value not in (None, [])} for row in rows
    )
    return "".join(digest(row)[:_TAGGED] for row in told)


def digest(value: Any) -> str:
    """A hash of ``value``, of JSON's types."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def recorded_state(checkpoint: str | Path) -> dict[str, Any]:
    """The trainer's state in ``checkpoint``; empty where there is none."""
    file = Path(checkpoint) / TRAINER_STATE
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def require_same_inputs(checkpoint: str | Path, inputs: Mapping[str, Any]) -> None:
    """Refuse to go on from ``checkpoint`` with other inputs than its run had; only what is known of both is compared.

    Raises:
        ConfigurationError: names what differs, and the ways out.
    """
    recorded = recorded_state(checkpoint).get("stateful_callbacks", {}).get(_INPUTS)
    if recorded is None:
        logger.warning(
            "%s does not say what it was trained on, as an older version wrote it: whether documents and settings are still "
            "the same cannot be told",
            Path(checkpoint).name,
        )
        return
    known = [name for name in inputs if name in recorded]
    named = [name for name in known if not name.startswith(_HASHED)]
    differences = [text for name in named for text in _differences(name, recorded[name], inputs[name])]
    # What was made of the documents differs with them: it is named only where nothing else is.
    differences = differences or [
        f"{name} differ" for name in known if name.startswith(_HASHED) and _differ(recorded[name], inputs[name])
    ]
    if differences:
        raise ConfigurationError(
            f"{checkpoint} is of a run with other inputs, and going on from it would mix the two. {'; '.join(differences)}. Go "
            "back to what that run was given, or start a new one: without --resume_from_checkpoint, in another --output_dir or "
            "with --overwrite in this one."
        )


def _differ(before: str | None, now: str | None) -> bool:
    """Whether two hashes do; None is one that is not known."""
    return None not in (before, now) and before != now


def _differences(name: str, before: Any, now: Any) -> Iterator[str]:
    if name in _ROWS:
        if _differ(before, now):
            yield f"{name}: {', '.join(_changed_rows(before, now))}"
    elif isinstance(before, dict) and isinstance(now, dict):
        for key in now:
            if key in before:
                yield from _differences(f"{name}.{key}", before[key], now[key])
    elif before != now:
        yield f"{name}: {before!r} then, {now!r} now"


def _changed_rows(before: str, now: str) -> Iterator[str]:
    """What became of which rows, by their hashes; rows are numbered from 1."""
    old, new = ([tags[start : start + _TAGGED] for start in range(0, len(tags), _TAGGED)] for tags in (before, now))
    gone, come = _unmatched(old, new), _unmatched(new, old)
    edited = [number for number in gone if number in come] if len(old) == len(new) else []
    for what, numbers in (
        ("edited", edited),
        ("removed", [number for number in gone if number not in edited]),
        ("added", [number for number in come if number not in edited]),
    ):
        if numbers:
            shown = ", ".join(map(str, numbers[:5])) + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")
            yield f"{what}: {shown}"
    if not gone and not come:
        yield "in another order"


def _unmatched(rows: Sequence[str], others: Sequence[str]) -> list[int]:
    """The numbers of ``rows`` that have no equal among ``others``, each of which equals one at most."""
    left = Counter(others)
    missing = []
    for number, row in enumerate(rows, start=1):
        if left[row]:
            left[row] -= 1
        else:
            missing.append(number)
    return missing


def plain(value: Any) -> Any:
    """``value`` in JSON's own types."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return plain(value.to_dict()) if hasattr(value, "to_dict") else str(value)


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
