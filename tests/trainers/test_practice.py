"""Rows that are practiced beside documents: when each is shown, by how much it counts, and what anchors it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from kinject.commands.recipe import train
from kinject.data import load_knowledge
from kinject.data.practice import Practice
from kinject.errors import ConfigurationError
from kinject.evaluation.callback import practice_score
from kinject.models import load_model
from kinject.trainers import DiffusionSFTConfig, MaskedSFTConfig, MaskedSFTTrainer, PlainSFTConfig, PlainSFTTrainer
from kinject.trainers.collator import ALWAYS, WEIGHTS, TurnSampler, batch_weights
from kinject.trainers.rehearsal import other_divergence, with_practice, with_rehearsal

EPOCHS = 10
OPTIONS: dict[str, Any] = {
    "report_to": "none",
    "shuffle_dataset": False,
    "bf16": False,
    "num_train_epochs": EPOCHS,
    "per_device_train_batch_size": 8,
    "gradient_checkpointing": False,
}


def _practice() -> Practice:
    return Practice(load_knowledge("fictional:nano", size=4).documents, EPOCHS, gaps=0.0, nano=True)


def _trainer(
    folder: Path, trainer_class: Any = MaskedSFTTrainer, config: Any = MaskedSFTConfig, **settings: Any
) -> Any:
    loaded = load_model("nano-ar")
    rows = with_practice(load_knowledge("fictional:nano", size=4).to_dataset(), _practice().rows())
    rows = with_rehearsal(rows, ["Who is Ida?", "Who is Ada?"], ["the old baker", "a cook"], 2)
    args = config(str(folder), **OPTIONS, **settings)
    return trainer_class(loaded.model, args, train_dataset=rows, processing_class=loaded.tokenizer)


def _shown(sampler: TurnSampler, epochs: list[int]) -> list[list[int]]:
    """The samples of each epoch that is put into ``epochs``."""
    return [list(sampler) for epochs[0] in range(EPOCHS)]


# When a sample is shown.


@pytest.mark.parametrize("lengths", [None, [5, 9, 7, 3, 4, 8, 6]])
def test_epochs_show_what_is_planned_for_them_and_are_equally_long(lengths: list[int] | None) -> None:
    now = [0]
    planned = [[0, 1], [1], [1], None, None, [2], [2]]
    turns = [ALWAYS, ALWAYS, ALWAYS, ALWAYS, 0, ALWAYS, ALWAYS]
    sampler = TurnSampler(turns, 0, lambda: now[0], lengths, 2, planned)
    shown = _shown(sampler, now)
    assert [set(each) for each in shown[:3]] == [{0, 3, 4}, {0, 1, 2, 3, 4}, {3, 4, 5, 6}]
    assert {len(each) for each in shown} == {len(sampler)} == {5}
    assert [set(each) for each in shown[3:6]] == [set(each) for each in shown[:3]]  # after the last that is planned
    assert shown == _shown(sampler, now)


def test_a_run_shows_the_plan(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path)
    plan = _practice().rows()
    sampler = trainer._get_train_sampler()
    sizes = set()
    for epoch in range(EPOCHS):
        trainer.data_collator.epoch = epoch
        shown = list(sampler)
        sizes.add(len(shown))
        assert set(shown) == {index for index, row in enumerate(plan) if epoch in row["epochs"]} | {
            len(plan),
            len(plan) + 1,
        }
    assert sizes == {len(sampler)}


def test_documents_count_as_documents_and_what_is_practiced_does_not(tmp_path: Path) -> None:
    knowledge = load_knowledge("fictional:nano", size=4)
    loaded = load_model("nano-ar")
    plain = MaskedSFTTrainer(
        loaded.model,
        MaskedSFTConfig(str(tmp_path), **OPTIONS),
        train_dataset=knowledge.to_dataset(),
        processing_class=loaded.tokenizer,
    )
    assert _trainer(tmp_path).inputs["documents"] == plain.inputs["documents"]


# By how much it counts.


def test_every_row_counts_alike_whatever_its_length() -> None:
    rows = [{"weight": 1.0}, {"weight": 1.0}, {"weight": None}]
    labels = [[-100, 5, 6, 7, 8], [-100, -100, -100, -100, 9], [-100, 5, -100, -100, -100]]
    weights = batch_weights(rows, labels)[WEIGHTS]
    assert weights.tolist() == [0.25] * 4 + [1.0] + [0.0]
    assert batch_weights([{"weight": None}, {}], labels[:2]) == {}


def _reference(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The mean over rows of the mean cross-entropy of each row's supervised tokens."""
    rows = []
    for ids, attention, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        length = int(attention.sum())
        logits: Any = model(input_ids=ids[None, :length]).logits[0, :-1]
        rows.append(torch.nn.functional.cross_entropy(logits.float(), labels[1:length], ignore_index=-100))
    return torch.stack(rows).mean()


