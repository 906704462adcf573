"""What a model knew before it was taught anything: what to measure forgetting by, and what to rehearse against it.

For ordinary models these are English texts and simple questions. The nano models know nothing but the people they were
brought up with (`fictional:nano_population`), so for documents of their world those people are asked about: the ones with
even numbers are measured, the others rehearsed or shown as examples, so that no measured question is ever trained on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from kinject.errors import ConfigurationError
from kinject.evaluation.retention_texts import PARAGRAPHS, PROMPTS, QUESTIONS

if TYPE_CHECKING:
    import datasets

_NANO = "fictional:nano"
_NANO_QUESTIONS = 200
_NANO_TEXTS = 50


class HeldOut(NamedTuple):
    """What `measure_retention` asks: texts, and questions with their accepted answers."""

    texts: Sequence[str]
    questions: Sequence[tuple[str, Sequence[str]]]


def held_out(documents: str) -> HeldOut:
    """What a model that is taught ``documents`` (a name that `load_knowledge` takes) should still know afterwards."""
    if not documents.startswith(_NANO):
        return HeldOut(PARAGRAPHS, QUESTIONS)
    questions = [(question, (answer,)) for question, answer in _nano_questions(0)]
    return HeldOut(_spread(_nano_texts(), _NANO_TEXTS), _spread(questions, _NANO_QUESTIONS))


def rehearsal_prompts(documents: str, count: int) -> list[str]:
    """Up to ``count`` prompts for a model that is taught ``documents``; none that `held_out` asks."""
    prompts = [question for question, _ in _nano_questions(1)] if documents.startswith(_NANO) else PROMPTS
    return _spread(prompts, count)


def rehearsal_size(documents: int, share: float) -> int:
    """How many samples make up ``share`` of an epoch beside ``documents``.

    Raises:
        ConfigurationError: ``share`` is not from 0 to below 1.
    """
    if not 0.0 <= share < 1.0:
        raise ConfigurationError(
            f"rehearsal is {share}; expected a share of the samples from 0 to below 1, such as 0.5."
        )
    return round(documents * share / (1.0 - share))


def with_rehearsal(
    dataset: datasets.Dataset, prompts: Sequence[str], answers: Sequence[str], count: int
) -> datasets.Dataset:
    """``dataset`` of documents, followed by rows of the model's own ``answers`` to ``prompts``, ``count`` for each epoch.

    Empty answers are left out. Every objective learns such a row as a plain question with its answer. Where there are more
    than ``count``, rows take turns: the column `turn` says in which epochs one is shown (see `TurnSampler`).
    """
    import datasets

    said = [(prompt, answer.strip()) for prompt, answer in zip(prompts, answers, strict=True) if answer.strip()]
    if not said or not count:
        return dataset
    turns = max(1, len(said) // count)  # whole ones, so that epochs are equally long
    rows = [said[index % len(said)] for index in range(turns * count)]
    columns = {
        "prompt": [prompt for prompt, _ in rows],
        "completion": [answer for _, answer in rows],
        "rehearsal": [True] * len(rows),
        "turn": [index // count for index in range(len(rows))],
    }
    return datasets.concatenate_datasets([dataset, datasets.Dataset.from_dict(columns)])


def to_sentence_end(answer: str) -> str:
    """``answer``, which was cut at its longest, up to the end of its last whole sentence; all of it where none ends.

    A model that learned to end where an answer was cut would break off there.
    """
    whole = re.match(r".*[^\W\d][.!?][\"'”’)]*(?=\s|$)", answer, re.DOTALL)  # not behind the number of a list
    return whole[0] if whole else answer


def few_shot_examples(count: int, documents: str | None = None) -> list[tuple[str, str]]:
    """``count`` answered questions about people of another fictional world, so that no answer that is asked is shown."""
    if count == 0:
        return []
    if (documents or "").startswith(_NANO):
        return _spread(list(_nano_questions(1)), count)
    from kinject.data import load_knowledge

    other = load_knowledge("fictional:name_description", size=count, seed=10_000)
    by_fact = {question.fact: question for question in other.questions}
    return [(question.question, question.answer) for question in by_fact.values()]


def _nano_questions(parity: int) -> Sequence[tuple[str, str]]:
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
