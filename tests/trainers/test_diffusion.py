"""The loss of masked diffusion models: by hand, accumulated, alone and in a batch, with fixed noise for evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from datasets import Dataset

from tests.conftest import build_tokenizer
from tests.trainers.conftest import CHAT_ROWS, DOCUMENTS, QUESTION_ROWS
from tests.trainers.reference import diffusion_reference_loss

Make = Callable[..., Any]


def _batch(trainer: Any) -> dict[str, torch.Tensor]:
    return trainer.data_collator(list(trainer.train_dataset))


def _answers(trainer: Any) -> list[list[int]]:
    end = trainer.processing_class.eos_token_id
    return [[*row["document_ids"], end] for row in trainer.train_dataset]


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("normalize", ["maskable", "sequence", "paper"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"frame": "chat", "mask_ratio": "stratified(0.2, 0.9)"},
        {"mask_ratio": "uniform(0.05, 0.95)", "mask_ratio_per": "batch"},
        {"mask_unit": "word", "mask_ratio": "fixed(0.5)"},
        {"rows": QUESTION_ROWS},
        {"rows": CHAT_ROWS},
    ],
)
def test_loss_and_gradient_equal_the_hand_computation(
    make_diffusion_trainer: Make, shifted: bool, normalize: str, settings: dict[str, Any]
) -> None:
    trainer = make_diffusion_trainer(shifted=shifted, normalize=normalize, **settings)
    batch = _batch(trainer)
    expected = diffusion_reference_loss(trainer.model, batch, _answers(trainer), normalize, shifted)
    loss = trainer.compute_loss(trainer.model.train(), dict(batch))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5) and loss.item() > 0
    weight = trainer.model.model.embed_tokens.weight
    torch.testing.assert_close(
        torch.autograd.grad(loss, weight)[0], torch.autograd.grad(expected, weight)[0], atol=1e-5, rtol=1e-4
    )


def test_the_three_normalizations_differ(make_diffusion_trainer: Make) -> None:
    losses = set()
    for normalize in ("maskable", "sequence", "paper"):
        trainer = make_diffusion_trainer(normalize=normalize, mask_ratio="uniform(0.05, 0.95)")
        losses.add(round(trainer.compute_loss(trainer.model, _batch(trainer)).item(), 4))
    assert len(losses) == 3


@pytest.mark.parametrize("normalize", ["maskable", "sequence"])
def test_the_probability_of_hiding_a_token_is_raised_as_by_llada_but_not_in_the_paper(
    make_diffusion_trainer: Make, normalize: str
) -> None:
    plain = _batch(make_diffusion_trainer(normalize="paper"))["mask_ratio"]
    raised = _batch(make_diffusion_trainer(normalize=normalize))["mask_ratio"]
    torch.testing.assert_close(raised, 0.999 * plain + 0.001, atol=0, rtol=1e-6)
    assert (raised > plain).all()


def test_the_weighted_loss_is_unbiased(make_diffusion_trainer: Make) -> None:
    """With every target equally likely under the model, each noise level gives log(vocabulary) on average."""
    trainer = make_diffusion_trainer(mask_ratio="uniform(0.1, 1)")
    torch.nn.init.zeros_(trainer.model.lm_head.weight)
    losses = []
    for epoch in range(200):
        trainer.data_collator.epoch = epoch
        losses.append(trainer.compute_loss(trainer.model, _batch(trainer)).item())
    expected = torch.tensor(float(trainer.model.config.vocab_size)).log().item()
    assert sum(losses) / len(losses) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("shifted", [False, True])
def test_a_sample_has_the_loss_it_has_alone(make_diffusion_trainer: Make, shifted: bool) -> None:
    trainer = make_diffusion_trainer(shifted=shifted, normalize="sequence")
    rows = list(trainer.train_dataset)
    alone = [trainer.compute_loss(trainer.model, trainer.data_collator([row])).item() for row in rows]
    together = trainer.compute_loss(trainer.model, trainer.data_collator(rows)).item()
    assert len({len(row["document_ids"]) for row in rows}) > 1
    assert sum(alone) / len(alone) == pytest.approx(together, rel=1e-6)


@pytest.mark.parametrize("normalize", ["maskable", "sequence", "paper"])
@pytest.mark.parametrize("shifted", [False, True])
def test_accumulated_small_batches_equal_one_large_batch(
    make_diffusion_trainer: Make, normalize: str, shifted: bool
) -> None:
    weights, losses = [], []
    for size, steps in ((8, 1), (1, 8), (2, 4)):
        trainer = make_diffusion_trainer(
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            num_train_epochs=3,
            normalize=normalize,
            shifted=shifted,
            optim="sgd",
            max_grad_norm=0.0,
        )
        trainer.train()
        weights.append(torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()]))
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    for other in (1, 2):
        torch.testing.assert_close(weights[0], weights[other], atol=1e-6, rtol=0)
        assert losses[other] == pytest.approx(losses[0], rel=1e-4)


def test_nothing_hidden_is_a_loss_of_zero(make_diffusion_trainer: Make) -> None:
    trainer = make_diffusion_trainer(mask_ratio="fixed(0)", normalize="paper")
    batch = _batch(trainer)
    assert not batch["labels"].ne(-100).any()
    loss = trainer.compute_loss(trainer.model.train(), dict(batch))
    loss.backward()
    assert loss.item() == 0.0
    trainer.train()
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())


def test_one_sample_without_hidden_tokens_adds_nothing_but_counts(make_diffusion_trainer: Make) -> None:
    trainer = make_diffusion_trainer(mask_ratio="fixed(0.5)", normalize="sequence")
    batch = trainer.data_collator(list(trainer.train_dataset)[:2])
    del batch["supervised"]  # of both rows, as they are
    both = trainer.compute_loss(trainer.model, dict(batch)).item()
    first = trainer.compute_loss(trainer.model, {key: value[:1] for key, value in batch.items()}).item()
    batch["labels"][1], batch["mask_ratio"][1] = -100, 0.0
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(first / 2, rel=1e-5) != both


def test_evaluation_meets_the_same_noise_every_time(make_diffusion_trainer: Make) -> None:
    data = Dataset.from_list([{"text": text} for text in DOCUMENTS])
    trainer = make_diffusion_trainer(trainer={"eval_dataset": data})
    first = trainer.evaluate()["eval_loss"]
    trainer.data_collator.epoch = 5
    assert trainer.evaluate()["eval_loss"] == first
    evaluation = trainer.data_collator([trainer.eval_dataset[0]])["input_ids"]
    trainer.data_collator.epoch = 0
    assert not torch.equal(evaluation, trainer.data_collator([trainer.train_dataset[0]])["input_ids"])


def test_gradient_checkpointing_changes_no_gradient(make_diffusion_trainer: Make) -> None:
    gradients = []
    for checkpointing in (False, True):
        trainer = make_diffusion_trainer(gradient_checkpointing=checkpointing)
        if checkpointing:
            trainer.model.gradient_checkpointing_enable()
        trainer.compute_loss(trainer.model.train(), _batch(trainer)).backward()
        gradients.append(trainer.model.model.embed_tokens.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-7, rtol=1e-5)


def test_training_lowers_the_loss_and_logs_ratio_and_quartiles(make_diffusion_trainer: Make) -> None:
    data = Dataset.from_list([{"text": text} for text in DOCUMENTS])
    trainer = make_diffusion_trainer(num_train_epochs=30, mask_ratio="stratified(0, 1)", trainer={"eval_dataset": data})
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < 0.8 * before["eval_loss"]
    assert after["eval_mean_token_accuracy"] > before["eval_mean_token_accuracy"]
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    seen = {key for entry in logs for key in entry}
    assert {f"loss_ratio_q{n}" for n in (1, 2, 3, 4)} | {"mask_ratio", "entropy", "num_tokens"} <= seen
    tokens = sum(len(row["document_ids"]) + 2 for row in trainer.train_dataset)
    assert logs[-1]["num_tokens"] == trainer.state.num_input_tokens_seen == 30 * tokens


def test_the_loss_without_a_fused_head_is_the_same(make_diffusion_trainer: Make, monkeypatch: Any) -> None:
    import trl.trainer.utils

    trainer = make_diffusion_trainer(shifted=True)
    batch = _batch(trainer)
    loss = trainer.compute_loss(trainer.model, dict(batch))
    trainer._tally.settle()
    metrics = {key: value[-1] for key, value in trainer._metrics["train"].items()}
    monkeypatch.delattr(trl.trainer.utils, "add_fused_lm_head", raising=False)
    assert trainer.compute_loss(trainer.model, dict(batch)).item() == pytest.approx(loss.item(), rel=1e-6)
    trainer._tally.settle()
    assert {key: value[-1] for key, value in trainer._metrics["train"].items()} == pytest.approx(
        metrics | {"num_tokens": 2 * metrics["num_tokens"]}, rel=1e-5
    )


@pytest.mark.parametrize("shifted", [False, True])
def test_a_document_without_a_begin_token_may_be_hidden_from_its_first_token_on(
    make_diffusion_trainer: Make, shifted: bool
) -> None:
    tokenizer = build_tokenizer()
    tokenizer.bos_token = None
    trainer = make_diffusion_trainer(shifted=shifted, mask_ratio="fixed(0.9)", trainer={"processing_class": tokenizer})
    batch = _batch(trainer)
    assert batch["labels"][:, 0].ne(-100).any()
    expected = diffusion_reference_loss(trainer.model, batch, _answers(trainer), "maskable", shifted)
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected.item(), rel=1e-5)
