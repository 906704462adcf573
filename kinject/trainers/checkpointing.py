"""Checkpoints that can be trusted: whole, none of a run that diverged, and gone on from with the inputs of their run alone.

The library writes a checkpoint file by file into its final place, and resumes from the one with the highest number. A run that
is killed while it writes, or runs out of disk space, leaves a folder that looks like any other. Every checkpoint records what
its run learns from, and a run that is told to stop saves one. Knows nothing of losses and of the Hub.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import shutil
import signal
import threading
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import fields
from enum import Enum
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from safetensors import SafetensorError
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from kinject import compat
from kinject.errors import ConfigurationError, RunStopped, TrainingError
from kinject.evaluation.results import public_name
from kinject.models.names import is_whole
from kinject.models.weights import all_finite, main_process_works
from kinject.trainers.collator import ALWAYS
from kinject.trainers.document_config import objective_name

if TYPE_CHECKING:
    from types import FrameType

    from transformers import PreTrainedModel, Trainer, TrainerControl, TrainerState, TrainingArguments


logger = logging.getLogger(__name__)

TRAINER_STATE = "trainer_state.json"  # the last file of a checkpoint that is written
_ASIDE = ".before"  # ends the name of a whole checkpoint while another is written in its place
_OVERFLOWS = 32  # steps in a row after which the scale of an fp16 loss cannot be halved any further


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
        # Otherwise each process holds all weights, and may call this alone.
        if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
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


# The inputs of a run (documents, objective, model, settings that shape the steps), and whether a resumed run has the same.

INPUTS = "kinject_inputs"  # in the trainer's state, which is saved with every checkpoint

_ROWS = ("documents", "questions")  # inputs that are compared row by row
_HASHED = "the "  # the names of inputs that are hashes begin so
_TAGGED = 8  # hexadecimal digits of the hash of one row

# Settings that a resumed run may change: where and how often it writes, logs, saves and evaluates, and how fast it computes.
# All others shape the steps, or which weights are kept.
_FREE = {
    *("output_dir", "run_name", "project", "report_to", "disable_tqdm", "debug", "overwrite", "resume_from_checkpoint"),
    *("do_train", "do_eval", "do_predict", "prediction_loss_only", "batch_eval_metrics", "skip_memory_metrics"),
    *("use_cpu", "use_cache", "local_rank", "deepspeed", "fsdp", "fsdp_config", "parallelism_config"),
    *("bf16_full_eval", "fp16_full_eval", "remove_unused_columns", "label_names", "length_column_name"),
    *("full_determinism", "dataset_num_proc", "trust_remote_code", "enable_jit_checkpoint"),
    *("restore_callback_states_from_checkpoint",),
}
_FREE_BEGINNINGS = (
    *("logging_", "log_", "save_", "eval_", "per_device_eval_", "include_", "hub_", "push_", "trackio_", "dataloader_"),
    *("ddp_", "gradient_checkpointing", "activation_", "torch_compile", "torch_empty_cache_", "tpu_", "ray_"),
)
_STEP = "samples of a step (per_device_train_batch_size x gradient_accumulation_steps x processes)"
# These may change as long as their product `_STEP` is the same.
_BATCHED = ("per_device_train_batch_size", "gradient_accumulation_steps")
_LENGTHS = ("num_train_epochs", "max_steps")


def shaping_settings(args: TrainingArguments) -> dict[str, Any]:
    """The settings among ``args`` that decide the steps of a run and which weights it keeps, by name, in JSON's types.

    Left out are the `_FREE` ones, and how a step's samples are divided into processes, batches and
    accumulation. The length of the run is left out where no step depends on it, so that such a run may be prolonged.
    """
    settings = {
        item.name: plain(getattr(args, item.name))
        for item in fields(args)
        if item.name not in _FREE and not item.name.startswith(_FREE_BEGINNINGS)
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
    """Short hashes of ``rows``, in their order; row numbers, the file they came from, and empty fields do not count."""
    free = ("fact", "read_from")
    contents = (
        {name: value for name, value in row.items() if name not in free and value not in (None, [])} for row in rows
    )
    return "".join(digest(content)[:_TAGGED] for content in contents)


def digest(value: Any) -> str:
    """A hash of ``value`` in 16 hexadecimal digits; what JSON has no type for counts by its `str`."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def recorded_state(checkpoint: str | Path) -> dict[str, Any]:
    """The trainer's state in ``checkpoint``; empty where there is none."""
    file = Path(checkpoint) / TRAINER_STATE
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def require_same_inputs(checkpoint: str | Path, inputs: Mapping[str, Any]) -> None:
    """Refuse to go on from ``checkpoint`` with other inputs than its run had; only inputs that both record are compared.

    Raises:
        ConfigurationError: names what differs, and the ways out.
    """
    recorded = recorded_state(checkpoint).get("stateful_callbacks", {}).get(INPUTS)
    if recorded is None:
        logger.warning(
            "%s does not say what it was trained on, since an older version wrote it: whether documents and settings are still "
            "the same cannot be checked",
            Path(checkpoint).name,
        )
        return
    known = [name for name in inputs if name in recorded]
    named = [name for name in known if not name.startswith(_HASHED)]
    differences = [text for name in named for text in _differences(name, recorded[name], inputs[name])]
    # Hashes follow from the named inputs and differ with them, so they are reported only where nothing else differs.
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
    """Whether two hashes are known (not None) and differ."""
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
    """Which rows were edited, removed, added or reordered, by their hashes; rows are numbered from 1."""
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
    """The numbers of ``rows`` that have no equal row among ``others``, of which each is matched once."""
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