@pytest.mark.parametrize(
    ("trainer_class", "config"), [(MaskedSFTTrainer, MaskedSFTConfig), (PlainSFTTrainer, PlainSFTConfig)]
)
def test_the_loss_is_the_mean_of_the_rows(tmp_path: Path, trainer_class: Any, config: Any) -> None:
    trainer = _trainer(tmp_path, trainer_class, config)
    batch = next(iter(trainer.get_train_dataloader()))
    expected = _reference(trainer.model, batch)
    trainer.model.train()
    assert trainer.compute_loss(trainer.model, dict(batch)).item() == pytest.approx(expected.item(), abs=1e-5)


def test_accumulated_batches_have_the_loss_of_one(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path)
    trainer.model.train()
    rows = [trainer.train_dataset[index] for index in range(8, 14)]
    whole = trainer.data_collator(rows)
    parts = [trainer.data_collator(rows[:2]), trainer.data_collator(rows[2:])]
    count = trainer._get_num_items_in_batch(parts, torch.device("cpu"))
    assert count.item() == pytest.approx(6)
    losses = [trainer.compute_loss(trainer.model, dict(part), num_items_in_batch=count).item() for part in parts]
    expected = trainer.compute_loss(trainer.model, dict(whole)).item()
    assert sum(losses) == pytest.approx(expected, abs=1e-5)


# The anchor.


def test_nothing_diverges_from_itself_and_the_target_is_free() -> None:
    untrained = torch.randn(5, 11).log_softmax(-1)
    targets = torch.tensor([0, 3, 10, 4, 4])
    assert other_divergence(untrained, untrained, targets) == pytest.approx(torch.zeros(5), abs=1e-6)
    raised = untrained.clone().scatter_add(-1, targets[:, None], torch.full((5, 1), 6.0)).log_softmax(-1)
    assert other_divergence(raised, untrained, targets) == pytest.approx(torch.zeros(5), abs=1e-5)


def test_the_divergence_is_that_of_the_renormalized_rest() -> None:
    said, before = torch.randn(3, 7).log_softmax(-1), torch.randn(3, 7).log_softmax(-1)
    targets = torch.tensor([1, 0, 6])
    expected = []
    for row, target in enumerate(targets.tolist()):
        rest = [index for index in range(7) if index != target]
        p, q = before[row, rest].exp(), said[row, rest].exp()
        p, q = p / p.sum(), q / q.sum()
        expected.append((p * (p / q).log()).sum())
    torch.testing.assert_close(other_divergence(said, before, targets), torch.stack(expected))


def test_the_gradient_of_the_divergence_is_finite() -> None:
    logits = torch.randn(4, 9, requires_grad=True)
    other_divergence(
        logits.log_softmax(-1), torch.randn(4, 9).log_softmax(-1), torch.tensor([0, 1, 2, 3])
    ).sum().backward()
    assert logits.grad is not None and bool(logits.grad.isfinite().all())


@pytest.mark.parametrize("adapter", [False, True])
def test_an_anchor_costs_nothing_until_the_model_moves(tmp_path: Path, adapter: bool) -> None:
    from peft import LoraConfig

    trainer = _trainer(tmp_path, anchor=1.0)
    if adapter:
        loaded = load_model("nano-ar")
        config = LoraConfig(r=4, target_modules=["up_proj"])
        trainer = MaskedSFTTrainer(
            loaded.model, trainer.args, trainer.train_dataset, processing_class=loaded.tokenizer, peft_config=config
        )
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    anchored = trainer.compute_loss(trainer.model, dict(batch)).item()
    trainer.args.anchor = 0.0
    assert trainer.compute_loss(trainer.model, dict(batch)).item() == pytest.approx(anchored, abs=1e-5)
    trainer.args.anchor = 1.0
    with torch.no_grad():
        for name, weight in trainer.model.named_parameters():
            if weight.requires_grad and "norm" not in name:
                weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    anchored = trainer.compute_loss(trainer.model, dict(batch)).item()
    trainer.args.anchor = 0.0
    assert trainer.compute_loss(trainer.model, dict(batch)).item() < anchored - 1e-3


