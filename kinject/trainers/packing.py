"""Batches without padding: the documents of a batch in one row, each of which attends to itself alone.

Position ids that start again at every document say where one begins; FlashAttention also takes the boundaries themselves
(`cu_seq_lens_q` and so on), which spares it to search for them in every layer. A batch keeps its documents, so that a packed
run takes the steps of a padded one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch

from kinject.errors import ConfigurationError
from kinject.models.diffusion import is_diffusion
from kinject.templates import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_isolation(model: PreTrainedModel, device: torch.device) -> bool:
    """Refuse a model in which the documents of a row would see each other, or pay for each other.

    Returns:
        Whether its attention takes boundaries (FlashAttention) rather than position ids alone.

    Raises:
        ConfigurationError: the model is a masked diffusion model, carries a state from token to token, or has an attention
            implementation other than FlashAttention and, on accelerators, flex attention.
    """
    instead = (
        "Leave out --packing and --padding_free; --train_sampling_strategy group_by_length saves most of the padding."
    )
    if is_diffusion(model):
        raise ConfigurationError(
            "packing is not supported for masked diffusion models: attention in both directions would reach the other "
            f"documents of a row. {instead}"
        )
    if getattr(model, "_is_stateful", False):
        raise ConfigurationError(
            f"packing is not supported for {type(model).__name__}, whose layers carry a state from one document of a row "
            f"into the next. {instead}"
        )
    attention = str(model.config._attn_implementation)
    if "flash" in attention:
        return True
    if attention == "flex_attention" and device.type != "cpu":
        return False
    reason = (
        "flex_attention has no backward pass on the CPU"
        if attention == "flex_attention"
        else f"with {attention} attention documents leak into each other, or a mask over the whole row hides them from each "
        "other at quadratic cost"
    )
    raise ConfigurationError(
        f"packing needs attention that takes each document for itself: {reason}. Load the model with --attn_implementation "
        f"flash_attention_2 (or flex_attention on a GPU). {instead}"
    )


def packed(
    samples: Sequence[tuple[Sequence[int], Sequence[int]]], with_boundaries: bool, pad: tuple[int, int] | None = None
) -> dict[str, Any]:
    """One row out of ``samples``.

    Args:
        samples: Token ids and labels (not shifted) of each document.
        with_boundaries: Whether to add what FlashAttention takes.
        pad: Token id, and the multiple to which it fills up the row, as one more document.

    Returns:
        `input_ids`, `position_ids` and `labels`, each `(1, total)`; -100 stands for the first label of every document, which
        nothing predicts. With boundaries also `cu_seq_lens_q`, `cu_seq_lens_k` `(documents + 1,)`, `max_length_q` and
        `max_length_k`.
    """
    documents = list(samples)
    if pad is not None:
        missing = -sum(len(ids) for ids, _ in documents) % pad[1]
        documents += [([pad[0]] * missing, [IGNORED] * missing)] if missing else []
    lengths = [len(ids) for ids, _ in documents]
    batch: dict[str, Any] = {
        "input_ids": torch.tensor([[index for ids, _ in documents for index in ids]]),
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "labels": torch.tensor([[label for _, labels in documents for label in (IGNORED, *labels[1:])]]),
    }
    if with_boundaries:
        boundaries = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        batch |= {"cu_seq_lens_q": boundaries, "cu_seq_lens_k": boundaries}
        batch |= {"max_length_q": max(lengths), "max_length_k": max(lengths)}
    return batch


def document_of_each(position_ids: torch.Tensor) -> torch.Tensor:
    """The number of the document that each token of a packed row `(1, total)` belongs to, `(total,)`."""
    return (position_ids[0] == 0).cumsum(0) - 1
