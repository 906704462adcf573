"""What several tests of this folder, and the processes that they start, ask and train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from kinject.data import Question
from kinject.models.diffusion import to_diffusion
from tests.conftest import build_model, build_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import LlamaForCausalLM

QUESTION_TEXTS = [
    "Who is Ada?",
    "q",
    "Where does the tall baker of Ravenna live, and why?",
    "Ünï?",
    "Who is Bob?",
    "Two?",
]
QUESTIONS = (
    Question("Who is Ada?", "the first programmer", "forward", group="A", task="N2D"),
    Question("Who is the first programmer?", "Ada", "backward", group="A", task="D2N"),
)
VALIDATION = (
    Question("Tell me of Ada.", "the first programmer", "forward", group="A", task="N2D"),
    Question("Who wrote the first program?", "Ada", "backward", group="A", task="D2N"),
)
TOKENIZER = build_tokenizer(extra_tokens=("<reserved_0>", "<|endoftext|>"))
MASK = TOKENIZER.convert_tokens_to_ids("<reserved_0>")


def build_diffusion() -> Any:
    """Sharper than at initialization, so that its answers differ from question to question and some end early."""
    model = build_model(TOKENIZER, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(12)
        model.lm_head.weight[[TOKENIZER.eos_token_id, TOKENIZER.pad_token_id]] *= 3
    return to_diffusion(model, MASK, shifted_logits=False).eval()


def make_trainer(
    model: LlamaForCausalLM, output_dir: Path, callbacks: list[TrainerCallback], steps: int = 8, **settings: Any
) -> Trainer:
    ids = torch.arange(40).reshape(8, 5) % 250
    rows = [{"input_ids": row.tolist(), "attention_mask": [1] * 5, "labels": row.tolist()} for row in ids]
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        save_strategy="no",
        seed=0,
        **settings,
    )
    return Trainer(model=model, args=arguments, train_dataset=Dataset.from_list(rows), callbacks=callbacks)
