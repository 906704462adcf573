"""Loading, converting and saving models and their tokenizers, AR and masked diffusion alike."""

from __future__ import annotations

from kinject.models.adapters import merge_adapter, write_diffusion_settings
from kinject.models.diffusion import (
    DiffusionSettings,
    attend_both_ways,
    attend_in_blocks,
    diffusion_settings,
    is_diffusion,
    prove_bidirectional,
    to_diffusion,
)
from kinject.models.layouts import save_model
from kinject.models.loading import EMBEDDED_MODEL, NANO_MODELS, LoadedModel, load_model

__all__ = [
    "EMBEDDED_MODEL",
    "NANO_MODELS",
    "DiffusionSettings",
    "LoadedModel",
    "attend_both_ways",
    "attend_in_blocks",
    "diffusion_settings",
    "is_diffusion",
    "load_model",
    "merge_adapter",
    "prove_bidirectional",
    "save_model",
    "to_diffusion",
    "write_diffusion_settings",
]
