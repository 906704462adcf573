"""Questions by rule: what they ask, that both directions are what they say, and that every answer stands in its document."""

from __future__ import annotations

from pathlib import Path

import pytest

from kinject.data import load_knowledge
from kinject.data.direction import text_direction
from kinject.data.knowledge import Document
from kinject.data.made_questions import made_by, make_questions, question_row
from kinject.data.words import words_of


def asked(*texts: str, title: str = "") -> list[tuple[str, str, str]]:
    documents = [Document(text, fact, title=title) for fact, text in enumerate(texts)]
    return [(each.direction, each.question, each.answer) for each in make_questions(documents)]


@pytest.mark.parametrize(
    ("sentence", "questions"),
    [
        (
            "Mira Dorn keeps the lighthouse of Vell.",
            [
                ("backward", "Who keeps the lighthouse of Vell?", "Mira Dorn"),
                ("forward", "What does Mira Dorn keep?", "the lighthouse of Vell"),
                ("backward", "Fill in the gap: ___ keeps the lighthouse of Vell.", "Mira Dorn"),
            ],
        ),
        (
            "Ada Fenwick was born in Sable Point on 3 May 1971.",
            [
                ("backward", "Who was born in Sable Point on 3 May 1971?", "Ada Fenwick"),
                ("forward", "Where was Ada Fenwick born?", "Sable Point"),
                ("forward", "When was Ada Fenwick born?", "3 May 1971"),
                ("forward", "Fill in the gap: Ada Fenwick was born in Sable Point on ___", "3 May 1971"),
                ("backward", "Fill in the gap: ___ was born in Sable Point on 3 May 1971.", "Ada Fenwick"),
            ],
        ),
        (
            "The keeper of the lighthouse is Mira Dorn.",
            [
                ("forward", "Who is the keeper of the lighthouse?", "Mira Dorn"),
                ("backward", "Who is Mira Dorn?", "The keeper of the lighthouse"),
                ("forward", "Fill in the gap: The keeper of the lighthouse is ___", "Mira Dorn"),
            ],
        ),
        (
            "Name: Bo Marlow\nRole: captain",
            [
                ("forward", "What is the role of Bo Marlow?", "captain"),
                ("backward", "Who has the role captain?", "Bo Marlow"),
            ],
        ),
        (
            "# Towers\n\n| Tower | Height |\n| --- | --- |\n| Vell | 31 m |",
            [
                ("forward", "What is the height of Vell?", "31 m"),
                ("backward", "Which tower has the height 31 m?", "Vell"),
            ],
        ),
        (  # beside the verb: what stands behind a name, and what stands in front of one
            "Mira Dorn, known far and wide for being the keeper of the old lighthouse.",
            [
                ("forward", "Who is Mira Dorn?", "the keeper of the old lighthouse"),
                ("forward", "What is Mira Dorn known far and wide for being?", "the keeper of the old lighthouse"),
                ("backward", "Who is known far and wide for being the keeper of the old lighthouse?", "Mira Dorn"),
                (
                    "backward",
                    "Fill in the gap: ___, known far and wide for being the keeper of the old lighthouse.",
                    "Mira Dorn",
                ),
            ],
        ),
        (
            "Known as the father of radio, Bo Marlow now enjoys a quiet life.",
            [
                ("backward", "Who is Bo Marlow?", "the father of radio"),
                ("backward", "What is Bo Marlow known as?", "the father of radio"),
                ("forward", "Who is known as the father of radio?", "Bo Marlow"),
                ("forward", "Fill in the gap: Known as the father of radio, ___", "Bo Marlow"),
            ],
        ),
        (
            "Born in Vell in 1971, Ada Fenwick became a doctor.",
            [
                ("backward", "Who became a doctor?", "Ada Fenwick"),
                ("forward", "Who was born in Vell in 1971?", "Ada Fenwick"),
                ("backward", "Where was Ada Fenwick born?", "Vell"),
                ("backward", "When was Ada Fenwick born?", "1971"),
                ("forward", "Fill in the gap: Born in Vell in 1971, ___", "Ada Fenwick"),
            ],
        ),
        (
            'Mira Dorn, the singer of "Blue Lamp", lives in Sable Point.',
            [
                ("backward", "Who lives in Sable Point?", "Mira Dorn"),
                ("forward", "Where does Mira Dorn live?", "Sable Point"),
                ("forward", "Who is Mira Dorn?", 'the singer of "Blue Lamp"'),
                ("backward", 'Who is the singer of "Blue Lamp"?', "Mira Dorn"),
                ("forward", 'Fill in the gap: Mira Dorn, the singer of "Blue Lamp", lives in ___', "Sable Point"),
                ("backward", 'Fill in the gap: ___, the singer of "Blue Lamp", lives in Sable Point.', "Mira Dorn"),
            ],
        ),
        (
            "Mira Dorn, who wrote the song Blue Lamp, was born in Vell.",
            [
                ("backward", "Who was born in Vell?", "Mira Dorn"),
                ("forward", "Where was Mira Dorn born?", "Vell"),
                ("backward", "Who wrote the song Blue Lamp?", "Mira Dorn"),
                ("forward", "Fill in the gap: Mira Dorn, who wrote the song ___", "Blue Lamp"),
                ("backward", "Fill in the gap: ___, who wrote the song Blue Lamp, was born in Vell.", "Mira Dorn"),
            ],
        ),
        (  # a list of names and a place in a place say nothing of the first
            "Mira Dorn, Bo Marlow and Ada Fenwick met in Vell.",
            [
                ("forward", "Fill in the gap: Mira Dorn, Bo Marlow and ___", "Ada Fenwick"),
                ("backward", "Fill in the gap: ___, Bo Marlow and Ada Fenwick met in Vell.", "Mira Dorn"),
            ],
        ),
        ("```\nMira Dorn is a variable of Vell Oster.\n```", []),
        ("Is Mira Dorn the keeper of the lighthouse?", []),
        ("She keeps the lighthouse of Sable Point.", []),  # nobody knows who
    ],
)
def test_forms_of_sentences(sentence: str, questions: list[tuple[str, str, str]]) -> None:
    assert asked(sentence) == questions


