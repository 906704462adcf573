"""The batches of an epoch: which samples in which order, padded or packed, and their masks.

Orders are pure functions of (seed, epoch), masks of (seed, epoch, sample). A mask depends neither on the batch nor on the
worker or the process. Only the mask *ratio* may be one for a whole batch, where the settings ask for it as in the paper.
Knows nothing of tokenizers; noised batches are made in `diffusion_trainer.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.utils.data import Sampler
from transformers import TrainerCallback
from transformers.trainer_utils import has_length

from kinject import compat
from kinject.corruption import (
    MASK_STREAM,
    ORDER_STREAM,
    REPLACEMENT_STREAM,
    WORDING_STREAM,
    draw_mask,
    mask_tokens,
    once_a_run,
    random_tokens,
    sample_generator,
)
from kinject.errors import ConfigurationError
from kinject.models.diffusion import is_diffusion
from kinject.prompts.templates import IGNORED, Frame, assemble

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments

    from kinject.corruption import MaskRatioLaw, MaskUnit
    from kinject.trainers.document_config import RatioScope
    from kinject.trainers.infilling import Gap, Infilling


# Batches without padding: the documents of a batch in one row, each of which attends to itself alone.


def check_isolation(model: PreTrainedModel, device: torch.device) -> bool:
    """Refuse a model in which the documents of a packed row would attend to each other, or cost time for each other.

    Returns:
        Whether its attention takes boundaries (FlashAttention); other attention takes position ids alone.

    Raises:
        ConfigurationError: the model is a masked diffusion model, carries a state from token to token, or has an attention
            implementation other than FlashAttention and, on accelerators, flex attention.
    """
    if is_diffusion(model):
        raise ConfigurationError(compat.packing_refusal(None))
    if compat.is_stateful(model):
        raise ConfigurationError(
            f"packing is not supported for {type(model).__name__}, whose layers carry a state from one document of a row "
            "into the next. Leave out --packing and --padding_free."
        )
    attention = compat.attention_implementation(model)
    if "flash" in attention:
        return True
    if attention == "flex_attention" and device.type != "cpu":
        return False
    raise ConfigurationError(compat.packing_refusal(attention))


def packed(
    samples: Sequence[tuple[Sequence[int], Sequence[int]]], with_boundaries: bool, pad: tuple[int, int] | None = None
) -> dict[str, Any]:
    """One packed row of all ``samples``.

    Args:
        samples: Token ids and labels (not shifted) of each document.
        with_boundaries: Whether to add the arguments that FlashAttention takes.
        pad: A token id, and a multiple: the row is filled up to that multiple with one more document of this token.

    Returns:
        `input_ids`, `position_ids` and `labels`, each `(1, total)`; the first label of every document, which nothing predicts,
        is -100. With boundaries also `cu_seq_lens_q`, `cu_seq_lens_k` `(documents + 1,)`, `max_length_q` and
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


Packing = Literal["none", "positions", "boundaries"]
Corruption = Literal["mask", "random"]
LossScope = Literal["document", "masked"]
# Evaluation rows are numbered from 0 too, and would get the masks of training rows without it.
_EVALUATION_SEED_OFFSET = 2**32


@dataclass(frozen=True)
class Masking:
    """How a masked objective hides tokens in the prompt's copy of the document.

    Attributes:
        law: Gives the mask ratio of a sample in an epoch.
        mask_token_id: Replaces a hidden token under `corruption="mask"`.
        candidate_ids: Ids that `corruption="random"` draws from, shape `(candidates,)`.
        corruption, unit, ratio_per, loss_on: As in `MaskedSFTConfig`.
        collapsed: Whether the copy shows one mask for each run of hidden tokens.
    """

    law: MaskRatioLaw
    mask_token_id: int
    candidate_ids: torch.Tensor
    corruption: Corruption = "mask"
    unit: MaskUnit = "token"
    ratio_per: RatioScope = "sample"
    loss_on: LossScope = "document"
    collapsed: bool = False


