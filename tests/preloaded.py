"""Imported once by the process that `tests/processes.py` forks from: what runs import, and a collection has not to look at."""

from __future__ import annotations

import gc
from importlib import import_module

for name in (
    "matplotlib.figure",
    "kinject.commands.inject",
    "kinject.evaluation.callback",
    "kinject.hub.card",
    "kinject.trainers.diffusion_trainer",
    "kinject.trainers.masked_trainer",
    "tests.trainers.conftest",
):
    import_module(name)
gc.collect()
gc.freeze()
