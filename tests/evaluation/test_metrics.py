"""The paper's recall against the packages its public code calls, and the strict reading on any script."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinject.evaluation.metrics import STOP_WORDS, exact_match, normalize_answer, paper_recall, token_f1

WORDS = st.sampled_from(
    [*sorted(STOP_WORDS), "The", "Cannot", "cannot", "gonna", "wanna", "gotta", "lemme", "gimme", "Paris", "paris"]
    + ["A.B", "Zoë", "東京", "it's", "\u201cquoted\u201d", "1990\u20131995", "don\u2019t", "...", "", " ", "\t"]
)
MIXED = st.lists(WORDS, max_size=12)
TEXTS = st.one_of(st.text(max_size=40), MIXED.map(" ".join), MIXED.map("".join))


def published_recall(answer: str, reference: str) -> float:
    """The published computation, step by step, with the two packages it uses."""
    nltk_tokenize = pytest.importorskip("nltk.tokenize", reason="compares with nltk: pip install nltk")
    rouge = pytest.importorskip("rouge", reason="compares with rouge: pip install rouge==1.0.1")
    cleaned = []
    for text in (answer, reference):
        bare = "".join(character for character in text.strip() if character not in set(string.punctuation))
        words = nltk_tokenize.NLTKWordTokenizer().tokenize(bare)
        cleaned.append(" ".join(word for word in words if word.lower() not in STOP_WORDS))
    try:
        return rouge.Rouge(metrics=["rouge-1"]).get_scores([cleaned[0]], [cleaned[1]])[0]["rouge-1"]["r"]
    except ValueError:  # nothing is left on one side
        return 0.0


@settings(max_examples=400, deadline=None)
@given(TEXTS, TEXTS)
def test_paper_recall_equals_the_published_computation(answer: str, reference: str) -> None:
    assert paper_recall(answer, reference) == published_recall(answer, reference)
    assert paper_recall(f"{answer} {reference}", reference) == published_recall(f"{answer} {reference}", reference)


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("Daphne Barrington", "Daphne Barrington", 1.0),
        ("It was Daphne.", "Daphne Barrington", 0.5),
        ("daphne barrington", "Daphne Barrington", 0.0),  # case is kept
        ("the of and", "Daphne", 0.0),
        ("", "Daphne", 0.0),
        ("Daphne", "the", 0.0),
        ("A Journey Through Time!", 'the "A Journey Through Time."', 1.0),
        ("red red red", "red blue red green", 1 / 3),  # sets: a repeated word counts once
    ],
)
def test_paper_recall(answer: str, reference: str, expected: float) -> None:
    assert paper_recall(answer, reference) == pytest.approx(expected)


@given(st.text(max_size=30).filter(str.strip))
def test_strict_scores_give_any_text_itself(text: str) -> None:
    assert exact_match(text, text) == 1.0
    assert token_f1(text, text) == 1.0


@given(st.text(max_size=30), st.text(max_size=30))
def test_strict_scores_stay_in_range(answer: str, reference: str) -> None:
    assert 0.0 <= token_f1(answer, reference) <= 1.0
    if exact_match(answer, reference):
        assert token_f1(answer, reference) == 1.0


@pytest.mark.parametrize(
    ("answer", "reference", "match", "f1"),
    [
        ("The Eiffel  Tower.", "eiffel tower", 1.0, 1.0),
        ("Paris, France", "Paris", 0.0, 2 / 3),
        ("Москва!", "москва", 1.0, 1.0),
        ("東京です", "東京", 0.0, 2 / 3),  # unspaced scripts are compared by character
        ("Zoe\u0308", "Zo\u00eb", 1.0, 1.0),  # composed and decomposed
        ("\u00abМира\u00bb", "Мира", 1.0, 1.0),
        ("A", "A", 1.0, 1.0),
        ("the", "a", 0.0, 0.0),
        ("", "Paris", 0.0, 0.0),
        ("red red", "red", 0.0, 2 / 3),  # SQuAD counts repetitions
    ],
)
def test_strict(answer: str, reference: str, match: float, f1: float) -> None:
    assert exact_match(answer, reference) == match
    assert token_f1(answer, reference) == pytest.approx(f1)


def test_normalization_keeps_what_distinguishes_an_answer() -> None:
    assert normalize_answer("An  Apple, the 2nd!") == "apple 2nd"
    assert normalize_answer("?") == "?"
