"""Rehearsed predictions: what is kept of them, that they stand beside the right tokens, and the loss that they give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import kl_div

from kinject.evaluation.asking import predict
from kinject.models import load_model
from kinject.prompts.templates import IGNORED
from kinject.trainers.collator import batch_predictions
from kinject.trainers.rehearsal import divergence
from tests.conftest import build_model, build_tokenizer
from tests.trainers.conftest import DOCUMENTS

ASKED = [("Who maps caves?", "Ada Vance maps the salt caves."), ("Who is Bo?", "Bo.")]


@pytest.fixture
def rehearsed() -> tuple[Any, list[dict[str, Any]]]:
    """A model, and rows of documents and of what it predicted in answers."""
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    predictions = predict(model, tokenizer, *zip(*ASKED, strict=True))
    rows: list[dict[str, Any]] = [{"text": text} for text in DOCUMENTS[:3]]
    rows += [
        {"prompt": prompt, "completion": answer, "rehearsal": True, "turn": 0, "predictions": vars(predicted)}
        for (prompt, answer), predicted in zip(ASKED, predictions, strict=True)
    ]
    keys = dict.fromkeys(key for row in rows for key in row)
    return model, [{key: row.get(key) for key in keys} for row in rows]


def test_predictions_are_those_of_the_model_beside_any_other_rows() -> None:
    loaded = load_model("nano-ar")
    prompts, answers = ["Who is Ida Parrish?", "Tell me a fact."], ["the old baker of Dover", "Ida"]
    together = predict(loaded.model, loaded.tokenizer, prompts, answers)
    for prompt, answer, predicted in zip(prompts, answers, together, strict=True):
        (alone,) = predict(loaded.model, loaded.tokenizer, [prompt], [answer], batch_size=1)
        tokens = len(loaded.tokenizer(answer, add_special_tokens=False)["input_ids"])
        assert predicted.ids.shape == predicted.log_probs.shape == (tokens + 1, 64)
        torch.testing.assert_close(torch.tensor(predicted.log_probs), torch.tensor(alone.log_probs), atol=1e-4, rtol=0)
        assert (predicted.log_probs[:, :-1] >= predicted.log_probs[:, 1:]).all()  # the most probable


def test_divergence_is_that_of_whole_distributions_where_all_tokens_are_kept() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, said = (torch.randn(5, 12, generator=generator).log_softmax(-1) for _ in range(2))
    expected = kl_div(said, predicted, reduction="none", log_target=True).sum(-1)
    kept, ids = predicted.topk(12)
    torch.testing.assert_close(divergence(said, ids, kept), expected, atol=1e-4, rtol=0)
    kept, ids = predicted.topk(4)  # the other eight count as one
    lumped = divergence(said, ids, kept)
    assert (lumped > 0).all() and (lumped < expected).all()


def test_divergence_has_no_gradient_while_the_prediction_is_unchanged() -> None:
    logits = torch.randn(5, 12, generator=torch.Generator().manual_seed(0)).requires_grad_()
    kept, ids = logits.detach().log_softmax(-1).topk(4)
    loss = divergence(logits.log_softmax(-1), ids, kept)
    loss.sum().backward()
    assert loss.abs().max() < 1e-6 and logits.grad is not None and logits.grad.abs().max() < 1e-6


def test_an_impossible_token_is_no_trouble() -> None:
    model, tokenizer = build_model(build_tokenizer()), build_tokenizer()
    with torch.no_grad():
        model.lm_head.weight.mul_(1e4)
    (predicted,) = predict(model, tokenizer, ["Who is Bo?"], ["Bo."])
    said = torch.zeros(len(predicted.ids), model.config.vocab_size).log_softmax(-1)
    found = divergence(said, torch.tensor(predicted.ids).long(), torch.tensor(predicted.log_probs))
    assert found.isfinite().all()


@pytest.mark.parametrize("packing", ["none", "positions"])
@pytest.mark.parametrize("plain", [{}, {"plain": True, "frame": "raw"}])
def test_a_batch_says_which_of_its_supervised_tokens_are_rehearsed(
    make_trainer: Callable[..., Any], rehearsed: tuple[Any, list[dict[str, Any]]], packing: str, plain: dict[str, Any]
) -> None:
    _, rows = rehearsed
    trainer = make_trainer(rows, shuffle_dataset=False, **plain)
    trainer.data_collator.packing = packing
    prepared = [trainer.train_dataset[index] for index in (3, 0, 4, 1)]
    batch = trainer.data_collator(prepared)
    labels = batch["labels"][:, 1:]
    learned = labels[labels != IGNORED]
    assert batch["rehearsed"].shape == learned.shape
    tokens = [index for row in (3, 4) for index in [*trainer.train_dataset[row]["document_ids"]]]
    end = learned[-1]
    assert learned[batch["rehearsed"]][learned[batch["rehearsed"]] != end].tolist() == tokens
    assert len(batch["predicted_ids"]) == len(batch["predicted_log_probs"]) == batch["rehearsed"].sum()
    assert batch_predictions([trainer.train_dataset[0]], [[1, 2]]) == {}


@pytest.mark.parametrize("plain", [False, True])
def test_documents_are_learned_as_without_rehearsal_and_predictions_by_their_divergence(
    make_trainer: Callable[..., Any], rehearsed: tuple[Any, list[dict[str, Any]]], plain: bool
) -> None:
    model, rows = rehearsed
    trainer = make_trainer(rows, plain=plain, shuffle_dataset=False, trainer={"model": model})
    documents, answers = (
        trainer.data_collator([trainer.train_dataset[index] for index in places]) for places in ((0, 1, 2), (3, 4))
    )
    mixed = trainer.data_collator([trainer.train_dataset[index] for index in (3, 0, 1, 4, 2)])
    count = trainer._get_num_items_in_batch([mixed], torch.device("cpu"))

    def loss(batch: dict[str, Any]) -> float:
        return float(trainer.compute_loss(trainer.model.train(), dict(batch), num_items_in_batch=count).detach())

    own, trainer._own_loss = trainer._own_loss, None
    by_trl = loss(documents)
    trainer._own_loss = own
    assert loss(documents) == pytest.approx(by_trl, abs=1e-5)
    assert loss(answers) == pytest.approx(0.0, abs=1e-5)  # nothing was learned yet
    assert loss(mixed) == pytest.approx(by_trl, abs=1e-5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    assert loss(answers) > 1e-3
    assert loss(mixed) == pytest.approx(loss(documents) + loss(answers), abs=1e-5)


def test_a_run_that_rehearses_predictions_logs_what_others_log(
    make_trainer: Callable[..., Any], rehearsed: tuple[Any, list[dict[str, Any]]]
) -> None:
    model, rows = rehearsed
    runs = [make_trainer(rows, plain=True, trainer={"model": model}), make_trainer(rows[:3], plain=True)]
    for trainer in runs:
        trainer.train()
    known, plain = (next(entry for entry in trainer.state.log_history if "loss" in entry) for trainer in runs)
    assert known.keys() == plain.keys() and known["num_tokens"] > plain["num_tokens"] > 0
    assert runs[0]._own_loss is not None and runs[1]._own_loss is None


@pytest.mark.parametrize("setting", [{"label_smoothing_factor": 0.1}, {"loss_type": "dft"}])
def test_other_losses_learn_what_was_drawn(
    make_trainer: Callable[..., Any], rehearsed: tuple[Any, list[dict[str, Any]]], setting: dict[str, Any]
) -> None:
    trainer = make_trainer(rehearsed[1], **setting)
    assert trainer._own_loss is None
    trainer.train()


def test_rows_of_a_kind_may_come_after_a_thousand_others(
    make_trainer: Callable[..., Any], rehearsed: tuple[Any, list[dict[str, Any]]]
) -> None:
    rows = rehearsed[1]
    trainer = make_trainer([rows[0]] * 1001 + rows[3:], shuffle_dataset=False)
    assert trainer.train_dataset[1000]["frames"] is None and trainer.train_dataset[1001]["predictions"] is not None
