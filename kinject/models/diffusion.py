"""What makes a transformers model a masked diffusion model, and turning an AR model into one.

A masked diffusion model is the native class of its architecture with bidirectional attention: nothing of it is remote
code. Two facts travel in its `config.json`: which token stands for a hidden one, and whether logits are shifted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from kinject.errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class DiffusionSettings:
    """How a masked diffusion model is called.

    Attributes:
        mask_token_id: Stands for a hidden token.
        shifted_logits: Whether the logits at position i predict token i + 1, as in models that began as AR models
            (Dream, arXiv 2508.15487), instead of token i (LLaDA, arXiv 2502.09992).
    """

    mask_token_id: int
    shifted_logits: bool = False


def text_config(model: Any) -> Any:
    """The configuration of the language model inside ``model``, behind PEFT and data-parallel wrappers."""
    while not hasattr(model, "config") and isinstance(getattr(model, "module", None), torch.nn.Module):
        model = model.module
    return model.config.get_text_config()


def is_diffusion(model: Any) -> bool:
    """Whether ``model`` attends in both directions."""
    return not getattr(text_config(model), "is_causal", True)


def diffusion_settings(model: Any) -> DiffusionSettings:
    """How to call the masked diffusion model ``model``.

    Raises:
        ConfigurationError: the model is causal, or its configuration names no mask token.
    """
    config = text_config(model)
    if getattr(config, "is_causal", True):
        raise ConfigurationError(
            "the model is causal (autoregressive), not a masked diffusion model. Turn it into one with "
            "kinject.models.to_diffusion, or name a diffusion checkpoint."
        )
    mask_token_id = getattr(config, "mask_token_id", None)
    if mask_token_id is None:
        raise ConfigurationError(
            "the model's config.json has no mask_token_id; set it to the id that the model was trained to fill in."
        )
    _require_in_vocabulary(mask_token_id, config.vocab_size)
    return DiffusionSettings(int(mask_token_id), bool(getattr(config, "shifted_logits", False)))


def to_diffusion(model: PreTrainedModel, mask_token_id: int, *, shifted_logits: bool = True) -> PreTrainedModel:
    """Turn an AR model into a masked diffusion model, in place; the weights stay as they are.

    Args:
        model: A causal model of an architecture that can attend in both directions (Llama, Qwen, ...).
        mask_token_id: Stands for a hidden token from now on.
        shifted_logits: Keep predicting the next position, which starts training where the AR model left off (Dream).

    Returns:
        ``model``.

    Raises:
        ConfigurationError: the mask token is outside the vocabulary; ``model`` is left as it was.
    """
    config = text_config(model)
    _require_in_vocabulary(mask_token_id, config.vocab_size)
    config.is_causal = False
    config.mask_token_id = mask_token_id
    config.shifted_logits = shifted_logits
    attend_both_ways(model)
    return model


def attend_both_ways(model: torch.nn.Module) -> None:
    """Tell every attention module not to be causal: without a mask, FlashAttention asks the module."""
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False


def _require_in_vocabulary(mask_token_id: int, vocab_size: int) -> None:
    if not 0 <= mask_token_id < vocab_size:
        raise ConfigurationError(
            f"the model's mask_token_id is {mask_token_id}, outside its vocabulary of {vocab_size}; name the id of a "
            "token that the model has an embedding for."
        )
