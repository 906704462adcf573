"""Modules that are left as they are while the rest of the model learns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from kinject.errors import ConfigurationError
from kinject.models.weights import flops_per_token, frozen_parameters
from tests.conftest import build_tokenizer
from tests.models.architectures import ARCHITECTURES, random_model


@pytest.mark.parametrize("modules", [["self_attn"], ["self_attn", "embed_tokens"], ["layers.0"]])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_is_frozen_stays_and_all_else_learns(
    make_trainer: Callable[..., Any], tmp_path: Path, modules: list[str], checkpointing: bool
) -> None:
    trainer = make_trainer(frozen_modules=modules, gradient_checkpointing=checkpointing)
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    saved = dict(AutoModelForCausalLM.from_pretrained(tmp_path / "model").named_parameters())
    frozen = {name for name in before if any(f".{module}." in name for module in modules)}
    assert {name for name, weight in before.items() if torch.equal(saved[name], weight)} == frozen


@pytest.mark.parametrize("name", [*ARCHITECTURES, "qwen3_moe"])
def test_attention_is_found_under_the_names_of_every_architecture(name: str) -> None:
    model = random_model(name, build_tokenizer())
    names = {id(weight): name for name, weight in model.named_parameters()}
    frozen = [names[id(weight)] for weight in frozen_parameters(model, ["attention"])]
    parts = [set(each.split(".")) for each in names.values()]
    expected = [
        each for each, own in zip(names.values(), parts, strict=True) if {"self_attn", "attn", "attention"} & own
    ]
    assert frozen == expected and len(frozen) == len(set(frozen)) >= 4


def test_weights_that_are_bf16_numbers_are_stored_as_such_and_no_others(make_trainer: Callable[..., Any]) -> None:
    trainer = make_trainer(frozen_modules=["self_attn"], save_strategy="steps", save_steps=1)
    for weight in trainer.model.parameters():  # as of a model that was published in bf16
        weight.data = weight.data.bfloat16().float()
    trainer.train()
    trainer.save_model()
    output = Path(trainer.args.output_dir)
    saved = load_file(output / "model.safetensors")
    assert {name for name, weight in saved.items() if weight.dtype is torch.bfloat16} == {
        name for name in saved if "self_attn" in name
    }
    loaded = dict(AutoModelForCausalLM.from_pretrained(output).named_parameters())
    for name, weight in trainer.model.named_parameters():
        assert loaded[name].dtype is torch.float32 and torch.equal(loaded[name], weight)
    checkpoint = load_file(next(output.glob("checkpoint-*")) / "model.safetensors")
    assert {weight.dtype for weight in checkpoint.values()} == {torch.float32}
    assert sorted(path.name for path in output.glob(".*")) == []


def test_frozen_weights_cost_no_gradient_of_their_own(make_trainer: Callable[..., Any]) -> None:
    whole, part = make_trainer(), make_trainer(frozen_modules=["self_attn"])
    spared = 2.0 * sum(weight.numel() for name, weight in part.model.named_parameters() if "self_attn" in name)
    assert flops_per_token(whole.model) - flops_per_token(part.model) == spared > 0


@pytest.mark.parametrize(
    ("modules", "adapter", "message"),
    [
        (["attn"], False, r"no weight of this model lies in 'attn'.*mlp.*self_attn"),
        (["self_at"], False, "lies in 'self_at'"),  # a part of a name is not a module
        (["model", "lm_head"], False, "hold all of the model's weights"),
        (["self_attn"], True, "an adapter is trained here.*--use_peft"),
    ],
)
def test_modules_that_cannot_be_frozen_are_refused(
    make_trainer: Callable[..., Any], modules: list[str], adapter: bool, message: str
) -> None:
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    with pytest.raises(ConfigurationError, match=message):
        make_trainer(trainer={"peft_config": lora} if adapter else {}, frozen_modules=modules)


@pytest.mark.parametrize("name", ["qwen3_moe", "glm4_moe"])
def test_the_routers_of_a_mixture_of_experts_learn_only_when_told(make_trainer: Callable[..., Any], name: str) -> None:
    tokenizer = build_tokenizer()
    for told in (False, True):
        trainer = make_trainer(trainer={"model": random_model(name, tokenizer)}, train_routers=told, max_steps=2)
        before = {each: weight.detach().clone() for each, weight in trainer.model.named_parameters()}
        trainer.train()
        moved = {each for each, weight in trainer.model.named_parameters() if not torch.equal(weight, before[each])}
        gates = {each for each in before if each.endswith("mlp.gate.weight")}
        assert gates and {each for each in before if "experts" in each} <= moved
        assert (gates <= moved) if told else not gates & moved


def test_routers_that_are_not_there_are_not_learned(make_trainer: Callable[..., Any]) -> None:
    with pytest.raises(ConfigurationError, match="train_routers is true, and the model has no experts"):
        make_trainer(train_routers=True)
