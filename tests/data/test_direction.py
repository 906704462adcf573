from __future__ import annotations

import logging
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinject.data import FactIndex, direction, text_direction
from kinject.data.direction import group_wordings, link_questions
from kinject.data.knowledge import Document, Question
from kinject.data.rows import QuestionRow
from kinject.data.words import words_of
from kinject.errors import DataError

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


def test_a_stem_tells_four_fifths_of_its_own_weight_and_no_more_than_the_word() -> None:
    text, question = "Cora sang in Rome with painters.", "Where has Cora painted?"
    for painted, stem, direction_found in ((9.0, 4.0, "backward"), (9.0, 2.4, "forward"), (1.0, 4.0, "forward")):
        weights = {"cora": 2.5, "painted": painted, "*paint": stem}
        assert text_direction(text, question, "Rome", weights.__getitem__) == direction_found


def test_words_inside_the_answer_are_no_cue() -> None:
    assert text_direction("Ada Marlow sang.", "Which Ada sang?", "Ada Marlow") == "backward"
    assert text_direction("Ada sang.", "Which Ada sang?", "Ada") == "backward"
    assert text_direction("They sang: Marlow Ada", "Which Ada sang with them?", "Marlow Ada") == "forward"
    # "Noor" stands inside the answer and behind it, which is one side.
    assert (
        text_direction("They crossed to Noor Harbor, and Noor sang.", "Who crossed Noor?", "Noor Harbor") == "unknown"
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


def test_without_a_word_of_the_answer_more_of_the_question_has_to_stand_in_the_text() -> None:
    index = FactIndex([(0, "Ada sings in the choir of Oslo."), (1, "Bo paints."), (2, "Cora paints.")])
    question = "Does Ada sing for the choir of Quux?"  # about two thirds of its weight stand in the first text
    assert index.link(question, "yes") is None
    assert index.link(question, "Oslo") == 0
    assert index.link("Does Ada sing in the choir?", "yes") == 0


def test_of_equally_good_facts_the_first_is_taken() -> None:
    index = FactIndex([(7, "Ada sings."), (3, "Ada sings."), (5, "Bo paints.")])
    assert index.link("Who sings?", "Ada") == 3


def test_an_unknown_name_that_opens_an_answer_counts_as_one() -> None:
    index = FactIndex([(0, "Ada sings in the harbor choir."), (1, "Ada paints.")])
    assert index.link("Who sings in the Quux choir?", "Zork Ada") is None
    assert index.link("Who sings in the Quux choir?", "zork Ada") == 0


def test_the_nearest_fact_is_the_one_with_most_of_the_text() -> None:
    index = FactIndex([(0, "a1 b2"), (1, "a1"), (2, "b2 c3")])
    assert index.nearest("b2, a1") == 0 and index.nearest("d4") is None
    assert index.link("?!", "a1") is None


def test_a_fact_that_shares_stems_alone_is_found() -> None:
    assert FactIndex([(0, "Bo came."), (1, "Three painters sang.")]).nearest("painted") == 1


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


def test_an_answer_that_ends_its_document_is_found_whole() -> None:
    text = "Night fell. A night. The harbor, the harbor. Bo Tolle composed Night Harbor"
    assert text_direction(text, "What did Bo Tolle compose?", "Night Harbor") == "forward"
    assert text_direction(text, "What did Bo Tolle compose?", "the Night Harbor of") == "forward"
    assert text_direction("Bo composed Tides", "What did Bo compose?", "Tides") == "forward"


def test_of_scattered_words_of_an_answer_the_middle_one_counts_and_no_other() -> None:
    # Only "lantern" of the answer stands in the text: the word behind it is part of the cue.
    assert text_direction("A lantern glows at night.", "What glows?", "the brightest lantern") == "backward"


def test_words_of_the_question_tell_nothing_about_where_the_answer_stands() -> None:
    text = "Harbor was an opera, an opera and an opera."
    assert text_direction(text, "Which opera was it?", "an opera harbor") == "backward"


def test_of_two_scattered_words_of_an_answer_the_latter_counts() -> None:
    text = "Harbor was painted by Bo at night."
    assert text_direction(text, "What was painted by Bo?", "night harbor") == "forward"


def test_a_cue_pulls_to_the_side_on_which_it_is_nearest() -> None:
    text = "The opera house was full that evening. Ada sang one opera."
    assert text_direction(text, "Whose opera?", "Ada") == "backward"


def test_what_stands_right_before_an_answer_of_several_words_is_as_near_as_what_stands_right_behind_it() -> None:
    assert text_direction("An opera, Night Harbor: opera of tides.", "Which opera?", "Night Harbor") == "forward"


@pytest.mark.parametrize("cue", [("tides", "songs", "bells"), ("songs", "bells", "tides"), ("bells", "tides", "songs")])
def test_the_occurrence_with_most_of_the_cue_around_it_counts(cue: tuple[str, str, str]) -> None:
    text = f"Ada loved {cue[0]}. {'It rained all day. ' * 40} For {cue[1]} and {cue[2]} they hired Ada"
    assert text_direction(text, "Who is known for tides, songs and bells?", "Ada") == "forward"


def test_fifty_words_around_an_answer_tell_which_occurrence_is_meant() -> None:
    def nearer(filler: int) -> str:
        """The cue ``filler`` words behind the first "Ada" and right before the second."""
        return text_direction(f"Ada {'so ' * (filler - 1)}sang. {'so ' * 60} sang Ada.", "Who sang?", "Ada")

    assert (nearer(50), nearer(51)) == ("backward", "forward")


def test_places_of_a_text_and_what_finds_them() -> None:
    def looked_up(text: str) -> list[tuple[str, tuple[str, ...], set[str]]]:
        return [(place.word, place.terms, set(place.keys)) for place in direction._places(text)]

    assert looked_up("Painters: 3rd") == [
        ("painters", ("painters",), {"painters", "*paint"}),
        ("3rd", ("3rd",), {"3rd"}),
    ]
    # Han by pairs, of which the last character has none; Thai by threes; a run of one character by itself.
    assert looked_up("白川喜 雪") == [
        ("白", ("白川",), {"白", "白川"}),
        ("川", ("川喜",), {"川", "川喜"}),
        ("喜", (), {"喜"}),
        ("雪", ("雪",), {"雪"}),
    ]
    assert [(terms, sorted(keys)) for _, terms, keys in looked_up("กขคง")] == [
        (("กขค",), ["ก", "กข", "กขค"]),
        (("ขคง",), ["ข", "ขค", "ขคง"]),
        ((), ["ค", "คง"]),
        ((), ["ง"]),
    ]
    assert [terms for _, terms, _ in looked_up("กข ค")] == [("กข",), (), ("ค",)]  # shorter than three
    assert looked_up("임서윤 김") == [
        ("임서윤", ("임서", "서윤"), {"임서", "서윤", "임", "서", "윤"}),
        ("김", ("김",), {"김"}),
    ]
    assert [word for word, _, _ in looked_up("白a川")] == ["白", "a", "川"]


@pytest.mark.parametrize(
    ("text", "opens", "names"),
    [
        ("Where does Ada live?", True, {"ada"}),
        ("Where does Ada live?", False, {"where", "ada"}),
        ("It rained. Bo left: Cora! Dan? Eve\nFinn", True, set()),
        ('X "Ada" and ‘Bo’ (Cora)', True, {"ada", "bo", "cora"}),
        ("born 1970, 3rd of all", True, {"1970", "3rd"}),
        ("all in lower case", False, set()),
        ("It rained. “Ada” ran", True, set()),
        ("so long a way to Rome", True, {"rome"}),
    ],
)
def test_words_that_read_like_names_or_numbers(text: str, opens: bool, names: set[str]) -> None:
    assert direction._names(text, opens) == names


def test_a_word_weighs_by_how_few_facts_and_questions_have_it() -> None:
    index = FactIndex([(0, "Ada"), (0, "Ada paints"), (1, "Ada, Bo")], ["Bo, Cy", "Cy!"])
    weights = {"ada": 4 / 2, "bo": 4 / 2, "cy": 4 / 2, "paints": 4 / 1, "dan": 4 / 1}
    found = {word: math.exp(index.weight(word)) for word in weights}
    assert found == pytest.approx({word: weight * 5 / 4 for word, weight in weights.items()})


def test_an_unknown_name_in_a_question_tells_that_its_fact_is_absent() -> None:
    index = FactIndex([(0, "Ada sings in the harbor choir."), (1, "Bo paints.")])
    assert index.link("Which lovely person sings in the harbor choir?", "Ada") == 0
    assert index.link("Does Zork Zarn Zuse sing in the Quux choir?", "Ada") is None


@pytest.mark.parametrize(
    ("budget", "candidates", "nearest"), [(2, 9, 0), (3, 9, 1), (3, 1, 0), (5, 1, 0), (10_000, 9, 1)]
)
def test_common_words_are_looked_up_for_the_best_facts_alone(
    monkeypatch: pytest.MonkeyPatch, budget: int, candidates: int, nearest: int
) -> None:
    # r1 is the rarest and outweighs any other word; together the others outweigh it. Words with digits have no stem.
    index = FactIndex([(0, "r1"), (1, "s2 t3 u4"), (2, "s2"), (3, "t3 u4 v5"), (4, "t3 u4"), (5, "u4")])
    monkeypatch.setattr(direction, "_POSTINGS_BUDGET", budget)
    monkeypatch.setattr(direction, "_CANDIDATES", candidates)
    monkeypatch.setattr(direction, "_RESCORED", 1)
    assert index.nearest("r1 s2 t3 u4") == nearest


def test_facts_are_ranked_by_all_words_that_they_hold_before_they_are_rescored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direction, "_RESCORED", 1)
    texts = ["a1 b2 c3", "a1 d4", "b2 d4 e5", "c3 e5", "b2 e5", "c3 d4 e5 f6", "f6"]
    index = FactIndex(enumerate(texts))
    for budget in (0, 10_000):
        monkeypatch.setattr(direction, "_POSTINGS_BUDGET", budget)
        for query in ("a1 d4 e5", "f6 c3 b2", "b2 e5 d4", "f6 a1 c3"):
            rarest = min(query.split(), key=lambda word: (sum(word in text for text in texts), word))
            able = [fact for fact, text in enumerate(texts) if budget or rarest in text]
            worth = {fact: sum(index.weight(word) for word in query.split() if word in texts[fact]) for fact in able}
            found = index.nearest(query)
            assert found is not None and worth[found] == pytest.approx(max(worth.values()))


