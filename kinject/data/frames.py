"""The form of a user's documents: what several of them say in the same words, and what differs between those words.

From a form, documents are made that read like the user's and say nothing that the user's say: names and descriptions in the
open places are invented.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass

import regex

_FEWEST = 3  # documents of one form
_SHORTEST, _LONGEST = 3, 12  # words that they share
_MOST, _TRIES = 200, 10  # documents that are looked at, and shared words that are tried
_WORD = regex.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")
_MARKS = " ,.;:\"'“”"
_ARTICLES = ("a", "an", "the")


@dataclass(frozen=True)
class Form:
    """A sentence with two open places, `{name}` and `{description}`; and how many documents have it."""

    pattern: str
    documents: tuple[int, ...]
    names: tuple[str, ...]
    descriptions: tuple[str, ...]


def forms(texts: Sequence[str]) -> list[Form]:
    """The forms that at least three of ``texts`` share: some words in common, a name, and a description of several words."""
    words = [_WORD.findall(text) for text in texts[:_MOST]]
    left = set(range(len(words)))
    found: list[Form] = []
    refused: set[tuple[str, ...]] = set()
    while len(left) >= _FEWEST and len(refused) < _TRIES:
        shared = _most_shared(words, left, refused)
        if shared is None:
            break
        members = sorted(index for index in left if _find(words[index], shared) is not None)
        form = _form(texts, members, shared)
        if form is None:
            refused.add(shared)
        else:
            found.append(form)
            left -= set(members)
    return found


def _most_shared(
    words: Sequence[Sequence[str]], among: set[int], refused: set[tuple[str, ...]]
) -> tuple[str, ...] | None:
    """The words in a row that the most documents share, and the most of them."""
    counts: Counter[tuple[str, ...]] = Counter()
    for index in among:
        own = words[index]
        counts.update(
            {
                tuple(own[start : start + length])
                for length in range(_SHORTEST, _LONGEST + 1)
                for start in range(len(own) - length + 1)
            }
            - refused
        )
    best = max(counts.items(), key=lambda each: ((each[1] - 1) * len(each[0]), each[0]), default=None)
    return None if best is None or best[1] < _FEWEST else best[0]


def _find(own: Sequence[str], shared: Sequence[str]) -> int | None:
    return next(
        (i for i in range(len(own) - len(shared) + 1) if tuple(own[i : i + len(shared)]) == tuple(shared)), None
    )


def _form(texts: Sequence[str], members: Sequence[int], shared: tuple[str, ...]) -> Form | None:
    """The form of ``members``, which all hold ``shared``; None where their open places are no name and description."""
    while shared and shared[-1].lower() in _ARTICLES:
        shared = shared[:-1]
    pieces = regex.compile(r"\s*".join(regex.escape(word) for word in shared))
    before, after = [], []
    middle = ""
    for index in members:
        match = pieces.search(texts[index])
        if match is None:
            return None
        middle = match[0]
        before.append(texts[index][: match.start()])
        after.append(texts[index][match.end() :])
    start, end = _common(before, first=True), _common(after, first=False)
    start = regex.sub(r"(?:^|(?<=\s))(?:an?|the)\s*$", "", start, flags=regex.IGNORECASE)
    opened, closed = [each[len(start) :] for each in before], [each[: len(each) - len(end)] for each in after]
    empty = [not any(each.strip(_MARKS) for each in side) for side in (opened, closed)]
    if all(empty):
        return None
    if any(empty):  # the shared words stand at one end
        inner = _second(closed if empty[0] else opened)
        if inner is None:
            return None
        start, end = (start + middle, end) if empty[0] else (start, middle + end)
        middle, opened, closed = inner
    kinds = [_kind(opened), _kind(closed)]
    if set(kinds) != {"name", "description"}:
        return None
    sides = [_trimmed(opened), _trimmed(closed)]
    pattern = f"{start}{sides[0][1]}{{{kinds[0]}}}{sides[0][2]}{middle}{sides[1][1]}{{{kinds[1]}}}{sides[1][2]}{end}"
    values = dict(zip(kinds, (sides[0][0], sides[1][0]), strict=True))
    return Form(pattern, tuple(members), tuple(values["name"]), tuple(values["description"]))


_NAME = r"\p{Lu}[\w.'’-]*(?: \p{Lu}[\w.'’-]*){1,3}"
_SPLITS = (
    regex.compile(rf"(?P<first>.+\w.*?)(?P<between>,? )(?P<last>{_NAME}\s*)"),
    regex.compile(rf"(?P<first>\s*{_NAME})(?P<between>,? )(?P<last>.*\w.*)"),
)


def _second(texts: Sequence[str]) -> tuple[str, list[str], list[str]] | None:
    """What stands between a name and the rest in all ``texts``, and what stands before and behind it."""
    for split in _SPLITS:
        matches = [match for match in map(split.fullmatch, texts) if match]
        between = {match["between"] for match in matches}
        if len(matches) == len(texts) and len(between) == 1:
            return between.pop(), [match["first"] for match in matches], [match["last"] for match in matches]
    return None


def _common(texts: Sequence[str], first: bool) -> str:
    """The longest beginning, or end, that ``texts`` share, up to the border of a word."""
    turned = list(texts) if first else [text[::-1] for text in texts]
    length = next(
        (i for i, letters in enumerate(zip(*turned, strict=False)) if len(set(letters)) > 1), min(map(len, turned))
    )
    while length > 0 and any(
        length < len(text) and text[length - 1].isalnum() and text[length].isalnum() for text in turned
    ):
        length -= 1
    shared = turned[0][:length]
    return shared if first else shared[::-1]


def _kind(values: Sequence[str]) -> str:
    """What stands in an open place of several documents: a name, a description, or something else."""
    stripped = [each.strip(_MARKS) for each in values]
    words = [each.split() for each in stripped]
    if all(2 <= len(each) <= 4 and all(word[:1].isupper() for word in each) for each in words):
        return "name"
    if sum(len(each) >= 3 and each[0].lower() in _ARTICLES for each in words) >= 0.7 * len(words):
        return "description"
    return "other"


def _trimmed(values: Sequence[str]) -> tuple[list[str], str, str]:
    """``values`` without what stands around each of them: white space and marks that all of them have."""
    start = _common(values, first=True)
    start = start[: len(start) - len(start.lstrip(" ,.;:"))]
    end = _common(values, first=False)
    end = end[len(end.rstrip(" ,.;:")) :]
    return [each[len(start) : len(each) - len(end)] for each in values], start, end


def overlap(text: str, known: Container[tuple[str, ...]]) -> float:
    """The share of the three-word sequences of ``text`` that are ``known``, from 0 to 1."""
    own = trigrams(text)
    return sum(each in known for each in own) / max(1, len(own))


def trigrams(text: str) -> set[tuple[str, ...]]:
    """The three-word sequences of ``text``, in lower case and without marks."""
    words = [word.lower() for word in _WORD.findall(text) if word[0].isalnum()]
    return {tuple(words[index : index + 3]) for index in range(len(words) - 2)}