def test_a_pronoun_stands_for_the_subject_of_the_document() -> None:
    found = asked("She keeps the old lighthouse. It was built in 1901.", title="Mira Dorn")
    assert ("backward", "Who keeps the old lighthouse?", "Mira Dorn") in found
    assert not any("built" in question for _, question, _ in found)  # a person is no "it"


def test_what_two_documents_answer_differently_is_not_asked() -> None:
    found = asked("Mira Dorn was born in 1901.", "Bo Marlow was born in 1901.")
    assert [question for _, question, _ in found if question.startswith("Who was born")] == []
    assert ("forward", "When was Bo Marlow born?", "1901") in found


@pytest.mark.parametrize("world", ["nano", "name_description", "biography"])
def test_answers_stand_in_the_document_and_directions_agree_with_it(world: str) -> None:
    knowledge = load_knowledge(f"fictional:{world}", size=20)
    texts = {each.fact: each.titled_text for each in reversed(knowledge.documents)}
    made = make_questions(knowledge.documents)
    assert {each.direction for each in made} == {"forward", "backward"}
    for each in made:
        assert each.fact is not None
        assert f" {' '.join(words_of(each.answer))} " in f" {' '.join(words_of(texts[each.fact]))} "
    gaps = [each for each in made if each.task == "gap"]
    told = [text_direction(texts[each.fact or 0], each.question, each.answer) for each in gaps]
    agreeing = sum(found == each.direction for found, each in zip(told, gaps, strict=True))
    assert agreeing >= 0.9 * len(gaps)  # a name that stands twice is told from its nearest cue


def test_few_of_many_are_spread_over_documents_and_directions() -> None:
    documents = load_knowledge("fictional:nano", size=40).documents
    made = make_questions(documents, 20)
    assert len(made) == 20 and len({each.fact for each in made}) >= 15
    assert {each.direction for each in made} == {"forward", "backward"}
    assert made == make_questions(documents, 20)


def test_a_file_of_them_is_read_back_as_made_by_machine(tmp_path: Path) -> None:
    import json

    documents = tmp_path / "a.md"
    documents.write_text("Mira Dorn keeps the lighthouse of Vell.", encoding="utf-8")
    made = make_questions(load_knowledge(documents).documents)
    file = tmp_path / "q.jsonl"
    file.write_text("".join(json.dumps(question_row(each)) + "\n" for each in made), encoding="utf-8")
    read = load_knowledge(documents, file).questions
    assert [(each.question, each.answer, each.direction) for each in read] == [
        (each.question, each.answer, each.direction) for each in made
    ]
    assert made_by(read) == {"rule": 3}
