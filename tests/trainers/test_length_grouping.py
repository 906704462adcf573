"""Batches of similar length: little padding, every sample once, and an order that depends on seed and epoch alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kinject.trainers.collator import LengthGroupedSampler
from tests.trainers.conftest import DOCUMENTS, trained_rows

GROUPED = {"train_sampling_strategy": "group_by_length"}
LENGTHS = [int(length) for length in torch.randint(10, 200, (83,), generator=torch.Generator().manual_seed(0))]


def _order(epoch: int = 0, seed: int = 1) -> list[int]:
    return list(LengthGroupedSampler(LENGTHS, 8, seed, lambda: epoch))


def _padded_size(order: list[int]) -> int:
    groups = [[LENGTHS[index] for index in order[start : start + 8]] for start in range(0, len(order), 8)]
    return sum(max(group) * len(group) for group in groups)


def test_every_sample_comes_once_in_groups_of_similar_length() -> None:
    assert sorted(_order()) == list(range(len(LENGTHS)))
    assert _padded_size(_order()) < 1.2 * sum(LENGTHS) < 1.5 * sum(LENGTHS) < _padded_size(list(range(len(LENGTHS))))


def test_groups_are_not_in_order_of_length_and_change_with_the_epoch() -> None:
    firsts = [LENGTHS[index] for index in _order()[:80:8]]
    assert firsts != sorted(firsts) and firsts != sorted(firsts, reverse=True)
    groups = [{frozenset(order[start : start + 8]) for start in range(0, 80, 8)} for order in (_order(0), _order(1))]
    assert len(groups[0] & groups[1]) < 5
    assert _order(3) == _order(3) != _order(3, seed=2)


def test_samples_know_their_length_whatever_wording_is_drawn(make_trainer: Callable[..., Any]) -> None:
    for settings in (
        {},
        {"wordings": "rotating"},
        {"plain": True},
        {"rows": [{"prompt": "Who?", "completion": "She."}]},
    ):
        trainer = make_trainer(**settings)
        for row in trainer.train_dataset:
            lengths = []
            for epoch in range(12):
                trainer.data_collator.epoch = epoch
                lengths.append(trainer.data_collator([row])["input_ids"].shape[1])
            assert max(lengths) == row["length"]


def test_masks_are_those_of_any_other_order(make_trainer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert trained_rows(make_trainer, monkeypatch, **GROUPED) == trained_rows(make_trainer, monkeypatch)


def test_a_resumed_run_goes_on_in_the_same_order(make_trainer: Callable[..., Any], tmp_path: Any) -> None:
    settings = {**GROUPED, "per_device_train_batch_size": 2, "num_train_epochs": 2}
    whole = make_trainer(save_strategy="steps", save_steps=3, output_dir=str(tmp_path / "whole"), **settings)
    whole.train()
    for step in (3, 6):  # in the middle of either epoch
        resumed = make_trainer(output_dir=str(tmp_path / "resumed"), **settings)
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        for one, two in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
            assert torch.equal(one, two)


def test_a_run_is_the_same_twice_and_pads_less(make_trainer: Callable[..., Any]) -> None:
    rows = [{"text": text * times} for text in DOCUMENTS for times in (1, 3)]
    batches = [
        [batch["attention_mask"] for batch in make_trainer(rows=rows, **options).get_train_dataloader()]
        for options in (GROUPED, GROUPED, {})
    ]
    shapes = [[mask.shape for mask in masks] for masks in batches]
    assert shapes[0] == shapes[1]
    sizes = [sum(mask.numel() for mask in masks) for masks in batches]
    assert sizes[0] < 0.9 * sizes[2]
