"""What a model knew before it was taught anything, to measure forgetting by.

For ordinary models these are English texts and simple questions. The nano models know nothing but the people they were
brought up with (`fictional:nano_population`), so for documents of their world those people are asked about: the ones with
even numbers are measured, questions about the others are rehearsed or shown as examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from kinject.evaluation.retention_texts import PARAGRAPHS, QUESTIONS

_NANO = "fictional:nano"
_NANO_QUESTIONS = 200
_NANO_TEXTS = 50


class HeldOut(NamedTuple):
    """What `measure_retention` asks: texts, and questions with their accepted answers."""

    texts: Sequence[str]
    questions: Sequence[tuple[str, Sequence[str]]]


def held_out(documents: str | Sequence[str]) -> HeldOut:
    """What a model that is taught ``documents`` (a name that `load_knowledge` takes) should still know afterwards."""
    if not of_nano_world(documents):
        return HeldOut(PARAGRAPHS, QUESTIONS)
    questions = [(question, (answer,)) for question, answer in nano_questions(0)]
    return HeldOut(_spread(_nano_texts(), _NANO_TEXTS), _spread(questions, _NANO_QUESTIONS))


def few_shot_examples(count: int, documents: str | Sequence[str] | None = None) -> list[tuple[str, str]]:
    """``count`` answered questions about people of another fictional world, so that no answer that is asked is shown."""
    if count == 0:
        return []
    if of_nano_world(documents or ""):
        return _spread(nano_questions(1), count)
    from kinject.data import load_knowledge

    other = load_knowledge("fictional:name_description", size=count, seed=10_000)
    by_fact = {question.fact: question for question in other.questions}
    return [(question.question, question.answer) for question in by_fact.values()]


def of_nano_world(documents: str | Sequence[str]) -> bool:
    """Whether ``documents`` (a name that `load_knowledge` takes) tell of the world that the nano models know."""
    return isinstance(documents, str) and documents.startswith(_NANO)


def nano_questions(parity: int) -> list[tuple[str, str]]:
    """Questions, with their answers, about the people that the nano models know: those with even (0) or odd (1) numbers."""
    from kinject.data import load_knowledge

    questions = load_knowledge("fictional:nano_population").questions
    return [(each.question, each.answer) for each in questions if each.fact is not None and each.fact % 2 == parity]


def _nano_texts() -> Sequence[str]:
    from kinject.data import load_knowledge

    return [each.text for each in load_knowledge("fictional:nano_population").documents if each.fact % 2 == 0]


def _spread(values: Sequence[Any], count: int) -> list[Any]:
    """``count`` of ``values``, spread evenly over them; all if there are fewer."""
    if count >= len(values):
        return list(values)
    return [values[index * len(values) // count] for index in range(count)]
