"""Masked diffusion models: their settings, their attention (over the whole row or in blocks), and how an AR model becomes one.

Knows nothing of losses, of decoding, and of the names of weights in checkpoints.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from kinject import compat
from kinject.errors import ConfigurationError
from kinject.prompts.templates import resolve_mask_token

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


CleanAttention = Literal["block", "causal"]
CLEAN_ATTENTIONS: tuple[str, ...] = get_args(CleanAttention)
DEFAULT_BLOCK_LENGTH = 4  # SDAR's
_BLOCK_ATTENTIONS = ("eager", "sdpa")  # those that take a mask for every pair of tokens
# A token out of sight may change logits by this part of what one in sight does: experts round by how many tokens they get.
_ROUNDING = 0.02
_PROBE_LENGTH = 8  # tokens
_GROWING = ("expand_token_id", "delete_token_id")  # as DreamOn's generation_config.json calls them


@dataclass(frozen=True)
class DiffusionSettings:
    """How a masked diffusion model is called.

    Attributes:
        mask_token_id: Stands for a hidden token.
        shifted_logits: Whether the logits at position i predict token i + 1, as in models that began as AR models
            (Dream, arXiv 2508.15487), instead of token i (LLaDA, arXiv 2502.09992).
        block_length: Tokens of a block, where the model attends in blocks (SDAR, arXiv 2510.06303); None where every
            position attends to every other. Every call of a block model takes a `block_mask`.
        clean_attention: How the blocks before the current one attend within themselves: `block`, both ways, or `causal`.
        expand_token_id: In models whose answers grow (DreamOn): predicted where one mask is to become two.
        delete_token_id: In the same models: predicted where a mask is to be deleted.
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
        """Refuse a combination that no model has."""
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
    """Whether ``model`` is a DiffusionGemma, which begins with random tokens instead of masks, in a `generate` of its own."""
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
        shifted_logits: Go on predicting the next position, so that training starts from what the AR model predicts (Dream).
        block_length: Tokens of a block, to make it a block diffusion model.
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
        _require_block_attention(model)
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
    """Turn a masked diffusion model into a block diffusion model, or change its blocks, in place; the attention is checked.

    Args:
        model: A masked diffusion model; its weights stay as they are.
        block_length: Tokens of a block. Default: the model's own, else 4.
        clean_attention: As in `DiffusionSettings`. Default: the model's own, else `block`.

    Raises:
        ConfigurationError: a value out of range, attention that takes no mask for every pair of tokens, or that ignores it.
    """
    config = text_config(model)
    block_length = block_length or getattr(config, "block_length", None) or DEFAULT_BLOCK_LENGTH
    clean_attention = clean_attention or getattr(config, "clean_attention", None) or "block"
    _require_blocks(block_length, clean_attention)
    _require_block_attention(model)
    if not _on_meta_or_sharded(model):
        training = model.training
        model.train(bool(getattr(model, "is_quantized", False)))  # as in `prove_bidirectional`
        try:
            _prove_blocks(model)
        finally:
            model.train(training)
    config.block_length, config.clean_attention = block_length, clean_attention


def note_growing(model: Any) -> None:
    """Copy the tokens by which answers grow into the configuration; DreamOn names them only in its generation_config.json."""
    config = text_config(model)
    for name in _GROWING if is_diffusion(model) else ():
        index = getattr(getattr(model, "generation_config", None), name, None)
        if getattr(config, name, None) is None and index is not None:
            setattr(config, name, index)


def attend_both_ways(model: torch.nn.Module) -> None:
    """Set every attention module to be not causal, since kernels that get no mask go by the module."""
    module: Any
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False


