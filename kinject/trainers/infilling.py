"""Which tokens of a document are entities, and infilling samples, whose answer is only the part missing from the prompt.

Knows nothing of losses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from kinject.corruption import INFILLING_STREAM, sample_generator
from kinject.data.words import absent_entities, entity_positions
from kinject.prompts.templates import IGNORED, Frame

if TYPE_CHECKING:
    from kinject.corruption import MaskRatioLaw
    from kinject.prompts.encoding import EncodedDocument


class Gap(NamedTuple):
    """The tokens that the prompt of an infilling sample misses: those from `start` to before `end`."""

    start: int
    end: int


def hidden_words(document: EncodedDocument, row: Mapping[str, Any], unit: str | None) -> list[int] | None:
    """For each token of ``document`` the number of what it is hidden together with, `(length,)`.

    None for mask units other than "word" and "entity". For "entity" an entity counts as one word: each of the ``row``'s
    `entities`, else those found by rule, and its `title`.
    """
    if unit not in ("word", "entity"):
        return None
    word_ids = list(document.word_ids)
    for start, end in _entity_tokens(document, row) if unit == "entity" else ():
        words = set(word_ids[start:end])  # whole words, since a token or a word may reach beyond the end of an entity
        word_ids = [word_ids[start] if word in words else word for word in word_ids]
    return word_ids


def entity_gaps(document: EncodedDocument, row: Mapping[str, Any], sides: bool = False) -> list[Gap]:
    """The tokens of each entity in ``document``: of the ``row``'s `entities`, else of those found by rule, and of its title.

    With ``sides`` each entity is followed by a second gap: the text before or after it, whichever is longer, without the
    punctuation at its ends.
    """
    gaps = []
    for start, end in _entity_tokens(document, row):
        gaps.append(Gap(start, end))
        before, after = _without_punctuation(document, 0, start), _without_punctuation(document, end, None)
        first, last = max(before, after, key=lambda side: side[1] - side[0])
        if sides and first < last:
            gaps.append(Gap(first, last))
    return gaps


class EntityReport:
    """Counts documents that lack the entities which a setting needs, so that a run can warn about them.

    Args:
        setting: The setting that needs entities, such as "mask_unit entity".
        instead: What is done with a document without entities; None where that is no fault.

    Attributes:
        without: Number of documents in which no entity is found.
        absent: Number of documents that do not hold an entity which their row names.
    """

    def __init__(self, setting: str, instead: str | None) -> None:
        self._setting, self._instead = setting, instead
        self._documents = self.without = self.absent = 0
        self._examples: dict[str, str] = {}

    def add(self, text: str, row: Mapping[str, Any], where: str) -> None:
        """Count the ``text`` of a ``row``, called ``where`` in messages."""
        self._documents += 1
        if self._instead is not None and not entity_positions(text, row.get("entities"), row.get("title") or ""):
            self.without += 1
            self._examples.setdefault("without", f"{where}: {text[:40]!r}")
        absent = absent_entities(text, row.get("entities"))
        if absent:
            self.absent += 1
            self._examples.setdefault("absent", f"{where}: {absent[0]!r}")

    def warnings(self) -> list[str]:
        """The warnings, each with a number and an example."""
        said = []
        if self.without:
            said.append(
                f"{self._setting}: no entity is found in {self.without} of {self._documents} documents, so that "
                f"{self._instead} (first: {self._examples['without']}). Name theirs in a field 'entities'; by rule those of "
                "scripts with capitals, quoted titles, dates and amounts are found."
            )
        if self.absent:
            said.append(
                f"{self._setting}: {self.absent} of {self._documents} documents give 'entities' that do not stand in them "
                f"(first: {self._examples['absent']}); write them as the document does."
            )
        return said


def _entity_tokens(document: EncodedDocument, row: Mapping[str, Any]) -> list[tuple[int, int]]:
    found = []
    for first, last in entity_positions(document.text, row.get("entities"), row.get("title") or ""):
        tokens = [index for index, (start, end) in enumerate(document.offsets) if start < last and end > first]
        if tokens:
            found.append((tokens[0], tokens[-1] + 1))
    return found


def _without_punctuation(document: EncodedDocument, first: int, last: int | None) -> tuple[int, int]:
    """The range of tokens from ``first`` to before ``last``, without tokens at its ends that hold no letter or digit."""
    last = len(document.offsets) if last is None else last

    def has_word(index: int) -> bool:
        start, end = document.offsets[index]
        return any(character.isalnum() for character in document.text[start:end])

    while first < last and not has_word(first):
        first += 1
    while first < last and not has_word(last - 1):
        last -= 1
    return first, last


InfillUnit = Literal["span", "entity", "side"]


@dataclass(frozen=True)
class Infilling:
    """Which samples are infilling samples, and what is missing from their prompts.

    Attributes:
        frame: The token ids around the copy and around the missing part.
        share: The share of infilling samples, from 0 to 1.
        unit: What is missing: "span" any contiguous stretch; "entity" one of the document's entities; "side" one of them or
            the longer text beside one. For the last two a document without entities is learned whole.
        law: The part of the document that a span takes.
        mask_token_id: Replaces each token of the gap.
        collapsed: Whether one mask replaces the whole gap instead.
    """

    frame: Frame
    share: float
    unit: InfillUnit
    law: MaskRatioLaw
    mask_token_id: int
    collapsed: bool = False

    def gap(
        self, length: int, gaps: Sequence[Sequence[int]] | None, seed: int, epoch: int, sample: int, num_epochs: float
    ) -> Gap | None:
        """The gap of ``sample`` in ``epoch``; None where it is an ordinary masked sample.

        Args:
            length: Number of document tokens, at least 1.
            gaps: The gaps to choose from, for the units "entity" and "side"; see `entity_gaps`.
            seed, epoch, sample: What the draw depends on.
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
        return Gap(start, start + count)

    def assemble(self, ids: Sequence[int], gap: Gap) -> tuple[list[int], list[int]]:
        """Input ids and labels (not shifted), each `(length,)`, of a sample whose prompt shows the document without ``gap``.

        After an entity or a side, which are whole answers, the end of the turn carries loss. A span ends anywhere, and a
        model that learned to end its turn there would break off in the middle of its answers.
        """
        missing = list(ids[gap.start : gap.end])
        copy = [*ids[: gap.start], *[self.mask_token_id] * (1 if self.collapsed else len(missing)), *ids[gap.end :]]
        prompt = [*self.frame.before, *copy, *self.frame.between]
        after = list(self.frame.after)
        scored = missing + ([IGNORED] * len(after) if self.unit == "span" else after)
        return prompt + missing + after, [IGNORED] * len(prompt) + scored


def _index(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))