def test_a_stem_counts_less_than_a_rarer_word_already_among_the_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    index = FactIndex([(0, "a painter"), (1, "a painter"), (2, "k9")], ["k9 painting"])
    monkeypatch.setattr(direction, "_RESCORED", 1)
    assert index.nearest("painted k9") == 2


@given(st.text(max_size=60), st.text(max_size=30), st.text(max_size=30))
def test_any_text(document: str, question: str, answer: str) -> None:
    assert text_direction(document, question, answer) in ("forward", "backward", "unknown")
    assert FactIndex([(5, document)], [question]).link(question, answer) in (None, 5)


DOCUMENTS = [Document("Ada Fenwick keeps 3 goats.", 4), Document("Bo Carver paints tides.", 7)]


def linked(*rows: QuestionRow, documents: list[Document] = DOCUMENTS) -> tuple[Question, ...]:
    return link_questions(rows, documents, DOCUMENTS)


def row(question: str, answer: str, *others: str, fact: int | None = None, source: str = "q.jsonl:1") -> QuestionRow:
    return QuestionRow(question, answer, None, "", "", fact, source, other_answers=others)


def test_of_several_answers_the_one_in_the_text_tells_fact_and_direction() -> None:
    (found,) = linked(row("How many goats does Ada Fenwick keep?", "a trio", "3 goats"))
    assert (found.fact, found.direction, found.answer) == (4, "forward", "a trio")
    # Either answer would link: the one that stands in the text is right.
    (found,) = linked(row("Who paints Ada Fenwick with goats?", "Ada Fenwick goats 3", "Bo Carver paints tides"))
    assert found.fact == 7
    assert [each.fact for each in linked(row("Who is it?", "Ada Fenwick", fact=7))] == [7]


