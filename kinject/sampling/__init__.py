"""Decoding masked diffusion models: pure tensor functions of a model and token ids. Names are imported when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kinject.sampling.config import SamplingConfig
    from kinject.sampling.sampler import Sampled, Step, infill, sample

_MODULE_OF = {
    "Sampled": "sampler",
    "SamplingConfig": "config",
    "Step": "sampler",
    "infill": "sampler",
    "sample": "sampler",
}

__all__ = ["Sampled", "SamplingConfig", "Step", "infill", "sample"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that importing this package stays light."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
