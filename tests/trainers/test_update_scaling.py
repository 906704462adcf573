"""What training changed in the weights, scaled after its last step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, TrainerCallback

from kinject.errors import ConfigurationError

SCALES = [0.5, 1.5]
LORA = {"r": 4, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}


def _weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("frozen", [None, ["self_attn"]])
def test_every_learned_weight_moves_by_the_factor(
    make_trainer: Callable[..., Any], scale: float, frozen: list[str] | None
) -> None:
    plain, scaled = make_trainer(frozen_modules=frozen), make_trainer(frozen_modules=frozen, update_scale=scale)
    before = _weights(scaled.model)
    for trainer in (plain, scaled):
        trainer.train()
    trained, moved = _weights(plain.model), _weights(scaled.model)
    assert any(not torch.equal(trained[name], before[name]) for name in before)
    for name, weight in before.items():
        torch.testing.assert_close(moved[name], weight + scale * (trained[name] - weight), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("scale", SCALES)
def test_an_adapter_adds_that_much_more_or_less(make_trainer: Callable[..., Any], scale: float, tmp_path: Path) -> None:
    from peft import PeftModel

    merged = []
    for factor in (1.0, scale):
        torch.manual_seed(0)  # of the adapter's weights
        trainer = make_trainer(trainer={"peft_config": LoraConfig(**LORA)}, update_scale=factor, learning_rate=1e-2)
        base = {name.removeprefix("base_model.model."): weight for name, weight in _weights(trainer.model).items()}
        base = {name.replace(".base_layer", ""): weight for name, weight in base.items() if "lora" not in name}
        trainer.train()
        trainer.model.save_pretrained(tmp_path / str(factor))
        loaded = PeftModel.from_pretrained(make_trainer().model, str(tmp_path / str(factor)))
        merged.append(_weights(loaded.merge_and_unload()))  # type: ignore[operator]
    trained, moved = merged
    assert any(not torch.equal(trained[name], base[name]) for name in base)
    for name, weight in base.items():
        torch.testing.assert_close(moved[name], weight + scale * (trained[name] - weight), atol=1e-6, rtol=1e-5)


def test_the_last_step_is_asked_with_scaled_weights_and_the_others_are_not(make_trainer: Callable[..., Any]) -> None:
    seen: dict[float, list[dict[str, torch.Tensor]]] = {}

    class Watch(TrainerCallback):
        def __init__(self, kept: list[dict[str, torch.Tensor]]) -> None:
            self.kept = kept

        def on_step_end(self, *args: Any, model: torch.nn.Module, **kwargs: Any) -> None:
            self.kept.append(_weights(model))

    for scale in (1.0, 2.0):
        watch = Watch(seen.setdefault(scale, []))
        make_trainer(trainer={"callbacks": [watch]}, update_scale=scale, num_train_epochs=2).train()
    *others, last = (
        all(torch.equal(plain[name], scaled[name]) for name in plain)
        for plain, scaled in zip(seen[1.0], seen[2.0], strict=True)
    )
    assert len(others) > 1 and all(others) and not last


@pytest.mark.parametrize("last", [False, True])
def test_a_resumed_run_scales_once_and_from_where_the_first_began(
    make_trainer: Callable[..., Any], tmp_path: Path, last: bool
) -> None:
    whole = make_trainer(update_scale=1.5, output_dir=str(tmp_path), save_strategy="steps", save_steps=1)
    whole.train()
    steps = whole.state.max_steps
    checkpoint = tmp_path / f"checkpoint-{steps if last else steps - 1}"
    resumed = make_trainer(update_scale=1.5, output_dir=str(tmp_path / "resumed"))
    resumed.train(resume_from_checkpoint=str(checkpoint))
    saved = dict(AutoModelForCausalLM.from_pretrained(tmp_path / f"checkpoint-{steps}").named_parameters())
    for name, weight in _weights(whole.model).items():
        torch.testing.assert_close(_weights(resumed.model)[name], weight, atol=1e-6, rtol=0)
        torch.testing.assert_close(saved[name].detach(), weight, atol=1e-6, rtol=0)


def test_a_run_that_is_stopped_early_is_scaled_too(make_trainer: Callable[..., Any]) -> None:
    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step == 2

    plain, scaled = (
        make_trainer(trainer={"callbacks": [Stop()]}, update_scale=scale, num_train_epochs=2) for scale in (1.0, 2.0)
    )
    before = _weights(plain.model)
    for trainer in (plain, scaled):
        trainer.train()
        assert trainer.state.global_step == 2
    trained = _weights(plain.model)
    for name, weight in _weights(scaled.model).items():
        torch.testing.assert_close(weight, 2 * trained[name] - before[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_a_factor_that_is_none_is_refused(make_trainer: Callable[..., Any], scale: float) -> None:
    with pytest.raises(ConfigurationError, match="update_scale is .*expected a factor above 0"):
        make_trainer(update_scale=scale)


def test_an_adapter_that_is_more_than_lora_is_refused(make_trainer: Callable[..., Any]) -> None:
    for more in ({"use_dora": True}, {"modules_to_save": ["lm_head"]}):
        with pytest.raises(ConfigurationError, match="another kind than plain LoRA"):
            make_trainer(trainer={"peft_config": LoraConfig(**LORA, **more)}, update_scale=1.5)


def test_an_adapter_that_was_trained_already_is_refused(make_trainer: Callable[..., Any]) -> None:
    model: Any = get_peft_model(make_trainer().model, LoraConfig(**LORA))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(weight)
    with pytest.raises(ConfigurationError, match=r"starts from weights that are not zero.*lora_B"):
        make_trainer(trainer={"model": model}, update_scale=1.5)


def test_what_fsdp_has_sharded_is_refused(make_trainer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(update_scale=1.5)
    monkeypatch.setattr("kinject.trainers.update_scaling.is_fsdp", lambda model: True)
    with pytest.raises(ConfigurationError, match="weights that FSDP has sharded.*zero3"):
        trainer.train()
