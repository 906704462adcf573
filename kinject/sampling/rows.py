"""The rows of a batch in work: token ids, which are still masked, and how far each row has come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch

NO_BLOCK = 2**62  # the block of what is not to be filled, and of a row that is filled


@dataclass
class Rows:
    """The rows in work.

    Attributes:
        index: (rows,) where the row stands in the batch as it began.
        ids: (rows, width) token ids, padded on the left.
        visible: (rows, width) no padding.
        prompt: (rows, width) what guidance hides in its unconditional pass.
        answer: (rows, width) masks at the beginning.
        open: (rows, width) masks still.
        block_of: (rows, width) number of the block.
        seeds: (rows,) of the noise.
        block: (rows,) block in work.
        step: (rows,) steps taken in that block.
        masks: (rows,) masks of that block when work on it began.
        taken: (rows,) steps taken in all.
    """

    index: torch.Tensor
    ids: torch.Tensor
    visible: torch.Tensor
    prompt: torch.Tensor
    answer: torch.Tensor
    open: torch.Tensor
    block_of: torch.Tensor
    seeds: torch.Tensor
    block: torch.Tensor
    step: torch.Tensor
    masks: torch.Tensor
    taken: torch.Tensor

    @property
    def positions(self) -> torch.Tensor:
        """(rows, width) place of each token in its own row."""
        return (self.visible.cumsum(dim=1) - 1).clamp(min=0)

    @property
    def first(self) -> torch.Tensor:
        """(rows,) column of the first token."""
        return self.visible.shape[1] - self.visible.sum(dim=1)

    @property
    def in_work(self) -> torch.Tensor:
        """(rows, width) masks that may be filled now."""
        return self.open & (self.block_of <= self.block[:, None])

    def enter(self, entering: torch.Tensor) -> None:
        """Let rows, (rows,) booleans, go on to their next block with masks."""
        ahead = self.open & (self.block_of > self.block[:, None])
        following = self.block_of.masked_fill(~ahead, NO_BLOCK).amin(dim=1)
        self.block = self.block.where(~entering, following)
        self.step = self.step.masked_fill(entering, 0)
        count = (self.open & (self.block_of == self.block[:, None])).sum(dim=1)
        self.masks = self.masks.where(~entering, count)

    def take(self, kept: torch.Tensor) -> Rows:
        """Only the rows at ``kept``."""
        return replace(self, **{item.name: getattr(self, item.name)[kept] for item in fields(self)})


def batch_rows(
    sequences: Sequence[Sequence[int]],
    mask_token_id: int,
    *,
    block_length: int,
    origins: Sequence[int],
    prompt_lengths: Sequence[int] | None,
    seeds: torch.Tensor,
    device: torch.device,
) -> Rows:
    """Rows out of token ids in which masks stand for what is to be filled.

    Args:
        sequences: Token ids of each row.
        mask_token_id: Stands for what is to be filled.
        block_length: Tokens of a block.
        origins: Position of each row at which its block 0 begins.
        prompt_lengths: Tokens of each row that are its prompt, which guidance hides; None means all but the masks.
        seeds: (rows,) of the noise.
        device: Where the tensors go.
    """
    width = max(map(len, sequences))

    def padded(values: Sequence[Sequence[int]], padding: int) -> torch.Tensor:
        return torch.tensor([[padding] * (width - len(row)) + list(row) for row in values], device=device)

    ids = padded(sequences, 0)  # (rows, width); what padding reads as does not matter
    visible = padded([[1] * len(row) for row in sequences], 0).bool()
    masked = visible & (ids == mask_token_id)
    positions = (visible.cumsum(dim=1) - 1).clamp(min=0)
    prompt = visible & ~masked
    if prompt_lengths is not None:
        prompt = visible & (positions < torch.tensor(prompt_lengths, device=device)[:, None])
    blocks = (positions - torch.tensor(origins, device=device)[:, None]).div(block_length, rounding_mode="floor")
    zeros = torch.zeros(len(sequences), dtype=torch.int64, device=device)
    rows = Rows(
        index=torch.arange(len(sequences), device=device),
        ids=ids,
        visible=visible,
        prompt=prompt,
        answer=masked,
        open=masked.clone(),
        block_of=blocks.masked_fill(~masked, NO_BLOCK),
        seeds=seeds.to(device),
        block=zeros - NO_BLOCK,
        step=zeros,
        masks=zeros,
        taken=zeros,
    )
    rows.enter(torch.ones_like(zeros, dtype=torch.bool))
    return rows