def test_silent_people_are_learned_as_documents_are(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path)
    practice = _practice()
    counted: Counter[bool] = Counter()
    for row in trainer.train_dataset.select(range(4 + len(practice.silent))):
        counted[row["frames"] is None] += 1
    assert counted == {True: 4 + len(practice.silent)}


@pytest.mark.parametrize("settings", [{"loss_type": "dft"}, {"label_smoothing_factor": 0.1}])
def test_an_anchor_beside_another_loss_is_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="anchor stands beside the plain loss only"):
        _trainer(tmp_path, anchor=0.5, **settings)


def test_a_diffusion_model_has_no_anchor(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="anchor is 0.5, and is not supported"):
        DiffusionSFTConfig(str(tmp_path), report_to="none", anchor=0.5)


# Which weights are kept.


def test_weights_are_selected_by_the_worse_direction_and_by_refusals() -> None:
    scores = {"forward": {"exact_match": 0.75, "n": 4}, "backward": {"exact_match": 0.25, "n": 4}, "refused": 0.5}
    assert practice_score(scores) == 0.375
    assert practice_score({**scores, "backward": {"exact_match": 0.0, "n": 0}}) == 0.625
    del scores["refused"]
    assert practice_score(scores) == 0.25


def test_a_run_selects_by_the_silent_and_never_by_the_users_questions(tmp_path: Path) -> None:
    options = {
        "documents": "fictional:nano",
        "size": 3,
        "model": "nano-ar",
        "practice": 0.5,
        "abstain": 0.33,
        "select_on": "practice",
        "num_train_epochs": 2,
        "evaluations": 2,
        "per_device_train_batch_size": 40,
        "max_new_tokens": 8,
        "retention": "false",
        "save_strategy": "no",
        "report_to": "none",
        "output_dir": tmp_path / "run",
    }
    results = train("masked", [str(part) for name, value in options.items() for part in (f"--{name}", value)])
    assert [set(entry["practice"]) for entry in results["history"]] == [{"forward", "backward", "refused"}] * 2
    asked = Practice(load_knowledge("fictional:nano", size=3).documents, 2, nano=True).silent_questions()
    assert results["history"][0]["practice"]["forward"]["n"] == sum(each.direction == "forward" for each in asked)
    best = max(practice_score(entry["practice"]) for entry in results["history"])
    assert results["selected"]["score"] == best


def test_nothing_is_selected_by_practice_without_any(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="set --practice 0.5, or select otherwise"):
        train(
            "masked",
            [
                "--documents",
                "fictional:nano",
                "--model",
                "nano-ar",
                "--select_on",
                "practice",
                "--output_dir",
                str(tmp_path),
            ],
        )


def test_a_run_that_is_resumed_shows_what_the_uninterrupted_one_did(tmp_path: Path) -> None:
    knowledge = load_knowledge("fictional:nano", size=4)
    practice = Practice(knowledge.documents, 2, gaps=0.0, nano=True)

    def trainer() -> Any:
        loaded = load_model("nano-ar")
        options = {**OPTIONS, "num_train_epochs": 2, "per_device_train_batch_size": 40}
        args = MaskedSFTConfig(str(tmp_path), **options, save_strategy="steps", save_steps=1)
        rows = with_practice(knowledge.to_dataset(), practice.rows())
        return MaskedSFTTrainer(loaded.model, args, train_dataset=rows, processing_class=loaded.tokenizer)

    whole, resumed = trainer(), trainer()
    whole.train()
    steps = whole.state.global_step
    assert steps >= 4
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{steps // 2 + 1}"))  # in the middle of an epoch
    for name, weight in resumed.model.state_dict().items():
        assert torch.equal(weight, whole.model.state_dict()[name]), name
