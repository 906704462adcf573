"""Turns prepared rows into batches, drawing every mask as a pure function of (seed, epoch, sample).

Nothing here depends on the batch, the worker or the process (design invariant 1); only the *ratio* may be shared by a
batch, when asked for as in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from kinject.corruption import (
    MASK_STREAM,
    REPLACEMENT_STREAM,
    WORDING_STREAM,
    draw_mask,
    keep_tokens,
    mask_tokens,
    random_tokens,
    sample_generator,
)
from kinject.templates import IGNORED, Frame, assemble
from kinject.trainers.packing import packed
from kinject.trainers.predictions import batch_predictions

if TYPE_CHECKING:
    from kinject.corruption import MaskRatioLaw, MaskUnit
    from kinject.trainers.corruption_config import RatioScope
    from kinject.trainers.infilling import Gap, Infilling
    from kinject.trainers.masked_config import Corruption, LossScope

Packing = Literal["none", "positions", "boundaries"]
_EVALUATION_SEED_OFFSET = 2**32  # evaluation rows are numbered from 0 too, and must not repeat the training masks


@dataclass(frozen=True)
class Masking:
    """What a masked objective hides in the prompt's copy of the document.

    Attributes:
        law: The mask ratio of a sample in an epoch.
        mask_token_id: Stands for a hidden token under `corruption="mask"`.
        candidate_ids: Ids that `corruption="random"` draws from, shape `(candidates,)`.
        corruption, unit, ratio_per, loss_on: As in `MaskedSFTConfig`.
    """

    law: MaskRatioLaw
    mask_token_id: int
    candidate_ids: torch.Tensor
    corruption: Corruption = "mask"
    unit: MaskUnit = "token"
    ratio_per: RatioScope = "sample"
    loss_on: LossScope = "document"


@dataclass
class DocumentCollator:
    """Collates rows `{document_ids, sample, fixed_masks[, word_ids][, gaps][, frames][, predictions]}`, padded or packed.

    `frames` are the token ids around plain documents, one entry a wording; a row with `frames` of its own (a question
    with its answer) uses those. Masked objectives pass `masking`, and `infilling` where some samples are of that kind.

    Returns a dict with `input_ids`, `attention_mask`, `labels` (not shifted, -100 where nothing is scored), each
    `(batch, length)`, or what `packed` returns; for masked objectives also `mask_ratio` `(batch,)`, NaN for a row that shows
    no copy and so has no mask, and what `batch_predictions` returns.
    """

    frames: Sequence[Frame]
    pad_token_id: int
    seed: int
    masking: Masking | None = None
    infilling: Infilling | None = None
    pad_to_multiple_of: int | None = None
    # Whether training batches are packed, and if so, whether with boundaries; evaluation batches are always padded.
    packing: Packing = "none"
    num_epochs: float = 1.0
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
        return batch | batch_predictions(rows, [labels for _, labels in samples])

    def _padded_length(self, lengths: Sequence[int]) -> int:
        multiple = self.pad_to_multiple_of or 1
        return -(-max(lengths) // multiple) * multiple

    def _seed_and_epoch(self, row: Mapping[str, Any]) -> tuple[int, int]:
        """What a row's draws depend on besides its number; evaluation rows meet the same masks every time."""
        return (self.seed + _EVALUATION_SEED_OFFSET, 0) if row["fixed_masks"] else (self.seed, self.epoch)

    def _generator(self, row: Mapping[str, Any], stream: int) -> torch.Generator:
        return sample_generator(*self._seed_and_epoch(row), row["sample"], stream)

    def _frame(self, row: Mapping[str, Any]) -> Frame:
        frames = [Frame(**frame) for frame in row["frames"]] if row.get("frames") else self.frames
        if len(frames) == 1:  # seeding a generator costs more than the rest of a row
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
            return [self._ratio(rows[0])] * len(rows)  # the first sample's draw serves the whole batch
        return [self._ratio(row) for row in rows]

    def _ratio(self, row: Mapping[str, Any]) -> float:
        if self.masking is None or self.masking.corruption == "keep":
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
        loss_mask = mask.tolist() if self.masking.loss_on == "masked" else None
        assembled = assemble(frame, ids, noised.tolist(), loss_mask)
        return assembled.input_ids, assembled.labels

    def _corrupt(self, ids: torch.Tensor, mask: torch.Tensor, row: Mapping[str, Any]) -> torch.Tensor:
        assert self.masking is not None
        if self.masking.corruption == "mask":
            return mask_tokens(ids, mask, self.masking.mask_token_id)
        if self.masking.corruption == "random":
            return random_tokens(ids, mask, self.masking.candidate_ids, self._generator(row, REPLACEMENT_STREAM))
        return keep_tokens(ids, mask)


def padded(rows: Sequence[Sequence[float]], length: int, value: float) -> torch.Tensor:
    """``rows`` as one tensor `(batch, length)`, with ``value`` after each."""
    tensor = torch.full((len(rows), length), value)
    for index, row in enumerate(rows):
        tensor[index, : len(row)] = torch.tensor(row)
    return tensor
