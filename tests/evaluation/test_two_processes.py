"""On two processes questions are shared out, answers come back in order, and one process writes."""

from __future__ import annotations

from pathlib import Path

from kinject.evaluation.results import read_results
from tests.evaluation.parts import QUESTIONS
from tests.processes import run_two


def test_two_processes_share_the_questions(tmp_path: Path) -> None:
    printed = run_two("tests.evaluation.two_processes", str(tmp_path))
    for rank in range(2):
        assert f"process {rank} done" in printed[rank]
        assert ("step 2/4" in printed[rank]) == (rank == 0)
    results = read_results(tmp_path)
    assert [entry["step"] for entry in results["history"]] == [1, 2, 4]
    assert results["before"]["forward"]["n"] + results["before"]["backward"]["n"] == len(QUESTIONS)
    assert results["after"]["forward"]["paper"] == 1.0
    assert results["history"][-1]["tokens"] == 4 * 2 * 4 * 5  # steps x processes x batch x length
