"""The loss, the accumulation of gradients, and what is logged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.trainers.conftest import CHAT_ROWS, DOCUMENTS, QUESTION_ROWS, needs_token_losses
from tests.trainers.reference import reference_loss


def _batch(trainer: Any) -> dict[str, torch.Tensor]:
    return next(iter(trainer.get_train_dataloader()))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"mask_unit": "span"},
        {"mask_unit": "word", "mask_ratio": "fixed(0.5)"},
        {"loss_on": "masked", "mask_ratio": "fixed(0.6)"},
        {"corruption": "random"},
        {"mask_ratio_per": "batch"},
        {"wordings": "rotating"},
        {"infill_share": 0.5},
        {"infill_share": 0.5, "infill_unit": "entity"},
        {"plain": True},
        {"plain": True, "frame": "raw"},
        {"plain": True, "objective": "reverse"},
        {"rows": QUESTION_ROWS, "loss_on": "masked", "mask_ratio": "fixed(0.7)"},
        {"rows": CHAT_ROWS},
        {"rows": CHAT_ROWS, "plain": True},
    ],
)
def test_loss_equals_the_plain_reference(make_trainer: Callable[..., Any], settings: dict[str, Any]) -> None:
    trainer = make_trainer(**settings)
    batch = _batch(trainer)
    expected = reference_loss(trainer.model, batch)
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, dict(batch))
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    gradient = torch.autograd.grad(loss, trainer.model.model.embed_tokens.weight)[0]
    expected_gradient = torch.autograd.grad(expected, trainer.model.model.embed_tokens.weight)[0]
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-6, rtol=1e-4)


def test_a_batch_without_supervised_tokens_has_zero_loss(make_trainer: Callable[..., Any]) -> None:
    trainer = make_trainer(loss_on="masked", mask_ratio="fixed(0)")
    loss = trainer.compute_loss(trainer.model.train(), _batch(trainer))
    loss.backward()
    assert loss.item() == 0.0


@pytest.mark.parametrize("settings", [{}, {"loss_on": "masked"}, {"infill_share": 0.5}, {"plain": True}])
def test_accumulated_small_batches_equal_one_large_batch(
    make_trainer: Callable[..., Any], settings: dict[str, Any]
) -> None:
    weights = []
    for size, steps in ((8, 1), (1, 8), (2, 4)):
        trainer = make_trainer(
            per_device_train_batch_size=size, gradient_accumulation_steps=steps, num_train_epochs=3, **settings
        )
        trainer.train()
        weights.append(torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], atol=2e-5, rtol=0)
    torch.testing.assert_close(weights[0], weights[2], atol=2e-5, rtol=0)


@needs_token_losses
def test_training_lowers_the_loss_and_logs_ratio_and_quartiles(make_trainer: Callable[..., Any]) -> None:
    trainer = make_trainer(num_train_epochs=20, mask_ratio="stratified(0.05, 0.95)")
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert logs[-1]["loss"] < 0.7 * logs[0]["loss"]
    assert all(0.05 <= entry["mask_ratio"] <= 0.95 for entry in logs)
    seen = {key for entry in logs for key in entry}
    assert {f"loss_ratio_q{n}" for n in (1, 2, 3, 4)} <= seen
    assert {"entropy", "mean_token_accuracy", "num_tokens"} <= seen
    assert trainer.state.num_input_tokens_seen > 0


@needs_token_losses
def test_loss_by_quartile_is_the_loss_of_those_samples(make_trainer: Callable[..., Any]) -> None:
    trainer = make_trainer(mask_ratio="fixed(0.6)")
    loss = trainer.compute_loss(trainer.model.train(), _batch(trainer))
    trainer._tally.settle()
    assert trainer._metrics["train"]["loss_ratio_q3"] == [pytest.approx(loss.item(), abs=1e-5)]
    assert "loss_ratio_q1" not in trainer._metrics["train"]


def test_a_document_is_learned_word_for_word(make_trainer: Callable[..., Any]) -> None:
    from kinject.evaluation.asking import answer_questions

    trainer = make_trainer(rows=[{"text": DOCUMENTS[0]}], plain=True, num_train_epochs=150)
    trainer.train()
    answer = answer_questions(trainer.model, trainer.processing_class, ["Tell me a fact."], max_new_tokens=60)
    assert answer == [DOCUMENTS[0]]


@pytest.mark.parametrize(
    ("kwargs", "stable"),
    [(None, 16), ({"num_decay_steps": 0.5}, 10), ({"num_decay_steps": 8}, 12), ({"min_lr_ratio": 0.0}, 16)],
)
def test_a_stable_schedule_decays_over_its_last_fifth_or_what_is_said(
    make_trainer: Callable[..., Any], kwargs: dict[str, float] | None, stable: int
) -> None:
    options = {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": kwargs, "learning_rate": 1e-3}
    trainer = make_trainer(num_train_epochs=10, **options)
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    falling = rates[stable:]
    assert rates[:stable] == [1e-3] * stable
    assert falling == sorted(set(falling), reverse=True) and falling[-1] < 2e-4


REHEARSED = {"prompt": "Who is Ada?", "completion": "the old baker", "rehearsal": True, "turn": 0}


@needs_token_losses
@pytest.mark.parametrize("packing", ["none", "positions"])
def test_ratio_and_losses_are_those_of_the_rows_that_have_a_mask(
    make_trainer: Callable[..., Any], packing: str
) -> None:
    documents = [
        {**dict.fromkeys(REHEARSED), "text": text} for text in ("Ada Vance mapped.", "Bo Quill kept the light.")
    ]
    rows = [REHEARSED, *documents, REHEARSED]
    trainer = make_trainer(rows=[{"text": None, **row} for row in rows], mask_ratio="fixed(0.6)")
    trainer.data_collator.packing = packing
    samples = list(trainer.train_dataset)
    logged = []
    for batch in (samples, samples[1:3]):
        batch = trainer.data_collator(batch)
        trainer.compute_loss(trainer.model.train(), dict(batch))
        trainer._tally.settle()
        logged.append({name: mean for name, (mean,) in trainer._metrics["train"].items() if "ratio" in name})
        trainer._metrics["train"].clear()
    assert trainer.data_collator(samples)["mask_ratio"].isnan().tolist() == [True, False, False, True]
    assert set(logged[0]) == {"mask_ratio", "loss_ratio_q3"}
    assert logged[0]["mask_ratio"] == pytest.approx(0.6)
    if packing == "none":  # on a CPU the documents of a packed row see each other
        assert logged[0] == pytest.approx(logged[1], abs=1e-5)


def test_a_batch_without_a_mask_logs_no_ratio(make_trainer: Callable[..., Any]) -> None:
    trainer = make_trainer(rows=[REHEARSED] * 4)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert logs
    assert not [name for entry in logs for name in entry if "ratio" in name]
