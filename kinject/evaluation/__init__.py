"""Asking questions, scoring the answers, following both while a model trains. Names are imported when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kinject.compat import lazily

if TYPE_CHECKING:
    from kinject.evaluation.asking import answer_log_likelihood, answer_questions
    from kinject.evaluation.callback import QuestionAnsweringCallback, log_spaced_steps
    from kinject.evaluation.measures import exact_match, macro, paper_recall, score_answers, token_f1
    from kinject.evaluation.qa_metric import ForwardBackwardQA
    from kinject.evaluation.report import plot_history, results_table
    from kinject.evaluation.retention import measure_retention

_MODULE_OF = {
    "ForwardBackwardQA": "qa_metric",
    "QuestionAnsweringCallback": "callback",
    "answer_log_likelihood": "asking",
    "answer_questions": "asking",
    "exact_match": "measures",
    "log_spaced_steps": "callback",
    "macro": "measures",
    "measure_retention": "retention",
    "paper_recall": "measures",
    "plot_history": "report",
    "results_table": "report",
    "score_answers": "measures",
    "token_f1": "measures",
}

__all__ = [
    "ForwardBackwardQA",
    "QuestionAnsweringCallback",
    "answer_log_likelihood",
    "answer_questions",
    "exact_match",
    "log_spaced_steps",
    "macro",
    "measure_retention",
    "paper_recall",
    "plot_history",
    "results_table",
    "score_answers",
    "token_f1",
]

__getattr__, __dir__ = lazily(__name__, _MODULE_OF)
