"""LoRA and QLoRA through `peft_config`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PromptTuningConfig

from kinject.errors import ConfigurationError
from tests.conftest import build_model, build_tokenizer
from tests.trainers.reference import reference_loss

LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def test_lora_trains_the_adapter_only_and_loads_back(make_trainer: Callable[..., Any], tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    base = tmp_path / "base"
    build_model(tokenizer).save_pretrained(base)
    trainer = make_trainer(
        trainer={"peft_config": LORA, "model": str(base), "processing_class": tokenizer}, num_train_epochs=5
    )
    batch = next(iter(trainer.get_train_dataloader()))
    expected = reference_loss(trainer.model, batch).item()
    assert trainer.compute_loss(trainer.model, dict(batch)).item() == pytest.approx(expected, abs=1e-5)
    frozen = {name: p.clone() for name, p in trainer.model.named_parameters() if not p.requires_grad}
    trainer.train()
    assert all(torch.equal(p, frozen[name]) for name, p in trainer.model.named_parameters() if name in frozen)
    trainer.save_model(str(tmp_path / "adapter"))
    loaded = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "adapter"))
    ids = batch["input_ids"][:1]
    trained = trainer.model.eval()(input_ids=ids).logits
    torch.testing.assert_close(loaded.eval()(input_ids=ids).logits, trained, atol=1e-5, rtol=0)
    with loaded.disable_adapter():
        assert not torch.allclose(loaded(input_ids=ids).logits, trained, atol=1e-3)


def test_lora_targets_that_match_nothing_are_refused(make_trainer: Callable[..., Any]) -> None:
    nowhere = LoraConfig(target_modules=["nowhere_proj"], task_type="CAUSAL_LM")
    with pytest.raises(ConfigurationError, match=r"lora_target_modules \['nowhere_proj'\] match no module"):
        make_trainer(trainer={"peft_config": nowhere})
    pattern = LoraConfig(target_modules="q_proj", task_type="CAUSAL_LM")  # a whole path is no q_proj
    with pytest.raises(ConfigurationError, match=r"lora_target_modules 'q_proj' \(alone, a regular expression\) match"):
        make_trainer(trainer={"peft_config": pattern})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": ["lm_head"]}, "the output head, lm_head: .*add --lora_modules_to_save lm_head"),
        ({"target_modules": ["q_proj", "lm_head"]}, "the output head, lm_head"),
        ({"target_modules": "lm_head"}, "the output head, lm_head"),
        ({"target_modules": ".*(q_proj|head)"}, "the output head, lm_head"),
        (
            {"target_modules": "*q_proj"},
            r"lora_target_modules '\*q_proj' \(alone, a regular expression\) cannot be read",
        ),
        ({"target_modules": ["q_proj", "qproj"]}, r"lora_target_modules \['qproj'\] match no module.*It has: .*q_proj"),
        ({"target_modules": ["layers.0", "v_proj"]}, "lora_target_modules cannot be adapted: Target module Llama"),
        (
            {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["lm_head", "head"]},
            r"lora_modules_to_save \['head'\] match no module.*lm_head",
        ),
    ],
)
def test_modules_that_no_adapter_can_be_trained_on_are_refused(
    make_trainer: Callable[..., Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_trainer(trainer={"peft_config": LoraConfig(task_type="CAUSAL_LM", **settings)})


@pytest.mark.parametrize("target", ["lm_head", "nowhere"])
def test_they_are_refused_in_a_model_that_is_named_by_its_path(
    make_trainer: Callable[..., Any], tmp_path: Path, target: str
) -> None:
    tokenizer = build_tokenizer()
    build_model(tokenizer).save_pretrained(tmp_path / "base")
    config = LoraConfig(target_modules=["q_proj", target], task_type="CAUSAL_LM")
    model = {"peft_config": config, "model": str(tmp_path / "base"), "processing_class": tokenizer}
    with pytest.raises(ConfigurationError, match=rf"lora_target_modules .*{target}"):
        make_trainer(trainer=model)


@pytest.mark.parametrize("tied", [False, True])
def test_the_head_is_learned_in_full_beside_an_adapter(make_trainer: Callable[..., Any], tied: bool) -> None:
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    model.config.tie_word_embeddings = tied
    model.tie_weights()
    config = LoraConfig(target_modules=["q_proj", "lm_head"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    trainer = make_trainer(trainer={"model": model, "processing_class": tokenizer, "peft_config": config})
    head = trainer.model.get_output_embeddings().weight
    assert head.requires_grad
    before, embeddings = head.detach().clone(), trainer.model.get_input_embeddings().weight.detach().clone()
    trainer.train()
    assert not torch.equal(head, before)
    assert torch.equal(trainer.model.get_input_embeddings().weight, embeddings)


def test_prompt_learning_is_refused(make_trainer: Callable[..., Any]) -> None:
    prompt_tuning = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    with pytest.raises(ConfigurationError, match="virtual tokens"):
        make_trainer(trainer={"peft_config": prompt_tuning})


def test_qlora_trains_a_model_in_nf4(make_trainer: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    tokenizer = build_tokenizer()
    build_model(tokenizer).save_pretrained(tmp_path / "base")
    quantized = AutoModelForCausalLM.from_pretrained(
        tmp_path / "base",
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
        ),
        device_map={"": "cpu"},
    )
    trainer = make_trainer(trainer={"peft_config": LORA, "model": quantized}, num_train_epochs=8)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    trainer.save_model(str(tmp_path / "adapter"))
    loaded = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "adapter"))
    assert any(p.abs().sum() > 0 for name, p in loaded.named_parameters() if "lora_B" in name)
