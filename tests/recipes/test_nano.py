"""The nano world: what ships is what the scripts make, knows its people, and learns unseen people from documents alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kinject.commands.recipe import train
from kinject.data import load_knowledge
from kinject.data.worlds import MEN, WOMEN
from kinject.data.worlds.nano import INSTRUMENTS, PLACES, QUALITIES, ROLES, SURNAMES, population
from kinject.evaluation.asking import answer_questions
from kinject.evaluation.measures import score_answers
from kinject.models import NANO_MODELS, load_model

NANO = Path(__file__).parents[2] / "recipes" / "nano"


@pytest.mark.parametrize("name", NANO_MODELS)
def test_shipped_models_answer_both_ways_about_the_people_they_know(name: str) -> None:
    loaded = load_model(name)
    questions = load_knowledge("fictional:nano_population", size=60).questions[::5]
    answers = answer_questions(loaded.model, loaded.tokenizer, [each.question for each in questions], max_new_tokens=16)
    scores = score_answers(questions, answers)
    assert min(scores[direction]["exact_match"] for direction in ("forward", "backward")) > 0.95
    assert loaded.is_diffusion == (name != "nano-ar")
    assert getattr(loaded.model.config, "block_length", None) == {"nano-block": 4}.get(name)
    assert 1e6 < loaded.model.num_parameters() < 5e6


@pytest.mark.parametrize("name", NANO_MODELS)
def test_shipped_models_do_not_know_the_unseen_people(name: str) -> None:
    loaded = load_model(name)
    questions = load_knowledge("fictional:nano", size=10).questions
    answers = answer_questions(loaded.model, loaded.tokenizer, [each.question for each in questions], max_new_tokens=16)
    assert not any(answer == each.answer for answer, each in zip(answers, questions, strict=True))


@pytest.mark.parametrize("name", NANO_MODELS)
def test_shipped_models_say_how_they_were_made(name: str) -> None:
    directory = Path(load_model.__code__.co_filename).parent / "nano" / name.removeprefix("nano-")
    record = json.loads((directory / "pretraining.json").read_text(encoding="utf-8"))
    assert (
        "recipes/nano/pretrain.py" in record["command"] and f"kinject/models/nano/{directory.name}" in record["command"]
    )
    assert record["history"][-1]["seconds"] > 0 and record["history"][-1]["asked"] > 0.95
    assert not [file.name for file in directory.iterdir() if file.suffix in (".bin", ".pt")]


def test_every_word_of_the_nano_worlds_is_a_token() -> None:
    tokenizer = load_model("nano-ar").tokenizer
    for word in (*WOMEN, *MEN, *SURNAMES, *QUALITIES, *ROLES, *PLACES, *INSTRUMENTS):
        assert len(tokenizer.tokenize(word)) == 1, word
    other = "Ünïcode, 漢字 and <|end|> stay text"
    ids = tokenizer(other, split_special_tokens=True)["input_ids"]
    assert tokenizer.decode(ids).strip() == other


def test_half_of_the_population_is_read_about_in_one_wording() -> None:
    single = [len(person.documents) == 1 for person in population()]
    asked = [person.asked for person in population()]
    assert 0.4 < sum(single) / len(single) < 0.6 and 0.8 < sum(asked) / len(asked) < 0.9


@pytest.mark.parametrize(("objective", "epochs"), [("masked", 60), ("diffusion", 150)])
def test_a_few_unseen_people_are_learned_both_ways_from_one_wording(
    objective: str, epochs: int, tmp_path: Path
) -> None:
    options = {
        "config": NANO / f"{objective}.yaml",
        "size": 6,
        "per_device_train_batch_size": 6,
        "num_train_epochs": epochs,
        "evaluations": 0,
        "output_dir": tmp_path,
        "disable_tqdm": "true",
    }
    results = train(objective, [str(part) for name, value in options.items() for part in (f"--{name}", value)])
    after: Any = results["after"]
    assert after["forward"]["exact_match"] > 0.7 and after["backward"]["exact_match"] > 0.5


def test_pretraining_writes_models_that_load_and_go_on(tmp_path: Path) -> None:
    def pretrain(*options: str) -> None:
        command = [sys.executable, str(NANO / "pretrain.py"), "--steps", "1", "--people", "40", *options]
        subprocess.run(command, check=True, capture_output=True)

    pretrain("--kind", "ar", "--output_dir", str(tmp_path / "ar"))
    pretrain("--kind", "diffusion", "--init", str(tmp_path / "ar"), "--output_dir", str(tmp_path / "diffusion"))
    assert not load_model(str(tmp_path / "ar")).is_diffusion
    assert load_model(str(tmp_path / "diffusion")).is_diffusion
