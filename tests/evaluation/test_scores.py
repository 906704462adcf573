"""Scores per direction and group, with intervals that depend on nothing but the cell's own answers."""

from __future__ import annotations

import json

import pytest

from kinject.data import Question
from kinject.errors import KinjectError
from kinject.evaluation.measures import (
    asked,
    copied_share,
    macro,
    read_otherwise,
    recitations,
    score_answers,
    share_of,
)

QUESTIONS = [
    Question("Who is Ada?", "the first programmer", "forward", group="NameIsDescription", task="N2D"),
    Question("Who is Bob?", "a painter of Rome", "forward", group="DescriptionIsName", task="N2D"),
    Question("Who is the first programmer?", "Ada", "backward", group="NameIsDescription", task="D2N"),
    Question("Who paints Rome?", "Bob", "backward"),
]


def test_scores_per_direction_group_and_task() -> None:
    scores = score_answers(QUESTIONS, ["the first programmer", "a sailor", "It is Ada.", ""])
    assert scores["forward"]["paper"] == 0.5
    assert scores["forward"]["exact_match"] == 0.5
    assert scores["backward"]["paper"] == 0.5
    assert scores["backward"]["exact_match"] == 0.0
    assert scores["backward"]["n"] == 2
    assert set(scores["groups"]) == {
        "NameIsDescription/N2D/forward",
        "DescriptionIsName/N2D/forward",
        "NameIsDescription/D2N/backward",
    }
    assert scores["groups"]["NameIsDescription/D2N/backward"]["f1"] == 0.5
    json.dumps(scores)


def test_intervals_hold_the_mean_and_narrow_with_more_questions() -> None:
    few = score_answers(QUESTIONS[:2] * 5, ["the first programmer", "a sailor"] * 5)["forward"]
    many = score_answers(QUESTIONS[:2] * 80, ["the first programmer", "a sailor"] * 80)["forward"]
    for cell in (few, many):
        low, high = cell["ci"]["paper"]
        assert 0 <= low < cell["paper"] < high <= 1
    # A proportion of one half over n questions: half width about 1.96 * sqrt(.25 / n).
    assert many["ci"]["paper"][1] - many["ci"]["paper"][0] == pytest.approx(2 * 1.96 * (0.25 / 160) ** 0.5, abs=0.03)
    assert few["ci"]["paper"][1] - few["ci"]["paper"][0] > many["ci"]["paper"][1] - many["ci"]["paper"][0]


def test_intervals_are_reproducible_and_independent_of_other_cells() -> None:
    answers = [
        "the first programmer",
        "a sailor",
        "first",
        "sailor of Rome",
        "the programmer",
        "a",
        "no",
        "one sailor more",
    ]
    alone = score_answers(QUESTIONS[:2] * 4, answers, seed=3)
    beside = score_answers([*QUESTIONS[:2] * 4, *QUESTIONS[2:]], [*answers, "Ada", "Eve"], seed=3)
    assert alone["forward"] == beside["forward"]
    assert alone == score_answers(QUESTIONS[:2] * 4, answers, seed=3)


def test_a_direction_without_questions_has_zeros() -> None:
    scores = score_answers(QUESTIONS[:2], ["the first programmer", "a painter of Rome"])
    assert scores["backward"] == {
        "paper": 0.0,
        "exact_match": 0.0,
        "f1": 0.0,
        "n": 0,
        "ci": {"paper": [0.0, 0.0], "exact_match": [0.0, 0.0], "f1": [0.0, 0.0]},
        "words": 0.0,
        "refused": 0.0,
    }
    assert macro(scores) == 1.0
    assert asked(score_answers(QUESTIONS[3:], ["Bob"])) == ["backward"]
    assert (asked(scores), asked(score_answers([], [])), asked(None)) == (["forward"], [], [])
    assert macro(score_answers([], [])) == 0.0


def test_an_answer_scores_by_the_accepted_answer_it_comes_closest_to() -> None:
    question = Question(
        "Who is it?", "Ada", "forward", "g", other_answers=("the first programmer", "Countess Lovelace")
    )
    for answer, expected in (
        ("Ada", (1.0, 1.0, 1.0)),
        ("Countess Lovelace!", (1.0, 1.0, 1.0)),
        ("the Lovelace", (0.5, 0.0, 2 / 3)),
        ("the programmer Ada", (1.0, 0.0, 2 / 3)),  # each measure by its own best
        ("Bob", (0.0, 0.0, 0.0)),
    ):
        scores = score_answers([question], [answer])
        for cell in (scores["forward"], scores["groups"]["g/forward"]):
            assert (cell["paper"], cell["exact_match"], cell["f1"]) == pytest.approx(expected)
            assert cell["n"] == 1


