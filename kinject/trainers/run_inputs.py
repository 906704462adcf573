"""The inputs of a run (documents, objective, model, settings that shape the steps), and whether a resumed run has the same.

Every checkpoint records its run's inputs in the trainer's state. Knows nothing of how a checkpoint is written.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from torch.distributed.tensor import DTensor

from kinject import compat
from kinject.errors import ConfigurationError
from kinject.evaluation.results import public_name
from kinject.trainers.document_config import objective_name
from kinject.trainers.order import ALWAYS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainingArguments


logger = logging.getLogger(__name__)

TRAINER_STATE = "trainer_state.json"  # the last file of a checkpoint that is written
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
        if (
            not weight.requires_grad and weight.is_floating_point()
        ):  # the device decides on the layout of quantized ones
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
