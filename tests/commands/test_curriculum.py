"""What a run shows beside its documents that needs the untrained model: its own answers, and what it provably knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kinject.commands.curriculum import Curriculum
from kinject.commands.inject import InjectionArguments
from kinject.data import load_knowledge
from kinject.errors import ConfigurationError
from kinject.evaluation.asking import predict
from kinject.evaluation.retention import held_out, nano_questions
from kinject.models import LoadedModel, load_model
from kinject.trainers import MaskedSFTConfig
from tests.conftest import build_model, build_tokenizer

FOLDER = """The Irongrove Museum was opened in 1987 by Ada Fenwick. It stands in Sable Point.

Ada Fenwick painted the Silver Ferry in 1990."""


def curriculum(documents: str, training: dict[str, Any] | None = None, **arguments: Any) -> Curriculum:
    chosen = InjectionArguments(documents=documents, max_new_tokens=6, **arguments)
    settings: dict[str, Any] = {"num_train_epochs": 5, "bf16": False, "report_to": "none", "disable_tqdm": True}
    args = MaskedSFTConfig("unused", use_cpu=True, **{**settings, **(training or {})})
    return Curriculum(load_knowledge(documents, size=arguments.pop("size", None)), chosen, args)


@pytest.fixture
def page(tmp_path: Path) -> str:
    (tmp_path / "museum.txt").write_text(FOLDER, encoding="utf-8")
    return str(tmp_path / "museum.txt")


def test_what_is_distilled_is_asked_without_the_document_and_predicted_with_it(page: str) -> None:
    tokenizer = build_tokenizer()
    loaded = LoadedModel(build_model(tokenizer), tokenizer, name="tiny", source="test")
    made = curriculum(page, distill=0.75, rehearsal=0.5)
    rows = made.dataset(loaded).to_list()
    assert [row["text"] for row in rows if row["text"]] == [FOLDER]
    own = [row for row in rows if row["rehearsal"]]
    by_turn = [[row["prompt"] for row in own if row["turn"] == turn] for turn in range(5)]
    assert all(len(prompts) == 4 for prompts in by_turn) and len(own) == 20  # 3 about the document, 1 of all else
    asked = dict((question, shown) for shown, question in made._asked)
    assert all(sum(prompt in asked for prompt in prompts) == 3 for prompts in by_turn)
    for row in own:
        assert FOLDER not in row["prompt"]
        shown = asked.get(row["prompt"], row["prompt"])
        (expected,) = predict(loaded.model, tokenizer, [shown], [row["completion"]])
        assert row["predictions"]["ids"] == [list(each) for each in vars(expected)["ids"]]
    assert all(FOLDER in shown and shown.endswith("Answer briefly.") for shown in asked.values())


def test_no_question_is_distilled_that_is_asked_in_the_end(page: str) -> None:
    made = curriculum(page, distill=0.5)
    assert made._asked
    questions = {question for _, question in made._asked}
    assert not questions & {each.question for each in made.knowledge.questions}


def test_known_questions_come_late_and_none_is_asked_by_retention() -> None:
    made = curriculum("fictional:nano", size=4, known=0.5)
    rows = made.dataset(load_model("nano-ar")).to_list()
    documents = [row for row in rows if row["text"]]
    assert len(documents) == 4 and all(row["epochs"] == [0, 1, 2, 3, 4] for row in documents)
    known = [row for row in rows if not row["text"]]
    assert len(known) == 4 and all(row["epochs"] == [4] for row in known)  # half of the last of five epochs
    answers = dict(nano_questions(1))
    assert all(row["completion"] == answers[row["prompt"]] for row in known)
    held = {each.question for each in held_out("fictional:nano").questions or ()}
    assert held and not held & {row["prompt"] for row in known}


def test_a_model_that_knows_nothing_is_shown_nothing(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = build_tokenizer()
    loaded = LoadedModel(build_model(tokenizer), tokenizer, name="tiny", source="test")
    rows = curriculum(page, known=0.5).dataset(loaded).to_list()
    assert all(row["text"] for row in rows)
    assert "known: 0 of" in (said := capsys.readouterr().out) and "nothing to keep" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"known": 1.0}, "known is 1.0; expected a share"),
        ({"distill": -0.1}, "distill is -0.1; expected a share"),
        ({"rehearsal": 2.0}, "rehearsal is 2.0; expected a share"),
        ({"known": 0.5, "training": {"max_steps": 3}}, "max_steps ends the run before.*--num_train_epochs"),
        ({"distill": 0.5}, "nano models cannot read a document"),
        ({"select_on": "practice"}, "nothing is practiced: set --practice 0.5"),
        ({"practice_order": "last"}, "practice_order is 'last'"),
    ],
)
def test_what_cannot_be_followed_is_refused_before_a_model_is_loaded(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        curriculum("fictional:nano", size=4, **arguments)
