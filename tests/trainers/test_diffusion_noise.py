"""What may be hidden and what may not, around documents and in answers; the noise as a pure function of the sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from datasets import Dataset

from kinject.errors import ConfigurationError, DataError
from kinject.trainers import DiffusionSFTConfig, DiffusionSFTTrainer, MaskedSFTConfig, MaskedSFTTrainer, PlainSFTTrainer
from kinject.trainers.plain_trainer import PlainSFTConfig
from tests.conftest import build_model, build_tokenizer
from tests.trainers.conftest import CHAT_ROWS, DOCUMENTS, QUESTION_ROWS, SMALL

Make = Callable[..., Any]


def _row(trainer: Any, index: int = 0) -> dict[str, torch.Tensor]:
    return {key: value[0] for key, value in trainer.data_collator([trainer.train_dataset[index]]).items()}


def test_a_raw_document_stands_between_begin_and_end(make_diffusion_trainer: Make) -> None:
    trainer = make_diffusion_trainer(mask_ratio="fixed(0)", normalize="paper")
    text = trainer.processing_class.decode(_row(trainer)["input_ids"])
    assert text == f"<|bos|>{DOCUMENTS[0]}<|im_end|>"
    chat = make_diffusion_trainer(mask_ratio="fixed(0)", normalize="paper", frame="chat")
    text = chat.processing_class.decode(_row(chat)["input_ids"])
    assert text.endswith(f"Tell me a fact.<|im_end|>\n<|im_start|>assistant\n{DOCUMENTS[0]}<|im_end|>")


@pytest.mark.parametrize("settings", [{}, {"frame": "chat"}, {"rows": QUESTION_ROWS}, {"rows": CHAT_ROWS}])
def test_document_and_end_are_hidden_and_learned_and_nothing_before_them(
    make_diffusion_trainer: Make, settings: dict[str, Any]
) -> None:
    trainer = make_diffusion_trainer(mask_ratio="fixed(1)", **settings)
    tokenizer, mask = trainer.processing_class, trainer.model.config.mask_token_id
    for index, row in enumerate(trainer.train_dataset):
        batch = _row(trainer, index)
        answer = [*row["document_ids"], tokenizer.eos_token_id]
        assert batch["labels"][batch["labels"] != -100].tolist() == answer
        assert batch["maskable"] == len(answer)
        assert batch["input_ids"][-len(answer) :].eq(mask).all()
        assert not batch["input_ids"][: -len(answer)].eq(mask).any() and len(batch["input_ids"]) > len(answer)


def test_labels_are_the_hidden_tokens_and_the_rest_is_left_as_it_was(make_diffusion_trainer: Make) -> None:
    trainer = make_diffusion_trainer(mask_ratio="fixed(0.5)")
    clean = make_diffusion_trainer(mask_ratio="fixed(0)", normalize="paper")
    for index in range(len(DOCUMENTS)):
        batch, original = _row(trainer, index), _row(clean, index)["input_ids"]
        hidden = batch["input_ids"] == trainer.model.config.mask_token_id
        assert 0 < hidden.sum() < len(hidden)
        assert torch.equal(batch["labels"] != -100, hidden)
        assert torch.equal(batch["labels"][hidden], original[hidden])
        assert torch.equal(batch["input_ids"][~hidden], original[~hidden])


def test_a_row_is_noised_alone_as_in_any_batch(make_diffusion_trainer: Make) -> None:
    trainer = make_diffusion_trainer()
    rows = list(trainer.train_dataset)
    together = trainer.data_collator(rows)
    for index, row in enumerate(rows):
        alone = trainer.data_collator([row])
        length = alone["input_ids"].size(1)
        assert torch.equal(alone["input_ids"][0], together["input_ids"][index, :length])
        assert torch.equal(alone["labels"][0], together["labels"][index, :length])
        assert not together["attention_mask"][index, length:].any() and alone["attention_mask"].all()
        assert together["labels"][index, length:].eq(-100).all()


class _Recorder(DiffusionSFTTrainer):
    """Keeps every noised row it trains on, by epoch."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self.rows = getattr(self, "rows", {})
        for ids, attention in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
            self.rows.setdefault(self.data_collator.epoch, []).append(tuple(ids[attention.bool()].tolist()))
        return super().compute_loss(model, inputs, *args, **kwargs)


def test_noise_depends_on_seed_epoch_and_sample_only(
    make_diffusion_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.trainers.conftest.DiffusionSFTTrainer", _Recorder)

    def rows(**settings: Any) -> Any:
        trainer = make_diffusion_trainer(num_train_epochs=2, **settings)
        trainer.train()
        return {epoch: sorted(rows) for epoch, rows in trainer.rows.items()}

    reference = rows()
    assert set(reference) == {0, 1} and reference[0] != reference[1]
    assert rows(per_device_train_batch_size=1, gradient_accumulation_steps=4) == reference
    assert rows(per_device_train_batch_size=8, dataloader_num_workers=1) == reference
    assert rows(seed=7) != reference


def test_a_resumed_run_ends_in_the_same_weights(make_diffusion_trainer: Make, tmp_path: Any) -> None:
    options = {"num_train_epochs": 4, "save_strategy": "steps", "save_steps": 3}
    whole = make_diffusion_trainer(output_dir=str(tmp_path / "whole"), **options)
    whole.train()
    resumed = make_diffusion_trainer(output_dir=str(tmp_path / "resumed"), num_train_epochs=4)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    for (name, one), two in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, two), name


