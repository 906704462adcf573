"""Forward and backward question answering as an ``evaluate`` metric that needs no network.

Use :class:`ForwardBackwardQA` directly, or ``evaluate.load(kinject.evaluation.qa_metric.__file__)``.
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from kinject.evaluation.measures import asked, cells, macro, score_answers

DESCRIPTION = """\
Scores answers to forward questions (in the order of the document) and backward questions (against it): ROUGE-1 recall
as in the paper, exact match and token F1, per direction and as the macro mean of both.
"""

CITATION = """\
@misc{arxiv:2510.09885,
  eprint = {2510.09885},
  archivePrefix = {arXiv},
}
"""

INPUTS = """
Args:
    predictions: the answers, as texts.
    references: the right answers, as texts; or for each prediction a list of those that are accepted.
    directions: "forward", "backward" or "unknown" for each of them.
    confidence: coverage of the bootstrap percentile intervals (default 0.95).
    resamples: bootstrap resamples (default 1000).
    seed: seed of the resampling (default 0).
Returns:
    forward_paper, forward_exact_match, forward_f1, forward_n, the same for backward, macro_paper, macro_exact_match
    and macro_f1, all scores in 0..1; and forward_paper_ci and so on, each [low, high]. What was not asked is None.
Examples:
    >>> metric = ForwardBackwardQA()
    >>> metric.compute(predictions=["Ada"], references=["Ada"], directions=["backward"])["backward_paper"]
    1.0
"""


class ForwardBackwardQA(evaluate.Metric):
    """Forward and backward scores of answers, in the paper's and the strict reading."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        columns = {"predictions": text, "references": text, "directions": text}
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=[
                datasets.Features(columns),
                datasets.Features(columns | {"references": datasets.Sequence(text)}),
            ],
            reference_urls=["https://arxiv.org/abs/2510.09885"],
        )

    def _compute(
        self,
        *,
        predictions: list[str],
        references: list[str] | list[list[str]],
        directions: list[str],
        confidence: float = 0.95,
        resamples: int = 1000,
        seed: int = 0,
    ) -> dict[str, Any]:
        from kinject.data import Question

        questions = []
        for index, (reference, direction) in enumerate(zip(references, directions, strict=True)):
            answer, *others = [reference] if isinstance(reference, str) else reference or [""]
            # The direction is checked by Question.
            questions.append(
                Question(f"question {index}", answer, direction, other_answers=tuple(others))  # type: ignore[arg-type]
            )
        scores = score_answers(questions, predictions, confidence=confidence, resamples=resamples, seed=seed)
        flat: dict[str, Any] = {}
        for direction in cells(scores):
            cell = scores[direction]
            known = cell["n"] > 0
            flat[f"{direction}_n"] = cell["n"]
            flat |= {f"{direction}_{name}": cell[name] if known else None for name in cell["ci"]}
            flat |= {f"{direction}_{name}_ci": interval if known else None for name, interval in cell["ci"].items()}
        return flat | {f"macro_{name}": macro(scores, name) if asked(scores) else None for name in cell["ci"]}
