"""What a run will take is what it takes; one that cannot fit is refused before its weights are loaded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kinject.commands.plan import UNCHECKED, Forecast, Workload, choose, practices, show_plan, shown_choices
from kinject.errors import ConfigurationError
from kinject.models import devices
from kinject.trainers.subspace import PreservedSubspace
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


def test_a_plan_counts_what_is_kept_of_preserved_matrices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: dict[str, int] = {}
    ended = PreservedSubspace.on_optimizer_step

    def measure(self: PreservedSubspace, *args: Any, **kwargs: Any) -> None:
        ended(self, *args, **kwargs)
        size = lambda tensors: sum(each.numel() * each.element_size() for each in tensors)  # noqa: E731
        held["preserved"] = size(part for _, kept in self._kept for part in kept)
        held["gradients"] = size(each.grad for each in kwargs["model"].parameters() if each.grad is not None)
        states = kwargs["optimizer"].state.values()
        held["optimizer"] = size(each for state in states for each in state.values() if torch.is_tensor(each))

    monkeypatch.setattr(PreservedSubspace, "on_optimizer_step", measure)
    settings: dict[str, Any] = {"preserved_rank": 0.5, "max_steps": 1, "evaluations": 0}
    plan = run_recipe("nano-ar", tmp_path / "out", **settings, plan=True)
    run_recipe("nano-ar", tmp_path / "out", **settings)
    assert {name: plan["parts"][name] for name in held} == pytest.approx(held, rel=0.02)
    assert plan["memory_bytes"] >= sum(held.values())
    whole = run_recipe("nano-ar", tmp_path / "out", evaluations=0, max_steps=1, plan=True)
    assert whole["parts"]["preserved"] == 0 and whole["parts"]["gradients"] > plan["parts"]["gradients"]


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
    with pytest.raises(ConfigurationError, match="model 'nobody/nothing' is not in the local cache of the Hub"):
        run_recipe("nobody/nothing", tmp_path / "out", plan=True)
    with pytest.raises(ConfigurationError, match="--plan reads the model's config.json, which is neither here"):
        show_plan(None, None)  # type: ignore[arg-type]


EIGHT_BILLION = devices.Sizes(8_030_000_000, 525_000_000, 32, 4096, 14_336, 4096, 1024, 128_256, 131_072)


def chosen(monkeypatch: pytest.MonkeyPatch, memory: float | None, device: str = "cuda", **given: Any) -> dict[str, Any]:
    """What is chosen for a model of eight billion parameters on a device with ``memory``, and what that takes."""
    wanted = {"use_peft": False, "lora_r": 16, "lora_alpha": 32, "lora_target_modules": None, "dtype": None}
    loading = {"load_in_4bit": False, "load_in_8bit": False}
    model_args = SimpleNamespace(**{**wanted, **loading, **{name: given[name] for name in wanted if name in given}})
    args = SimpleNamespace(device=torch.device(device), bf16=True, frozen_modules=given.get("frozen_modules"))
    args.preserved_rank = given.get("preserved_rank", 0.0)
    work = Workload(samples=200, tokens=10**6, longest=1000, steps=100)
    plan = devices.Plan(tokens=8000, scored=4000, answers=256 * 256)
    found = Forecast(EIGHT_BILLION, plan, devices.needed(EIGHT_BILLION, plan), memory, work, 1e15)  # type: ignore[arg-type]
    monkeypatch.setattr("kinject.commands.plan.forecast", lambda *_, **__: found)
    monkeypatch.setattr("kinject.commands.plan.find_spec", lambda name: object())
    knowledge: Any = SimpleNamespace(documents=[None] * 200)
    choices = choose(knowledge, None, args, model_args, given, 5e-6)  # type: ignore[arg-type]
    assert all(each.option.startswith("--") and each.why for each in choices)
    shown = shown_choices(choices)
    assert all(f"({each.why}; {each.option})" in shown for each in choices)
    return {name: value for each in choices for name, value in each.settings.items()}


def test_what_is_chosen_fits_the_device_and_leaves_alone_what_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    full = chosen(monkeypatch, 288e9)
    assert full == {
        "use_peft": False,
        "per_device_train_batch_size": 5,
        "gradient_checkpointing": False,
        "num_train_epochs": 80,
        "learning_rate": 5e-6,
    }
    spared = chosen(monkeypatch, 170e9)
    assert spared == {**full, "gradient_checkpointing": True}
    lora = chosen(monkeypatch, 80e9)
    assert lora["use_peft"] and lora["lora_target_modules"] == ["all-linear"] and lora["learning_rate"] == 1e-4
    assert "load_in_4bit" not in lora and lora["per_device_train_batch_size"] == 5
    small = chosen(monkeypatch, 24e9)
    assert small["per_device_train_batch_size"] * small["gradient_accumulation_steps"] == 5
    assert small["gradient_checkpointing"] and small["question_batch_size"] == 16 and "load_in_4bit" not in small
    assert chosen(monkeypatch, 13e9)["load_in_4bit"] is True
    assert chosen(monkeypatch, 1e9) == full  # nothing fits: the run is refused with what would
    given: dict[str, Any] = {"use_peft": False, "num_train_epochs": 3, "learning_rate": 1e-3, "max_length": 64}
    assert chosen(monkeypatch, 24e9, **given) == {"per_device_train_batch_size": 5, "gradient_checkpointing": False}
    assert chosen(monkeypatch, 80e9, use_peft=True, bf16=True, max_steps=9) == {
        "per_device_train_batch_size": 5,
        "gradient_checkpointing": False,
        "learning_rate": 1e-4,
    }
    assert chosen(monkeypatch, 80e9, frozen_modules=["self_attn"])["use_peft"] is False  # adapters freeze all
    assert chosen(monkeypatch, 80e9, preserved_rank=0.5)["use_peft"] is False
    rates = (1e-4, 3e-4, 1e-3, 3e-3)  # the faster, the fewer
    assert [chosen(monkeypatch, 288e9, learning_rate=rate)["num_train_epochs"] for rate in rates] == [80, 80, 40, 40]
    two = chosen(monkeypatch, 24e9, per_device_train_batch_size=2)
    assert "gradient_accumulation_steps" not in two and two["load_in_4bit"]


def test_the_processor_does_not_say_what_it_has() -> None:
    assert devices.device_memory(torch.device("cpu")) is None


ENGLISH = "Ada Vance is known for the maps of the salt caves that she made in the winter."
GERMAN = "Ada Vance ist bekannt für die Karten der Salzhöhlen, die sie im Winter gezeichnet hat."


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, True),
        ({"parameters": 1_000_000}, False),  # a nano model
        ({"parameters": 8_030_000_000}, False),
        ({"adapter": True}, False),
        ({"text": GERMAN}, False),
        ({"messages": ({"role": "user", "content": "Who?"},)}, False),
        ({"kept": object()}, False),
        ({"known": False}, False),  # a model that is neither here nor on the Hub
    ],
)
def test_practice_is_chosen_where_it_was_measured_to_be_better(
    monkeypatch: pytest.MonkeyPatch, said: dict[str, Any], expected: bool
) -> None:
    found = (None, None) if said.get("known", True) else None
    monkeypatch.setattr("kinject.models.loading.tokenizer_and_config", lambda name, local: found)
    sizes = devices.Sizes(said.get("parameters", 134_515_008), 28_000_000, 30, 576, 1536, 576, 192, 49_152, 8192)
    monkeypatch.setattr("kinject.commands.plan.sizes", lambda config: sizes)
    document = SimpleNamespace(titled_text=said.get("text", ENGLISH), messages=said.get("messages", ()))
    knowledge: Any = SimpleNamespace(documents=[document], kept=said.get("kept"))
    assert practices(knowledge, "m", said.get("adapter", False)) is expected