def prove_bidirectional(model: torch.nn.Module) -> None:
    """Check that the first position attends to the last: another last token has to change the first logits.

    Models that cannot be run where they are (on the meta device, or sharded by ZeRO-3) pass unchecked.

    Raises:
        ConfigurationError: the first position does not attend to the last.
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
    # In evaluation mode on a CPU bitsandbytes repacks 4-bit weights into a form that cannot be trained, so quantized models
    # stay in training mode; dropout is the same in both passes, which have the same seed.
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
            f"{type(model).__name__} stays causal: its first position does not attend to its last. Use a model of an "
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
    """Refuse windows and recurrent layers, which `prove_bidirectional` misses: its few tokens fit into any window."""
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds and getattr(config, "sliding_window", None) is not None:
        kinds = {"sliding_attention"}
    if kinds - {"full_attention"}:
        raise ConfigurationError(
            f"the {config.model_type} model has layers of {', '.join(sorted(kinds - {'full_attention'}))}, and every "
            "position of a masked diffusion model attends to every other. Use a model with full attention in all "
            "layers, or take the window out of its config.json (use_sliding_window, sliding_window)."
        )


# Attention of block diffusion models: both ways within a block, and back to all blocks before it.
#
# One formula serves training, where a row is its noisy copy N and its clean copy C, and decoding, where finished blocks are
# clean and the current one is noisy (SDAR, arXiv 2510.06303; BD3-LM, arXiv 2503.09573, section 3.1; Fast-dLLM v2, arXiv
# 2509.26328):
#
#     attend(q, k) = (copy_q = copy_k and block_q = block_k) or (k in C and block_q > block_k)
#
# Blocks are counted from the beginning of the row, the prompt included.


@dataclass(frozen=True)
class Tokens:
    """What the attention of a block diffusion model depends on.

    Attributes:
        positions: The position of each token in its own row, `(rows, tokens)`.
        clean: Whether it belongs to the clean copy, `(rows, tokens)`.
        visible: Whether it is a token and not padding, `(rows, tokens)`.
    """

    positions: torch.Tensor
    clean: torch.Tensor
    visible: torch.Tensor

    def last(self, count: int) -> Tokens:
        """The last ``count`` of each row."""
        return Tokens(self.positions[:, -count:], self.clean[:, -count:], self.visible[:, -count:])


def attended(queries: Tokens, keys: Tokens, block_length: int, clean_attention: str = "block") -> torch.Tensor:
    """Which of ``keys`` each of ``queries`` attends to, `(rows, queries, keys)`, bool.

    Args:
        queries: The tokens that attend: the last ones of ``keys``.
        keys: The tokens that they may attend to.
        block_length: Tokens of a block.
        clean_attention: `block`: clean tokens attend to all of their block; `causal`: to none that come after them.
    """
    block_q, block_k = (each.positions.div(block_length, rounding_mode="floor") for each in (queries, keys))
    same = (queries.clean[:, :, None] == keys.clean[:, None]) & (block_q[:, :, None] == block_k[:, None])
    if clean_attention == "causal":
        same &= ~queries.clean[:, :, None] | (queries.positions[:, :, None] >= keys.positions[:, None])
    before = keys.clean[:, None] & (block_q[:, :, None] > block_k[:, None])
    allowed = (same | before) & keys.visible[:, None]
    # Padding attends to itself: the softmax over nothing at all would be nan.
    count, total = allowed.shape[1:]
    itself = torch.ones((count, total), dtype=torch.bool, device=allowed.device)
    return allowed | (itself.tril(total - count) & itself.triu(total - count))


def block_mask(
    model: Any, keys: Tokens, block_length: int, clean_attention: str = "block", *, queries: int | None = None
) -> torch.Tensor:
    """The additive attention mask for a call of ``model``: 0 where a query attends, else the least number of its precision.

    Eager attention adds a mask to the scores, so that booleans would be added as 0 and 1 in silence.

    Args:
        model: A block diffusion model, wrapped or not.
        keys: All tokens of the rows, those in its cache included.
        block_length, clean_attention: As for `attended`.
        queries: The model is called on this many of them, the last ones; on all if left out.

    Returns:
        `(rows, 1, queries, keys)`.
    """
    allowed = attended(keys if queries is None else keys.last(queries), keys, block_length, clean_attention)
    dtype = next(weight.dtype for weight in model.parameters() if weight.is_floating_point())
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


def _require_block_attention(model: Any) -> None:
    """Refuse an implementation of attention that takes no mask for every pair of tokens.

    Raises:
        ConfigurationError: the model was loaded with FlashAttention or flex attention.
    """
    implementation = compat.attention_implementation(model)
    if implementation not in _BLOCK_ATTENTIONS:
        raise ConfigurationError(
            f"attn_implementation is {implementation}, which takes no mask for single pairs of tokens, and a block diffusion "
            f"model needs one. Load it with {' or '.join(_BLOCK_ATTENTIONS)} (--attn_implementation sdpa)."
        )


def _prove_blocks(model: Any) -> None:
    """Check on two blocks of two tokens that the first token attends to the second, and not to the block that follows.

    Raises:
        ConfigurationError: the model ignores the mask.
    """
    device = model.get_input_embeddings().weight.device
    positions = torch.arange(4, device=device)[None]
    noisy = torch.zeros_like(positions, dtype=torch.bool)
    tokens = Tokens(positions, noisy.clone().index_fill_(1, positions[0, :2], True), ~noisy)  # the first block is clean
    mask = block_mask(model, tokens, block_length=2)

    def first(*ids: int) -> torch.Tensor:
        torch.manual_seed(0)  # for the dropout of quantized models, which stay in training mode
        row = torch.tensor([ids], device=device)
        logits: torch.Tensor = model(input_ids=row, attention_mask=mask, position_ids=positions, use_cache=False).logits
        return logits[0, 0]

    with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        logits, other_second, other_last = first(0, 1, 2, 3), first(0, 2, 2, 3), first(0, 1, 2, 2)
    seen, leaked = ((logits - each).abs().max().item() for each in (other_second, other_last))
    if not seen or leaked > _ROUNDING * seen:
        raise ConfigurationError(
            f"{type(model).__name__} does not attend in blocks: it ignores a mask for single pairs of tokens. Use a model of "
            "an architecture that does, such as Llama, Qwen2 or Qwen3."
        )


# What a model becomes once it is loaded: causal as it was, the diffusion model it was trained as, or one made of an AR model.


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
    """The token that a diffusion model learned to fill in; it is never guessed, since no other token works."""
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
