"""Decoding masked diffusion models: pure tensor functions of a model and token ids. Names are imported when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kinject.compat import lazily

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

__getattr__, __dir__ = lazily(__name__, _MODULE_OF)