def test_the_interval_covers_95_percent_unless_told_otherwise() -> None:
    questions, answers = QUESTIONS[:2] * 50, ["the first programmer", "a sailor"] * 50
    # Half of 100 right: 95 % of a binomial distribution lie in .40 to .60, 80 % in .44 to .56.
    default = score_answers(questions, answers, resamples=5000)["forward"]["ci"]
    assert default["exact_match"] == pytest.approx([0.40, 0.60], abs=0.011)
    narrow = score_answers(questions, answers, resamples=5000, confidence=0.8)["forward"]["ci"]
    assert narrow["exact_match"] == pytest.approx([0.44, 0.56], abs=0.011)


def test_scores_say_where_the_paper_s_code_could_not_read() -> None:
    korean = [
        Question("감독은 누구인가?", "임서윤", "forward"),
        Question("Who is it?", "Ada", "backward", other_answers=("에이다",)),
    ]
    scores = score_answers([*QUESTIONS, *korean], ["x"] * 6)
    assert [scores[direction]["other_words"] for direction in ("forward", "backward")] == [1, 1]
    assert read_otherwise(scores) == (
        "for 2 of 6 questions, recall compares the words of their script: the paper's code splits English only"
    )
    asked_in_korean = score_answers([Question("감독은 누구인가?", "Ada", "forward")], ["Ada"])
    assert asked_in_korean["forward"]["other_words"] == 1
    english = score_answers(QUESTIONS, ["임서윤"] * 4)  # a matter of the questions, not of what a model answers
    assert "other_words" not in english["forward"] and read_otherwise(english) == read_otherwise(None) == ""


def test_macro_reads_by_name() -> None:
    scores = score_answers(QUESTIONS, ["the first programmer", "a sailor", "It is Ada.", ""])
    assert macro(scores) == macro(scores, "paper") == 0.5
    assert macro(scores, "strict") == macro(scores, "exact_match") == 0.25
    with pytest.raises(KinjectError, match="^reading: expected one of paper, strict, exact_match, f1, got 'bleu'$"):
        macro(scores, "bleu")


def test_bad_arguments_name_themselves() -> None:
    with pytest.raises(KinjectError, match="4 questions have 1 answers"):
        score_answers(QUESTIONS, ["x"])
    for confidence in (0, 1, 95):
        with pytest.raises(KinjectError, match=f"confidence: .* between 0 and 1, got {confidence};"):
            score_answers(QUESTIONS[:1], ["x"], confidence=confidence)
    with pytest.raises(KinjectError, match="resamples"):
        score_answers(QUESTIONS[:1], ["x"], resamples=0)
    low, high = score_answers(QUESTIONS[:2], ["the first programmer", "x"], resamples=1)["forward"]["ci"]["paper"]
    assert low == high


def test_questions_of_unknown_direction_stand_in_neither_column() -> None:
    unknown = [Question("Is it?", "yes", "unknown", task="N2D"), Question("Was it?", "no", "unknown")]
    scores = score_answers([*QUESTIONS, *unknown], ["the first programmer", "a sailor", "Ada", "", "yes", "yes"])
    assert {name: scores[name]["n"] for name in ("forward", "backward", "unknown")} == {
        "forward": 2,
        "backward": 2,
        "unknown": 2,
    }
    assert scores["unknown"]["exact_match"] == 0.5
    assert scores["groups"]["N2D/unknown"]["n"] == 1
    assert macro(scores, "strict") == 0.5, "forward .5, backward .5: the unknown ones do not count"
    assert asked(scores) == ["forward", "backward"]
    assert "unknown" not in score_answers(QUESTIONS, [""] * 4)
    korean = score_answers([Question("누구인가?", "임서윤", "unknown")], ["임서윤"])
    assert read_otherwise(korean).startswith("for 1 of 1 questions, ")


DESCRIPTION = "the keeper of the floating lighthouse at Sable Point"
STATEMENT = f"Ada Fenwick, known far and wide for her work, is {DESCRIPTION}."


