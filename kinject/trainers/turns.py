"""An order of samples of which some take turns: each epoch shows another part of them, beside those of every epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import Sampler

from kinject.corruption import ORDER_STREAM, sample_generator
from kinject.trainers.length_grouping import LengthGroupedSampler

ALWAYS = -1
"""The turn of a sample that every epoch shows."""


class TurnSampler(Sampler[int]):
    """Yields the indices of an epoch's samples, as a pure function of (seed, epoch).

    Args:
        turns: `ALWAYS`, or the turn of each sample, counted from 0; epochs go through the turns again and again. As many
            samples have each turn.
        seed: Of the order.
        epoch: Tells the epoch whose samples are shown, counted from 0.
        lengths: Length of each sample in tokens, to group those of similar length; else the order is random.
        group_size: Samples in such a group.
    """

    def __init__(
        self,
        turns: Sequence[int],
        seed: int,
        epoch: Callable[[], int],
        lengths: Sequence[int] | None = None,
        group_size: int = 1,
    ) -> None:
        self._turns = torch.tensor(turns)
        self._seed, self._epoch, self._lengths, self._group_size = seed, epoch, lengths, group_size

    def __len__(self) -> int:
        """The number of samples of an epoch."""
        return len(self._shown())

    def __iter__(self) -> Iterator[int]:
        """The order of the epoch."""
        shown = self._shown()
        if self._lengths is None:
            generator = sample_generator(self._seed, self._epoch(), 0, ORDER_STREAM)
            yield from shown[torch.randperm(len(shown), generator=generator)].tolist()
            return
        lengths = [self._lengths[index] for index in shown.tolist()]
        grouped = LengthGroupedSampler(lengths, self._group_size, self._seed, self._epoch)
        yield from (int(shown[index]) for index in grouped)

    def _shown(self) -> torch.Tensor:
        """The samples of this epoch, `(samples,)`."""
        turn = self._epoch() % (int(self._turns.max()) + 1) if self._turns.max() >= 0 else ALWAYS
        return ((self._turns == ALWAYS) | (self._turns == turn)).nonzero()[:, 0]
