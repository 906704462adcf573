"""Trainers: one configuration and one thin subclass of `trl.SFTTrainer` an objective."""

from __future__ import annotations

from kinject.trainers.diffusion_config import DiffusionSFTConfig
from kinject.trainers.diffusion_trainer import DiffusionSFTTrainer
from kinject.trainers.document_config import DocumentSFTConfig
from kinject.trainers.document_trainer import DocumentSFTTrainer
from kinject.trainers.masked_config import MaskedSFTConfig
from kinject.trainers.masked_trainer import MaskedSFTTrainer
from kinject.trainers.plain_config import PlainSFTConfig
from kinject.trainers.plain_trainer import PlainSFTTrainer

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
