"""Samples whose target is only what is missing from the prompt's copy, instead of the whole document.

A masked sample answers with the document, so its first word is always the document's first, and it ends with the
document's end. A question wants neither: it asks for a name or a description out of the middle, and for no more than
that. In an infilling sample the copy has one gap and the answer is what stood there, as in T5's span corruption (arXiv
1910.10683) with a single span; gaps that are entities are REALM's salient spans (arXiv 2002.08909). An entity is what
a backward question asks for, and what stands beside it is what a forward question asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from kinject.corruption import INFILLING_STREAM, sample_generator
from kinject.templates import IGNORED, Frame
from kinject.trainers.entities import Gap

if TYPE_CHECKING:
    from kinject.corruption import MaskRatioLaw

InfillUnit = Literal["span", "entity", "side"]
InfillMasks = Literal["token", "kind"]


@dataclass(frozen=True)
class Infilling:
    """Which samples are infilling samples, and what is missing in them.

    Attributes:
        frame: The token ids around the copy and what is missing from it.
        share: The share of infilling samples, from 0 to 1.
        unit: "span" takes out any contiguous stretch; "entity" one of the document's entities, and "side" one of them or
            the longer stretch beside one; with both a document without entities is learned whole.
        law: How large a part of the document a span is.
        mask_token_id: Stands in the gap, as often as the gap says.
    """

    frame: Frame
    share: float
    unit: InfillUnit
    law: MaskRatioLaw
    mask_token_id: int

    def gap(
        self, length: int, gaps: Sequence[Sequence[int]] | None, seed: int, epoch: int, sample: int, num_epochs: float
    ) -> Gap | None:
        """What ``sample`` misses in ``epoch``; None where it is an ordinary masked sample.

        Args:
            length: Number of document tokens, at least 1.
            gaps: What may be missing, for the units "entity" and "side"; see `entity_gaps`.
            seed, epoch, sample: All that the draw depends on.
            num_epochs: As in `MaskRatioLaw.ratio`.
        """
        generator = sample_generator(seed, epoch, sample, INFILLING_STREAM)
        if float(torch.rand((), generator=generator, dtype=torch.float64)) >= self.share:
            return None
        if self.unit != "span":
            return Gap(*gaps[_index(len(gaps), generator)]) if gaps else None
        ratio = self.law.ratio(seed, epoch, sample, num_epochs)
        count = min(length, max(1, round(ratio * length)))
        start = _index(length - count + 1, generator)
        return Gap(start, start + count, count)

    def assemble(self, ids: Sequence[int], gap: Gap) -> tuple[list[int], list[int]]:
        """Input ids and labels (not shifted), each `(length,)`, of the document ``ids`` that misses ``gap``.

        The end of the turn carries loss after an entity or a side, which are whole answers; a span ends anywhere, and a
        model that learned to end there would break off in the middle of its answers.
        """
        missing = list(ids[gap.start : gap.end])
        copy = [*ids[: gap.start], *[self.mask_token_id] * gap.masks, *ids[gap.end :]]
        prompt = [*self.frame.before, *copy, *self.frame.between]
        after = list(self.frame.after)
        scored = missing + ([IGNORED] * len(after) if self.unit == "span" else after)
        return prompt + missing + after, [IGNORED] * len(prompt) + scored


def _index(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))
