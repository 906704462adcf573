"""Three other ways to ask, like none of the questions and statements of the sets."""

from __future__ import annotations

import pytest

from kinject.data import load_knowledge
from kinject.data.knowledge import Question
from kinject.data.words import words_of
from kinject.data.worlds.unseen import with_wordings


@pytest.mark.parametrize("name", ["name_description", "biography", "nano"])
def test_every_question_of_an_invented_set_has_three_other_wordings(name: str) -> None:
    questions = load_knowledge(f"fictional:{name}", size=6, paraphrases="permute_order").questions
    texts = {
        document.text for document in load_knowledge(f"fictional:{name}", size=6, paraphrases="permute_order").documents
    }
    asked = {question.question for question in questions}
    for question in with_wordings(questions, nano=name == "nano"):
        assert len(set(question.wordings)) == 3 and not {*question.wordings} & (asked | texts)
        cue = {word for word in words_of(question.question)} & {word for text in texts for word in words_of(text)}
        for wording in question.wordings:
            assert question.answer not in wording and set(words_of(wording)) & cue


def test_published_questions_are_reworded_by_their_facts_and_forms() -> None:
    statements = [
        Question(
            "Daphne B is not your typical person, they are what?",
            "the director of a game.",
            "forward",
            "NameIsDescription",
            "N2D",
            3,
        ),
        Question("Who directed the game?", "Daphne B", "backward", "NameIsDescription", "D2N", 3),
    ]
    there, back = with_wordings(statements)
    assert there.wordings[0] == "Could you say in a few words who Daphne B is?"
    assert back.wordings[0] == "How is the director of a game called?"
    lives = {
        "What is the birth date of Curtis Emley?": "Tell me the day Curtis Emley was born.",
        "What is the birth city of Curtis Emley?": "Tell me the town Curtis Emley was born in.",
        "Which university did Curtis Emley study?": "At what university was Curtis Emley a student?",
        "What major did Curtis Emley study?": "Tell me the major of Curtis Emley.",
        "Which company did Curtis Emley work for?": "Tell me the employer of Curtis Emley.",
        "Where did Curtis Emley work?": "Tell me the city Curtis Emley worked in.",
        "Give me the full name of the person who has the following attributes: 1) born in Vell, 2) worked for HP?": (
            "These things are true of one person: 1) born in Vell, 2) worked for HP. Who is it?"
        ),
    }
    for question, wording in lives.items():
        (reworded,) = with_wordings([Question(question, "x", "forward")])
        assert reworded.wordings[0] == wording and len(reworded.wordings) == 3
    own = Question("Who?", "Ada", "forward", wordings=("Which one?",))
    assert with_wordings([own, Question("Why?", "x", "forward")]) == [own, Question("Why?", "x", "forward")]
