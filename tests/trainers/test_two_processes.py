"""Design invariant 1 across processes: the same masks and losses on two processes as on one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.test_two_processes import run_two


@pytest.mark.parametrize("objective", ["masked", "diffusion"])
def test_two_processes_draw_the_masks_and_losses_of_one(
    tmp_path: Path, make_trainer: Callable[..., Any], make_diffusion_trainer: Callable[..., Any], objective: str
) -> None:
    run_two("tests.trainers.two_processes", str(tmp_path), "2", objective)
    seen = [json.loads((tmp_path / f"seen-{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]
    assert [each["world_size"] for each in seen] == [2, 2]

    settings = {"per_device_train_batch_size": 4, "num_train_epochs": 3, "learning_rate": 1e-3}
    alone = make_diffusion_trainer(shifted=True, **settings) if objective == "diffusion" else make_trainer(**settings)
    rows = []
    for epoch in range(3):
        alone.data_collator.epoch = epoch
        for row in alone.train_dataset:
            rows.append([epoch, alone.data_collator([row])["input_ids"][0].tolist()])
    assert sorted(seen[0]["rows"] + seen[1]["rows"]) == sorted(rows)

    alone.data_collator.epoch = 0
    alone.train()
    losses = [entry["loss"] for entry in alone.state.log_history if "loss" in entry]
    assert seen[0]["losses"] == pytest.approx(losses, abs=1e-4)
