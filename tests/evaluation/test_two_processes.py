"""On two processes questions are shared out, answers come back in order, and one process writes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from kinject.results import read_results
from tests.evaluation.test_callback import QUESTIONS


def run_two(module: str, *arguments: str, timeout: float = 300.0) -> list[str]:
    """Run ``module`` on two processes of one gloo group, as torchrun would; what each of them printed."""
    root = Path(__file__).parents[2]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=root,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": str(root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        printed = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(printed)[-4000:]
    return printed


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
