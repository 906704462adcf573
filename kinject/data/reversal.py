"""Reversed documents for the reverse-training baseline (Golovneva et al. 2024, arXiv 2403.13799).

Their entity-preserving reversal turns the order of the words around while every entity keeps its own order, so that a
model trained on it meets "description, name" where the text says "name, description".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

# A possessive ending, a word (with inner hyphens and apostrophes), or one punctuation mark.
_WORD = re.compile(r"['’]s\b|\w+(?:[-'’](?!s\b)\w+)*|[^\w\s]")
_NUMBER = r"\d+(?:[.,:]\d+)*"
_MONTH = (
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December"
    r"|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\b\.?)"
)
_RULES = (
    re.compile(r"\"[^\"\n]{1,100}\"|“[^”\n]{1,100}”|«[^»\n]{1,100}»"),  # quoted titles
    re.compile(
        rf"\b{_MONTH} \d{{1,2}}(?:, \d{{4}})?\b|\b(?:\d{{1,2}} )?{_MONTH} \d{{4}}\b|\b\d{{1,2}} {_MONTH}\b"
    ),  # dates
    re.compile(
        rf"[$€£¥]{_NUMBER}(?: (?:thousand|million|billion|trillion))?\b"
        rf"|\b{_NUMBER} ?(?:%|°[CF]?|(?:percent|thousand|million|billion|trillion|hours?|minutes?|seconds?|days?|weeks?"
        rf"|months?|years?|miles?|feet|foot|inch(?:es)?|pounds?|tons?|degrees|[mck]?m|k?g|mph|km/h|[kMG]?W)\b)"
        rf"|\b{_NUMBER}\b"
    ),  # amounts
)
# Lower-case words inside a name: the first kind may follow a capital, the second only one of the first kind.
_LINKS = frozenset(str.split("of de del della di da du van von bin ibn y &"))
_ARTICLES = frozenset(str.split("the la las los le der den"))
_ABBREVIATIONS = frozenset(str.split("Dr Mr Mrs Ms Mt St Ft Prof Gen Col Capt Sgt Lt Rev Jr Sr"))
# Capitalized at the start of a sentence without naming anything.
_OPENERS = frozenset(
    str.split(
        """A After All Also Although An And As At Before Both But By Despite During Each For From He Her His I If
        In It Its Many No On Once One Only Our She Since So Some Such That The Their Then There These
        They This Those To Under Until We What When Where Which While Who With Yes You Your"""
    )
)

Span = tuple[int, int]


def reverse_text(text: str, entities: Sequence[str] | None = None) -> str:
    """The words of ``text`` in reverse order, entities kept whole.

    Every punctuation mark counts as a word of its own, white space becomes single spaces, and no word is added or lost.
    An entity keeps its inner order and white space.

    Args:
        text: the document.
        entities: what to keep whole wherever it stands in ``text`` as whole words; of overlapping ones the longer wins.
            ``None`` or none at all: :func:`find_entities`.
    """
    spans = entity_positions(text, entities)
    parts: list[str] = []
    for start, end in _gaps(spans, len(text)):
        parts += _WORD.findall(text[start:end])
        parts += [text[first:last] for first, last in spans if first == end]
    return " ".join(reversed(parts))


def find_entities(text: str) -> tuple[str, ...]:
    """What reads like an entity, in the order of the text.

    Found by rule: quoted titles, dates, amounts with their units, and runs of capitalized words, with initials ("J. K.
    Rowling"), linking words ("University of the Arts") and states ("Palo Alto, CA").
    """
    return tuple(text[start:end] for start, end in _found_spans(text))


def entity_positions(text: str, entities: Sequence[str] | None = None) -> list[Span]:
    """First and last + 1 character of each entity in ``text``, in its order; ``entities`` as for `reverse_text`."""
    return _given_spans(text, entities) if entities else _found_spans(text)


def _given_spans(text: str, entities: Iterable[str]) -> list[Span]:
    finders = []
    for entity in sorted({entity.strip() for entity in entities} - {""}, key=lambda entity: (-len(entity), entity)):
        left = r"(?<!\w)" if re.match(r"\w", entity) else ""
        right = r"(?!\w)" if re.search(r"\w$", entity) else ""
        finders.append(_matches(re.compile(left + re.escape(entity) + right)))
    return _search(text, finders)


def _found_spans(text: str) -> list[Span]:
    return _search(text, [*map(_matches, _RULES), _capitalized_runs])


def _matches(pattern: re.Pattern[str]) -> Callable[[str, int, int], Iterable[Span]]:
    return lambda text, start, end: (match.span() for match in pattern.finditer(text, start, end))


def _search(text: str, finders: Iterable[Callable[[str, int, int], Iterable[Span]]]) -> list[Span]:
    """What each finder finds in what the finders before it have left, in the order of the text."""
    spans: list[Span] = []
    for find in finders:
        found = [span for start, end in _gaps(spans, len(text)) for span in find(text, start, end)]
        spans = sorted(spans + found)
    return spans


def _gaps(spans: Sequence[Span], length: int) -> list[Span]:
    """The stretches before, between and after the spans, empty ones included."""
    starts = [0, *(end for _, end in spans)]
    ends = [*(start for start, _ in spans), length]
    return list(zip(starts, ends, strict=True))


def _capitalized_runs(text: str, start: int, end: int) -> Iterable[Span]:
    tokens = list(_WORD.finditer(text, start, end))
    i = 0
    while i < len(tokens):
        last = i
        if tokens[i][0][0].isupper() and not _opens_sentence(text, tokens[i]):
            last = _run_end(text, tokens, i)
        if last > i:
            yield tokens[i].start(), tokens[last].end()
        i = last + 1


def _opens_sentence(text: str, token: re.Match[str]) -> bool:
    before = text[max(token.start() - 8, 0) : token.start()].rstrip(" \"'“‘([")
    return token[0] in _OPENERS and (not before or before[-1] in ".!?:;\n")


def _run_end(text: str, tokens: Sequence[re.Match[str]], last: int) -> int:
    """The last token of the name that begins with the capitalized token ``last``."""

    def gap(i: int) -> str | None:
        return text[tokens[i - 1].end() : tokens[i].start()] if i < len(tokens) else None

    while True:
        nxt = last + 1
        period = gap(nxt) == "" and tokens[nxt][0] == "."
        if period and (len(tokens[last][0]) == 1 or tokens[last][0] in _ABBREVIATIONS) and gap(nxt + 1) in ("", " "):
            nxt += 1  # an initial or abbreviation, when a name goes on behind its period
        elif gap(nxt) in ("", " ") and tokens[nxt][0] in _LINKS:
            nxt += 1
            if gap(nxt) == " " and tokens[nxt][0] in _ARTICLES:
                nxt += 1
        elif gap(nxt) == "" and tokens[nxt][0] in ("'s", "’s"):
            nxt += 1
        elif (
            (gap(nxt), gap(nxt + 1)) == ("", " ")
            and tokens[nxt][0] == ","
            and re.fullmatch("[A-Z]{2}", tokens[nxt + 1][0])
        ):
            return nxt + 1  # a city and its state
        if gap(nxt) not in ("", " ") or not tokens[nxt][0][0].isupper():
            return last
        last = nxt
