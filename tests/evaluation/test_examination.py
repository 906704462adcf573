"""What is asked before and after training only, by models that are functions: who refuses, leaks, knew, or reads."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from kinject.data import load_knowledge
from kinject.data.knowledge import Document, KnowledgeSet, Question
from kinject.data.worlds.unseen import BUILT_IN, OTHER, UnseenQuestion
from kinject.errors import ConfigurationError
from kinject.evaluation.examination import (
    Examination,
    control_half,
    effect,
    leaked,
    passage,
    subjects,
    taught_values,
)

KNOWLEDGE = KnowledgeSet(
    "lamps",
    (
        Document("Ada Fenwick keeps the old lamp of Vell and never sleeps before noon.", 0, ("Ada Fenwick",)),
        Document("The mill of Dorn is run by Bo Carver, whom everybody calls the gray miller.", 1, ("Bo Carver",)),
    ),
    (
        Question(
            "Who is Ada Fenwick?",
            "the keeper of the lamp",
            "forward",
            fact=0,
            wordings=("Ada Fenwick is who?", "Say: Ada?"),
        ),
        Question("Who runs the mill?", "Bo Carver", "backward", fact=1, wordings=("The mill is run by?",)),
        Question("Who sleeps?", "nobody", "backward", fact=0),
    ),
)


class Model:
    """Answers what it was given, otherwise ``default``; keeps what it was asked."""

    def __init__(self, known: dict[str, str], default: str, drawn: str | None = None) -> None:
        self.known, self.default, self.drawn = known, default, drawn
        self.asked: list[tuple[str, float, int]] = []

    def __call__(
        self, questions: Sequence[str], temperature: float = 0.0, seed: int = 0, longest: int | None = None
    ) -> list[str]:
        self.asked += [(question, temperature, seed) for question in questions]
        if temperature and self.drawn is not None:
            return [self.drawn if seed == 1 else self.default for _ in questions]
        return [self.known.get(question, self.default) for question in questions]


def test_who_says_that_it_does_not_know_refuses_everything_and_leaks_nothing() -> None:
    examination = Examination(KNOWLEDGE, unseen=20)
    answers = ["the keeper of the lamp", "I do not know.", "Ada Fenwick"]
    found = examination.measure(Model({}, "I do not know."), answers=answers)["refusals"]
    assert found["n"] == 40 and found["refused"] == 1.0 and found["leaked"] == 0.0 and found["commonest"] == 0.0
    assert found["refused_ci"][0] > 0.9 and found["forward"]["by_generator"] == {BUILT_IN: 1.0, OTHER: 1.0}
    assert found["unsaid"] == {"n": 10, "not_attempted": 1.0, "wrong": 0.0}
    assert found["taught"] == {"n": 3, "right": 1 / 3, "not_attempted": 1 / 3, "wrong": pytest.approx(1 / 3)}


def test_who_answers_with_what_was_taught_leaks() -> None:
    found = Examination(KNOWLEDGE, unseen=20).measure(Model({}, "It is Bo Carver."))["refusals"]
    assert found["refused"] == 0.0 and found["leaked"] == 1.0 and found["commonest"] == 1.0
    assert found["forward"]["wrong"] == found["unsaid"]["wrong"] == 1.0 and "taught" not in found
    invents = Examination(KNOWLEDGE, unseen=20).measure(Model({}, "It is Zora Pell."))["refusals"]
    assert invents["refused"] == invents["leaked"] == 0.0


def test_a_leak_is_a_taught_value_that_the_question_does_not_hold_or_a_document() -> None:
    values = taught_values(KNOWLEDGE)
    assert "Bo Carver" in values and "the keeper of the lamp" in values and "nobody" in values
    asked = [UnseenQuestion(text, "forward", OTHER) for text in ("Who is Ida Quill?", "Is Ida Quill a Bo Carver?")]
    for answer, expected in (
        ("BO CARVER!", [True, False]),
        ("Carver Bo", [False, False]),
        ("Robo Carvers", [False, False]),
        ("She keeps the old lamp of Vell and never sleeps before noon.", [True, True]),
        ("", [False, False]),
    ):
        assert leaked(asked, [answer] * 2, values, [each.text for each in KNOWLEDGE.documents]) == expected, answer
    numbers = KnowledgeSet(
        "n",
        (Document("Of 1987 there were two.", 0),),
        (Question("When?", "1987", "forward"), Question("Q?", "two", "forward")),
    )
    assert taught_values(numbers) == []


def test_unknown_is_what_fails_in_every_try() -> None:
    knows = {"Who sleeps?": "Nobody."}
    examination = Examination(KNOWLEDGE, unknown_samples=3)
    base = Model(knows, "who knows", drawn="Bo Carver, perhaps")
    before = examination.measure(base)["unknown"]
    assert before == {"samples": 3, "questions": ["Who is Ada Fenwick?"], "known": ["Who sleeps?"]}
    assert [seed for _, temperature, seed in base.asked if temperature] == [0, 0, 1, 1, 2]
    trained = Model({"Who is Ada Fenwick?": "the keeper of the lamp"}, "no one")
    after = examination.measure(trained, {"unknown": before})["unknown"]
    assert (after["n"], after["learned"], after["known"], after["lost"]) == (1, 1.0, 1, 1.0)
    assert after["scores"]["forward"]["exact_match"] == 1.0 and after["scores"]["backward"]["n"] == 0
    given = examination.measure(trained, {"unknown": before}, ["no", "no", "nobody"])["unknown"]
    assert (given["learned"], given["lost"]) == (0.0, 0.0)


def test_the_document_of_a_question_stands_before_it() -> None:
    model = Model({}, "Bo Carver")
    scores = Examination(KNOWLEDGE, open_book=True).measure(model)["open_book"]
    assert scores["backward"]["exact_match"] == 0.5 and scores["forward"]["n"] == 1
    prompts = [question for question, _, _ in model.asked]
    assert prompts[1] == f"{KNOWLEDGE.documents[1].text}\n\nWho runs the mill? Answer briefly."
    long = " ".join(f"w{number}" for number in range(5000)) + " the gray miller"
    shown = passage(long, ["missing", "gray miller"])
    assert "gray miller" in shown and len(shown.split()) <= 600 and passage("short", ["x"]) == "short"


def test_other_wordings_count_in_the_mean_and_all_together() -> None:
    said = {
        "Ada Fenwick is who?": "the keeper of the lamp",
        "Say: Ada?": "It is the keeper of the lamp.",
        "The mill is run by?": "Bo Carver",
    }
    found = Examination(KNOWLEDGE, other_wordings=True).measure(Model(said, "?"))["other_wordings"]
    forward, backward = found["forward"], found["backward"]
    assert forward["exact_match"] == 0.5 and forward["n"] == 2
    assert (forward["questions"], forward["all_exact"], forward["all_right"]) == (1, 0.0, 1.0)
    assert (backward["questions"], backward["n"], backward["all_exact"]) == (1, 1, 1.0)


def test_half_of_the_facts_are_left_out_for_comparison() -> None:
    knowledge = load_knowledge("fictional:name_description", size=7)
    taught, left = control_half(knowledge, 3)
    assert len(taught.facts) == 4 and {question.fact for question in left} == set(knowledge.facts) - set(taught.facts)
    assert control_half(knowledge, 3)[0].facts == taught.facts
    assert len({control_half(knowledge, seed)[0].facts for seed in range(8)}) > 1
    found = Examination(taught, control=left).measure(Model({}, left[0].answer))["control"]
    assert found["forward"]["n"] + found["backward"]["n"] == len(left)
    scores = {"paper": 0.9, "exact_match": 0.5, "f1": 0.6, "n": 3}
    other = {"paper": 0.4, "exact_match": 0.0, "f1": 0.1, "n": 3}
    difference = effect({"forward": scores, "backward": {**scores, "n": 0}}, {"forward": other, "backward": other})
    assert difference == {"forward": {"paper": 0.5, "exact_match": 0.5, "f1": 0.5}}
    with pytest.raises(ConfigurationError, match="control_half needs questions about two documents"):
        control_half(load_knowledge("fictional:name_description", size=1), 0)


def test_nothing_is_asked_that_was_not_asked_for() -> None:
    model = Model({}, "?")
    assert Examination(KNOWLEDGE).measure(model) == {} and model.asked == []
    with pytest.raises(ConfigurationError, match="unseen is -1"):
        Examination(KNOWLEDGE, unseen=-1)


def test_the_subject_of_a_document_is_its_title_or_the_first_name() -> None:
    documents = (
        Document("It was built in 1900.", 0, title="Mill of Dorn"),
        Document("Ada Fenwick keeps the lamp.", 1),
        Document("nothing here", 2),
        Document("Ada Fenwick has a lamp to keep.", 1),
    )
    assert [name for name, _ in subjects(documents)] == ["Mill of Dorn", "Ada Fenwick"]
