"""An order of samples in which those of one batch are about equally long, so that little is padded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import Sampler

from kinject.corruption import ORDER_STREAM, sample_generator

_POOL = 50  # batches' worth of random samples that are sorted together
_JITTER = 0.1  # lengths are compared give or take this part, so that the same samples do not meet in every epoch


class LengthGroupedSampler(Sampler[int]):
    """Yields sample indices, every ``group_size`` of which are of similar length.

    The order is a pure function of (seed, epoch): the same on all processes, and after a resume. transformers' sampler of
    this name hardly groups small data sets, and runs through each group from long to short.

    Args:
        lengths: Length of each sample, in tokens.
        group_size: Samples that are processed together, on all processes.
        seed: Of the order.
        epoch: Tells the epoch whose order is drawn, counted from 0.
    """

    def __init__(self, lengths: Sequence[int], group_size: int, seed: int, epoch: Callable[[], int]) -> None:
        self._lengths = torch.tensor(lengths, dtype=torch.float64)
        self._group_size = group_size
        self._seed = seed
        self._epoch = epoch

    def __len__(self) -> int:
        """The number of samples."""
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        """The order of the epoch."""
        generator = sample_generator(self._seed, self._epoch(), 0, ORDER_STREAM)
        noise = torch.rand(len(self), generator=generator, dtype=torch.float64)
        compared = self._lengths * (1 + _JITTER * (2 * noise - 1))
        groups: list[torch.Tensor] = []
        for pool in torch.randperm(len(self), generator=generator).split(_POOL * self._group_size):
            groups += pool[compared[pool].argsort()].split(self._group_size)
        short = groups.pop() if groups and len(groups[-1]) < self._group_size else torch.empty(0, dtype=torch.int64)
        for index in torch.randperm(len(groups), generator=generator).tolist():
            yield from groups[index].tolist()
        yield from short.tolist()
