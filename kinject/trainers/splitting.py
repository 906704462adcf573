"""Fits documents into a token budget without losing a word.

A document that is longer than the budget becomes several samples, cut at sentence ends where there are any, else
between words, and only inside a word that alone exceeds the budget. Nothing is dropped (design invariant 5).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kinject.errors import ConfigurationError

if TYPE_CHECKING:
    from kinject.templates import DocumentTemplate, EncodedDocument

# A sentence ends after terminal punctuation (closing quotes or brackets included) before white space, at a CJK full
# stop, or at a line break.
_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*(?=\s)|[。！？]|\n+")
_WORD_END = re.compile(r"\S(?=\s)")


def split_document(template: DocumentTemplate, text: str, budget: int) -> Iterator[EncodedDocument]:
    """Encode ``text`` as one or more documents of at most ``budget`` tokens each.

    White space at a cut is dropped; every other character appears in exactly one piece, in order.

    Raises:
        ConfigurationError: ``budget`` is below one token.
    """
    if budget < 1:
        raise ConfigurationError(
            f"max_length leaves {budget} tokens for the document after the prompt around it; raise --max_length."
        )
    encoded = template.encode(text)
    if len(encoded.ids) <= budget:
        yield encoded
        return
    starts = [start for start, _ in encoded.offsets]  # ascending character offsets, one a token
    sentence_ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    word_ends = [match.end() for match in _WORD_END.finditer(text)]
    position = 0
    while position < len(text):
        first = bisect_left(starts, position)
        rest_fits = len(starts) - first <= budget
        furthest = len(text) if rest_fits else max(starts[first + budget], position + 1)
        piece, position = _piece(template, text, position, furthest, (sentence_ends, word_ends), budget)
        if piece is not None:
            yield piece


def _piece(
    template: DocumentTemplate,
    text: str,
    position: int,
    furthest: int,
    boundaries: tuple[list[int], list[int]],
    budget: int,
) -> tuple[EncodedDocument | None, int]:
    """The piece that begins at ``position`` and ends at the last good boundary up to ``furthest``, and where it ends."""
    while True:
        end = furthest if furthest == len(text) else _last_boundary(position, furthest, boundaries)
        chunk = text[position:end].strip()
        if not chunk:
            return None, end
        encoded = template.encode(chunk)
        # Cutting can change how the pieces tokenize; give back a little until the piece fits.
        if len(encoded.ids) <= budget or end - position <= 1:
            return encoded, end
        furthest = position + max(1, (end - position) * budget // (len(encoded.ids) + 1))


def _last_boundary(position: int, furthest: int, boundaries: tuple[list[int], list[int]]) -> int:
    for ends in boundaries:
        index = bisect_left(ends, furthest + 1) - 1
        if index >= 0 and ends[index] > position:
            return ends[index]
    return furthest
