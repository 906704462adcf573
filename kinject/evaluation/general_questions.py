"""What any model should still know after training: texts, open prompts, and over two thousand short questions.

``general_questions.yaml`` has tables of plain facts, written for kinject; what can be computed (sums, sequences, letters,
numerals) is computed here. Every fact gives one question, or one each way where its table has wordings for both. All questions
of a fact belong to one half. The *development* half may be used to choose settings and may be trained on; forgetting is
reported on the *reporting* half. The questions and their order are the same on every machine. Knows nothing of models.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import combinations, cycle, pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from kinject.data.words import words_of
from kinject.errors import ConfigurationError

HERE = Path(__file__).parent
_TEXTS = yaml.safe_load((HERE / "retention.yaml").read_text(encoding="utf-8"))
PARAGRAPHS: tuple[str, ...] = tuple(_TEXTS["paragraphs"])
PROMPTS: tuple[str, ...] = tuple(_TEXTS["prompts"])
"""Prompts whose answers are rehearsed."""
OPEN_PROMPTS: tuple[str, ...] = tuple(_TEXTS["open_prompts"])
"""Prompts without a short answer, to measure how long a model's answers are."""

Half = Literal["development", "reporting"]
HALVES: tuple[Half, ...] = ("development", "reporting")
_FRAME_WORDS = frozenset(str.split("a an the is are was of for in on which what who how much do does you name"))


class GeneralQuestion(NamedTuple):
    """A question of general knowledge.

    Attributes:
        question: As it is asked.
        answers: The accepted answers.
        wrong: The other choices that the question names; an answer that names one of them first is wrong.
        kind: The kind of its table.
    """

    question: str
    answers: Sequence[str]
    wrong: Sequence[str] = ()
    kind: str = ""


class _Fact(NamedTuple):
    """The questions of one fact."""

    questions: tuple[GeneralQuestion, ...]


def general_questions(half: Half, count: int | None = None) -> list[GeneralQuestion]:
    """The first ``count`` questions of one half, or all of them; a smaller sample is part of every larger one.

    Questions that are also among the prompts of rehearsal belong to the development half, since runs may train on these.

    Raises:
        ConfigurationError: an unknown half, or ``count`` below 1.
    """
    if half not in HALVES:
        raise ConfigurationError(f"half: expected one of {', '.join(HALVES)}, got {half!r}")
    if count is not None and count < 1:
        raise ConfigurationError(f"retention_questions is {count}; expected at least 1")
    return list(_halves()[half][:count])


@cache
def _halves() -> dict[Half, tuple[GeneralQuestion, ...]]:
    found: dict[Half, list[GeneralQuestion]] = {half: [] for half in HALVES}
    half_of: dict[frozenset[str], Half] = {_gist(prompt): "development" for prompt in PROMPTS}
    asked: set[str] = set()
    for facts in (*_tabulated(), *_computed()):
        halves: Iterator[Half] = cycle(reversed(HALVES))
        for fact in facts:
            gists = [_gist(each.question) for each in fact.questions]
            taken = [half_of[gist] for gist in gists if gist in half_of]
            half = taken[0] if taken else next(halves)
            half_of.update(dict.fromkeys(gists, half))
            found[half] += [each for each in fact.questions if each.question not in asked]
            asked |= {each.question for each in fact.questions}
    for questions in found.values():
        random.Random("kinject/general").shuffle(questions)
    return {half: tuple(questions) for half, questions in found.items()}


def _gist(question: str) -> frozenset[str]:
    """The words that say what is asked, without those that only make it a question."""
    return frozenset(words_of(question)) - _FRAME_WORDS


def _tabulated() -> Iterator[list[_Fact]]:
    """The facts of each table."""
    for table in yaml.safe_load((HERE / "general_questions.yaml").read_text(encoding="utf-8")):
        yield [*_facts_of(table)]


def _facts_of(table: dict[str, Any]) -> Iterator[_Fact]:
    kind, ask, back = table["kind"], cycle(table["ask"]), cycle(table.get("back") or [""])
    if "groups" in table:
        mark = table.get("split", "")
        for group, listed in table["groups"].items():
            wrong = tuple(other for other in table["groups"] if other != group)
            for member in listed.split(mark or ","):
                if member.strip():
                    yield _Fact((_question(next(ask), member.strip() + mark, (group,), wrong, kind),))
        return
    for line in table["facts"].split(";"):
        left, right = (each.strip() for each in line.split(" = "))
        answers = tuple(each.strip() for each in right.split(" / "))
        there = _question(next(ask), left, answers, (), kind)
        wording = next(back)
        yield _Fact((there, _question(wording, answers[0], (left,), (), kind)) if wording else (there,))


def _question(wording: str, cue: str, answers: tuple[str, ...], wrong: tuple[str, ...], kind: str) -> GeneralQuestion:
    text = wording.replace("{}", cue)
    return GeneralQuestion(text[0].upper() + text[1:], answers, wrong, kind)


