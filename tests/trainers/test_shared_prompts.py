"""What all rows of a batch begin with is encoded once, and changes neither loss nor gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from kinject import compat
from kinject.trainers import MaskedSFTConfig, MaskedSFTTrainer, positions
from tests.conftest import build_tokenizer
from tests.models.architectures import ARCHITECTURES, random_model
from tests.trainers.conftest import DOCUMENTS, SMALL


@pytest.fixture
def lengths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the beginnings that were encoded."""
    encoded: list[int] = []
    original = compat.encode_beginning

    def watched(model: Any, ids: torch.Tensor) -> Any:
        encoded.append(ids.shape[1])
        return original(model, ids)

    monkeypatch.setattr(compat, "encode_beginning", watched)
    return encoded


def loss_and_gradients(trainer: Any, batch: dict[str, Any]) -> tuple[float, dict[str, torch.Tensor]]:
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, dict(batch))
    loss.backward()
    gradients = {name: weight.grad for name, weight in trainer.model.named_parameters() if weight.grad is not None}
    return loss.item(), gradients


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_loss_and_gradients_are_those_of_whole_rows(
    name: str, lengths: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = build_tokenizer()
    args = MaskedSFTConfig(str(tmp_path), **SMALL, system_prompt="You are asked to learn.")
    rows = Dataset.from_list([{"text": text} for text in DOCUMENTS])
    trainer = MaskedSFTTrainer(random_model(name, tokenizer), args, train_dataset=rows, processing_class=tokenizer)
    trainer.model.eval()  # some of the architectures drop out
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
    loss, gradients = loss_and_gradients(trainer, batch)
    sharing = list(lengths)
    monkeypatch.setattr(positions, "WORTH_SHARING", 10_000)
    whole_loss, whole_gradients = loss_and_gradients(trainer, batch)
    assert lengths == sharing and len(sharing) == 1  # the second time nothing was shared
    assert sharing[0] > len("You are asked to learn.")  # a byte is a token here
    assert loss == pytest.approx(whole_loss, rel=1e-5)
    assert gradients.keys() == whole_gradients.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, whole_gradients[key], rtol=1e-3, atol=1e-6, msg=key)


def test_one_row_is_not_taken_apart(make_trainer: Callable[..., Any], lengths: list[int]) -> None:
    trainer = make_trainer(system_prompt="You are asked to learn.")
    trainer.compute_loss(trainer.model, trainer.data_collator([trainer.train_dataset[0]]))
    assert lengths == []


def test_gradient_checkpointing_keeps_rows_whole(make_trainer: Callable[..., Any], lengths: list[int]) -> None:
    trainer = make_trainer(system_prompt="You are asked to learn.", gradient_checkpointing=True)
    trainer.train()
    assert lengths == []


def test_the_scored_part_is_never_taken_out(make_trainer: Callable[..., Any], lengths: list[int]) -> None:
    # Equal rows share everything; the prediction of the first scored token must remain in them.
    trainer = make_trainer([{"text": DOCUMENTS[0]}] * 4, plain=True)
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
    first = int((batch["labels"][0] != -100).nonzero()[0])
    trainer.compute_loss(trainer.model, dict(batch))
    assert lengths == [first - 1]