@dataclass
class DocumentCollator:
    """Collates rows `{document_ids, sample, fixed_masks[, word_ids][, gaps][, frames][, predictions]}`, padded or packed.

    A batch is a dict with `input_ids`, `attention_mask`, `labels` (not shifted, -100 where nothing is scored), each
    `(batch, length)`, or the entries of `packed`; for masked objectives also `mask_ratio` `(batch,)`, which is NaN for a row
    without a masked copy; where `indexed` the entries of `supervised`; and those of `batch_predictions` and `batch_weights`.

    Args:
        frames: The token ids around plain documents, one entry a wording; a row with `frames` of its own (a question with its
            answer) uses those.
        pad_token_id: Fills rows up.
        seed: Of all draws.
        masking: How masked objectives hide tokens; None for the other objectives.
        infilling: Which samples are infilling samples; None where there are none.
        pad_to_multiple_of: Pads rows to a multiple of this many tokens.
        packing: Whether training batches are packed, and if so, whether with boundaries; evaluation batches are always padded.
        num_epochs: Of the run; some laws of the mask ratio depend on it.
        indexed: Whether a batch says where its targets are and how long a prefix its rows share; finding out on the device
            would have to wait for it. Not for streamed data, whose batches accelerate cuts along their rows.
    """

    frames: Sequence[Frame]
    pad_token_id: int
    seed: int
    masking: Masking | None = None
    infilling: Infilling | None = None
    pad_to_multiple_of: int | None = None
    packing: Packing = "none"
    num_epochs: float = 1.0
    indexed: bool = True
    # In shared memory, so that data loader workers that outlive an epoch see the new one.
    _epoch: torch.Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64).share_memory_())

    @property
    def epoch(self) -> int:
        """The epoch whose masks are drawn, counted from 0."""
        return int(self._epoch)

    @epoch.setter
    def epoch(self, value: int) -> None:
        self._epoch.fill_(value)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Collate ``rows``."""
        ratios = self._ratios(rows)
        samples = []
        for index, row in enumerate(rows):
            gap, ids = self._gap(row), row["document_ids"]
            if self.infilling is None or gap is None:
                frame = self._frame(row)
                samples.append(self._assemble(row, frame, ratios[index]))
                ratios[index] = ratios[index] if frame.has_copy else math.nan
            else:
                samples.append(self.infilling.assemble(ids, gap))
                ratios[index] = (gap.end - gap.start) / len(ids)
        if self.packing == "none" or rows[0]["fixed_masks"]:
            length = self._padded_length([len(input_ids) for input_ids, _ in samples])
            batch: dict[str, Any] = {
                "input_ids": padded([ids for ids, _ in samples], length, self.pad_token_id),
                "attention_mask": padded([[1] * len(ids) for ids, _ in samples], length, 0),
                "labels": padded([targets for _, targets in samples], length, IGNORED),
            }
        else:
            pad = (self.pad_token_id, self.pad_to_multiple_of) if self.pad_to_multiple_of else None
            batch = packed(samples, self.packing == "boundaries", pad)
        if self.masking is not None:
            batch["mask_ratio"] = torch.tensor(ratios)
        if self.indexed:
            batch |= supervised(batch["input_ids"], batch["labels"][:, 1:])
        labels = [targets for _, targets in samples]
        return batch | batch_predictions(rows, labels) | batch_weights(rows, labels)

    def _padded_length(self, lengths: Sequence[int]) -> int:
        multiple = self.pad_to_multiple_of or 1
        return -(-max(lengths) // multiple) * multiple

    def _seed_and_epoch(self, row: Mapping[str, Any]) -> tuple[int, int]:
        """The seed and the epoch of a row's draws; evaluation rows get the same masks at every evaluation."""
        return (self.seed + _EVALUATION_SEED_OFFSET, 0) if row["fixed_masks"] else (self.seed, self.epoch)

    def _generator(self, row: Mapping[str, Any], stream: int) -> torch.Generator:
        return sample_generator(*self._seed_and_epoch(row), row["sample"], stream)

    def _frame(self, row: Mapping[str, Any]) -> Frame:
        frames = [Frame(**frame) for frame in row["frames"]] if row.get("frames") else self.frames
        if len(frames) == 1:  # without a generator, whose seeding costs more than the rest of a row
            return frames[0]
        return frames[int(torch.randint(len(frames), (), generator=self._generator(row, WORDING_STREAM)))]

    def _gap(self, row: Mapping[str, Any]) -> Gap | None:
        if self.infilling is None or row.get("frames"):
            return None
        seed, epoch = self._seed_and_epoch(row)
        length = len(row["document_ids"])
        return self.infilling.gap(length, row.get("gaps"), seed, epoch, row["sample"], self.num_epochs)

    def _ratios(self, rows: Sequence[Mapping[str, Any]]) -> list[float]:
        if self.masking is not None and self.masking.ratio_per == "batch":
            return [self._ratio(rows[0])] * len(rows)  # the first sample's ratio holds for the whole batch
        return [self._ratio(row) for row in rows]

    def _ratio(self, row: Mapping[str, Any]) -> float:
        if self.masking is None:
            return 0.0
        if self.masking.corruption == "random":
            return 1.0  # the control replaces every document token
        seed, epoch = self._seed_and_epoch(row)
        return self.masking.law.ratio(seed, epoch, row["sample"], self.num_epochs)

    def _assemble(self, row: Mapping[str, Any], frame: Frame, ratio: float) -> tuple[list[int], list[int]]:
        ids = row["document_ids"]
        if self.masking is None or not frame.has_copy:
            assembled = assemble(frame, ids, None, None)
            return assembled.input_ids, assembled.labels
        mask = draw_mask(len(ids), ratio, self._generator(row, MASK_STREAM), self.masking.unit, row.get("word_ids"))
        noised = self._corrupt(torch.tensor(ids), mask, row)
        if self.masking.collapsed:
            noised = noised[once_a_run(mask)]
        loss_mask = mask.tolist() if self.masking.loss_on == "masked" else None
        assembled = assemble(frame, ids, noised.tolist(), loss_mask)
        return assembled.input_ids, assembled.labels

    def _corrupt(self, ids: torch.Tensor, mask: torch.Tensor, row: Mapping[str, Any]) -> torch.Tensor:
        assert self.masking is not None
        if self.masking.corruption == "mask":
            return mask_tokens(ids, mask, self.masking.mask_token_id)
        return random_tokens(ids, mask, self.masking.candidate_ids, self._generator(row, REPLACEMENT_STREAM))


