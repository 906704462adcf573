"""Trainers: one configuration and one thin subclass of `trl.SFTTrainer` an objective. Names are imported when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kinject.trainers.diffusion_config import DiffusionSFTConfig
    from kinject.trainers.diffusion_trainer import DiffusionSFTTrainer
    from kinject.trainers.document_config import DocumentSFTConfig
    from kinject.trainers.document_trainer import DocumentSFTTrainer
    from kinject.trainers.masked_config import MaskedSFTConfig
    from kinject.trainers.masked_trainer import MaskedSFTTrainer
    from kinject.trainers.plain_trainer import PlainSFTConfig, PlainSFTTrainer

_MODULE_OF = {
    "DiffusionSFTConfig": "diffusion_config",
    "DiffusionSFTTrainer": "diffusion_trainer",
    "DocumentSFTConfig": "document_config",
    "DocumentSFTTrainer": "document_trainer",
    "MaskedSFTConfig": "masked_config",
    "MaskedSFTTrainer": "masked_trainer",
    "PlainSFTConfig": "plain_trainer",
    "PlainSFTTrainer": "plain_trainer",
}

__all__ = [
    "DiffusionSFTConfig",
    "DiffusionSFTTrainer",
    "DocumentSFTConfig",
    "DocumentSFTTrainer",
    "MaskedSFTConfig",
    "MaskedSFTTrainer",
    "PlainSFTConfig",
    "PlainSFTTrainer",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that a module of this package costs no library that it does not need."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
