"""Attention of block diffusion models: both ways within a block, and back to all blocks before it.

One formula serves training, where a row is its noisy copy N and its clean copy C, and decoding, where what is written is clean
and the block in work noisy (SDAR, arXiv 2510.06303; BD3-LM, arXiv 2503.09573, section 3.1; Fast-dLLM v2, arXiv 2509.26328):

    attend(q, k) = (copy_q = copy_k and block_q = block_k) or (k in C and block_q > block_k)

Blocks are counted from the beginning of the row, the prompt included. Knows nothing of losses and of decoding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from kinject import compat
from kinject.errors import ConfigurationError

CleanAttention = Literal["block", "causal"]
CLEAN_ATTENTIONS: tuple[str, ...] = get_args(CleanAttention)
DEFAULT_BLOCK_LENGTH = 4  # SDAR's
ATTENTIONS = ("eager", "sdpa")  # which take a mask of their own for every pair of tokens
_ROUNDING = 0.02  # of what a token changes that is seen: mixtures of experts round by how many tokens an expert has


@dataclass(frozen=True)
class Tokens:
    """What the attention of a block model asks of tokens.

    Attributes:
        positions: Place of each in its own row, `(rows, tokens)`.
        clean: Whether it belongs to the clean copy, `(rows, tokens)`.
        visible: Whether it is no padding, `(rows, tokens)`.
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
        queries: Tokens that look; the last of ``keys``.
        keys: Tokens that are looked at.
        block_length: Tokens of a block.
        clean_attention: `block`: clean tokens see all of their block; `causal`: none that come after them.
    """
    block_q, block_k = (each.positions.div(block_length, rounding_mode="floor") for each in (queries, keys))
    same = (queries.clean[:, :, None] == keys.clean[:, None]) & (block_q[:, :, None] == block_k[:, None])
    if clean_attention == "causal":
        same &= ~queries.clean[:, :, None] | (queries.positions[:, :, None] >= keys.positions[:, None])
    before = keys.clean[:, None] & (block_q[:, :, None] > block_k[:, None])
    allowed = (same | before) & keys.visible[:, None]
    # Padding sees itself: where nothing at all is seen, attention is no number.
    count, total = allowed.shape[1:]
    itself = torch.ones((count, total), dtype=torch.bool, device=allowed.device)
    return allowed | (itself.tril(total - count) & itself.triu(total - count))


def block_mask(
    model: Any, keys: Tokens, block_length: int, clean_attention: str = "block", *, queries: int | None = None
) -> torch.Tensor:
    """The attention mask that a call of ``model`` needs: 0 where a query attends, else the least number of its precision.

    A mask of booleans would be added to the scores by eager attention, as 0 and 1, without a word.

    Args:
        model: A block diffusion model, wrapped or not.
        keys: All tokens that it sees, those in its cache included.
        block_length, clean_attention: As for `attended`.
        queries: On how many of them, the last, it is called; on all if left out.

    Returns:
        `(rows, 1, queries, keys)`.
    """
    allowed = attended(keys if queries is None else keys.last(queries), keys, block_length, clean_attention)
    dtype = next(weight.dtype for weight in model.parameters() if weight.is_floating_point())
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


def require_block_attention(model: Any) -> None:
    """Refuse attention that takes no mask of its own.

    Raises:
        ConfigurationError: the model was loaded with FlashAttention or flex attention.
    """
    implementation = compat.attention_implementation(model)
    if implementation not in ATTENTIONS:
        raise ConfigurationError(
            f"attn_implementation is {implementation}, which takes no mask for single pairs of tokens, and a block diffusion "
            f"model needs one. Load it with {' or '.join(ATTENTIONS)} (--attn_implementation sdpa)."
        )


def prove_blocks(model: Any) -> None:
    """See in two blocks of two tokens that the first sees the second, and nothing of the block that follows.

    Raises:
        ConfigurationError: the model does not heed the mask.
    """
    device = model.get_input_embeddings().weight.device
    positions = torch.arange(4, device=device)[None]
    noisy = torch.zeros_like(positions, dtype=torch.bool)
    tokens = Tokens(positions, noisy.clone().index_fill_(1, positions[0, :2], True), ~noisy)  # the first block is clean
    mask = block_mask(model, tokens, block_length=2)

    def first(*ids: int) -> torch.Tensor:
        torch.manual_seed(0)  # dropout of quantized models, which stay in training
        row = torch.tensor([ids], device=device)
        logits: torch.Tensor = model(input_ids=row, attention_mask=mask, position_ids=positions, use_cache=False).logits
        return logits[0, 0]

    with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        told, other, later = first(0, 1, 2, 3), first(0, 2, 2, 3), first(0, 1, 2, 2)
    seen, leaked = ((told - each).abs().max().item() for each in (other, later))
    if not seen or leaked > _ROUNDING * seen:
        raise ConfigurationError(
            f"{type(model).__name__} does not attend in blocks: it does not heed an attention mask of its own. Use a model of "
            "an architecture that does, such as Llama, Qwen2 or Qwen3."
        )
