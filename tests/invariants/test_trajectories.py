"""Short runs of every objective are those that were recorded, up to the rounding of another processor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.invariants.trajectories import RUNS, record, require_same

RECORDED = json.loads((Path(__file__).parent / "trajectories.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_the_one_that_was_recorded(name: str, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = record(name, tmp_path / name)
    finally:
        torch.set_num_threads(threads)
    require_same(found, RECORDED[name])
