from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from kinject.data import Document, KnowledgeSet, biography, load_knowledge, load_questions, name_description
from kinject.data.direction import group_wordings
from kinject.errors import DataError

FILES = {"none": "train_no_paraphrase.json", "same_order": "train_paraphrase_same_order.json",
         "permute_order": "train_paraphrase_change_order.json"}  # fmt: skip
# A folder with the data of arXiv 2510.09885: name_description/, biography/ and wiki/, each in the published layout.
PUBLISHED = os.environ.get("KINJECT_PUBLISHED_DATA", "")

World = Callable[..., KnowledgeSet]


def write_rows(path: Path, texts: list[str], indent: int | None = None) -> None:
    path.write_text(json.dumps([{"text": text} for text in texts], indent=indent), encoding="utf-8")


def write_layout(prefix: str, world: World, size: int, paraphrased: int, permuted: bool = True) -> KnowledgeSet:
    """A look-alike of the published data: paraphrases of the first people only, no fact numbers, no directions."""
    plain = world(size, 11)
    write_rows(Path(prefix + FILES["none"]), [document.text for document in plain.documents], indent=4)
    for variant in ("same_order", "permute_order") if permuted else ("same_order",):
        documents = world(paraphrased, 11, variant).documents
        write_rows(Path(prefix + FILES[variant]), [document.text for document in documents])
    fields = ("group", "task", "question", "answer")
    rows = [json.dumps({field: getattr(question, field) for field in fields}) for question in plain.questions]
    Path(prefix + "test.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return plain


def strip(knowledge: KnowledgeSet) -> list[tuple[object, ...]]:
    return [(q.question, q.answer, q.direction, q.group, q.task, q.fact) for q in knowledge.questions]


@pytest.mark.parametrize("world", [name_description, biography])
def test_facts_and_directions_are_worked_out(tmp_path: Path, world: World, caplog: pytest.LogCaptureFixture) -> None:
    plain = write_layout(f"{tmp_path}/", world, 40, 40)
    for variant in FILES:
        expected = world(40, 11, variant)
        knowledge = load_knowledge(tmp_path, paraphrases=variant)
        assert knowledge.name == tmp_path.name and knowledge.paraphrases == variant
        assert [(d.text, d.fact) for d in knowledge.documents] == [(d.text, d.fact) for d in expected.documents]
        assert strip(knowledge) == strip(plain)
    assert not caplog.records
    assert knowledge.questions[3].source == f"{tmp_path}/test.jsonl:4"
    # The list is indented by four: each item takes three lines.
    assert load_knowledge(tmp_path).documents[2].source == f"{tmp_path}/{FILES['none']}:8"


def test_questions_on_missing_facts_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_layout(f"{tmp_path}/", biography, 30, 6)
    knowledge = load_knowledge(tmp_path, paraphrases="permute_order")
    assert knowledge.facts == tuple(range(6)) and Counter(d.fact for d in knowledge.documents)[3] == 5
    assert len(knowledge.questions) == 6 * 9
    assert [record.getMessage() for record in caplog.records] == [
        f"216 of 270 questions are left out: they are about facts that are not loaded (first: {tmp_path}/test.jsonl:55)"
    ]


def test_selection_on_load(tmp_path: Path) -> None:
    write_layout(f"{tmp_path}/", name_description, 20, 20)
    knowledge = load_knowledge(tmp_path, facts="0-3,10-12", paraphrases="same_order")
    assert knowledge.facts == (0, 1, 2, 3, 10, 11, 12)
    assert len(knowledge.documents) == 7 * 16 and len(knowledge.questions) == 7 * 8


def test_flat_layout_and_single_files(tmp_path: Path) -> None:
    write_layout(f"{tmp_path}/bio_", biography, 8, 8)
    write_layout(f"{tmp_path}/ND_", name_description, 8, 8)
    flat = load_knowledge(tmp_path / "bio", paraphrases="same_order")
    assert flat.name == "bio" and len(flat.documents) == 40 and len(flat.questions) == 72
    assert load_questions(tmp_path / "bio_test.jsonl") == flat.questions
    file = load_knowledge(tmp_path / f"ND_{FILES['permute_order']}", tmp_path / "ND_test.jsonl")
    assert file.paraphrases == "permute_order" and file.facts == tuple(range(8)) and len(file.questions) == 64


def test_missing_variant(tmp_path: Path) -> None:
    write_layout(f"{tmp_path}/", name_description, 4, 4, permuted=False)
    message = (
        f"{tmp_path}/: no documents for paraphrases=permute_order (looked for train_paraphrase_change_order.json); "
        "the variants here are none, same_order"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        load_knowledge(tmp_path, paraphrases="permute_order")
    (tmp_path / FILES["none"]).unlink()
    # Without canonical texts every row is a fact of its own, unless the rows say otherwise.
    assert load_knowledge(tmp_path, paraphrases="same_order", facts="0-1").facts == (0, 1)


def test_a_wording_of_nothing(tmp_path: Path) -> None:
    write_rows(tmp_path / FILES["none"], ["Ada is a pilot.", "Bo is a baker."])
    write_rows(tmp_path / "train_paraphrase.json", ["Ada is a pilot.", "Zzz qqq."], indent=0)
    message = (
        f"{tmp_path}/train_paraphrase.json:5: the text is a wording of no document in {tmp_path}/{FILES['none']}; "
        'number the facts of both files with a field "fact"'
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        load_knowledge(tmp_path, paraphrases="same_order")
    write_rows(tmp_path / FILES["none"], [])
    with pytest.raises(DataError, match="train_no_paraphrase.json: the file holds no document; add rows such as "):
        load_knowledge(tmp_path, paraphrases="same_order")


def test_rows_may_number_their_facts(tmp_path: Path) -> None:
    write_rows(tmp_path / FILES["none"], ["one", "two"])
    rows = [{"text": "uno", "fact": 0}, {"text": "dos", "fact": "1"}, {"text": "ein", "fact": 0}]
    (tmp_path / "train_paraphrase.json").write_text(json.dumps(rows))
    assert [d.fact for d in load_knowledge(tmp_path, paraphrases="same_order").documents] == [0, 1, 0]


def group(*texts: str) -> list[int]:
    canonical = [
        Document("Ada flies the red seaplane", 4, source="a.json:1"),
        Document("Bo bakes rye bread", 7, source="a.json:2"),
    ]
    return [document.fact for document in group_wordings([Document(t, i) for i, t in enumerate(texts)], canonical)]


def test_grouping_of_wordings() -> None:
    # Blocks of three: the misplaced words of the third and fourth are overruled by their neighbors.
    assert group("Ada flies", "red seaplane", "Bo flies bread", "Ada bakes it", "rye bread", "Bo") == [4, 4, 4, 7, 7, 7]
    # No blocks of one size: each wording for itself.
    assert group("Ada flies", "red seaplane", "Bo bakes", "rye bread", "Ada") == [4, 4, 7, 7, 4]
    # Interleaved: the blocks would not be distinct, so each wording for itself.
    assert group("Ada", "Bo", "Ada flies", "Bo bakes") == [4, 7, 4, 7]
    # A word that many wordings have tells less than one that few have.
    assert group("red bread", "red", "red", "red", "red plane") == [7, 4, 4, 4, 4]


@pytest.mark.skipif(not PUBLISHED, reason="KINJECT_PUBLISHED_DATA names no folder")
@pytest.mark.parametrize(
    ("name", "paraphrases", "wordings", "questions"),
    [
        ("name_description", "none", 1, 8),
        ("name_description", "same_order", 30, 8),
        ("biography", "none", 1, 9),
        ("biography", "same_order", 5, 9),
        ("biography", "permute_order", 5, 9),
        ("wiki", "none", 1, 0),
    ],
)
def test_published_data(name: str, paraphrases: str, wordings: int, questions: int) -> None:
    knowledge = load_knowledge(Path(PUBLISHED) / name, paraphrases=paraphrases)
    assert [document.fact for document in knowledge.documents] == [
        i // wordings for i in range(len(knowledge.documents))
    ]
    for i, question in enumerate(knowledge.questions):
        if question.task in ("forward", "backward"):
            assert question.direction == question.task
        else:
            along = (question.task == "N2D") == (question.group != "DescriptionIsName")
            assert question.direction == ("forward" if along else "backward")
            assert question.fact == i // questions


@pytest.mark.skipif(not PUBLISHED, reason="KINJECT_PUBLISHED_DATA names no folder")
def test_text_order_agrees_with_the_labels_of_wiki(tmp_path: Path) -> None:
    labelled = load_knowledge(Path(PUBLISHED) / "wiki")
    rows = [json.dumps({"question": q.question, "answer": q.answer}) for q in labelled.questions]
    (tmp_path / "bare.jsonl").write_text("\n".join(rows))
    bare = load_knowledge(Path(PUBLISHED) / "wiki", tmp_path / "bare.jsonl")
    assert [(q.fact, q.direction) for q in bare.questions] == [(q.fact, q.direction) for q in labelled.questions]
