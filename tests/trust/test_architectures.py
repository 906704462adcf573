"""Models of the real world: one masked step, one answer, saved and loaded again, or refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from kinject.errors import ConfigurationError
from kinject.evaluation import answer_questions
from kinject.models import load_model
from kinject.trainers import DiffusionSFTConfig, DiffusionSFTTrainer, MaskedSFTConfig, MaskedSFTTrainer
from tests.conftest import build_tokenizer
from tests.models.architectures import ARCHITECTURES, random_model
from tests.models.llada_checkpoint import write_checkpoint
from tests.trainers.conftest import DOCUMENTS, SMALL


def trained(model: Any, tokenizer: PreTrainedTokenizerFast, directory: Path, **settings: Any) -> MaskedSFTTrainer:
    """A masked trainer that has taken one step, and saved what came of it."""
    args = MaskedSFTConfig(str(directory), **{**SMALL, "max_steps": 1, **settings})
    rows = Dataset.from_list([{"text": text} for text in DOCUMENTS])
    trainer = MaskedSFTTrainer(model, args, train_dataset=rows, processing_class=tokenizer)
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    assert any(not torch.equal(before[name], weight) for name, weight in trainer.model.named_parameters())
    trainer.save_model()
    return trainer


def answers_alike(trainer: Any, directory: Path) -> None:
    """What was saved answers as what was trained, and one question as in a batch."""
    questions = ["Who mapped the salt caves?", "Who?"]
    expected = answer_questions(trainer.model, trainer.processing_class, questions, max_new_tokens=6)
    loaded = load_model(str(directory))
    assert answer_questions(loaded.model, loaded.tokenizer, questions, max_new_tokens=6) == expected
    assert answer_questions(loaded.model, loaded.tokenizer, questions[1:], max_new_tokens=6) == expected[1:]


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_takes_a_step_answers_and_comes_back(name: str, tied: bool, tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    model = random_model(name, tokenizer, tied=tied)
    shared = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert shared == tied
    answers_alike(trained(model, tokenizer, tmp_path), tmp_path)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma"])
@pytest.mark.parametrize("kind", ["pad_is_eos", "no_pad", "no_bos", "no_template", "large_vocabulary"])
def test_every_tokenizer_takes_a_step_answers_and_comes_back(name: str, kind: str, tmp_path: Path) -> None:
    tokenizer = build_tokenizer(chat_template=None) if kind == "no_template" else build_tokenizer()
    if kind == "pad_is_eos":
        tokenizer.pad_token = tokenizer.eos_token
    elif kind == "no_pad":
        tokenizer.pad_token = None
    elif kind == "no_bos":
        tokenizer.bos_token = None
    model = random_model(name, tokenizer, spare=27 if kind == "large_vocabulary" else 0)
    rows = model.get_input_embeddings().weight.shape[0]
    trainer = trained(model, tokenizer, tmp_path)
    assert trainer.model.get_input_embeddings().weight.shape[0] == rows  # the vocabulary is never resized
    answers_alike(trainer, tmp_path)


@pytest.mark.parametrize("kind", ["pad_is_eos", "no_pad"])
def test_the_end_of_a_turn_is_learned_where_it_also_pads(kind: str, tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token if kind == "pad_is_eos" else None
    trainer = trained(random_model("llama", tokenizer), tokenizer, tmp_path)
    batch = trainer.data_collator([trainer.train_dataset[0], trainer.train_dataset[3]])
    for row, seen in zip(batch["labels"], batch["attention_mask"], strict=True):
        assert row[seen.bool()][-1] == tokenizer.eos_token_id
        assert (row[~seen.bool()] == -100).all()


def test_a_checkpoint_in_lladas_layout_takes_a_step_answers_and_comes_back(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "base", max_sequence_length=512)
    loaded = load_model(str(tmp_path / "base"), dtype="float32")
    args = DiffusionSFTConfig(str(tmp_path / "run"), **{**SMALL, "max_steps": 1})
    rows = Dataset.from_list([{"text": text} for text in DOCUMENTS])
    trainer = DiffusionSFTTrainer(loaded.model, args, train_dataset=rows, processing_class=loaded.tokenizer)
    trainer.train()
    trainer.save_model()
    answers_alike(trainer, tmp_path / "run")


def test_a_tokenizer_without_an_end_of_text_is_refused(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(chat_template=None)
    model = random_model("llama", tokenizer)
    tokenizer.eos_token = None
    with pytest.raises(ConfigurationError, match="eos_token"):
        trained(model, tokenizer, tmp_path)


def test_a_token_that_the_model_has_no_embedding_for_is_refused(tmp_path: Path) -> None:
    model = random_model("llama", build_tokenizer())
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["Orrin"])
    with pytest.raises(
        ConfigurationError, match=r"row 0 of the train data set holds the token 'Orrin' \(id 261\), for which"
    ):
        trained(model, tokenizer, tmp_path)


def test_a_chat_frame_that_the_model_has_no_embedding_for_is_refused(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(extra_tokens=())
    model = random_model("llama", build_tokenizer(chat_template=None, extra_tokens=()), spare=-1)  # no <|im_start|>
    with pytest.raises(ConfigurationError, match=r"the prompt around documents holds the token '<\|im_start\|>'"):
        trained(model, tokenizer, tmp_path, corruption="random")