# What can be computed.

_ONES = str.split(
    """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
    nineteen"""
)
_TENS = str.split("twenty thirty forty fifty sixty seventy eighty ninety")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_WORDS = str.split(
    """table house river music garden window bread cloud stone paper train flower winter yellow orange island kitchen village
    number letter doctor mother friend school summer water bridge horse pencil market"""
)
_BY_SIZE = ("an ant", "a mouse", "a cat", "a dog", "a sheep", "a horse", "a rhinoceros", "an elephant", "a whale")


def in_words(number: int) -> str:
    """A whole number from 0 to 99 in English words."""
    if number < len(_ONES):
        return _ONES[number]
    tens, ones = divmod(number, 10)
    return _TENS[tens - 2] + (f"-{_ONES[ones]}" if ones else "")


def roman(number: int) -> str:
    """A whole number from 1 on as a Roman numeral."""
    written = ""
    for value, sign in (
        *((1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL")),
        *((10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")),
    ):
        times, number = divmod(number, value)
        written += sign * times
    return written


def _computed() -> Iterator[list[_Fact]]:
    """Facts that need no table, each kind by itself."""

    def facts(kind: str, asked: Iterable[tuple[str, Sequence[str], Sequence[str]]]) -> list[_Fact]:
        return [
            _Fact((GeneralQuestion(question, tuple(answers), tuple(wrong), kind),))
            for question, answers, wrong in asked
        ]

    def number(value: int) -> list[str]:
        return [str(value), *([in_words(value)] if value < 100 else [])]

    operands = [(a, b) for a in (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20) for b in range(1, 10)]
    sums: tuple[tuple[str, str, list[tuple[int, int]], Callable[[int, int], int]], ...] = (
        ("sum", "plus", operands[::2], operator.add),
        ("difference", "minus", [(a, b) for a, b in operands[1::2] if a > b], operator.sub),
        ("product", "times", [(a, b) for a, b in operands[::3] if a <= 12], operator.mul),
        ("quotient", "divided by", [(a * b, b) for a, b in operands[::4] if b > 1], operator.floordiv),
    )
    for kind, word, pairs, value in sums:
        ask = cycle(("What is {} {} {}?", "How much is {} {} {}?"))
        yield facts(kind, ((next(ask).format(a, word, b), number(value(a, b)), ()) for a, b in pairs))
    yield facts("half", ((f"What is half of {2 * each}?", number(each), ()) for each in (*range(1, 16), 20, 25, 50)))
    yield facts("double", ((f"What is twice {each}?", number(2 * each), ()) for each in (*range(3, 16), 20, 25, 40)))
    yield facts(
        "sequence",
        (
            (
                f"Which number comes next: {', '.join(map(str, range(start, start + 4 * step, step)))}?",
                number(start + 4 * step),
                (),
            )
            for step in (1, 2, 3, 5, 10)
            for start in (1, 2, 3, 4, 5, 10)
        ),
    )
    yield facts("after", ((f"Which number comes after {each}?", number(each + 1), ()) for each in range(4, 84, 4)))
    compared = [(each, each * 7 % 50 + 51 if each % 2 else each * 3 % 9 + 1) for each in range(12, 42)]
    yield facts(
        "larger", ((f"Which is larger, {a} or {b}?", number(max(a, b)), number(min(a, b))) for a, b in compared)
    )
    yield facts(
        "smaller",
        ((f"Which is smaller, {b + 5} or {a}?", number(min(a, b + 5)), number(max(a, b + 5))) for a, b in compared),
    )
    yield facts("digits", ((f"Write {in_words(each)} in digits.", [str(each)], ()) for each in range(11, 99, 4)))
    yield facts("in_words", ((f"Write the number {each} in words.", [in_words(each)], ()) for each in range(2, 90, 5)))
    numerals = (*range(1, 13), 14, 15, 19, 20, 30, 50, 100, 500)
    yield facts("roman", ((f"What number is the Roman numeral {roman(each)}?", number(each), ()) for each in numerals))
    yield facts("next_letter", ((f"Which letter comes after {a}?", [b], ()) for a, b in pairwise(_LETTERS)))
    yield facts("letter_before", ((f"Which letter comes before {b}?", [a], ()) for a, b in [*pairwise(_LETTERS)][1::2]))
    for kind, place in (("first", 0), ("last", -1)):
        yield facts(
            f"{kind}_letter",
            ((f'What is the {kind} letter of the word "{each}"?', [each[place]], ()) for each in _WORDS),
        )
    sizes: list[tuple[str, Sequence[str], Sequence[str]]] = []
    for small, big in combinations(_BY_SIZE, 2):
        shown = (small, big) if len(sizes) % 4 < 2 else (big, small)
        sizes.append((f"Which animal is bigger, {shown[0]} or {shown[1]}?", [big.split()[1]], [small.split()[1]]))
    yield facts("size", sizes)
