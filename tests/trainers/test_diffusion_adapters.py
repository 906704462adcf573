"""LoRA on masked diffusion models: trained, saved with how the model is called, loaded back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from kinject.models import load_model
from kinject.models.diffusion import diffusion_settings, is_diffusion, to_diffusion
from tests.conftest import build_model, build_tokenizer
from tests.trainers.conftest import DOCUMENTS
from tests.trainers.reference import diffusion_reference_loss

LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


@pytest.fixture(params=["diffusion", "causal"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A saved model, already a diffusion model or still to be made one."""
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    if request.param == "diffusion":
        model = to_diffusion(model, int(tokenizer.convert_tokens_to_ids("<reserved_0>")))
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def test_an_adapter_is_trained_and_loads_back_as_the_diffusion_model_it_was(
    make_diffusion_trainer: Callable[..., Any], tmp_path: Path, base: str
) -> None:
    options = {"model": base, "peft_config": LORA}
    trainer = make_diffusion_trainer(
        trainer=options, to_diffusion=True, num_train_epochs=4, save_strategy="steps", save_steps=4
    )
    batch = trainer.data_collator(list(trainer.train_dataset))
    answers = [[*row["document_ids"], trainer.processing_class.eos_token_id] for row in trainer.train_dataset]
    expected = diffusion_reference_loss(trainer.model, batch, answers, "maskable", shifted=True).item()
    assert trainer.compute_loss(trainer.model, dict(batch)).item() == pytest.approx(expected, rel=1e-5)
    frozen = {name: p.clone() for name, p in trainer.model.named_parameters() if not p.requires_grad}
    trainer.train()
    assert all(torch.equal(p, frozen[name]) for name, p in trainer.model.named_parameters() if name in frozen)
    trainer.save_model(str(tmp_path / "adapter"))
    ids = batch["input_ids"][:1, :20]
    trained = trainer.model.eval()(input_ids=ids).logits
    for folder in (tmp_path / "adapter", tmp_path / "run" / "checkpoint-8"):
        loaded = load_model(str(folder))
        assert is_diffusion(loaded.model)
        assert diffusion_settings(loaded.model) == diffusion_settings(trainer.model)
        torch.testing.assert_close(loaded.model.eval()(input_ids=ids).logits, trained, atol=1e-5, rtol=0)
    earlier = tmp_path / "run" / "checkpoint-4"
    assert json.loads((earlier / "diffusion.json").read_text())["shifted_logits"] is True


def test_a_whole_model_loads_back_by_its_configuration(
    make_diffusion_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    trainer = make_diffusion_trainer(num_train_epochs=2)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    assert not (tmp_path / "saved" / "diffusion.json").exists()
    loaded = load_model(str(tmp_path / "saved"))
    ids = loaded.tokenizer(DOCUMENTS[0], return_tensors="pt")["input_ids"]
    torch.testing.assert_close(loaded.model(input_ids=ids).logits, trainer.model.eval()(input_ids=ids).logits)
    again = make_diffusion_trainer(trainer={"model": str(tmp_path / "saved"), "processing_class": None})
    assert again.processing_class.decode(again.train_dataset[0]["document_ids"]) == DOCUMENTS[0]