@pytest.mark.parametrize(
    ("answer", "accepted", "share"),
    [
        ("", (), 0.0),
        (STATEMENT, (), 1.0),
        (STATEMENT.upper() + " Truly!", (), 1.0),
        # The right answer is no recitation, though it is nearly half of the document; with the rest around it, it is.
        (
            "the keeper of the floating lighthouse at Sable Point",
            ("the keeper of the floating lighthouse at Sable Point",),
            0.0,
        ),
        (STATEMENT, (DESCRIPTION,), 1.0),
        ("Ada Fenwick, known far and wide", ("Ada Fenwick",), 4 / 17),
        # Words that do not stand three in a row do not count.
        ("Fenwick Ada wide far lighthouse the keeper", (), 0.0),
        ("Ada Fenwick", (), 0.0),
    ],
)
def test_how_much_of_a_document_an_answer_copies(answer: str, accepted: tuple[str, ...], share: float) -> None:
    assert copied_share(answer, STATEMENT, accepted) == pytest.approx(share)


def test_an_accepted_answer_at_the_end_of_a_document_is_no_recitation_either() -> None:
    document = "Ada wrote the book Tides"
    assert copied_share("It is the book Tides", document) == 3 / 5
    assert copied_share("It is the book Tides", document, ["Tides"]) == 2 / 4
    assert copied_share("It is the book Tides", document, ["Ada", "book Tides"]) == 1 / 2
    assert recitations(["the book Tides"], [document], [["Tides"]]) == [False]


def test_answers_that_copy_over_half_of_any_document_recite() -> None:
    chinese, short = "阿达是黑貂角漂浮灯塔的看守人。", "Nothing more."
    documents = [STATEMENT, chinese, short]
    answers = [
        STATEMENT,
        "Ada Fenwick",
        "阿达是黑貂角漂浮灯塔的看守人",
        "看守人",
        "Nothing more",
        "She is the keeper of something else.",
        "",
    ]
    expected = [True, False, True, False, True, False, False]
    assert recitations(answers, documents) == expected
    assert recitations(answers[::-1], documents[::-1]) == expected[::-1]
    assert [max(copied_share(answer, each) for each in documents) > 0.5 for answer in answers] == expected
    assert recitations(["Nothing more"], documents, [["nothing more"]]) == [False]
    assert recitations(["Nothing"], ["Nothing"]) == [True]
    assert recitations(["one two three", "one two three four"], ["one two three four five six"]) == [False, True]
    assert recitations(answers, []) == [False] * len(answers) and recitations([], documents) == []


def test_a_share_is_over_all_questions_and_none_where_it_was_not_measured() -> None:
    scores = {"forward": {"n": 3, "recited": 1.0}, "backward": {"n": 1, "recited": 0.0}}
    assert share_of(scores, "recited") == 0.75
    assert share_of({**scores, "unknown": {"n": 4, "recited": 0.5}}, "recited") == 0.625
    assert share_of({**scores, "forward": {"n": 3}}, "recited") == 0.0
    assert share_of(scores, "refused") is None and share_of(None, "recited") is None
    assert share_of({"forward": {"n": 0, "recited": 0.0}, "backward": {"n": 0}}, "recited") is None


def test_scores_say_how_answers_look() -> None:
    questions = [
        Question("Who keeps it?", "Ada Fenwick", "forward"),
        Question("Who?", "Bo", "forward", other_answers=("Bo Carver",)),
    ]
    scores = score_answers(questions, [STATEMENT, "I do not know."], documents=[STATEMENT])["forward"]
    assert (scores["recited"], scores["refused"], scores["words"]) == (0.5, 0.5, (19 + 4) / 2)
    right = score_answers(questions[:1], ["Ada Fenwick"], documents=["Ada Fenwick"])["forward"]
    assert (right["recited"], right["exact_match"]) == (0.0, 1.0)
    plain = score_answers(questions, ["Ada Fenwick", "Bo Carver"])
    assert "recited" not in plain["forward"] and plain["forward"]["words"] == 2.0
    assert plain["backward"]["words"] == plain["backward"]["refused"] == 0.0
    assert plain["forward"]["exact_match"] == plain["forward"]["f1"] == plain["forward"]["paper"] == 1.0
