"""Scores over many questions: per direction, per group and task, each with a bootstrap confidence interval."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kinject.errors import KinjectError
from kinject.evaluation.metrics import best_score, exact_match, paper_recall, reads_as_published, token_f1

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kinject.data import Question

DIRECTIONS = ("forward", "backward")
UNKNOWN = "unknown"
"""The key of what is measured on questions whose direction nobody knows; it is there only where there are such."""
READINGS = {"paper": "paper", "strict": "exact_match", "exact_match": "exact_match", "f1": "f1"}
"""The names under which a score can be asked for, and the key of a measurement that holds it."""

OTHER_WORDS = "other_words"
"""The key of a measurement that counts questions whose ``paper`` compares other words than the paper's code would."""

_MEASURES = {"paper": paper_recall, "exact_match": exact_match, "f1": token_f1}


def score_answers(
    questions: Sequence[Question],
    answers: Sequence[str],
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Score ``answers`` to ``questions`` (same order and length), each by the accepted answer it comes closest to.

    Args:
        confidence: share of the bootstrap distribution that the percentile interval covers.
        resamples: bootstrap resamples per cell; the questions of a cell are drawn with replacement.
        seed: seed of the resampling. The interval of a cell depends on that cell's answers alone.

    Returns:
        ``{"forward": M, "backward": M, "groups": {"group/task/direction": M, ...}}`` with
        ``M = {"paper", "exact_match", "f1", "n", "ci": {"paper": [low, high], ...}}``, all in 0..1. A direction
        without questions has ``n = 0`` and zeros. Where the paper's code could not tell the words of some questions or
        their answers, which it can of English only, ``M`` says of how many under :data:`OTHER_WORDS`. Questions
        whose direction is unknown stand in neither; where there are any, ``"unknown": M`` is theirs.

    Raises:
        KinjectError: the two sequences differ in length, or a setting is out of range.
    """
    if len(questions) != len(answers):
        raise KinjectError(f"{len(questions)} questions have {len(answers)} answers; pass one answer per question")
    if not 0 < confidence < 1:
        raise KinjectError(f"confidence: expected a number between 0 and 1, got {confidence}; the usual one is 0.95")
    if resamples < 1:
        raise KinjectError(f"resamples: expected at least 1, got {resamples}")
    directions: dict[str, list[int]] = {direction: [] for direction in DIRECTIONS}
    groups: dict[str, list[int]] = {}
    for index, question in enumerate(questions):
        directions.setdefault(question.direction, []).append(index)
        if question.group or question.task:
            parts = (question.group, question.task, question.direction)
            groups.setdefault("/".join(part for part in parts if part), []).append(index)
    values = np.array(  # (questions, measures)
        [
            [best_score(measure, answer, question.answers) for measure in _MEASURES.values()]
            for question, answer in zip(questions, answers, strict=True)
        ]
    ).reshape(len(questions), len(_MEASURES))

    other = np.array([not reads_as_published(each.question, *each.answers) for each in questions], dtype=bool)

    def measurement(indices: list[int]) -> dict[str, Any]:
        measured = _measurement(values[indices], confidence, resamples, seed)
        return measured | ({OTHER_WORDS: int(other[indices].sum())} if other[indices].any() else {})

    return {
        **{direction: measurement(indices) for direction, indices in directions.items()},
        "groups": {name: measurement(groups[name]) for name in sorted(groups)},
    }


def _measurement(values: np.ndarray, confidence: float, resamples: int, seed: int) -> dict[str, Any]:
    """Means and percentile intervals of ``values`` (n, measures)."""
    count = len(values)
    if count == 0:
        return {**dict.fromkeys(_MEASURES, 0.0), "n": 0, "ci": {name: [0.0, 0.0] for name in _MEASURES}}
    generator = np.random.default_rng(seed)
    times_drawn = generator.multinomial(count, np.full(count, 1 / count), size=resamples)  # (resamples, n)
    means = times_drawn @ values / count  # (resamples, measures)
    tail = (1 - confidence) / 2
    low, high = np.clip(np.quantile(means, [tail, 1 - tail], axis=0), 0.0, 1.0)
    return {
        **{name: float(value) for name, value in zip(_MEASURES, values.mean(axis=0), strict=True)},
        "n": count,
        "ci": {name: [float(low[i]), float(high[i])] for i, name in enumerate(_MEASURES)},
    }


def macro(scores: Mapping[str, Any], reading: str = "paper") -> float:
    """The mean of forward and backward in ``scores`` (as :func:`score_answers` returns them).

    ``reading`` is ``"paper"``, ``"strict"`` (exact match), ``"exact_match"`` or ``"f1"``. A direction without questions
    does not count; with none at all the mean is 0.

    Raises:
        KinjectError: an unknown reading.
    """
    if reading not in READINGS:
        raise KinjectError(f"reading: expected one of {', '.join(READINGS)}, got {reading!r}")
    measured = [scores[direction][READINGS[reading]] for direction in asked(scores)]
    return sum(measured) / len(measured) if measured else 0.0


def read_otherwise(scores: Mapping[str, Any] | None) -> str:
    """A sentence on the questions that the paper's code cannot read, or nothing where there are none."""
    measured = [scores[name] for name in cells(scores)] if scores is not None else []
    count, total = (sum(cell.get(key, 0) for cell in measured) for key in (OTHER_WORDS, "n"))
    if not count:
        return ""
    return (
        f"of {count} of {total} questions, recall compares the words of their script: the paper's code tells those of "
        "English only"
    )


def cells(scores: Mapping[str, Any] | None) -> list[str]:
    """Every cell of ``scores``: both directions, and ``unknown`` where some questions have none."""
    return [*DIRECTIONS, *([UNKNOWN] if scores is not None and UNKNOWN in scores else [])]


def asked(scores: Mapping[str, Any] | None) -> list[str]:
    """The directions that ``scores`` have questions of: of the others nothing is known, and nothing is to be shown."""
    return [direction for direction in DIRECTIONS if scores is not None and scores[direction]["n"] > 0]
