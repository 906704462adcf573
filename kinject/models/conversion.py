"""What a loaded model is to be: causal as it came, a diffusion model as it was trained, or one made of an AR model."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from kinject.errors import ConfigurationError
from kinject.mask_token import resolve_mask_token
from kinject.models.diffusion import (
    attend_both_ways,
    diffusion_settings,
    is_diffusion,
    prove_bidirectional,
    text_config,
    to_diffusion,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def settle_attention(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    *,
    convert: bool = False,
    mask_token: str | None = None,
    shifted_logits: bool | None = None,
) -> None:
    """Make ``model`` attend as its configuration says, or as ``convert`` asks, and prove it.

    Args:
        model: Any causal-LM class, with or without an adapter; changed in place.
        tokenizer: Gets its padding from the configuration where it has none.
        convert: Turn a causal model into a diffusion model.
        mask_token: The mask token, for a model whose configuration has none.
        shifted_logits: Whether the logits of the converted model predict the next position; yes if left out.

    Raises:
        ConfigurationError: a setting contradicts the checkpoint, no mask token is found, or attention stays causal.
    """
    config = text_config(model)
    if not is_diffusion(model):
        if not convert:
            if mask_token is not None or shifted_logits is not None:
                raise ConfigurationError(
                    "is causal, and mask_token and shifted_logits are for diffusion models. Turn it into one with "
                    "to_diffusion=True, or leave them out."
                )
            return
        index = resolve_mask_token(tokenizer, mask_token, config.vocab_size)
        to_diffusion(model, index, shifted_logits=shifted_logits is not False)
    else:
        if getattr(config, "mask_token_id", None) is None:
            config.mask_token_id = _trained_mask_token(tokenizer, mask_token)
        _refuse_contradictions(model, tokenizer, mask_token, shifted_logits)
        attend_both_ways(model)
        prove_bidirectional(model)
    if tokenizer.pad_token_id is None and config.pad_token_id is not None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(config.pad_token_id)


def _trained_mask_token(tokenizer: PreTrainedTokenizerBase, mask_token: str | None) -> int:
    """The token that a diffusion model learned to fill in: never a guess, as any other token means nothing to it."""
    if mask_token is not None:
        return resolve_mask_token(tokenizer, mask_token)
    if tokenizer.mask_token_id is not None:
        return int(tokenizer.mask_token_id)
    named = [
        index
        for index, token in tokenizer.added_tokens_decoder.items()
        if re.search(r"(?<![a-z])mask(?![a-z])", token.content, re.IGNORECASE)
    ]
    if len(named) != 1:
        raise ConfigurationError(
            "is a masked diffusion model, but neither its config.json (mask_token_id) nor its tokenizer says which "
            "token it was trained to fill in. Name it with mask_token."
        )
    return int(named[0])


def _refuse_contradictions(
    model: Any, tokenizer: PreTrainedTokenizerBase, mask_token: str | None, shifted_logits: bool | None
) -> None:
    settings = diffusion_settings(model)
    if mask_token is not None and resolve_mask_token(tokenizer, mask_token) != settings.mask_token_id:
        own = tokenizer.convert_ids_to_tokens(settings.mask_token_id)
        raise ConfigurationError(f"was trained with the mask token {own!r}, not {mask_token!r}; leave mask_token out.")
    if shifted_logits is not None and shifted_logits != settings.shifted_logits:
        raise ConfigurationError(
            f"was trained with shifted_logits={settings.shifted_logits}; leave shifted_logits out."
        )
