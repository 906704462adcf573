"""Over a long run host memory and open files stay what they were; `recipes/benchmarks/long_run.py` shows the figures."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]
STEPS = int(os.environ.get("KINJECT_TRUST_STEPS", "160"))


def test_memory_and_open_files_stay_flat(tmp_path: Path) -> None:
    benchmark = runpy.run_path(str(ROOT / "recipes" / "benchmarks" / "long_run.py"))
    seen = benchmark["quarters"](benchmark["train"](STEPS, 20, str(tmp_path), people=8))
    assert seen[3]["open_files"] <= seen[1]["open_files"] + 1
    assert seen[3]["memory"] <= 1.05 * seen[1]["memory"]