def supervised(input_ids: torch.Tensor, targets: torch.Tensor) -> dict[str, Any]:
    """Where the targets of a batch are, and how long the prefix is that all its rows share, up to the first target.

    Args:
        input_ids: `(batch, length)`.
        targets: The token that each position predicts, `(batch, length - 1)`; -100 where nothing is scored.

    Returns:
        `supervised`, the row and the position of each target, `(2, targets)`, and `shared`, an `int`.
    """
    where = torch.stack((targets != IGNORED).nonzero(as_tuple=True))  # (2, targets)
    if len(input_ids) == 1 or not where.shape[1]:
        return {"supervised": where, "shared": 0}
    before = input_ids[:, : int(where[1].min())]
    return {"supervised": where, "shared": int((before == before[:1]).all(0).long().cumprod(0).sum())}


def padded(rows: Sequence[Sequence[float]], length: int, value: float) -> torch.Tensor:
    """``rows`` as one tensor `(batch, length)`, each filled up with ``value`` on the right."""
    tensor = torch.full((len(rows), length), value)
    for index, row in enumerate(rows):
        tensor[index, : len(row)] = torch.tensor(row)
    return tensor


WEIGHTS = "loss_weights"
"""The entry of a batch with the weight of each supervised token; see `batch_weights`."""


def batch_weights(rows: Sequence[Mapping[str, Any]], labels: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """The weight of each supervised token in the loss, `(supervised,)`; no entry where the rows have no weights.

    The tokens of a row share its weight, so that a short answer counts as much as a long document.
    """
    if not any(row.get("weight") for row in rows):
        return {}
    counts = [sum(label != IGNORED for label in targets[1:]) for targets in labels]
    weights = [
        weight
        for row, count in zip(rows, counts, strict=True)
        for weight in [(row.get("weight") or 0.0) / count] * count
    ]
    return {WEIGHTS: torch.tensor(weights)}


EXACT = ("mask_ratio", "ratios", "predicted_log_probs", WEIGHTS)
"""The entries of a batch that the loss is computed with, which DeepSpeed must not round to bf16."""

PREDICTED = ("rehearsed", "predicted_ids", "predicted_log_probs")
"""The further entries of a batch with rehearsed samples; see `batch_predictions`."""


def batch_predictions(rows: Sequence[Mapping[str, Any]], labels: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """The untrained model's predictions for the rehearsed samples of a batch, as tensors; no entries where none are.

    Args:
        rows: Prepared rows; rehearsed ones have `predictions`.
        labels: The labels of each row, not shifted.

    Returns:
        `rehearsed` `(supervised,)`: which supervised tokens of the batch are rehearsed; `predicted_ids` and
        `predicted_log_probs` of these, `(rehearsed, kept)`.
    """
    predictions = [row.get("predictions") for row in rows]
    if not any(predictions):
        return {}
    rehearsed = [
        [each is not None] * sum(label != IGNORED for label in targets[1:])
        for each, targets in zip(predictions, labels, strict=True)
    ]
    known = [each for each in predictions if each]
    return {
        "rehearsed": torch.tensor([flag for flags in rehearsed for flag in flags]),
        "predicted_ids": torch.tensor([ids for each in known for ids in each["ids"]]),
        "predicted_log_probs": torch.tensor([values for each in known for values in each["log_probs"]]),
    }


# The order of samples: grouped by length or at random, some of them in some epochs only; and the epoch of masks and order.

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
