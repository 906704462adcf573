"""What a run will take is what it takes; one that cannot fit is refused before its weights are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kinject.commands.plan import UNCHECKED
from kinject.errors import ConfigurationError
from kinject.models import devices
from tests.conftest import run_recipe


@pytest.mark.parametrize("objective", ["masked", "ar"])
def test_a_plan_says_what_the_run_then_takes_and_trains_nothing(
    objective: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"num_train_epochs": 3, "per_device_train_batch_size": 3, "evaluations": 0}
    plan = run_recipe("nano-ar", tmp_path / "out", objective, **settings, plan=True)
    shown = capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    for line in ("weights", "memory", "steps", "tokens", "FLOPs", "hours"):
        assert f"\n{line} " in f"\n{shown}"
    train = run_recipe("nano-ar", tmp_path / "out", objective, **settings)["train"]
    assert plan["steps"] == train["steps"]
    assert plan["tokens"] == pytest.approx(train["tokens"], rel=0.02)
    assert plan["flops"] == pytest.approx(train["flops"], rel=0.03)


def test_a_run_that_cannot_fit_is_refused_with_what_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = run_recipe("nano-ar", tmp_path / "out", plan=True)["memory_bytes"]

    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("kinject.models.load_model", load)
    monkeypatch.setattr(devices, "device_memory", lambda device: int(0.98 * needed))
    with pytest.raises(ConfigurationError, match="out of memory, before it begins") as refused:
        run_recipe("nano-ar", tmp_path / "out")
    assert "What would fit: " in str(refused.value) and "--use_peft true" in str(refused.value)
    monkeypatch.setattr(devices, "device_memory", lambda device: 1_000)
    with pytest.raises(ConfigurationError, match="take more or larger devices"):
        run_recipe("nano-ar", tmp_path / "out")
    monkeypatch.setenv(UNCHECKED, "0")
    with pytest.raises(AssertionError, match="weights were loaded"):
        run_recipe("nano-ar", tmp_path / "out")
    monkeypatch.delenv(UNCHECKED)
    monkeypatch.setattr(devices, "device_memory", lambda device: 10**12)
    with pytest.raises(AssertionError, match="weights were loaded"):
        run_recipe("nano-ar", tmp_path / "out")


def test_a_model_that_is_not_here_has_no_plan(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--plan reads the model's config.json, which is neither here"):
        run_recipe("nobody/nothing", tmp_path / "out", plan=True)


def test_the_processor_does_not_say_what_it_has() -> None:
    assert devices.device_memory(torch.device("cpu")) is None
