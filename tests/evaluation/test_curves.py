"""`report_to tensorboard|wandb` shows how forward and backward answers develop, from before training on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from kinject.data import load_knowledge
from kinject.recipe import train
from kinject.results import read_results
from tests.conftest import build_model, build_tokenizer

DIRECTIONS = ("forward", "backward")


@pytest.fixture(autouse=True)
def learning(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that answers a third of the questions more rightly at every evaluation."""
    expected = {each.question: each.answer for each in load_knowledge("fictional:name_description", size=2).questions}
    calls: list[int] = []

    def answer(model: Any, tokenizer: Any, questions: Sequence[str], **_: Any) -> list[str]:
        calls.append(1)
        return [expected[each] if index % 3 < len(calls) - 1 else "" for index, each in enumerate(questions)]

    monkeypatch.setattr("kinject.evaluation.asking.answer_questions", answer)


def inject(tmp_path: Path, report_to: str, **options: Any) -> list[tuple[int, float, float]]:
    """Train with ``report_to``; the curve that should show: step, forward and backward."""
    tokenizer = build_tokenizer()
    build_model(tokenizer).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    settings = {
        "model_name_or_path": tmp_path / "base",
        "output_dir": tmp_path / "out",
        "documents": "fictional:name_description",
        "size": 2,
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "evaluations": 2,
        "logging_steps": 1,
        "retention": False,
        "save_strategy": "no",
        "bf16": False,
        "report_to": report_to,
        **options,
    }
    train("masked", [part for key, value in settings.items() for part in (f"--{key}", str(value))])
    results = read_results(tmp_path / "out")
    measured = [{"step": 0, **results["before"]}, *results["history"]]
    points = [(each["step"], *(round(each[name]["paper"], 4) for name in DIRECTIONS)) for each in measured]
    assert [step for step, *_ in points][0] == 0 and len({tuple(scores) for _, *scores in points}) == len(points) > 2
    return points  # type: ignore[return-value]


def curve(points: Mapping[str, Mapping[int, float]]) -> list[tuple[int, float, float]]:
    return [(step, points["forward"][step], points["backward"][step]) for step in sorted(points["forward"])]


def found_in(logged: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """The curves in what a tracker was given, by step."""
    return {
        name: {each["train/global_step"]: each[f"train/{name}"] for each in logged if f"train/{name}" in each}
        for name in DIRECTIONS
    }


def approximately(curve: list[tuple[int, float, float]]) -> list[Any]:
    return [pytest.approx(point, abs=1e-6) for point in curve]


def test_tensorboard_shows_the_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    expected = inject(tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    found = {name: {each.step: each.value for each in events.Scalars(f"train/{name}")} for name in DIRECTIONS}
    assert curve(found) == approximately(expected)


def test_wandb_shows_the_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_DIR", str(tmp_path)), ("WANDB_SILENT", "true")):
        monkeypatch.setenv(name, value)
    logged: list[dict[str, Any]] = []
    original = wandb.sdk.wandb_run.Run.log

    def log(run: Any, data: dict[str, Any], *arguments: Any, **options: Any) -> Any:
        logged.append(dict(data))
        return original(run, data, *arguments, **options)

    monkeypatch.setattr(wandb.sdk.wandb_run.Run, "log", log)
    expected = inject(tmp_path, "wandb")
    wandb.finish()
    assert curve(found_in(logged)) == approximately(expected)
