"""The objectives by name: which configuration and trainer each one runs.

Kept free of heavy imports, so that `--help` and a mistyped name answer at once.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
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
        raise ConfigurationError(f"unknown objective '{name}'; expected one of {', '.join(OBJECTIVES)}.")
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
