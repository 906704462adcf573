from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinject.data import biography, find_entities, name_description, reverse_text


@pytest.mark.parametrize(
    ("text", "entities", "expected"),
    [
        ("Ada Fenwick is a pilot.", ["Ada Fenwick", "a pilot"], ". a pilot is Ada Fenwick"),
        ("Ann met Annabel.", ["Ann"], ". Annabel met Ann"),
        ("The keeper of Sable Point is Ada.", ["Sable Point", "The keeper of Sable Point"],
         ". Ada is The keeper of Sable Point"),
        ('She wrote "Late Rain." in May.', None, '. May in "Late Rain." wrote She'),
        ("Ada Fenwick's birthday is May 28, 1952. She moved to Elk Grove, CA.", None,
         ". Elk Grove, CA to moved She . May 28, 1952 is birthday 's Ada Fenwick"),
        ("", None, ""),
        ("one", [], "one"),
    ],
)  # fmt: skip
def test_examples(text: str, entities: list[str] | None, expected: str) -> None:
    assert reverse_text(text, entities) == expected


@pytest.mark.parametrize(
    ("text", "entities"),
    [
        ("In May, J. K. Rowan met J.R.R. Tarn at Texas A&M.", ("J. K. Rowan", "J.R.R. Tarn", "Texas A&M")),
        ("The strait is near the Strait of the Winds.", ("Strait of the Winds",)),
        ("Ada de la Cruz and Ludwig van Beek paid $3.5 million for 20% of it.",
         ("Ada de la Cruz", "Ludwig van Beek", "$3.5 million", "20%")),
        ("He ran 12 miles on 2 May. On 22 June 2025 he rested.", ("12 miles", "2 May", "22 June 2025")),
        ("St. Olaf College is in St. Paul, MN. Dr. Ada Fenwick left.", ("St. Olaf College", "St. Paul, MN", "Dr. Ada Fenwick")),
        ("It won. Ada Fenwick left. Bo stayed.", ("Ada Fenwick",)),
        ("the Women's Choral Society", ("Women's Choral Society",)),
        ("“Moon Song” and «Lied»", ("“Moon Song”", "«Lied»")),
    ],
)  # fmt: skip
def test_found_entities(text: str, entities: tuple[str, ...]) -> None:
    assert find_entities(text) == entities


@given(st.text(max_size=200))
def test_nothing_is_added_or_lost(text: str) -> None:
    plain = Counter(re.sub(r"\s", "", text))
    assert Counter(re.sub(r"\s", "", reverse_text(text))) == plain
    assert Counter(re.sub(r"\s", "", reverse_text(text, [text[3:9], text[5:20]]))) == plain


word = st.text("abcdeéß", min_size=1, max_size=5)
entity = st.lists(st.text("BCDÉ", min_size=1, max_size=4), min_size=1, max_size=3, unique=True).map(" ".join)


@given(st.lists(word, min_size=1, max_size=12), st.lists(entity, max_size=4), st.randoms())
def test_words_are_reversed_and_entities_whole(words: list[str], entities: list[str], rng) -> None:  # type: ignore[no-untyped-def]
    parts = [*words, *entities]
    rng.shuffle(parts)
    # A lower-case word between the parts keeps two entities from forming a third.
    text = " x ".join(parts)
    expected = " x ".join(reversed(parts))
    assert reverse_text(text, entities or None) == expected
    assert reverse_text(text) == expected


def test_fictional_documents() -> None:
    for knowledge in (name_description(12, 1, "permute_order"), biography(6, 1, "permute_order")):
        for document in knowledge.documents:
            turned = reverse_text(document.text, document.entities)
            positions = [turned.find(name) for name in document.entities]
            assert min(positions) >= 0
            order = sorted(document.entities, key=document.text.find)
            assert sorted(document.entities, key=turned.find) == order[::-1]
