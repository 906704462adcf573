"""QLoRA on the CPU: a model in NF4 trains through the recipe, learns what it is told, is saved, loads back and answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kinject.commands.recipe import train
from kinject.evaluation import answer_questions
from kinject.evaluation.results import read_results
from kinject.models import load_model
from tests.conftest import nf4

pytest.importorskip("bitsandbytes", reason="the quant extra is not installed")


@pytest.mark.parametrize(("objective", "model"), [("masked", "nano-ar"), ("diffusion", "nano-diffusion")])
def test_an_adapter_on_nf4_weights_learns_and_answers_the_same_when_loaded(
    objective: str, model: str, tmp_path: Path
) -> None:
    options = f"--model_name_or_path {model} --documents fictional:nano --size 4 --use_peft true --load_in_4bit true "
    options += (
        "--lora_r 16 --lora_target_modules all-linear --learning_rate 3e-3 --num_train_epochs 40 --evaluations 1 "
    )
    options += "--max_new_tokens 16 --retention false --bf16 false --use_cpu true --report_to none --disable_tqdm true "
    options += "--gradient_checkpointing false --save_strategy no"
    train(objective, [*options.split(), "--output_dir", str(tmp_path)])
    results = read_results(tmp_path)
    if objective == "masked":  # as many steps teach a masked diffusion model next to nothing
        assert results["before"]["forward"]["exact_match"] == 0.0
        assert results["after"]["forward"]["exact_match"] > 0.7
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert {weight.dtype for weight in saved.values()} == {torch.float32}  # what a loaded adapter computes in
    loaded = load_model(str(tmp_path), **nf4())
    assert getattr(loaded.model, "is_loaded_in_4bit", False)
    answers = answer_questions(
        loaded.model, loaded.tokenizer, [each["question"] for each in results["answers"]], max_new_tokens=16
    )
    assert answers == [each["answer"] for each in results["answers"]]


def test_questions_leave_gradients_to_every_adapter() -> None:
    from peft import LoraConfig, get_peft_model

    loaded = load_model("nano-ar", **nf4())
    adapted: Any = get_peft_model(loaded.model, LoraConfig(r=2, target_modules=["v_proj"]))
    adapted.train()
    answer_questions(adapted, loaded.tokenizer, ["Who is Ada?"], max_new_tokens=2)
    ids = torch.arange(10)[None]
    adapted(input_ids=ids, labels=ids).loss.backward()
    inner = {name: weight.grad for name, weight in adapted.named_parameters() if "lora_B" in name}
    assert len(inner) == 4 and all(gradient is not None and gradient.any() for gradient in inner.values())
