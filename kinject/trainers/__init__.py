"""Trainers: one configuration and one thin subclass of `trl.SFTTrainer` an objective. Names are imported when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kinject.compat import lazily

if TYPE_CHECKING:
    from kinject.trainers.diffusion_trainer import DiffusionSFTConfig, DiffusionSFTTrainer
    from kinject.trainers.document_config import DocumentSFTConfig
    from kinject.trainers.document_trainer import DocumentSFTTrainer
    from kinject.trainers.masked_trainer import MaskedSFTConfig, MaskedSFTTrainer
    from kinject.trainers.plain_trainer import PlainSFTConfig, PlainSFTTrainer

_MODULE_OF = {
    "DiffusionSFTConfig": "diffusion_trainer",
    "DiffusionSFTTrainer": "diffusion_trainer",
    "DocumentSFTConfig": "document_config",
    "DocumentSFTTrainer": "document_trainer",
    "MaskedSFTConfig": "masked_trainer",
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

__getattr__, __dir__ = lazily(__name__, _MODULE_OF)
