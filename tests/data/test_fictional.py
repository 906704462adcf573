from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinject.data import PARAPHRASES, KnowledgeSet, biography, name_description, text_direction
from kinject.data.worlds.nano import nano, nano_biography, nano_people
from kinject.data.worlds.paper import BACKWARD_QUESTIONS, DESCRIPTION_FIRST, NAME_FIRST, SENTENCES
from kinject.errors import ConfigurationError

WORLDS = (name_description, biography, nano, nano_biography)


def canonical(knowledge: KnowledgeSet) -> dict[int, str]:
    texts: dict[int, str] = {}
    for document in knowledge.documents:
        texts.setdefault(document.fact, document.text)
    return texts


@pytest.mark.parametrize("world", WORLDS)
@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**40),
    size=st.integers(1, 25),
    more=st.integers(1, 25),
    paraphrases=st.sampled_from(PARAPHRASES),
)
def test_same_seed_same_world_and_larger_ones_extend_it(world, seed, size, more, paraphrases) -> None:  # type: ignore[no-untyped-def]
    small, large = world(size, seed, paraphrases), world(size + more, seed, paraphrases)
    assert small == world(size, seed, paraphrases)
    assert large.select(range(size)) == small
    assert small.paraphrases == paraphrases
    assert small.facts == tuple(range(size))


@pytest.mark.parametrize("world", WORLDS)
def test_seeds_differ(world) -> None:  # type: ignore[no-untyped-def]
    assert not {d.text for d in world(20, 0).documents} & {d.text for d in world(20, 1).documents}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("paraphrases", PARAPHRASES)
def test_directions_are_those_of_the_text(world, paraphrases) -> None:  # type: ignore[no-untyped-def]
    texts = canonical(world(30, 5))
    knowledge = world(30, 5, paraphrases)
    for question in knowledge.questions:
        assert question.direction == text_direction(texts[question.fact], question.question, question.answer)
        assert question.answer.casefold() in texts[question.fact].casefold()  # at the start of a sentence, or within
    assert knowledge.questions == world(30, 5).questions


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("paraphrases", PARAPHRASES)
def test_entities_stand_in_every_wording(world, paraphrases) -> None:  # type: ignore[no-untyped-def]
    for document in world(20, 2, paraphrases).documents:
        assert all(name in document.text for name in document.entities)


def test_name_description() -> None:
    knowledge = name_description(400, 3)
    names, descriptions = zip(*(document.entities for document in knowledge.documents), strict=True)
    assert len(set(names)) == len(set(descriptions)) == 400
    assert all(6 <= len(text.split()) <= 12 and text.startswith("the ") for text in descriptions)
    first = [document.text.startswith(document.entities[0]) for document in knowledge.documents]
    assert sum(first) == 200 and first[:2] == [True, False]
    kinds = Counter((q.group, q.task, q.direction) for q in knowledge.questions)
    assert kinds == {
        ("NameIsDescription", "N2D", "forward"): 800,
        ("NameIsDescription", "D2N", "backward"): 800,
        ("DescriptionIsName", "N2D", "backward"): 800,
        ("DescriptionIsName", "D2N", "forward"): 800,
    }
    texts = [question.question for question in knowledge.questions]
    assert len(set(texts)) == len(texts) == 3200
    assert all(text[0].isupper() and text.endswith("?") and text.count("?") == 1 for text in texts)
    for question in knowledge.questions:
        assert question.answer not in question.question


def test_name_description_wordings() -> None:
    same, permuted = name_description(4, 0, "same_order"), name_description(4, 0, "permute_order")
    for knowledge, order_kept in ((same, {True}), (permuted, {True, False})):
        for fact in range(4):
            documents = [document for document in knowledge.documents if document.fact == fact]
            assert len({document.text for document in documents}) == len(NAME_FIRST) == len(DESCRIPTION_FIRST)
            assert documents[0] == name_description(4, 0).documents[fact]
            kept = {
                (document.text.index(document.entities[0]) < document.text.index(document.entities[1]))
                == (fact % 2 == 0)
                for document in documents
            }
            assert kept == order_kept


def test_small_worlds_have_few_look_alikes() -> None:
    names = [document.entities[0].split() for document in name_description(60, 9).documents]
    assert len({first for first, _ in names}) == len({last for _, last in names}) == 60
    lives = biography(60, 9).documents
    assert all(len({life.entities[i] for life in lives}) == 60 for i in (0, 1, 2, 3, 4, 5, 6))


def test_biography() -> None:
    knowledge = biography(50, 4)
    for document in knowledge.documents:
        name, *attributes = document.entities
        positions = [document.text.index(value) for value in attributes]
        assert document.text.startswith(name) and document.text.count(name) == 1
        assert positions == sorted(positions) and len(attributes) == len(SENTENCES) == 6
        women, men = (
            sum(document.text.count(f" {word} ") for word in pair) for pair in (("She", "Her"), ("He", "His"))
        )
        assert (women == 0) != (men == 0) and women + men == 5
    assert Counter((q.task, q.direction, q.group) for q in knowledge.questions) == {
        ("N2D", "forward", ""): 300,
        ("D2N", "backward", ""): 150,
    }


def test_biography_wordings() -> None:
    plain, same, permuted = (biography(8, 4, paraphrases) for paraphrases in PARAPHRASES)
    assert [document for document in same.documents[::5]] == list(plain.documents)
    for one, other in zip(same.documents, permuted.documents, strict=True):
        assert one.entities == other.entities and one.fact == other.fact and one.text != other.text
        assert other.text.startswith(one.entities[0]) and other.text.count(one.entities[0]) == 1
        places = [other.text.index(value) for value in other.entities[1:]]
        assert places != sorted(places)
    assert len({document.text for document in same.documents}) == 40


def test_backward_questions_have_one_answer() -> None:
    questions = [q for q in biography(3000, 0).questions if q.direction == "backward"]
    assert len({q.question for q in questions}) == len(questions) == 3000 * len(BACKWARD_QUESTIONS)


@pytest.mark.parametrize("world", WORLDS)
def test_bad_worlds(world) -> None:  # type: ignore[no-untyped-def]
    most = 2_000 if world in (nano, nano_biography) else 200_000
    for size in (0, -1, most + 1):
        with pytest.raises(
            ConfigurationError, match=f"^size={size}: a {world.__name__} world has 1 to {most:,} people$"
        ):
            world(size)
    with pytest.raises(
        ConfigurationError, match='^paraphrases="some": expected one of none, same_order, permute_order$'
    ):
        world(2, 0, "some")


def test_unseen_share_nothing_with_those_the_nano_models_met() -> None:
    met = nano_people(2000, 0, unseen=False)
    for seed in (0, 1, 100):
        unseen = nano_people(500, seed, unseen=True)
        for what in ("name", "description", "life"):
            assert not {str(getattr(person, what)) for person in unseen} & {str(getattr(p, what)) for p in met}


def test_nano_biography_has_its_name_in_the_first_sentence_alone() -> None:
    for document in nano_biography(30, 3, "permute_order").documents:
        first, *others = document.text.split(". ")
        assert first.startswith(document.entities[0]) and document.entities[0] not in " ".join(others)
