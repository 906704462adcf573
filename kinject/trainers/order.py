"""The order of samples: grouped by length or at random, some of them in some epochs only; and the epoch of masks and order.

Knows nothing of objectives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Sampler
from transformers import TrainerCallback
from transformers.trainer_utils import has_length

from kinject.corruption import ORDER_STREAM, sample_generator
from kinject.trainers.collator import DocumentCollator

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import TrainerControl, TrainerState, TrainingArguments


ALWAYS = -1
"""The turn of a sample that every epoch shows."""


class TurnSampler(Sampler[int]):
    """Yields the indices of an epoch's samples, some of which take turns; a pure function of (seed, epoch).

    All epochs are equally long, since the libraries count their steps before the first one. An epoch with fewer samples than
    others shows some of its samples twice.

    Args:
        turns: The turn of each sample, counted from 0, or `ALWAYS`. Epoch e shows turn e modulo the number of turns; every turn
            has equally many samples.
        seed: Of the order.
        epoch: Returns the epoch whose samples are shown, counted from 0.
        lengths: Length of each sample in tokens, to group samples of similar length; without it the order is random.
        group_size: Samples in such a group.
        epochs: For each sample the epochs that show it, which repeat after the last one that any sample names; where a sample
            names none, its turn decides.
    """

    def __init__(
        self,
        turns: Sequence[int],
        seed: int,
        epoch: Callable[[], int],
        lengths: Sequence[int] | None = None,
        group_size: int = 1,
        epochs: Sequence[Sequence[int] | None] | None = None,
    ) -> None:
        self._turns = torch.tensor(turns)
        self._in_epoch: dict[int, list[int]] = {}
        self._unplanned = torch.tensor([not each for each in epochs or [()] * len(turns)])
        for index, each in enumerate(epochs or ()):
            for planned in each or ():
                self._in_epoch.setdefault(planned, []).append(index)
        self._planned = max(self._in_epoch, default=-1) + 1
        most = max((len(each) for each in self._in_epoch.values()), default=0)
        self._length = most + len(self._of_turn(0))
        self._seed, self._epoch, self._lengths, self._group_size = seed, epoch, lengths, group_size

    def __len__(self) -> int:
        """The number of samples of an epoch."""
        return self._length

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
        epoch = self._epoch()
        planned = torch.tensor(
            self._in_epoch.get(epoch % self._planned, []) if self._planned else [], dtype=torch.int64
        )
        shown = torch.cat([planned, self._of_turn(epoch)])
        missing = self._length - len(shown)
        if missing and len(shown):
            generator = sample_generator(self._seed, epoch, 1, ORDER_STREAM)
            laps = [torch.randperm(len(shown), generator=generator) for _ in range(-(-missing // len(shown)))]
            shown = torch.cat([shown, shown[torch.cat(laps)[:missing]]])
        return shown

    def _of_turn(self, epoch: int) -> torch.Tensor:
        """The samples whose turn decides and that ``epoch`` shows, `(samples,)`."""
        turn = epoch % (int(self._turns.max()) + 1) if self._turns.max() >= 0 else ALWAYS
        return (self._unplanned & ((self._turns == ALWAYS) | (self._turns == turn))).nonzero()[:, 0]


_POOL = 50  # groups' worth of random samples that are sorted together
_JITTER = 0.1  # lengths are changed by at most this part before they are compared, so that groups differ between epochs


class LengthGroupedSampler(Sampler[int]):
    """Yields sample indices, every ``group_size`` of which are of similar length.

    The order is a pure function of (seed, epoch): the same on all processes, and after a resume. transformers' sampler of
    this name hardly groups small data sets, and yields each of its pools from long to short.

    Args:
        lengths: Length of each sample, in tokens.
        group_size: Samples that are processed together, on all processes.
        seed: Of the order.
        epoch: Returns the epoch whose order is drawn, counted from 0.
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


def own_sampler(dataset: Dataset, args: Any, collator: Any) -> Sampler[int] | None:
    """The sampler of a prepared training ``dataset``; None where the library's own yields the order that is asked for.

    Its epoch is that of the collator's masks. The library's `set_epoch` does not reach a sampler of several processes after a
    resume in the middle of an epoch.

    Args:
        dataset: Has the columns of `kinject.trainers.preparation.PREPARED`.
        args: The training arguments.
        collator: A `DocumentCollator`, which has the seed and the epoch.
    """
    lengths = dataset["length"] if args.train_sampling_strategy == "group_by_length" else None
    group_size = args.train_batch_size * args.world_size
    turns, epochs = dataset["turn"], dataset["epochs"]
    if max(turns) > 0 or any(epochs):
        return TurnSampler(turns, collator.seed, lambda: collator.epoch, lengths, group_size, epochs)
    if lengths is not None:
        return LengthGroupedSampler(lengths, group_size, collator.seed, lambda: collator.epoch)
    return None


class EpochCallback(TrainerCallback):
    """Tells the collator the epoch whose masks and order to draw, also after a resume in the middle of one.

    The epoch is derived from the steps that were taken, as the training loop does. `state.epoch` would be wrong after a resume
    in which an epoch has another number of steps.
    """

    def __init__(self, collator: DocumentCollator) -> None:
        self._collator = collator
        self._next = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Derive the epoch in which the loop begins."""
        loader = kwargs["train_dataloader"]
        batches = len(loader) if has_length(loader) else state.max_steps * args.gradient_accumulation_steps
        self._next = state.global_step // max(1, -(-batches // args.gradient_accumulation_steps))

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Give the collator the epoch that begins."""
        self._collator.epoch = self._next
        self._next += 1
        self._collator.num_epochs = max(1.0, float(state.num_train_epochs))
