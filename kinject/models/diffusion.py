"""What makes a model a masked diffusion model: its settings, attention in both directions, and making one of an AR model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from kinject import compat
from kinject.errors import ConfigurationError
from kinject.models.blocks import CLEAN_ATTENTIONS, DEFAULT_BLOCK_LENGTH, prove_blocks, require_block_attention
from kinject.prompts.templates import resolve_mask_token

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


_PROBE_LENGTH = 8
_GROWING = ("expand_token_id", "delete_token_id")  # which DreamOn's generation_config.json names


@dataclass(frozen=True)
class DiffusionSettings:
    """How a masked diffusion model is called.

    Attributes:
        mask_token_id: Stands for a hidden token.
        shifted_logits: Whether the logits at position i predict token i + 1, as in models that began as AR models
            (Dream, arXiv 2508.15487), instead of token i (LLaDA, arXiv 2502.09992).
        block_length: Tokens of a block, where the model attends in blocks (SDAR, arXiv 2510.06303); None where every
            position attends to every other. Every call of a block model takes a `kinject.models.blocks.block_mask`.
        clean_attention: How what stands before the block in work attends within a block: `block`, both ways, or `causal`.
        expand_token_id: Predicted where one mask is to become two, by models whose answers grow (DreamOn).
        delete_token_id: Predicted where a mask is to vanish, by the same.
    """

    mask_token_id: int
    shifted_logits: bool = False
    block_length: int | None = None
    clean_attention: str = "block"
    expand_token_id: int | None = None
    delete_token_id: int | None = None

    @property
    def grows(self) -> bool:
        """Whether answers grow and shrink while they are written."""
        return self.expand_token_id is not None or self.delete_token_id is not None

    def __post_init__(self) -> None:
        """Refuse what no model can be."""
        _require_blocks(self.block_length, self.clean_attention)
        if self.grows and self.block_length is not None:
            raise ConfigurationError(
                f"block_length is {self.block_length}, and the answers of this model grow and shrink (expand_token_id, "
                "delete_token_id), which moves them from block to block. Leave it out, or take a model of fixed answers."
            )


def text_config(model: Any) -> Any:
    """The configuration of the language model inside ``model``, behind PEFT and data-parallel wrappers."""
    while not hasattr(model, "config") and isinstance(getattr(model, "module", None), torch.nn.Module):
        model = model.module
    return model.config.get_text_config()


def is_diffusion(model: Any) -> bool:
    """Whether ``model`` attends in both directions."""
    return not getattr(text_config(model), "is_causal", True)


def writes_canvases(model: Any) -> bool:
    """Whether ``model`` is a DiffusionGemma, which writes canvases of random tokens anew by a `generate` of its own."""
    return getattr(text_config(model), "model_type", None) == "diffusion_gemma_text"


def refuse_canvases(model: Any, what: str) -> None:
    """Refuse to do ``what`` with a DiffusionGemma, which is neither causal nor a masked diffusion model.

    Raises:
        ConfigurationError: ``model`` is one.
    """
    if writes_canvases(model):
        raise ConfigurationError(
            f"the model is a DiffusionGemma, which kinject asks by its own generate and does not {what}: it has no mask token, "
            "and a decoder beside its encoder. Take a causal or masked diffusion model; trl has a script for DiffusionGemma."
        )


def diffusion_settings(model: Any) -> DiffusionSettings:
    """How to call the masked diffusion model ``model``.

    Raises:
        ConfigurationError: the model is causal, or its configuration names no mask token.
    """
    config = text_config(model)
    if getattr(config, "is_causal", True):
        raise ConfigurationError(
            "the model is causal (autoregressive), not a masked diffusion model. Turn it into one with "
            "load_model(name, to_diffusion=True) or kinject.models.to_diffusion, or name a diffusion checkpoint."
        )
    mask_token_id = getattr(config, "mask_token_id", None)
    if mask_token_id is None:
        raise ConfigurationError(
            "the model's config.json has no mask_token_id; set it to the id that the model was trained to fill in."
        )
    _require_in_vocabulary(mask_token_id, config.vocab_size)
    return DiffusionSettings(
        int(mask_token_id),
        bool(getattr(config, "shifted_logits", False)),
        getattr(config, "block_length", None),
        str(getattr(config, "clean_attention", None) or "block"),
        *(getattr(config, name, None) for name in _GROWING),
    )


def to_diffusion(
    model: PreTrainedModel,
    mask_token_id: int,
    *,
    shifted_logits: bool = True,
    block_length: int | None = None,
    clean_attention: str = "block",
) -> PreTrainedModel:
    """Turn an AR model into a masked diffusion model, in place; the weights stay as they are.

    Args:
        model: A causal model of an architecture that can attend in both directions (Llama, Qwen, ...).
        mask_token_id: Stands for a hidden token from now on.
        shifted_logits: Keep predicting the next position, which starts training where the AR model left off (Dream).
        block_length: Make it a block diffusion model, of so many tokens a block.
        clean_attention: As in `DiffusionSettings`.

    Returns:
        ``model``.

    Raises:
        ConfigurationError: the mask token is outside the vocabulary or some layers do not attend to everything, and
            ``model`` is left as it was; or attention stays causal, and ``model`` is of no use.
    """
    config = text_config(model)
    _require_in_vocabulary(mask_token_id, config.vocab_size)
    _require_full_attention(config)
    _require_blocks(block_length, clean_attention)
    if block_length is not None:
        require_block_attention(model)
    config.is_causal = False
    config.mask_token_id = mask_token_id
    config.shifted_logits = shifted_logits
    config.use_cache = False
    attend_both_ways(model)
    prove_bidirectional(model)
    if block_length is not None:
        attend_in_blocks(model, block_length, clean_attention)
    return model


def attend_in_blocks(
    model: PreTrainedModel | PeftModel, block_length: int | None = None, clean_attention: str | None = None
) -> None:
    """Make a masked diffusion model a block diffusion model, or give one other blocks, in place, and prove it.

    Args:
        model: A masked diffusion model; its weights stay as they are.
        block_length: Tokens of a block; those that it has, else 4, if left out.
        clean_attention: As in `DiffusionSettings`; what it has, else `block`, if left out.

    Raises:
        ConfigurationError: a value out of range, or attention that takes no mask of its own.
    """
    config = text_config(model)
    block_length = block_length or getattr(config, "block_length", None) or DEFAULT_BLOCK_LENGTH
    clean_attention = clean_attention or getattr(config, "clean_attention", None) or "block"
    _require_blocks(block_length, clean_attention)
    require_block_attention(model)
    if not _on_meta_or_sharded(model):
        training = model.training
        model.train(bool(getattr(model, "is_quantized", False)))  # as in `prove_bidirectional`
        try:
            prove_blocks(model)
        finally:
            model.train(training)
    config.block_length, config.clean_attention = block_length, clean_attention


def note_growing(model: Any) -> None:
    """Note in the configuration by which tokens answers grow; DreamOn names them in its generation_config.json alone."""
    config = text_config(model)
    for name in _GROWING if is_diffusion(model) else ():
        index = getattr(getattr(model, "generation_config", None), name, None)
        if getattr(config, name, None) is None and index is not None:
            setattr(config, name, index)


def attend_both_ways(model: torch.nn.Module) -> None:
    """Tell every attention module not to be causal: without a mask, attention kernels may ask the module."""
    module: Any
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False


def prove_bidirectional(model: torch.nn.Module) -> None:
    """Change the last of a few tokens, and see that the logits of the first change.

    Weights that cannot be run where they are (on the meta device, or sharded by ZeRO-3) prove nothing, and pass.

    Raises:
        ConfigurationError: the first position does not see the last.
    """
    if _on_meta_or_sharded(model):
        return
    weights: Any = model.get_input_embeddings().weight  # type: ignore[operator]
    config = text_config(model)
    ids = torch.arange(_PROBE_LENGTH, device=weights.device)[None] % config.vocab_size  # (1, length)
    changed = ids.clone()
    changed[0, -1] = config.vocab_size - 1
    training, implementation = model.training, compat.attention_implementation(model)
    if weights.device.type == "cpu" and "flash" in implementation:
        compat.choose_attention(config, "sdpa")  # FlashAttention runs on GPUs only, and training loads on the CPU first
    # For inference on a CPU bitsandbytes repacks 4-bit weights into what cannot be trained; with one seed for both
    # passes, dropout changes nothing either.
    model.train(bool(getattr(model, "is_quantized", False)))
    seen = []
    try:
        with torch.no_grad(), torch.random.fork_rng([weights.device] if weights.is_cuda else []):
            for row in (ids, changed):
                torch.manual_seed(0)
                seen.append(model(input_ids=row, use_cache=False).logits[0, 0])
    finally:
        model.train(training)
        compat.choose_attention(config, implementation)
    if torch.equal(*seen):
        raise ConfigurationError(
            f"{type(model).__name__} stays causal: its first position does not see its last. Use a model of an "
            "architecture that transformers can run with is_causal=False, such as Llama, Qwen2 or Qwen3."
        )


def _on_meta_or_sharded(model: torch.nn.Module) -> bool:
    from transformers.integrations import is_deepspeed_zero3_enabled

    return is_deepspeed_zero3_enabled() or any(weight.device.type == "meta" for weight in model.parameters())


def _require_blocks(block_length: int | None, clean_attention: str) -> None:
    if block_length is not None and (isinstance(block_length, bool) or block_length < 1):
        raise ConfigurationError(f"block_length is {block_length}; expected 1 or more tokens.")
    if clean_attention not in CLEAN_ATTENTIONS:
        raise ConfigurationError(
            f"clean_attention is '{clean_attention}'; expected one of {', '.join(CLEAN_ATTENTIONS)}."
        )
    if block_length is None and clean_attention != "block":
        raise ConfigurationError(
            f"clean_attention is '{clean_attention}', and would have no effect: it says how block diffusion models attend. "
            "Turn the model into one with to_diffusion='block' (--to_diffusion block), or leave it out."
        )


def _require_in_vocabulary(mask_token_id: int, vocab_size: int) -> None:
    if not 0 <= mask_token_id < vocab_size:
        raise ConfigurationError(
            f"the model's mask_token_id is {mask_token_id}, outside its vocabulary of {vocab_size}; name the id of a "
            "token that the model has an embedding for."
        )


def _require_full_attention(config: Any) -> None:
    """Refuse windows and recurrent layers: a few tokens fit into any window, so the probe would not notice."""
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds and getattr(config, "sliding_window", None) is not None:
        kinds = {"sliding_attention"}
    if kinds - {"full_attention"}:
        raise ConfigurationError(
            f"the {config.model_type} model has layers of {', '.join(sorted(kinds - {'full_attention'}))}, and every "
            "position of a masked diffusion model attends to every other. Use a model with full attention in all "
            "layers, or take the window out of its config.json (use_sliding_window, sliding_window)."
        )


# What a loaded model is to be: causal as it came, a diffusion model as it was trained, or one made of an AR model.


def settle_attention(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    *,
    convert: bool | str = False,
    mask_token: str | None = None,
    shifted_logits: bool | None = None,
    block_length: int | None = None,
    clean_attention: str | None = None,
) -> None:
    """Make ``model`` attend as its configuration says, or as ``convert`` asks, and prove it.

    Args:
        model: Any causal-LM class, with or without an adapter; changed in place.
        tokenizer: Gets its padding from the configuration where it has none.
        convert: Turn a causal model into a diffusion model; `"block"` makes any model a block diffusion model.
        mask_token: The mask token, for a model whose configuration has none.
        shifted_logits: Whether the logits of the converted model predict the next position; yes if left out.
        block_length, clean_attention: Of a block diffusion model, as `attend_in_blocks` takes them; of no effect on others.

    Raises:
        ConfigurationError: a setting contradicts the checkpoint, no mask token is found, or attention stays causal.
    """
    config = text_config(model)
    if convert or mask_token is not None or shifted_logits is not None or block_length is not None:
        refuse_canvases(model, "convert")
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
    if convert == "block" or getattr(config, "block_length", None) is not None:
        attend_in_blocks(model, block_length, clean_attention)
    elif clean_attention is not None:
        _require_blocks(None, clean_attention)
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
