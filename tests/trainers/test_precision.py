"""No update is lost in silence: 16-bit weights that learn in full are refused, and adapters stay fp32 on a 16-bit base."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from kinject.commands.recipe import parse_training
from kinject.errors import ConfigurationError
from kinject.trainers import MaskedSFTConfig
from kinject.trainers.document_config import require_updates
from tests.conftest import build_model, build_tokenizer
from tests.trainers.conftest import SMALL


def in_bf16() -> dict[str, Any]:
    tokenizer = build_tokenizer()
    return {"model": build_model(tokenizer).to(torch.bfloat16), "processing_class": tokenizer}


def test_what_is_said_to_be_lost_is_lost(make_trainer: Callable[..., Any]) -> None:
    """The share in the message is that of a step of torch's own AdamW."""
    model = in_bf16()["model"]
    before = [weight.detach().clone() for weight in model.parameters()]
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator).to(weight.dtype)
    torch.optim.AdamW(model.parameters(), lr=5e-6, weight_decay=0.0).step()
    pairs = list(zip(before, model.parameters(), strict=True))
    lost = sum(int((old == new).sum()) for old, new in pairs) / sum(old.numel() for old, _ in pairs)
    assert lost > 0.8
    with pytest.raises(ConfigurationError, match="the weights are bfloat16 and all learn in it") as refused:
        make_trainer(trainer=in_bf16(), learning_rate=5e-6)
    said = float(str(refused.value).partition("rounded away in ")[2].partition("%")[0]) / 100
    assert said == pytest.approx(lost, abs=0.02)
    assert "--dtype float32" in str(refused.value) and "--use_peft true" in str(refused.value)


def test_a_rate_at_which_nearly_all_weights_move_warns(make_trainer: Callable[..., Any]) -> None:
    with pytest.warns(UserWarning, match="rounded away in .*and in more of them as the rate falls"):
        make_trainer(trainer=in_bf16(), learning_rate=1e-2)


def test_fp32_weights_and_an_optimizer_that_keeps_the_rest_are_taken() -> None:
    args = MaskedSFTConfig("run", **{**SMALL, "learning_rate": 5e-6})
    kahan = MaskedSFTConfig("run", **SMALL, optim="adamw_anyprecision", optim_args="use_kahan_summation=True")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        require_updates(build_model(build_tokenizer()), args)
        require_updates(in_bf16()["model"], kahan)


def test_adapters_on_a_16_bit_base_are_fp32_and_learn(make_trainer: Callable[..., Any]) -> None:
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], modules_to_save=["embed_tokens"], task_type="CAUSAL_LM")
    trainer = make_trainer(trainer={**in_bf16(), "peft_config": lora}, bf16=True, learning_rate=1e-3, max_steps=3)
    weights = dict(trainer.model.named_parameters())
    kinds = {weight.requires_grad: weight.dtype for weight in weights.values()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    trainer.train()
    for name, weight in weights.items():
        assert torch.equal(weight, before[name]) != weight.requires_grad, name


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ("--use_peft true --bf16 true", "bfloat16"),
        ("--use_peft true --bf16 false", "float32"),
        ("--use_peft true --bf16 true --dtype float32", "float32"),
        ("--bf16 true", "float32"),
    ],
)
def test_a_frozen_base_is_loaded_in_what_is_computed(
    options: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kinject.commands.inject import load_for_training, settle_dtype

    given = ["--model_name_or_path", "nano-ar", "--output_dir", str(tmp_path), "--use_cpu", "true", *options.split()]
    _, args, model_args = parse_training("masked", [*given, "--report_to", "none"])
    settle_dtype(model_args, args)
    assert model_args.dtype == dtype
    assert load_for_training(model_args, args).model.dtype == getattr(torch, dtype)
    if dtype == "bfloat16":  # FSDP wants the weights of a group in one precision
        model_args.dtype = None
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
        settle_dtype(model_args, args)
        assert model_args.dtype == "float32"
