"""Runs that several tests look at: each strategy on two processes, and the same alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.distributed import worker
from tests.distributed.launching import launch, work


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="session")
def on_two(runs: Path) -> Callable[[str], Path]:
    """The folder of a strategy's run on two processes, which is made when it is first asked for."""

    @cache
    def run(strategy: str) -> Path:
        if strategy != "ddp":
            pytest.importorskip("deepspeed", reason="the deepspeed extra is not installed")
        folder = runs / strategy
        folder.mkdir()
        # One of them as a user launches it; the others are told the same by the launcher's own code.
        start = launch if strategy == "ddp" else work
        asks = ["ask"] if strategy == "zero3" else []
        start(strategy, str(folder), "2", "train", "resume", "inject", "diverge", *asks)
        return folder

    return run


@pytest.fixture(scope="session")
def alone(runs: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The same runs in this process: their folder, and what was seen of the training."""
    folder = runs / "alone"
    folder.mkdir()
    yield folder, worker.train(folder, 4)