def test_a_linked_question_is_its_row_with_fact_and_direction() -> None:
    asked = QuestionRow("Who?", "Ada", None, "g", "N2D", None, "q:1", other_answers=("Bo",), wordings=("Which?",))
    expected = Question("Who?", "Ada", "backward", "g", "N2D", 4, "q:1", other_answers=("Bo",), wordings=("Which?",))
    assert direction.linked_question(asked, "backward", 4) == expected


def test_directions_are_read_with_the_weights_of_all_facts() -> None:
    text, question = (
        "One worker and one person came to Rome with Cora.",
        "Where did the worker, the person and Cora come?",
    )
    facts = [Document(text, 0), *(Document(f"Person {number} was a worker.", number) for number in range(1, 9))]
    (found,) = link_questions([row(question, "Rome", fact=0)], facts, facts)
    assert (found.direction, text_direction(text, question, "Rome")) == ("backward", "forward")
    # What all questions ask weighs little, even where few documents have it.
    others = [row("Was a person with a worker?", "a worker, a person", fact=0) for _ in range(20)]
    assert link_questions([row(question, "Rome", fact=0), *others], facts[:1], facts[:1])[0].direction == "backward"
    assert link_questions([row(question, "Rome", fact=0)], facts[:1], facts[:1])[0].direction == "forward"


