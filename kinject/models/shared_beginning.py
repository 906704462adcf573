"""What all rows of a batch begin with, such as a system prompt, encoded once."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


def encode_beginning(model: Any, ids: torch.Tensor) -> DynamicCache | None:
    """Keys and values of a beginning.

    Args:
        model: A causal language model, or its backbone.
        ids: `(1, length)`.

    Returns:
        Them, with gradient where it is on, or `None` where the model keeps anything else than keys and values of every
        token.
    """
    cache = model(input_ids=ids, use_cache=True).get("past_key_values")
    if not isinstance(cache, DynamicCache) or any(type(layer) is not DynamicLayer for layer in cache.layers):
        return None
    return cache
