"""What a run takes is computed before it begins, and is what it then takes; what cannot fit is refused with what would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
from trl.trainer.utils import add_fused_lm_head

from kinject.models.devices import Plan, activations, adapter_weights, alternatives, needed, sizes
from kinject.models.weights import flops_per_token, parameter_count
from tests.trainers.conftest import needs_token_losses

ROOT = Path(__file__).parents[2]
SHAPE: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LLAMA_8B = LlamaConfig(
    vocab_size=128_256,
    hidden_size=4096,
    intermediate_size=14_336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
)


@pytest.mark.parametrize("tied", [False, True])
def test_sizes_are_those_of_the_model_that_is_built(tied: bool) -> None:
    config = LlamaConfig(**SHAPE, tie_word_embeddings=tied)
    found, model = sizes(config), LlamaForCausalLM(config)
    assert found.parameters == parameter_count(model)
    assert found.flops_per_token() == pytest.approx(flops_per_token(model), rel=0.01)
    for modules in (["q_proj", "v_proj"], "all-linear"):
        adapted: Any = get_peft_model(
            LlamaForCausalLM(config), LoraConfig(r=8, target_modules=modules, task_type="CAUSAL_LM")
        )
        trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
        assert adapter_weights(found, 8, modules) == trained
        assert found.flops_per_token(trained) == pytest.approx(flops_per_token(adapted), rel=0.02)


def test_any_configuration_will_do() -> None:
    from transformers import GPT2Config, Qwen3MoeConfig

    assert sizes(LLAMA_8B).parameters == pytest.approx(8.03e9, rel=1e-3)
    assert sizes(GPT2Config()).parameters == pytest.approx(124e6, rel=0.01)
    moe = Qwen3MoeConfig(
        vocab_size=512,
        hidden_size=64,
        num_hidden_layers=2,
        num_experts=8,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
    )
    assert sizes(moe).intermediate == 64


@needs_token_losses
@pytest.mark.parametrize(
    ("half", "lora"), [(False, False), (True, False), (True, True)], ids=["fp32", "autocast", "adapter on bf16"]
)
def test_what_the_backward_pass_needs_is_counted(half: bool, lora: bool) -> None:
    model: Any = LlamaForCausalLM(LlamaConfig(**SHAPE)).to(torch.bfloat16 if lora else torch.float32)
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    if lora:
        model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.train()
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    of_weights = {tuple(weight.shape) for weight in model.parameters()}
    of_weights |= {shape[::-1] for shape in of_weights}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and tuple(tensor.shape) not in of_weights:
            kept[storage.data_ptr()] = tensor
        return tensor

    ids = torch.randint(512, (8, 60))
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        model(input_ids=ids, shift_labels=ids, fused_lm_head=True)
    found = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    plan = Plan(tokens=480, scored=0, half=half, adapter=1 if lora else None, weight_bytes=2 if lora else 4)
    head = 4 * 512 * 128 if half and not lora else 0
    assert activations(sizes(LlamaConfig(**SHAPE)), plan) - head == pytest.approx(found, rel=0.1)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read where Linux keeps them")
def test_a_training_run_on_the_processor_takes_what_was_computed(tmp_path: Path) -> None:
    """A step of the masked trainer, in a process of its own whose freed memory goes back to the system."""
    program = f"""
import json, sys
sys.path.insert(0, "recipes/benchmarks")
from measuring import Peak
import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM
from kinject.models.devices import Plan, needed, sizes
from kinject.trainers import MaskedSFTConfig, MaskedSFTTrainer
from tests.conftest import build_tokenizer
config = LlamaConfig(vocab_size=512, hidden_size=512, intermediate_size=2048, num_hidden_layers=8, num_attention_heads=8,
                     num_key_value_heads=4)
def run(model, steps):
    args = MaskedSFTConfig({str(tmp_path)!r}, max_steps=steps, per_device_train_batch_size=4, use_cpu=True, bf16=False,
                           gradient_checkpointing=False, report_to="none", save_strategy="no", disable_tqdm=True)
    data = Dataset.from_dict({{"text": ["Ada Vance mapped the salt caves of Orrin, and wrote them all down. " * 2] * 4}})
    trainer = MaskedSFTTrainer(model, args, train_dataset=data, processing_class=build_tokenizer())
    trainer.train()
    return trainer.data_collator([trainer.train_dataset[i] for i in range(4)])["input_ids"].numel()
tiny = LlamaConfig(vocab_size=512, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1)
run(LlamaForCausalLM(tiny), 1)  # what the libraries load on the way is no part of a run
peak = Peak()
with peak.watch():
    tokens = run(LlamaForCausalLM(config), 2)
need = needed(sizes(config), Plan(tokens=tokens, scored=tokens // 2, half=False))
print(json.dumps({{"measured": peak.bytes, "computed": need.device, "activations": need.parts["activations"]}}))
"""
    environment = {"MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["computed"] == pytest.approx(found["measured"], rel=0.1)
    assert found["activations"] > 0.1 * found["measured"]  # which are then proved, too


def test_each_strategy_counts_what_it_shards() -> None:
    model = sizes(LLAMA_8B)
    n = model.parameters

    def parts(**changes: Any) -> dict[str, float]:
        return needed(model, replace(Plan(tokens=0), **changes)).parts

    alone = parts()
    assert (alone["weights"], alone["gradients"], alone["optimizer"]) == (4 * n, 4 * n, 8 * n)
    assert alone["copies"] == 2 * model.multiplied
    assert parts(processes=8) == alone  # DDP: gradients lie in the buckets
    assert parts(strategy="zero2", processes=4)["optimizer"] == pytest.approx(12 * n / 4)
    assert needed(model, Plan(strategy="zero3_offload", processes=4, tokens=0)).host == pytest.approx(18 * n)
    eight_bits = parts(optimizer="adamw_bnb_8bit")["optimizer"]
    assert 2 * n < eight_bits == pytest.approx(2 * n + 6 * model.embedding)
    lora = parts(adapter=10**7, weight_bytes=2.0)
    assert lora["weights"] == 2 * n and lora["gradients"] == 4 * 10**7 and lora["copies"] == 0
    assert parts(adapter=10**7, weight_bytes=0.5625)["weights"] < 0.8 * n
    for strategy in ("ddp", "zero1", "zero2", "zero3", "zero3_offload", "fsdp2"):
        needs = [needed(model, Plan(strategy=strategy, processes=count, tokens=4096)).device for count in (1, 2, 4, 8)]
        assert needs == sorted(needs, reverse=True)
    assert parts(anchored=True)["untrained"] == 6 * n and "untrained" not in parts(anchored=True, adapter=1)
    assert needed(model, Plan(checkpointing=True)).device < needed(model, Plan()).device
    assert needed(model, Plan(answers=1_000_000)).device > needed(model, Plan()).device


def test_what_would_fit_is_named_the_nearest_first() -> None:
    model = sizes(LLAMA_8B)
    ways = dict(alternatives(model, Plan(tokens=2048, processes=1), 0.9 * 141e9))
    assert next(iter(ways)) == "--optim adamw_bnb_8bit" and "--use_peft true" in ways
    assert not any("zero2" in how for how in ways)  # of one process there is nothing to share
    ways = dict(alternatives(model, Plan(tokens=2048, processes=4), 0.9 * 80e9))
    assert "--config_file deepspeed_configs/zero2.yaml" in ways
    assert list(alternatives(model, Plan(), 1e9)) == []
