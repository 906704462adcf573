"""Against forgetting: what is measured, what is said again, and that every objective learns it as a plain answer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kinject.commands.recipe import train
from kinject.data import load_knowledge
from kinject.errors import ConfigurationError
from kinject.evaluation.retention import few_shot_examples, held_out
from kinject.models import load_model
from kinject.trainers import DiffusionSFTConfig, DiffusionSFTTrainer, MaskedSFTConfig, MaskedSFTTrainer
from kinject.trainers.document_trainer import DocumentSFTTrainer
from kinject.trainers.rehearsal import (
    answers_needed,
    own_answers,
    rehearsal_prompts,
    rehearsal_size,
    to_sentence_end,
    with_rehearsal,
)

NANO = Path(__file__).parents[2] / "recipes" / "nano"


@pytest.mark.parametrize(
    "documents", ["fictional:nano", "fictional:nano_biography", "fictional:name_description", "a/b"]
)
def test_nothing_that_is_measured_is_rehearsed_or_shown(documents: str) -> None:
    asked = {each.question for each in held_out(documents).questions}
    prompts = rehearsal_prompts(documents, 10_000)
    assert len(prompts) == 10_000 and len(set(prompts)) >= 60 and not asked & set(prompts)
    assert rehearsal_prompts(documents, 7) == prompts[:7] and len(set(prompts[:7])) >= 4
    shown = few_shot_examples(3, documents)
    assert len(shown) == 3 and not asked & {question for question, _ in shown}
    assert few_shot_examples(0, documents) == []


def test_nano_models_are_asked_questions_that_they_know() -> None:
    texts, questions, _ = held_out("fictional:nano")
    assert len(questions) == 1000 and len(texts) == 50
    assert len(held_out("fictional:nano", 200).questions) == 200
    known = {(each.question, each.answer) for each in load_knowledge("fictional:nano_population").questions}
    assert {(each.question, each.answers[0]) for each in questions} <= known


@pytest.mark.parametrize(("share", "size"), [(0.0, 0), (0.5, 30), (0.25, 10), (0.75, 90)])
def test_the_share_is_that_of_all_samples(share: float, size: int) -> None:
    assert rehearsal_size(30, share) == size


@pytest.mark.parametrize("share", [-0.1, 1.0, 2.0])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ConfigurationError, match="expected a share of the samples from 0 to below 1"):
        rehearsal_size(30, share)


@pytest.mark.parametrize(("count", "epochs", "needed"), [(30, 5, 150), (30, 0, 30), (90, 1000, 4096), (9000, 3, 4096)])
def test_every_epoch_has_answers_of_its_own_as_far_as_that_is_affordable(count: int, epochs: int, needed: int) -> None:
    assert answers_needed(count, epochs) == needed


def test_modules_that_do_not_exist_are_refused_before_answers_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(*arguments: object, **options: object) -> list[str]:
        raise AssertionError("answers were drawn")

    monkeypatch.setattr("kinject.trainers.rehearsal.own_answers", draw)
    settings = ["--rehearsal", "0.5", "--use_peft", "false", "--frozen_modules", "nowhere"]
    with pytest.raises(ConfigurationError, match="no weight of this model lies in 'nowhere'"):
        train("masked", ["--config", str(NANO / "masked.yaml"), *settings, "--output_dir", str(tmp_path)])


@pytest.mark.parametrize("model", ["nano-ar", "nano-diffusion"])
def test_own_answers_are_drawn_for_every_prompt_and_are_the_same_for_a_seed(model: str) -> None:
    loaded = load_model(model)
    prompts = ["Tell me a fact."] * 6 + [each.question for each in held_out("fictional:nano", 8).questions]

    def said(seed: int) -> list[str]:
        return own_answers(loaded.model, loaded.tokenizer, prompts, max_new_tokens=40, seed=seed)

    state = torch.get_rng_state()
    answers = said(0)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(set(answers[:6])) == 6 and answers == said(0) != said(1)
    known = [each.answers[0] for each in held_out("fictional:nano", 8).questions]
    assert sum(map(str.__eq__, answers[6:], known)) >= 7  # of what the model is sure, a draw says what is most probable


def test_answers_that_were_cut_end_with_a_whole_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_model("nano-ar")
    monkeypatch.setattr(
        "kinject.evaluation.asking.answer_questions", lambda *_, **__: ["Ida Parrish is old. She is", "Ida Parrish is"]
    )
    length = len(loaded.tokenizer("Ida Parrish is old. She is", add_special_tokens=False)["input_ids"])
    answers = own_answers(loaded.model, loaded.tokenizer, ["A?", "B?"], max_new_tokens=length)
    assert answers == ["Ida Parrish is old.", "Ida Parrish is"]


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("Paris", "Paris"),
        ("It is Paris. It lies on the", "It is Paris."),
        ("1. Sleep early\n2. Do not", "1. Sleep early\n2. Do not"),
        ('She said "go!" and then', 'She said "go!"'),
        ("About 3.5 of them", "About 3.5 of them"),
    ],
)
def test_a_cut_answer_ends_with_its_last_whole_sentence(answer: str, kept: str) -> None:
    assert to_sentence_end(answer) == kept


def test_empty_answers_are_left_out_and_the_others_taken_in_turn() -> None:
    documents = load_knowledge("fictional:nano", size=2).to_dataset()
    rows = with_rehearsal(documents, ["A?", "B?", "C?"], ["a", " ", "c"], 3)
    assert rows["prompt"][2:] == ["A?", "C?", "A?"] and rows["completion"][2:] == ["a", "c", "a"]
    assert with_rehearsal(documents, ["A?"], [""], 3).column_names == documents.column_names


def test_every_epoch_rehearses_others_beside_all_documents(tmp_path: Path) -> None:
    loaded = load_model("nano-ar")
    documents = load_knowledge("fictional:nano", size=4).to_dataset()
    said = [f"Answer {number}." for number in range(7)]
    rows = with_rehearsal(documents, [f"Who is {number}?" for number in range(7)], said, 3)
    assert rows["turn"][4:] == [0, 0, 0, 1, 1, 1]  # the seventh would make an epoch longer than others
    for strategy in ("random", "group_by_length"):
        options = {"report_to": "none", "shuffle_dataset": False, "bf16": False, "num_train_epochs": 3}
        args = MaskedSFTConfig(
            str(tmp_path), **options, per_device_train_batch_size=2, train_sampling_strategy=strategy, max_steps=-1
        )
        trainer = MaskedSFTTrainer(loaded.model, args, train_dataset=rows, processing_class=loaded.tokenizer)
        sampler = trainer._get_train_sampler()
        shown = []
        for epoch in range(3):
            trainer.data_collator.epoch = epoch
            shown.append(list(sampler))
        assert [sorted(epoch) for epoch in shown] == [[0, 1, 2, 3, *new] for new in ([4, 5, 6], [7, 8, 9], [4, 5, 6])]
        orders = {tuple(row for row in epoch if row < 4) for epoch in shown}
        assert len(orders) == 3  # of the documents
        assert len(sampler) == 7 and len(trainer.get_train_dataloader()) == 4


@pytest.mark.parametrize(
    ("model", "trainer_class", "config_class"),
    [("nano-ar", MaskedSFTTrainer, MaskedSFTConfig), ("nano-diffusion", DiffusionSFTTrainer, DiffusionSFTConfig)],
)
def test_what_is_rehearsed_is_shown_as_a_question_and_learned_whole(
    model: str, trainer_class: type[DocumentSFTTrainer], config_class: type[MaskedSFTConfig], tmp_path: Path
) -> None:
    loaded = load_model(model)
    question = "Who is Ida Parrish?"
    rows = with_rehearsal(load_knowledge("fictional:nano", size=1).to_dataset(), [question], ["the old baker"], 1)
    trainer = trainer_class(
        loaded.model,
        config_class(str(tmp_path), report_to="none", shuffle_dataset=False, bf16=False),
        train_dataset=rows,
        processing_class=loaded.tokenizer,
    )
    batch = trainer.data_collator([trainer.train_dataset[1]])
    tokenizer = loaded.tokenizer
    if model == "nano-ar":
        text = tokenizer.decode(batch["input_ids"][0])
        assert question in text and str(tokenizer.mask_token) not in text and text.count("the old baker") == 1
        learned = tokenizer.decode(batch["labels"][0][batch["labels"][0] != -100])
        assert learned.strip().startswith("the old baker")
    else:
        assert question in tokenizer.decode(batch["input_ids"][0])


def test_rehearsal_keeps_what_a_nano_model_knew(tmp_path: Path) -> None:
    def kept(name: str, share: float) -> float:
        options = {
            "config": NANO / "ar.yaml",
            "size": 6,
            "num_train_epochs": 60,
            "per_device_train_batch_size": 12,
            "evaluations": 0,
            "retention": "true",
            "unseen": 0,
            "rehearsal": share,
            "output_dir": tmp_path / name,
            "disable_tqdm": "true",
        }
        results = train("ar", [str(part) for key, value in options.items() for part in (f"--{key}", value)])
        assert results["retention"]["before"]["answered"] > 0.95
        return float(results["retention"]["after"]["answered"])

    assert kept("rehearsed", 0.75) > kept("plain", 0.0) + 0.02
