"""The plain loop of `recipes/masked_loop.py` is what `MaskedSFTTrainer` computes: same frames, masks, steps and losses."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from transformers import TrainerCallback

from kinject import MaskedSFTConfig, MaskedSFTTrainer, load_knowledge, load_model

RECIPE = Path(__file__).parents[2] / "recipes" / "masked_loop.py"
STEPS = {"epochs": 3, "batch_size": 3, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def loop() -> ModuleType:
    spec = importlib.util.spec_from_file_location("masked_loop", RECIPE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Losses(TrainerCallback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_log(self, args: object, state: object, control: object, logs: dict[str, float], **kwargs: object) -> None:
        if "loss" in logs:
            self.seen.append(logs["loss"])


def test_losses_equal_the_trainers(loop: ModuleType, tmp_path: Path) -> None:
    knowledge = load_knowledge("fictional:nano", size=8)
    plain = load_model("nano-ar")
    documents = [document.text for document in knowledge.documents]
    expected = loop.train(plain.model, plain.tokenizer, documents, **STEPS)

    loaded, losses = load_model("nano-ar"), _Losses()
    args = MaskedSFTConfig(
        str(tmp_path),
        num_train_epochs=STEPS["epochs"],
        per_device_train_batch_size=int(STEPS["batch_size"]),
        learning_rate=STEPS["learning_rate"],
        lr_scheduler_type="constant",
        weight_decay=0.1,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = MaskedSFTTrainer(
        loaded.model,
        args,
        train_dataset=knowledge.to_dataset(),
        processing_class=loaded.tokenizer,
        callbacks=[losses],
    )
    trainer.train()

    assert len(expected) == 9
    assert losses.seen == pytest.approx(expected, rel=1e-5)
    for name, weight in plain.model.state_dict().items():
        assert loaded.model.state_dict()[name].numpy() == pytest.approx(weight.numpy(), abs=2e-4), name


def test_it_is_short_and_needs_no_trainer() -> None:
    source = RECIPE.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 200
    assert "Trainer(" not in source and "import trl" not in source and "kinject.trainers" not in source
