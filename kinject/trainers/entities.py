"""Where entities stand among a document's tokens: what is hidden as a whole, and what is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from kinject.data.reversal import entity_positions

if TYPE_CHECKING:
    from kinject.encoding import EncodedDocument


class Gap(NamedTuple):
    """What an infilling sample misses: the tokens from `start` to before `end`, and how many masks stand there instead."""

    start: int
    end: int
    masks: int


def hidden_words(document: EncodedDocument, row: Mapping[str, Any], unit: str | None) -> list[int] | None:
    """What each token of ``document`` is hidden together with, `(length,)`, for the mask units that need to be told.

    These are "word", and "entity", where an entity is one word: those in the ``row``'s `entities`, or found by rule.
    """
    if unit not in ("word", "entity"):
        return None
    word_ids = list(document.word_ids)
    for start, end in _entity_tokens(document, row.get("entities")) if unit == "entity" else ():
        words = set(word_ids[start:end])  # a token may reach over the end of an entity, and a word over both
        word_ids = [word_ids[start] if word in words else word for word in word_ids]
    return word_ids


def entity_gaps(
    document: EncodedDocument, entities: Sequence[str] | None, sides: bool = False, masks_by_kind: bool = False
) -> list[Gap]:
    """The tokens of each entity in ``document``: the given ``entities``, or without any those found by rule.

    With ``sides`` each is followed by the longer stretch beside it, without the punctuation at its ends. A mask stands for
    each missing token; with ``masks_by_kind`` one for an entity and two for a side.
    """
    gaps = []
    for start, end in _entity_tokens(document, entities):
        gaps.append(Gap(start, end, 1 if masks_by_kind else end - start))
        before, after = _without_punctuation(document, 0, start), _without_punctuation(document, end, None)
        first, last = max(before, after, key=lambda side: side[1] - side[0])
        if sides and first < last:
            gaps.append(Gap(first, last, 2 if masks_by_kind else last - first))
    return gaps


def _entity_tokens(document: EncodedDocument, entities: Sequence[str] | None) -> list[tuple[int, int]]:
    found = []
    for first, last in entity_positions(document.text, entities):
        tokens = [index for index, (start, end) in enumerate(document.offsets) if start < last and end > first]
        if tokens:
            found.append((tokens[0], tokens[-1] + 1))
    return found


def _without_punctuation(document: EncodedDocument, first: int, last: int | None) -> tuple[int, int]:
    """The tokens from ``first`` to before ``last``, less those without a letter or digit at both ends."""
    last = len(document.offsets) if last is None else last

    def says_something(index: int) -> bool:
        start, end = document.offsets[index]
        return any(character.isalnum() for character in document.text[start:end])

    while first < last and not says_something(first):
        first += 1
    while first < last and not says_something(last - 1):
        last -= 1
    return first, last
