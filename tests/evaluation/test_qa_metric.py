"""The evaluate metric, used directly and loaded from its file, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import kinject.evaluation
from kinject.errors import DataError

ANSWERS: dict[str, Any] = {
    "predictions": ["the first programmer", "It is Ada.", ""],
    "references": ["the first programmer", "Ada", "Bob"],
    "directions": ["forward", "backward", "backward"],
}


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import evaluate.config

    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "metrics")
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))


def check(scores: dict[str, Any]) -> None:
    assert scores["forward_paper"] == scores["forward_exact_match"] == 1.0
    assert scores["backward_paper"] == 0.5 and scores["backward_exact_match"] == 0.0
    assert scores["backward_f1"] == 0.25 and scores["backward_n"] == 2
    assert scores["macro_paper"] == 0.75 and scores["macro_exact_match"] == 0.5
    assert scores["backward_paper_ci"][0] <= 0.5 <= scores["backward_paper_ci"][1]


def test_direct_use() -> None:
    metric = kinject.evaluation.ForwardBackwardQA()
    check(metric.compute(**ANSWERS))
    for prediction, reference, direction in zip(*ANSWERS.values(), strict=True):
        metric.add(predictions=prediction, references=reference, directions=direction)
    check(metric.compute())
    with pytest.raises(DataError, match="direction"):
        metric.compute(predictions=["x"], references=["y"], directions=["sideways"])


def test_a_direction_that_was_not_asked_scores_nothing() -> None:
    metric = kinject.evaluation.ForwardBackwardQA()
    scores = metric.compute(predictions=["Ada"], references=["Ada"], directions=["forward"])
    assert scores["forward_n"] == scores["forward_paper"] == scores["macro_f1"] == 1
    assert scores["backward_n"] == 0
    assert {scores[f"backward_{name}{ci}"] for name in ("paper", "exact_match", "f1") for ci in ("", "_ci")} == {None}


def test_several_accepted_answers() -> None:
    metric = kinject.evaluation.ForwardBackwardQA()
    references = [["Ada", "the first programmer"], ["Ada"], ["Bob", "Robert"]]
    check(metric.compute(**{**ANSWERS, "references": references}))
    with pytest.raises(DataError, match="answer is empty"):
        metric.compute(predictions=["x"], references=[[]], directions=["forward"])


def test_loaded_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    import evaluate

    from kinject.evaluation import qa_metric

    def refuse(*arguments: Any, **settings: Any) -> None:
        raise AssertionError("the metric asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    metric = evaluate.load(str(qa_metric.__file__), dynamic_modules_path=None)
    check(metric.compute(**ANSWERS))