def test_every_question_that_is_left_out_or_of_unknown_direction_is_counted_and_one_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = [
        row("Who keeps 3 goats?", "Ada Fenwick", source="q:1"),
        row("Who paints tides?", "Bo Carver", source="q:2"),
        row("What does Bo Carver paint?", "tides", source="q:3"),
        row("What is the capital of Norway?", "Oslo", source="q:4"),
        row("Is Ada Fenwick tall?", "yes", source="q:5", fact=4),
    ]
    with caplog.at_level(logging.WARNING):
        found = linked(*rows, documents=DOCUMENTS[:1])
    assert [(each.source, each.direction) for each in found] == [("q:1", "backward"), ("q:5", "unknown")]
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 5 questions are left out: they are about facts that are not loaded (first: q:2)",
        '1 of 5 questions are left out: they could be linked to no document (first: q:4); give each a "fact" or a '
        '"direction" (forward or backward) to keep it',
        "1 of 5 questions count neither as forward nor as backward: their text does not tell in which order cue and answer "
        'stand (first: q:5); they are asked, and scored as "unknown"; give each a "direction" (forward or backward) where '
        "you know it",
    ]
    with pytest.raises(
        DataError, match=r"^q:4: none of the 1 questions could .*; check that questions and documents belong"
    ):
        linked(rows[3])
    assert linked() == ()


def test_a_wording_that_repeats_a_document_is_its_wording() -> None:
    canonical = [Document("Ada flies high", 4, source="c:/a.json:1"), Document("Ada flies", 7, source="c:/a.json:2")]
    wordings = [Document("Ada flies", 0), Document("Ada flies high", 1), Document("high", 2)]
    assert [each.fact for each in group_wordings(wordings, canonical)] == [7, 4, 4]
    message = "b.json:5: the text is a wording of no document in c:/a.json; number the facts"
    with pytest.raises(DataError, match=f"^{re.escape(message)}"):
        group_wordings([Document("qqq", 0, source="b.json:5")], canonical[:1])
