"""What a loss is divided by: tokens or weights of a batch, of all batches of a step, and of all processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from kinject.trainers import document_trainer
from kinject.trainers.collator import PREDICTED, WEIGHTS, supervised
from kinject.trainers.rehearsal import OwnLoss, distilled, divergence, other_divergence

GENERATOR = torch.Generator().manual_seed(0)
SAID, UNTRAINED = torch.randn(2, 3, 7, generator=GENERATOR)  # (supervised, vocabulary) each
TARGETS = torch.tensor([4, 0, 6])
LOSSES = cross_entropy(SAID, TARGETS, reduction="none")
KEPT = UNTRAINED[[0, 2]].log_softmax(-1).topk(4)
PREDICTIONS = dict(zip(PREDICTED, (torch.tensor([True, False, True]), KEPT.indices, KEPT.values), strict=True))
DIVERGED = divergence(SAID.log_softmax(-1)[[0, 2]], KEPT.indices, KEPT.values)


class Adapted:
    """A model that says `SAID`, and `UNTRAINED` without its adapter."""

    def __init__(self, tokens: int) -> None:
        self.tokens, self.logits = tokens, SAID[:tokens]

    def __call__(self, *, input_ids: torch.Tensor, use_cache: bool) -> Any:
        assert input_ids.tolist() == [[1, 2]] and use_cache is False
        return SimpleNamespace(logits=self.logits[None])

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        self.logits = UNTRAINED[: self.tokens]
        yield
        self.logits = SAID[: self.tokens]


def own_loss(
    weights: list[float] | None = None,
    count: int | None = None,
    *,
    predictions: dict[str, torch.Tensor] | None = None,
    anchor: float = 0.0,
    processes: int = 1,
    average: bool = True,
    tokens: int = 3,
) -> float:
    trainer = SimpleNamespace(
        args=SimpleNamespace(anchor=anchor, average_tokens_across_devices=average),
        accelerator=SimpleNamespace(num_processes=processes, unwrap_model=lambda model: model),
        model=Adapted(tokens),
    )
    inputs = {"input_ids": torch.tensor([[1, 2]]), "shift_labels": TARGETS[None, :tokens]}
    where = torch.zeros(tokens, dtype=torch.int64), torch.arange(tokens)
    loss, scores = OwnLoss(trainer, base=Adapted(tokens))(  # type: ignore[arg-type]
        trainer.model, inputs, where, predictions or {}, None if weights is None else torch.tensor(weights), count
    )
    torch.testing.assert_close(-scores.log_probs, LOSSES[:tokens])
    return float(loss)


def test_a_loss_is_divided_by_what_counts_in_the_batch_or_in_all_batches_of_a_step() -> None:
    weights = torch.tensor([0.5, 0.5, 2.0])
    assert own_loss() == pytest.approx(float(LOSSES.mean()))
    assert own_loss(tokens=1) == pytest.approx(float(LOSSES[0])) and own_loss(tokens=0) == 0.0
    assert own_loss(count=5) == pytest.approx(float(LOSSES.sum()) / 5)
    assert own_loss([0.5, 0.5, 2.0]) == pytest.approx(float((LOSSES * weights).sum()) / 3)
    assert own_loss([0.5, 0.5, 2.0], 7) == pytest.approx(float((LOSSES * weights).sum()) / 7)
    # The gradients of processes are averaged, and the count is that of all of them.
    assert own_loss(count=5, processes=3) == pytest.approx(float(LOSSES.sum()) / 5 * 3)
    assert own_loss(count=5, processes=3, average=False) == pytest.approx(float(LOSSES.sum()) / 5)
    assert own_loss(processes=3) == pytest.approx(float(LOSSES.mean()))


def test_rehearsed_tokens_have_their_divergence_and_are_not_anchored() -> None:
    expected = torch.stack([DIVERGED[0], LOSSES[1], DIVERGED[1]])
    of_targets = -LOSSES
    torch.testing.assert_close(distilled(SAID.log_softmax(-1), of_targets, PREDICTIONS), expected)
    assert torch.equal(distilled(SAID.log_softmax(-1), of_targets, {}), LOSSES)
    assert own_loss(predictions=PREDICTIONS) == pytest.approx(float(expected.mean()))
    anchored = 0.5 * other_divergence(SAID.log_softmax(-1), UNTRAINED.log_softmax(-1), TARGETS)
    assert own_loss(anchor=0.5) == pytest.approx(float((LOSSES + anchored).mean()))
    assert own_loss(anchor=0.5, predictions=PREDICTIONS) == pytest.approx(float((expected.sum() + anchored[1]) / 3))


def test_what_is_not_kept_of_a_prediction_counts_as_one_token() -> None:
    predicted, said = UNTRAINED[:1].log_softmax(-1), SAID[:1].log_softmax(-1)
    p, q = (torch.cat([each[0, :2].exp(), each[0, 2:].exp().sum()[None]]) for each in (predicted, said))
    found = divergence(said, torch.tensor([[0, 1]]), predicted[:, :2])
    torch.testing.assert_close(found, (p * (p / q).log()).sum()[None])


def _as_one_of_two(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(trainer.args), "world_size", 2)
    monkeypatch.setattr(type(trainer.accelerator), "num_processes", 2)
    monkeypatch.setattr(trainer.accelerator, "gather", lambda count: torch.stack([count] * 2))


@pytest.mark.parametrize("normalize", ["maskable", "sequence"])
def test_the_loss_of_a_diffusion_model_is_divided_by_what_all_processes_count(
    make_diffusion_trainer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, normalize: str
) -> None:
    trainer = make_diffusion_trainer(normalize=normalize)
    rows = list(trainer.train_dataset)
    batches = [trainer.data_collator(rows[:3]), trainer.data_collator(rows[3:])]
    cpu = torch.device("cpu")
    expected = sum(int(batch["maskable"].sum()) for batch in batches) if normalize == "maskable" else len(rows)
    alone = trainer._get_num_items_in_batch(batches, cpu)
    assert int(alone) == expected and trainer._get_num_items_in_batch(batches, torch.device("meta")).is_meta

    def loss(count: Any) -> float:
        return float(trainer.compute_loss(trainer.model, dict(batches[0]), num_items_in_batch=count).detach())

    by_itself = loss(alone)
    _as_one_of_two(trainer, monkeypatch)
    assert int(trainer._get_num_items_in_batch(batches, cpu)) == 2 * expected
    assert loss(2 * alone) == pytest.approx(by_itself)
    trainer.args.average_tokens_across_devices = False
    assert int(trainer._get_num_items_in_batch(batches, cpu)) == expected
    assert loss(alone) == pytest.approx(by_itself)


def test_weights_of_rows_are_counted_over_all_batches_and_processes(
    make_trainer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer()
    weighed = [{WEIGHTS: torch.tensor([0.5, 0.25])}, {WEIGHTS: torch.tensor([1.0])}]
    assert float(trainer._get_num_items_in_batch(weighed, torch.device("cpu"))) == 1.75
    assert trainer._get_num_items_in_batch(weighed, torch.device("meta")).is_meta
    labels = {"labels": torch.tensor([[-100, 5, 6], [-100, -100, 7]])}
    assert int(trainer._get_num_items_in_batch([labels, labels], torch.device("cpu"))) == 6
    assert trainer._get_num_items_in_batch([labels], torch.device("meta")).is_meta
    _as_one_of_two(trainer, monkeypatch)
    assert float(trainer._get_num_items_in_batch(weighed, torch.device("cpu"))) == 2 * 1.75
    trainer.args.average_tokens_across_devices = False
    assert float(trainer._get_num_items_in_batch(weighed, torch.device("cpu"))) == 1.75


def test_the_loss_is_the_same_with_outputs_of_every_position_and_without_an_index(
    make_trainer: Callable[..., Any],
) -> None:
    trainer = make_trainer()
    batch = trainer.data_collator(list(trainer.train_dataset)[:2])
    loss, outputs = trainer.compute_loss(trainer.model.eval(), dict(batch), return_outputs=True)
    assert outputs.logits.shape == (*batch["input_ids"].shape, trainer.model.config.vocab_size)
    assert loss.item() == pytest.approx(trainer.compute_loss(trainer.model, dict(batch)).item(), rel=1e-5)
    # Streamed data and other collators do not say which positions are supervised.
    bare = {name: each for name, each in batch.items() if name not in ("supervised", "shared")}
    assert trainer.compute_loss(trainer.model, bare).item() == pytest.approx(loss.item(), rel=1e-5)
    count = trainer._get_num_items_in_batch([batch], torch.device("cpu"))
    of_seven = trainer.compute_loss(trainer.model, dict(batch), True, 7)[0]
    assert of_seven.item() == pytest.approx(loss.item() * int(count) / 7, rel=1e-5)


def test_positions_that_the_collator_found_are_not_looked_for_again(
    make_trainer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer()
    batch = trainer.data_collator(list(trainer.train_dataset)[:2])
    bare = {name: each for name, each in batch.items() if name not in ("supervised", "shared")}
    looked: list[Any] = []
    monkeypatch.setattr(document_trainer, "supervised", lambda *given: looked.append(given) or supervised(*given))
    losses = []
    for given, times in ((batch, 0), (bare, 1)):
        losses.append(trainer.compute_loss(trainer.model.eval(), dict(given)).item())
        assert len(looked) == times
    assert losses[0] == losses[1]


@pytest.mark.parametrize("needless", [True, False])
def test_only_a_backbone_that_needs_no_mask_gets_none(make_trainer: Callable[..., Any], needless: bool) -> None:
    trainer = make_trainer()
    trainer._needs_no_mask = needless
    seen: list[Any] = []
    trainer.model.base_model.register_forward_pre_hook(
        lambda module, args, given: seen.append(given.get("attention_mask")), with_kwargs=True
    )
    trainer.args.anchor = 1.0  # rows stay whole, so that there is one call
    trainer.compute_loss(trainer.model.eval(), trainer.data_collator(list(trainer.train_dataset)[:2]))
    assert [mask is None for mask in seen] == [needless]


def test_figures_of_training_and_evaluation_are_kept_apart(make_trainer: Callable[..., Any]) -> None:
    trainer = make_trainer()
    batch = trainer.data_collator(list(trainer.train_dataset)[:2])
    for mode, other in (("train", "eval"), ("eval", "train")):
        trainer._metrics["train"].clear()
        trainer._metrics["eval"].clear()
        trainer.compute_loss(trainer.model.train(mode == "train"), dict(batch))
        trainer._tally.settle()
        assert "mask_ratio" in trainer._metrics[mode] and not trainer._metrics[other]


@pytest.mark.parametrize("packing", ["none", "positions"])
def test_the_own_loss_logs_what_the_librarys_does(
    make_trainer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, packing: str
) -> None:
    trainer = make_trainer()
    rows = list(trainer.train_dataset)
    shown = int(trainer.data_collator(rows)["attention_mask"].sum())
    trainer.data_collator.packing = packing
    tokens: list[int] = []
    monkeypatch.setattr(trainer._tally, "add_scores", lambda mode, scores, seen: tokens.append(int(seen)))
    logged = []
    for own in (None, OwnLoss(trainer, trainer.model)):
        trainer._own_loss = own
        trainer._metrics["train"].clear()
        trainer.compute_loss(trainer.model.train(), trainer.data_collator(rows))
        trainer._tally.settle()
        logged.append({name: values for name, values in trainer._metrics["train"].items() if "ratio" in name})
    assert tokens == [shown] and "mask_ratio" in logged[0]
    assert logged[1] == {name: pytest.approx(values, rel=1e-4) for name, values in logged[0].items()}
