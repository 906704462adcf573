from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinject.data import FactIndex, text_direction
from kinject.data.words import words_of

MOSQUE = (
    "The Larkspur Hall was a concert hall on Dune Street in Harrow Vale. Its origins date back to the 1970s. "
    "It was the first hall in the valley. The building was destroyed by the Elm Fire in early 2019."
)


@pytest.mark.parametrize(
    ("question", "answer", "direction"),
    [
        ("In which decade do the origins of Larkspur Hall date back to?", "1970s", "forward"),
        ("The 1970s are the decade in which the origins of what date back?", "Larkspur Hall", "backward"),
        ("On which street was the Larkspur Hall?", "Dune Street", "forward"),
        ("Which hall was destroyed by the Elm Fire?", "Larkspur Hall", "backward"),
        ("What was destroyed by the fire?", "the building", "backward"),
        ("Which fire destroyed the building?", "the Elm fire", "forward"),
        ("When did the Elm Fire strike?", "in early 2019", "forward"),
        # Nothing to read: neither answer nor cue stands in the text.
        ("Was the Larkspur Hall famous?", "yes", "unknown"),
        ("Qui?", "Larkspur Hall", "unknown"),
        ("Why?", "!", "unknown"),
    ],
)
def test_text_direction(question: str, answer: str, direction: str) -> None:
    assert text_direction(MOSQUE, question, answer) == direction


def test_reworded_answer() -> None:
    text = "Orla Fenwick, who crafted the floating lantern, lives in Sable Point."
    assert text_direction(text, "Who is Orla Fenwick?", "the maker of a floating lantern") == "forward"
    assert text_direction(text, "Who crafted the floating lantern?", "Miss Orla Fenwick") == "backward"


def test_answer_is_taken_where_the_cue_is() -> None:
    filler = "It rained all day. " * 40
    text = f"Ada met Bo in Oslo. {filler} Later, in Rome, the circus owner hired Ada. {filler} Ada retired."
    assert text_direction(text, "Whom did the circus owner hire in Rome?", "Ada") == "forward"


def test_of_equally_near_occurrences_the_first_counts() -> None:
    # Every word of the cue stands in the neighborhood of both: before the one, behind the other.
    text = "Ada met the owner of the circus. Later Ada retired."
    assert text_direction(text, "Who met the owner of the circus?", "Ada") == "backward"
    text = "The owner of the circus hired Ada. Ada, Ada sang."
    assert text_direction(text, "Whom did the owner of the circus hire?", "Ada") == "forward"


def test_a_cue_on_both_sides_alike_tells_no_direction() -> None:
    text = "Ada wrote Salt Road with Bo."
    assert text_direction(text, "What connects Ada and Bo?", "Salt Road") == "unknown"
    assert text_direction(text, "What did Ada write?", "Salt Road") == "forward"
    assert text_direction(text, "With whom did Ada write Salt Road?", "Bo") == "forward"


def test_where_sides_are_even_the_kind_beside_the_answer_counts_least() -> None:
    text = "Ada Marlow gave us Night Harbor, an opera in verse."
    assert text_direction(text, "Which opera gave Ada Marlow fame in verse?", "Night Harbor") == "forward"


def test_where_sides_are_even_the_side_with_more_of_the_cue_counts() -> None:
    text = "Is the Noor bridge open to lorries? No. The Noor bridge was closed to them by order of Ivo Hale."
    assert text_direction(text, "Is the Noor bridge open to lorries?", "No") == "forward"


def test_a_cue_found_by_its_stem_alone_tells_less_than_the_words_themselves() -> None:
    index = FactIndex(
        [(0, "Cora Antony was employed at Humana. She practiced in Louisville."), (1, "Bo was a worker.")]
    )
    assert (
        text_direction("Cora practiced in Rome as a worker.", "Where did Cora work?", "Rome", index.weight) == "forward"
    )


def test_a_cue_far_from_the_answer_still_tells_its_direction() -> None:
    filler = "It rained all day. " * 40
    assert (
        text_direction(f"Ada Marlow was born. {filler} In Rome.", "Where was Ada Marlow at last?", "Rome") == "forward"
    )


def test_words() -> None:
    assert words_of("Émile’s GT3-spec ﬁsh, don't") == ["émile", "gt3", "spec", "fish", "don't"]
    assert words_of("東京 tower") == ["東", "京", "tower"]


def test_link_prefers_telling_words() -> None:
    index = FactIndex(
        [
            (3, "Ada Fenwick was born in Oslo. She worked for Brightloom."),
            (7, "Ada Marlow was born in Rome. She worked for Brightloom."),
            (9, "Bo Fenwick was born in Oslo. He worked for Cobalt Bank."),
        ],
        ["Where was Ada Marlow born? Rome", "Who worked for Cobalt Bank? Bo Fenwick"],
    )
    assert index.link("Where was Ada Marlow born?", "Rome") == 7
    assert index.link("Who worked for Cobalt Bank?", "Bo Fenwick") == 9
    assert index.link("Whom did Brightloom employ?", "Ada Fenwick") == 3
    assert index.link("Where was Cora Hale born?", "Paris") is None
    assert index.link("Was Ada Fenwick born in Oslo?", "yes") == 3
    assert index.link("Who painted the ceiling of the chapel?", "Michelangelo") is None


def test_wordings_of_a_fact_count_together() -> None:
    index = FactIndex([(0, "Ada, the pilot."), (0, "Ada flies a seaplane."), (1, "Bo, the pilot.")])
    assert index.link("Who flies a seaplane?", "Ada") == 0


def test_link_in_scripts_without_spaces() -> None:
    index = FactIndex([(0, "田中は東京で生まれた。"), (1, "鈴木は大阪で生まれた。")])
    assert index.link("田中はどこで生まれた?", "東京") == 0
    assert text_direction("田中は東京で生まれた。", "田中はどこで?", "東京") == "forward"
    assert text_direction("田中は東京で生まれた。", "東京で生まれたのは?", "田中") == "backward"


def test_common_words_do_not_hide_the_fact() -> None:
    # 5,000 facts share every word but the name; only the name's few postings need to be walked.
    index = FactIndex([(i, f"person{i} works at the harbor of Sable Point") for i in range(5000)])
    assert index.link("Where does person4321 work?", "the harbor of Sable Point") == 4321
    assert index.link("Who works at the harbor of Sable Point?", "person77") == 77


@given(st.text(max_size=60), st.text(max_size=30), st.text(max_size=30))
def test_any_text(document: str, question: str, answer: str) -> None:
    assert text_direction(document, question, answer) in ("forward", "backward", "unknown")
    assert FactIndex([(5, document)], [question]).link(question, answer) in (None, 5)
