"""Design invariants 1 and 2 through the trainer: masks are a pure function of (seed, epoch, sample)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from datasets import Dataset

from kinject.errors import ConfigurationError
from kinject.prompts.templates import resolve_mask_token
from tests.trainers.conftest import DOCUMENTS, trained_rows


def test_masks_do_not_depend_on_batch_accumulation_or_workers(
    make_trainer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = trained_rows(make_trainer, monkeypatch)
    assert set(reference) == {0, 1, 2}
    assert reference[0] != reference[1] != reference[2]
    for settings in (
        {"per_device_train_batch_size": 8},
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4},
        {"dataloader_num_workers": 2},
        {"dataloader_num_workers": 1, "dataloader_persistent_workers": True},
    ):
        assert trained_rows(make_trainer, monkeypatch, **settings) == reference, settings
    assert trained_rows(make_trainer, monkeypatch, seed=7) != reference


def test_a_resumed_run_draws_the_masks_it_would_have_drawn_and_ends_in_the_same_weights(
    make_trainer: Callable[..., Any], tmp_path: Any
) -> None:
    whole = make_trainer(num_train_epochs=4, save_strategy="steps", save_steps=3, output_dir=str(tmp_path / "whole"))
    whole.train()
    for step in (3, 6):  # in the middle and at the end of an epoch of two steps
        resumed = make_trainer(num_train_epochs=4, output_dir=str(tmp_path / "resumed"))
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        for (name, one), two in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
            assert torch.equal(one, two), name
        assert resumed.state.num_input_tokens_seen == whole.state.num_input_tokens_seen


def test_the_target_is_never_altered_and_only_the_copy_is_masked(make_trainer: Callable[..., Any]) -> None:
    trainer = make_trainer(mask_ratio="fixed(1)")
    tokenizer = trainer.processing_class
    mask = resolve_mask_token(tokenizer)
    for row in trainer.train_dataset:
        batch = trainer.data_collator([row])
        ids, labels = batch["input_ids"][0], batch["labels"][0]
        length = len(row["document_ids"])
        assert ids.eq(mask).sum() == length
        assert not labels.eq(mask).any()
        target = labels[labels != -100].tolist()
        assert target == [*row["document_ids"], tokenizer.eos_token_id]
        assert tokenizer.decode(target[:-1]) == DOCUMENTS[row["sample"]]


@pytest.mark.parametrize("loss_on", ["document", "masked"])
def test_collapsed_masks_shorten_the_copy_and_nothing_else(make_trainer: Callable[..., Any], loss_on: str) -> None:
    plain, collapsed = (
        make_trainer(loss_on=loss_on, mask_ratio="fixed(0.6)", collapse_masks=each) for each in (False, True)
    )
    mask = resolve_mask_token(plain.processing_class)
    shorter = 0
    for epoch in range(3):
        for row in plain.train_dataset:
            plain.data_collator.epoch = collapsed.data_collator.epoch = epoch
            one, other = plain.data_collator([row]), collapsed.data_collator([row])
            ids, labels = one["input_ids"][0].tolist(), one["labels"][0].tolist()
            stays = [index for index, token in enumerate(ids) if token != mask or ids[index - 1] != mask]
            assert other["input_ids"][0].tolist() == [ids[index] for index in stays]
            assert other["labels"][0].tolist() == [labels[index] for index in stays]
            assert torch.equal(one["mask_ratio"], other["mask_ratio"])
            shorter += len(stays) < len(ids)
    assert shorter == 3 * len(DOCUMENTS)


def test_masks_of_random_tokens_cannot_be_collapsed(make_trainer: Callable[..., Any]) -> None:
    with pytest.raises(ConfigurationError, match="^collapse_masks needs masks .* set --corruption mask.$"):
        make_trainer(corruption="random", collapse_masks=True)


def test_evaluation_masks_are_fixed_and_differ_from_training(make_trainer: Callable[..., Any]) -> None:
    data = Dataset.from_list([{"text": text} for text in DOCUMENTS])
    trainer = make_trainer(trainer={"eval_dataset": data}, mask_ratio="fixed(0.5)")
    first = trainer.evaluate()["eval_loss"]
    trainer.data_collator.epoch = 5
    assert trainer.evaluate()["eval_loss"] == first
    assert trainer.evaluate(eval_dataset=data)["eval_loss"] == first
    evaluation = trainer.data_collator([trainer.eval_dataset[0]])["input_ids"]
    trainer.data_collator.epoch = 0
    assert not torch.equal(evaluation, trainer.data_collator([trainer.train_dataset[0]])["input_ids"])


def test_one_ratio_a_batch_as_in_the_paper(make_trainer: Callable[..., Any]) -> None:
    rows = list(make_trainer(mask_ratio_per="batch").train_dataset)
    per_batch, per_sample = make_trainer(mask_ratio_per="batch"), make_trainer()
    ratios = per_sample.data_collator(rows)["mask_ratio"]
    assert len(set(ratios.tolist())) == len(rows)
    for order in (rows, rows[::-1]):  # the first sample's draw serves all, whatever stands behind it
        own = ratios[order[0]["sample"]]
        assert torch.equal(per_batch.data_collator(order)["mask_ratio"], own.expand(len(rows)))
