from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinject.data import Document, KnowledgeSet, Question, format_facts, parse_facts
from kinject.errors import ConfigurationError, DataError


def make_set(questions: tuple[Question, ...] = ()) -> KnowledgeSet:
    documents = tuple(Document(f"text {fact}", fact, ("text",)) for fact in (0, 0, 1, 2, 5))
    return KnowledgeSet("people", documents, questions)


def test_import_is_light() -> None:
    heavy = "{'torch', 'datasets', 'pandas', 'pyarrow', 'numpy', 'yaml', 'transformers'}"
    code = f"import sys, kinject.data; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "notes.jsonl:3: the document is empty; give it a text, or delete it"),
        (" \n\t", "notes.jsonl:3: the document is empty; give it a text, or delete it"),
        (None, "notes.jsonl:3: the document is NoneType, expected a string; give it a text, or delete it"),
        (
            "half \ud83d",
            "notes.jsonl:3: the document holds half of a surrogate pair (U+D83D), which is no character; "
            "write the whole character, or its pair of \\u escapes",
        ),
    ],
)
def test_bad_document(text: str, message: str) -> None:
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        Document(text, 0, source="notes.jsonl:3")


@pytest.mark.parametrize(
    ("question", "answer", "direction", "message"),
    [
        ("", "Ada", "forward", "q.jsonl:2: the question is empty; write the question, or delete it"),
        ("Who?", " ", "forward", "q.jsonl:2: the answer is empty; give the question its answer, or delete it"),
        (
            "Who?",
            "Ada",
            "sideways",
            'q.jsonl:2: direction "sideways" is neither "forward" nor "backward"; '
            'where it is not known, write "unknown"',
        ),
    ],
)
def test_bad_question(question: str, answer: str, direction: str, message: str) -> None:
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        Question(question, answer, direction, source="q.jsonl:2")  # type: ignore[arg-type]


def test_a_set_needs_documents() -> None:
    with pytest.raises(DataError, match="^people: the set holds no document; name a file or folder with at least one$"):
        KnowledgeSet("people", ())


def test_select_keeps_numbers_and_their_questions() -> None:
    questions = tuple(Question("Who?", "Ada", "forward", fact=fact) for fact in (0, 1, 2, None))
    chosen = make_set(questions).select("1-2")
    assert [document.fact for document in chosen.documents] == [1, 2]
    assert [question.fact for question in chosen.questions] == [1, 2]
    assert make_set().select([5, 0]).facts == (0, 5)


def test_select_unknown_fact() -> None:
    with pytest.raises(DataError, match="^people: no document of fact 3-4,9; the set holds facts 0-2,5$"):
        make_set().select("2-5,9")


@pytest.mark.parametrize("text", ["0-x", "", "5-2", "1;2", "-3", "²"])
def test_bad_selection(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is neither a number nor a range from low to high"):
        parse_facts(text)


def test_a_selection_that_would_fill_the_memory() -> None:
    with pytest.raises(ConfigurationError, match="there are no 99,999,999,999 facts"):
        parse_facts("0-99999999999")


@given(st.sets(st.integers(0, 200), min_size=1))
def test_selection_round_trip(numbers: set[int]) -> None:
    assert set(parse_facts(format_facts(sorted(numbers)))) == numbers


def test_to_dataset() -> None:
    dataset = KnowledgeSet("n", (Document("a b", 4, ("a", "b")), Document("c", 5))).to_dataset()
    assert dataset.column_names == ["text", "fact", "entities"]
    assert dataset[0] == {"text": "a b", "fact": 4, "entities": ["a", "b"]}
    assert dataset[1]["entities"] == []


strata = st.lists(
    st.tuples(st.sampled_from(["forward", "backward"]), st.sampled_from(["", "g"]), st.sampled_from(["N2D", "D2N"])),
    max_size=40,
)


@given(strata, st.floats(0.01, 0.99), st.integers(0, 5))
def test_split_questions(labels: list[tuple[str, str, str]], fraction: float, seed: int) -> None:
    questions = tuple(Question(f"q{i}", "a", *label) for i, label in enumerate(labels))  # type: ignore[arg-type]
    knowledge = make_set(questions)
    validation, test = knowledge.split_questions(fraction, seed)
    assert knowledge.split_questions(fraction, seed) == (validation, test)
    chosen = set(validation)
    assert validation == tuple(q for q in questions if q in chosen)
    assert test == tuple(q for q in questions if q not in chosen)
    for key in (lambda q: (q.direction, q.group, q.task), lambda q: q.direction):
        for stratum, count in Counter(map(key, questions)).items():
            if count >= 2:
                assert 0 < sum(key(q) == stratum for q in validation) < count


def test_split_follows_fraction_and_seed() -> None:
    questions = tuple(Question(f"q{i}", "a", "forward") for i in range(100))
    knowledge = make_set(questions)
    assert [len(part) for part in knowledge.split_questions(0.2)] == [20, 80]
    assert knowledge.split_questions(0.2, seed=1) != knowledge.split_questions(0.2, seed=2)
    # Forty kinds of question, one of each: rounding must not send all of them to one side.
    singles = tuple(Question("q", "a", "forward", task=str(i)) for i in range(40))
    assert [len(part) for part in make_set(singles).split_questions(0.25)] == [10, 30]
    only = make_set(questions[:1]).split_questions(0.5)
    assert only == ((), questions[:1])


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, float("nan")])
def test_split_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(ConfigurationError, match="expected a share between 0 and 1, for example 0.5$"):
        make_set().split_questions(fraction)
