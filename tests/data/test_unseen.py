"""Questions about somebody that nobody was told of: two generators, fresh names, and what documents never say."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from kinject.data import load_knowledge, worlds
from kinject.data.words import words_of
from kinject.data.worlds import nano, paper, unseen
from kinject.data.worlds.invented import World
from kinject.data.worlds.unseen import BUILT_IN, OTHER, unsaid_questions, unseen_questions

OWN_WORDINGS = (
    *unseen.ASKED_BY_NAME,
    *unseen.ASKED_BY_DESCRIPTION,
    *unseen.ASKED_OF_A_COMPANY,
    *unseen.ASKED_OF_A_VILLAGE,
    *unseen.SELLERS,
)


def test_half_of_the_questions_come_from_each_generator_both_ways() -> None:
    asked = unseen_questions(200, ["Ada Fenwick keeps the lighthouse."])
    counts = Counter((each.generator, each.direction) for each in asked)
    assert counts == {(generator, way): 100 for generator in (BUILT_IN, OTHER) for way in ("forward", "backward")}
    assert len({each.question for each in asked}) == len(asked) == 400
    assert asked == unseen_questions(200, ["Ada Fenwick keeps the lighthouse."])
    others = {each.question for each in unseen_questions(200, [], seed=1)}
    assert len({each.question for each in asked} & others) < 40
    met = [each for each in asked if each.generator == OTHER][0].question
    assert met not in {each.question for each in unseen_questions(200, [met.removesuffix("?")])}
    assert len(unseen_questions(3, [])) == 6 and unseen_questions(0, []) == []
    assert all(each.question[0].isupper() and "{" not in each.question for each in asked)


@pytest.mark.parametrize("name", ["name_description", "biography", "nano", "nano_biography"])
def test_nobody_is_asked_about_who_is_taught(name: str) -> None:
    taught = load_knowledge(f"fictional:{name}", size=200)
    texts = [document.text for document in taught.documents]
    asked = unseen_questions(200, texts, nano=name.startswith("nano"))
    assert len(asked) == 400
    questions = "\n".join(each.question for each in asked)
    names = {entity for document in taught.documents for entity in document.entities if len(entity.split()) > 1}
    assert names and not [each for each in names if each in questions]


def test_the_second_generator_shares_neither_names_nor_wordings_with_the_worlds() -> None:
    mine = {*unseen.GIVEN_NAMES, *unseen.FAMILY_NAMES, *unseen.VILLAGES}
    theirs = {*worlds.WOMEN, *worlds.MEN, *nano.SURNAMES, *nano.PLACES, *worlds.PLACE_STARTS}
    theirs |= {a + b for a in worlds.SURNAME_STARTS for b in worlds.SURNAME_ENDS}
    assert len(mine) >= 130 and not mine & theirs
    used = (
        *paper.NAME_QUESTIONS,
        *paper.DESCRIPTION_QUESTIONS,
        *paper.NAME_FIRST,
        *paper.DESCRIPTION_FIRST,
        *paper.FORWARD_QUESTIONS.values(),
        *nano.NAME_QUESTIONS,
        *nano.DESCRIPTION_QUESTIONS,
        *nano.LIFE_QUESTIONS.values(),
    )
    bare = {re.sub(r"\{\w+\}", "", wording).casefold().strip() for wording in used}
    assert not bare & {re.sub(r"\{\w+\}", "", wording).casefold().strip() for wording in OWN_WORDINGS}
    assert len(set(unseen.ASKED_BY_NAME)) >= 10 and len(set(unseen.ASKED_BY_DESCRIPTION)) >= 10


def test_nano_models_are_asked_in_their_own_words_about_those_who_are_kept_for_it() -> None:
    known = {word for world in ("nano", "nano_biography") for each in load_knowledge(f"fictional:{world}", size=400).questions
             for word in words_of(each.question)}  # fmt: skip
    population = {
        word for each in load_knowledge("fictional:nano_population").documents for word in words_of(each.text)
    }
    asked = unseen_questions(150, [], nano=True)
    assert len(asked) == 300
    assert {word for each in asked for word in words_of(each.question)} <= known | population
    people = nano.nano_people(1000, 0, unseen=True)
    shares = [sum(nano.kept_unseen(nano.described_by(each)[part]) for each in people) / 1000 for part in range(3)]
    assert all(0.15 < share < 0.25 for share in shares)
    population_people = nano.nano_people(300, 0, unseen=False)
    assert not any(nano.kept_unseen(words) for each in population_people for words in nano.described_by(each))


def test_what_was_never_said_is_asked_of_what_was_taught() -> None:
    subjects = [("Ada Fenwick", "Ada Fenwick drives a blue car and has a dog."), ("Bo Carver", "Bo Carver is tall.")]
    asked = [each.question for each in unsaid_questions(subjects, 100)]
    assert len(asked) == len(set(asked)) == 2 * len(unseen.UNSAID) - 3
    assert "What is the shoe size of Ada Fenwick?" in asked and "What is the name of Bo Carver's dog?" in asked
    assert not [each for each in asked if "Ada" in each and ("dog" in each or "car" in each)]
    assert len(unsaid_questions(subjects, 5)) == 5 and unsaid_questions([], 5) == []
    lives = [("Ida Quill", "Ida Quill is a baker."), ("Bo York", "Bo York plays the flute.")]
    assert [each.question for each in unsaid_questions(lives, 9, nano=True)] == ["What does Ida Quill play?"]


def test_nothing_that_is_practiced_on_has_their_names_or_wordings() -> None:
    told = (Path(unseen.__file__).parent / "invented.yaml").read_text(encoding="utf-8")
    practiced = {
        word for text in (told, *(World(seed).subject().text for seed in range(40))) for word in words_of(text)
    }
    assert not {name.casefold() for name in (*unseen.GIVEN_NAMES, *unseen.FAMILY_NAMES, *unseen.VILLAGES)} & practiced
    wordings = [re.sub(r"\{\w+\}", "", each).strip(" ?.").casefold() for each in OWN_WORDINGS]
    lines = {re.sub(r"\{\w+\}", "", line.strip(" -'")).strip(" ?.").casefold() for line in told.splitlines()}
    assert not set(wordings) & lines
    world = nano.NanoWorld(0)
    people = [next(world._people) for _ in range(300)]
    assert not any(nano.kept_unseen(words) for each in people for words in nano.described_by(each))
