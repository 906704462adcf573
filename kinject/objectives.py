"""The objectives by name: which configuration and trainer each one runs.

Kept free of heavy imports, so that `--help` and a mistyped name answer at once.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from kinject.errors import ConfigurationError

if TYPE_CHECKING:
    from kinject.trainers import DocumentSFTConfig, DocumentSFTTrainer


@dataclass(frozen=True)
class Objective:
    """One objective: its configuration class, its trainer class, and the settings that make it what it is."""

    config: str
    trainer: str
    settings: dict[str, Any]

    def config_class(self) -> type[DocumentSFTConfig]:
        """The configuration class, imported on demand."""
        return _load(self.config)

    def trainer_class(self) -> type[DocumentSFTTrainer]:
        """The trainer class, imported on demand."""
        return _load(self.trainer)


_MASKED = ("kinject.trainers.masked_config:MaskedSFTConfig", "kinject.trainers.masked_trainer:MaskedSFTTrainer")
_DIFFUSION = (
    "kinject.trainers.diffusion_config:DiffusionSFTConfig",
    "kinject.trainers.diffusion_trainer:DiffusionSFTTrainer",
)
_PLAIN = ("kinject.trainers.plain_config:PlainSFTConfig", "kinject.trainers.plain_trainer:PlainSFTTrainer")

# What `kinject inject` trains with where neither the command line nor a `--config` says otherwise: the settings of
# recipes/smollm2-135m. The configurations themselves default to the paper's objective and the libraries' schedule.
_SCHEDULE = {
    "num_train_epochs": 80,
    "per_device_train_batch_size": 5,
    "lr_scheduler_type": "warmup_stable_decay",
    "weight_decay": 0.1,
    "adam_beta2": 0.95,
    "gradient_checkpointing": False,
}
_MASKS = {"mask_ratio": "stratified(0.1, 1.0)", "mask_unit": "mixed", "wordings": "rotating"}


def measured_settings(name: str) -> dict[str, Any]:
    """The settings that `kinject inject` prefers for the objective ``name``."""
    return {**_SCHEDULE, **_MASKS} if find_objective(name).config == _MASKED[0] else dict(_SCHEDULE)


PAPER = {
    "mask_ratio": "uniform(0.05, 0.95)",
    "mask_ratio_per": "batch",
    "mask_unit": "token",
    "corruption": "mask",
    "wordings": "paper",
    "loss_on": "document",
    "infill_share": 0.0,
}
"""What `recipe="paper"` sets (arXiv 2510.09885, section 3)."""

_PREPARED = "documents are prepared by kinject, whose masks change every epoch"
_ANSWERS = "every document token is learned, and of a question with its answer the answer"
UNUSED = {
    "assistant_only_loss": f"{_ANSWERS}; leave it out.",
    "completion_only_loss": f"{_ANSWERS}; leave it out.",
    "dataset_kwargs": f"{_PREPARED}; leave it out.",
    "dataset_num_proc": f"{_PREPARED}, in one process; --dataloader_num_workers makes batches ahead.",
    "eval_packing": "evaluation rows are packed as those of training are: set --packing.",
    "length_column_name": "lengths are counted by kinject; leave it out.",
    "packing_strategy": "packing puts the documents of a batch into one row and cuts none; set --packing alone.",
    "remove_unused_columns": f"{_PREPARED}, and no other columns are kept; leave it out.",
    "truncation_mode": "nothing is cut away: longer documents are split at sentence ends (--max_length).",
}
"""Settings of the libraries that kinject's trainers do without, and why."""

_ASKED = "no loss on held-out rows is computed here, questions are asked: see --questions, --evaluations and --evaluate_every."
_KEPT = "which weights are kept is said by --select_on, which goes by the answers."
_ALWAYS = "kinject inject always trains and then asks; leave it out."
UNUSED_IN_RUNS = {
    "bf16_full_eval": _ASKED,
    "batch_eval_metrics": _ASKED,
    "dataset_text_field": "documents are read into the field text; name theirs with --text_field.",
    "do_eval": _ALWAYS,
    "do_predict": _ALWAYS,
    "do_train": _ALWAYS,
    "eval_accumulation_steps": _ASKED,
    "eval_delay": _ASKED,
    "eval_do_concat_batches": _ASKED,
    "eval_on_start": _ASKED,
    "eval_steps": _ASKED,
    "eval_strategy": _ASKED,
    "eval_use_gather_object": _ASKED,
    "fp16_full_eval": _ASKED,
    "greater_is_better": _KEPT,
    "include_for_metrics": _ASKED,
    "label_names": _ASKED,
    "load_best_model_at_end": _KEPT,
    "metric_for_best_model": _KEPT,
    "per_device_eval_batch_size": "how many questions are asked at once is said by --question_batch_size.",
    "prediction_loss_only": _ASKED,
}
"""Settings that do something only where the trainers are given evaluation rows, as `inject` never does, and why."""

_ADAPTER = ("use_peft", (None, False), "it describes the adapter that --use_peft trains")
_FOUR_BITS = ("load_in_4bit", (None, False), "it describes the 4-bit weights of --load_in_4bit")
_INFILLING = ("infill_share", (None, 0), "it describes the samples of --infill_share above 0")
NEEDED = {
    **dict.fromkeys(
        ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_target_parameters"), _ADAPTER
    ),
    **dict.fromkeys(("lora_modules_to_save", "lora_task_type", "use_rslora", "use_dora"), _ADAPTER),
    **dict.fromkeys(("bnb_4bit_quant_type", "bnb_4bit_quant_storage", "use_bnb_nested_quant"), _FOUR_BITS),
    **dict.fromkeys(("infill_unit", "infill_masks", "infill_ratio"), _INFILLING),
    "fsdp_config": ("fsdp", (None, ""), "it describes --fsdp"),
    "liger_kernel_config": ("use_liger_kernel", (None, False), "it describes --use_liger_kernel"),
    "rehearsal_answers": ("rehearsal", (None, 0), "it describes --rehearsal above 0"),
    "shifted_logits": ("to_diffusion", (None, False), "it describes how --to_diffusion turns a model"),
    "mask_token": ("corruption", ("random", "keep"), "no mask token is shown without --corruption mask"),
}
"""Settings that do something beside another only: which, the values of it under which they do nothing, and why."""

OWN_MODELS = ("smollm2-135m", "nano-ar", "nano-diffusion")
"""The models that go by a name of ours; `kinject.models.loading` finds them."""

OBJECTIVES = {
    "masked": Objective(*_MASKED, {}),
    "random_token": Objective(*_MASKED, {"corruption": "random"}),
    "ar": Objective(*_PLAIN, {"objective": "ar"}),
    "reverse": Objective(*_PLAIN, {"objective": "reverse"}),
    "diffusion": Objective(*_DIFFUSION, {}),
}


def find_objective(name: str) -> Objective:
    """The objective called ``name``.

    Raises:
        ConfigurationError: there is none.
    """
    if name not in OBJECTIVES:
        close = get_close_matches(name, OBJECTIVES, n=1)
        hint = f"; did you mean {close[0]}?" if close else "."
        raise ConfigurationError(f"unknown objective '{name}'; expected one of {', '.join(OBJECTIVES)}{hint}")
    return OBJECTIVES[name]


def objective_name(training_args: DocumentSFTConfig) -> str:
    """What `results.json` calls the objective of parsed settings."""
    corruption = getattr(training_args, "corruption", None)
    if corruption is None:
        return str(getattr(training_args, "objective", "ar"))
    return {"mask": "masked", "random": "random_token", "keep": "unmasked"}[corruption]


def _load(path: str) -> Any:
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)