def test_end_padding_is_seen_and_learned(make_diffusion_trainer: Make) -> None:
    trainer = make_diffusion_trainer(end_padding=True, mask_ratio="fixed(1)")
    batch = trainer.data_collator(list(trainer.train_dataset))
    end = trainer.processing_class.eos_token_id
    assert batch["attention_mask"].all()
    assert batch["input_ids"][:, 1:].eq(trainer.model.config.mask_token_id).all()
    for row, labels, maskable in zip(trainer.train_dataset, batch["labels"], batch["maskable"], strict=True):
        length = len(row["document_ids"])
        assert labels[1:].tolist() == row["document_ids"] + [end] * (len(labels) - 1 - length)
        assert maskable == len(labels) - 1


def test_end_padding_leaves_the_noise_of_the_document_as_it_was(make_diffusion_trainer: Make) -> None:
    settings = {"mask_ratio": "fixed(0.5)"}
    padded, plain = make_diffusion_trainer(end_padding=True, **settings), make_diffusion_trainer(**settings)
    rows = list(plain.train_dataset)
    one, other = padded.data_collator(rows), plain.data_collator(rows)
    visible = other["attention_mask"].bool()
    assert torch.equal(one["input_ids"][visible], other["input_ids"][visible])
    tail = one["input_ids"][~visible]
    assert set(tail.tolist()) == {padded.model.config.mask_token_id, padded.processing_class.eos_token_id}
    assert torch.equal(padded.data_collator(rows)["input_ids"], one["input_ids"])
    plain.data_collator.epoch = padded.data_collator.epoch = 1
    assert not torch.equal(padded.data_collator(rows)["input_ids"][~visible], tail)


def test_a_causal_model_is_refused_with_the_fix(make_diffusion_trainer: Make) -> None:
    causal = build_model(build_tokenizer())
    with pytest.raises(ConfigurationError, match="the model is causal .* to_diffusion"):
        make_diffusion_trainer(trainer={"model": causal})


def test_a_causal_model_is_turned_into_a_diffusion_model_on_demand(make_diffusion_trainer: Make) -> None:
    trainer = make_diffusion_trainer(trainer={"model": build_model(build_tokenizer())}, to_diffusion=True)
    config = trainer.model.config
    assert (config.is_causal, config.shifted_logits) == (False, True)
    assert config.mask_token_id == trainer.processing_class.convert_tokens_to_ids("<reserved_0>")
    trainer = make_diffusion_trainer(to_diffusion=True)
    assert trainer.model.config.shifted_logits is False  # it was a diffusion model already


def test_a_model_without_mask_token_is_refused(make_diffusion_trainer: Make) -> None:
    model = build_model(build_tokenizer())
    model.config.is_causal = False
    with pytest.raises(ConfigurationError, match="no mask_token_id"):
        make_diffusion_trainer(trainer={"model": model})


@pytest.mark.parametrize("config, trainer", [(MaskedSFTConfig, MaskedSFTTrainer), (PlainSFTConfig, PlainSFTTrainer)])
def test_an_autoregressive_objective_refuses_a_diffusion_model(
    make_diffusion_trainer: Make, tmp_path: Any, config: Any, trainer: Any
) -> None:
    model = make_diffusion_trainer().model
    with pytest.raises(ConfigurationError, match="masked diffusion model.*Train it with DiffusionSFTTrainer"):
        trainer(
            model,
            config(str(tmp_path), **SMALL),
            train_dataset=Dataset.from_list([{"text": "One."}]),
            processing_class=build_tokenizer(),
        )


@pytest.mark.parametrize("row", [{"text": "A B C."}, {"prompt": "A B C?", "completion": "Yes."}])
def test_a_text_with_the_mask_token_is_refused(make_diffusion_trainer: Make, row: dict[str, str]) -> None:
    trainer = make_diffusion_trainer()
    letter = trainer.processing_class.convert_tokens_to_ids("B")
    trainer.model.config.mask_token_id = letter
    with pytest.raises(DataError, match=f"row 1 of the train data set holds the mask token .id {letter}"):
        make_diffusion_trainer(rows=[{key: "Z." for key in row}, row], trainer={"model": trainer.model})


def test_a_spelled_out_mask_token_stays_ordinary_text(make_diffusion_trainer: Make) -> None:
    trainer = make_diffusion_trainer(rows=[{"text": "It reads <reserved_0>."}])
    assert trainer.model.config.mask_token_id not in trainer.train_dataset[0]["document_ids"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"normalize": "token"}, "normalize is 'token'; expected one of maskable, sequence, paper"),
        ({"frame": "poem"}, "frame is 'poem'; expected one of raw, chat"),
        ({"mask_unit": "letter"}, "mask_unit is 'letter'"),
        ({"mask_ratio_per": "epoch"}, "mask_ratio_per is 'epoch'"),
        ({"mask_ratio": "uniform(0, 2)"}, "high is 2.0"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor"),
        ({"loss_type": "dft"}, "loss_type dft"),
    ],
)
def test_unusable_settings_are_named(tmp_path: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        DiffusionSFTConfig(str(tmp_path), **SMALL, **settings)


@pytest.mark.parametrize("name", ["compute_metrics", "compute_loss_func"])
def test_what_needs_the_logits_of_a_document_is_refused(make_diffusion_trainer: Make, name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is not supported.*QuestionAnsweringCallback"):
        make_diffusion_trainer(trainer={name: lambda *given: {}})
