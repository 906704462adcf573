"""Loading, converting and saving models and their tokenizers, AR and masked diffusion alike.

Names are imported when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kinject.compat import lazily

if TYPE_CHECKING:
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
    from kinject.models.loading import LoadedModel, load_model
    from kinject.models.names import EMBEDDED_MODEL, NANO_MODELS
    from kinject.models.saving import save_model

_MODULE_OF = {
    "EMBEDDED_MODEL": "names",
    "NANO_MODELS": "names",
    "DiffusionSettings": "diffusion",
    "LoadedModel": "loading",
    "attend_both_ways": "diffusion",
    "attend_in_blocks": "diffusion",
    "diffusion_settings": "diffusion",
    "is_diffusion": "diffusion",
    "load_model": "loading",
    "merge_adapter": "adapters",
    "prove_bidirectional": "diffusion",
    "save_model": "saving",
    "to_diffusion": "diffusion",
    "write_diffusion_settings": "adapters",
}

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

__getattr__, __dir__ = lazily(__name__, _MODULE_OF)
