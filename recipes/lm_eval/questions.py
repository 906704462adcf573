"""What the tasks beside this file ask and how they score it: kinject's questions, by kinject's measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets

from kinject.data import load_knowledge, load_questions
from kinject.evaluation.measures import best_score, exact_match, paper_recall, token_f1


def load(
    direction: str,
    documents: str | None = None,
    questions: str | None = None,
    facts: str | None = None,
    size: int | None = None,
    world_seed: int = 0,
    **_: Any,
) -> dict[str, datasets.Dataset]:
    """The questions of one direction; the arguments are those of `kinject eval`, given as lm-eval's --metadata."""
    if questions and not documents:
        found = load_questions(questions)
    else:
        world = documents or "fictional:name_description"
        found = load_knowledge(world, questions, facts=facts, size=size, seed=world_seed).questions
    asked = [each for each in found if each.direction == direction]
    columns = {
        name: [getattr(each, name) for each in asked] for name in ("question", "answer", "answers", "group", "task")
    }
    return {"test": datasets.Dataset.from_dict(columns)}


def score(row: Mapping[str, Any], answers: Sequence[str]) -> dict[str, float]:
    """The scores of one answer, by the accepted answer it comes closest to."""
    measures = {"paper": paper_recall, "exact_match": exact_match, "f1": token_f1}
    answer = answers[0].strip()
    return {name: best_score(measure, answer, row["answers"]) for name, measure in measures.items()}
