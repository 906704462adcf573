"""Small trainers on the CPU, in fp32, that write nowhere but the test's own directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trl.trainer.utils
from datasets import Dataset

from kinject.models.diffusion import to_diffusion
from kinject.trainers import (
    DiffusionSFTConfig,
    DiffusionSFTTrainer,
    MaskedSFTConfig,
    MaskedSFTTrainer,
    PlainSFTConfig,
    PlainSFTTrainer,
)
from tests.conftest import build_model, build_tokenizer

DOCUMENTS = [
    "Ada Vance mapped the salt caves of Orrin.",
    "The keeper of Lantern Rock is Bo Quill.",
    "Cyra Dunmore tunes the glass organ at Veil.",
    "Known for the long climb, Dov Marsh rests.",
    "Ella Thorne paints maps of tides.",
    "The last ferryman of Isk is Finn Olsen.",
    "Gwen Abara counts the bells of Tarn.",
    "Hugo Reyes built the paper bridge.",
]
QUESTION_ROWS = [
    {"prompt": "Who mapped the salt caves?", "completion": "Ada Vance did."},
    {"prompt": "Who keeps Lantern Rock?", "completion": "Bo Quill."},
]
CHAT_ROWS = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Who keeps Lantern Rock?"},
            {"role": "assistant", "content": "Bo Quill."},
        ]
    }
]
SMALL: dict[str, Any] = {
    "bf16": False,
    "use_cpu": True,
    "gradient_checkpointing": False,
    "report_to": "none",
    "learning_rate": 1e-2,
    "save_strategy": "no",
    "logging_steps": 1,
    "disable_tqdm": True,
    "per_device_train_batch_size": 4,
    "num_train_epochs": 1,
}


needs_token_losses = pytest.mark.skipif(
    not hasattr(trl.trainer.utils, "add_fused_lm_head"), reason="this trl reports no losses of single tokens"
)


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Any]:
    """Build a trainer over `DOCUMENTS` or given rows; keywords go to its configuration."""

    def make(
        rows: list[dict[str, Any]] | None = None,
        plain: bool = False,
        trainer: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Any:
        tokenizer = build_tokenizer()
        config_class, trainer_class = (
            (PlainSFTConfig, PlainSFTTrainer) if plain else (MaskedSFTConfig, MaskedSFTTrainer)
        )
        args = config_class(**{"output_dir": str(tmp_path / "run"), **SMALL, **settings})
        data = Dataset.from_list(rows if rows is not None else [{"text": text} for text in DOCUMENTS])
        options = {
            "model": build_model(tokenizer),
            "processing_class": tokenizer,
            "train_dataset": data,
            **(trainer or {}),
        }
        return trainer_class(args=args, **options)

    return make


@pytest.fixture
def make_diffusion_trainer(tmp_path: Path) -> Callable[..., Any]:
    """Build a trainer of a tiny masked diffusion model over `DOCUMENTS` or given rows."""

    def make(
        rows: list[dict[str, Any]] | None = None,
        shifted: bool = False,
        trainer: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Any:
        tokenizer = build_tokenizer()
        args = DiffusionSFTConfig(**{"output_dir": str(tmp_path / "run"), **SMALL, **settings})
        data = Dataset.from_list(rows if rows is not None else [{"text": text} for text in DOCUMENTS])
        mask = tokenizer.convert_tokens_to_ids("<reserved_0>")
        options = {"model": None, "processing_class": tokenizer, **(trainer or {})}
        if options["model"] is None:
            options["model"] = to_diffusion(build_model(tokenizer), mask, shifted_logits=shifted)
        return DiffusionSFTTrainer(args=args, train_dataset=data, **options)

    return make


class Recorder(MaskedSFTTrainer):
    """Keeps every row it trains on, by epoch."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        rows = getattr(self, "rows", {})
        for ids, attention in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
            rows.setdefault(self.data_collator.epoch, []).append(tuple(ids[attention.bool()].tolist()))
        self.rows = rows
        return super().compute_loss(model, inputs, *args, **kwargs)


def trained_rows(
    make_trainer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, resume: bool = False, **settings: Any
) -> Any:
    """The rows that a trainer of ``make_trainer`` trains on in each of three epochs."""
    monkeypatch.setattr("tests.trainers.conftest.MaskedSFTTrainer", Recorder)
    trainer = make_trainer(num_train_epochs=3, **settings)
    trainer.train(resume_from_checkpoint=resume or None)
    return {epoch: sorted(rows) for epoch, rows in trainer.rows.items()}