def _frozen_digest(model: torch.nn.Module) -> str | None:
    """A hash of the names of all weights, and of some values of the frozen ones; None where weights are sharded."""
    known: list[Any] = []
    for name, weight in model.named_parameters():
        known.append([name, weight.requires_grad])
        if weight.is_meta or hasattr(weight, "ds_id") or isinstance(weight, DTensor):
            return None
        # Quantized weights are left out, since the device decides on their layout.
        if not weight.requires_grad and weight.is_floating_point():
            values = weight.detach().reshape(-1)
            known.append([list(weight.shape), values[:: max(1, len(values) // 8)][:8].float().tolist()])
    return digest(known)


def inputs_of(trainer: Any, base: PreTrainedModel, document_tags: str | None) -> dict[str, Any]:
    """The inputs of the run of ``trainer``: what it learns, and what shapes its steps; see `require_same_inputs`.

    Of rehearsed answers only the prompts count: the answers follow from them, but on some GPUs not to the last bit.

    Args:
        trainer: A `DocumentSFTTrainer` with its data prepared.
        base: Its model, without the adapter.
        document_tags: `row_tags` of the rows that it was given.
    """
    adapters: dict[str, Any] = getattr(trainer.model, "peft_config", {})
    passing = {"base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping"}
    documents, rehearsed = hashlib.sha256(), hashlib.sha256()
    prepared = trainer.train_dataset if isinstance(trainer.train_dataset, Dataset) else None
    if prepared is not None:
        for row in prepared.select_columns(["document_ids", "word_ids", "gaps", "frames", "turn", "epochs"]):
            planned = row.pop("epochs")
            digest_of, content = (documents, row) if row["turn"] == ALWAYS else (rehearsed, row["frames"])
            digest_of.update(json.dumps([row["turn"], content, *([planned] if planned else [])]).encode())
    collator = trainer.data_collator
    infilling, masking = collator.infilling, collator.masking
    documents.update(repr((collator.frames, infilling and infilling.frame, masking and masking.mask_token_id)).encode())
    return {
        "objective": objective_name(trainer.args),
        "model": public_name(compat.name_or_path(base)),
        "adapter": ", ".join(str(plain(each.peft_type)) for each in adapters.values()) or None,
        "of the adapter": {
            name: value for each in adapters.values() for name, value in plain(each).items() if name not in passing
        },
        "documents": document_tags,
        **{name: value for name, value in shaping_settings(trainer.args).items() if name != "objective"},
        "the tokenized documents (or the chat template)": None if prepared is None else documents.hexdigest(),
        "the prompts that are rehearsed": None if prepared is None else rehearsed.hexdigest(),
        "the weights that are not trained": _frozen_digest(trainer.model),
    }
