"""Loading models and tokenizers."""

from __future__ import annotations

from kinject.models.loading import EMBEDDED_MODEL, LoadedModel, load_model

__all__ = ["EMBEDDED_MODEL", "LoadedModel", "load_model"]
