"""The same seed on the same machine gives the same run: masks, weights, answers and files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.trust.runs import ARMS, STEPS, log_of, run, scores, weights


@pytest.mark.parametrize("arm", ARMS)
def test_two_runs_leave_the_same_files(arm: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(arm, tmp_path / name / "run")
    one, two = tmp_path / "one" / "run", tmp_path / "two" / "run"
    assert weights(one) == weights(two) and scores(one) == scores(two)
    assert names(one) == names(two)
    for file in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        last = f"checkpoint-{STEPS}/{file}"
        assert (one / last).read_bytes() == (two / last).read_bytes(), file
    assert len(losses(one)) == STEPS and losses(one) == losses(two)


def test_worker_processes_change_nothing(tmp_path: Path) -> None:
    run("masked", tmp_path / "one")
    run("masked", tmp_path / "two", dataloader_num_workers=2, dataloader_persistent_workers="true")
    assert weights(tmp_path / "one") == weights(tmp_path / "two"), log_of(tmp_path / "two")
    assert scores(tmp_path / "one") == scores(tmp_path / "two")


def names(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


def losses(directory: Path) -> list[float]:
    state = json.loads((directory / f"checkpoint-{STEPS}" / "trainer_state.json").read_text(encoding="utf-8"))
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]
