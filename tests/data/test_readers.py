from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from kinject.data import load_knowledge, load_questions
from kinject.errors import ConfigurationError, DataError

ADA = "Ada Fenwick was born in Sable Point and works for Brightloom Textiles."
BO = "The baker of Harrow Vale, famous for rye bread, is Bo Marlow."


def write(path: Path, content: str | list[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = content if isinstance(content, str) else "\n".join(json.dumps(row) for row in content)
    path.write_text(lines, encoding="utf-8")
    return path


WORLDS = (
    "fictional:name_description, fictional:biography, fictional:nano, fictional:nano_biography or "
    "fictional:nano_population"
)


def fails(message: str, *arguments: object, error: type[Exception] = DataError, **options: object) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        load_knowledge(*arguments, **options)  # type: ignore[arg-type]


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    return write(tmp_path / "documents.jsonl", [{"text": ADA}, BO])


def test_file_of_documents(tmp_path: Path) -> None:
    path = write(tmp_path / "notes.jsonl", [{"text": "  verbatim \n\n", "entities": ["verbatim"]}, "bare"])
    knowledge = load_knowledge(str(path))
    assert knowledge.name == "notes" and knowledge.questions == () and knowledge.paraphrases == "none"
    assert [(d.text, d.fact, d.entities, d.source) for d in knowledge.documents] == [
        ("  verbatim \n\n", 0, ("verbatim",), f"{path}:1"),
        ("bare", 1, (), f"{path}:2"),
    ]


def test_own_fact_numbers_and_text_field(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "body,fact\none,5\nuno,5\ntwo,7\n")
    knowledge = load_knowledge(path, text_field="body")
    assert [d.fact for d in knowledge.documents] == [5, 5, 7] and knowledge.paraphrases == "same_order"


def test_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "b.txt", "from b\n")
    write(tmp_path / "a" / "z.json", '[{"text": "from z 1"}, "from z 2"]')
    write(tmp_path / "a" / "y.md", "---\ntags: [x]\n---\nfrom y")
    write(tmp_path / "photo.png", "binary")
    write(tmp_path / ".hidden" / "c.txt", "hidden")
    write(tmp_path / ".hidden.txt", "hidden")
    write(tmp_path / "questions.jsonl", [{"question": "Who is from b?", "answer": "from b", "direction": "backward"}])
    knowledge = load_knowledge(tmp_path)
    assert [d.text for d in knowledge.documents] == ["from y", "from z 1", "from z 2", "from b"]
    assert knowledge.facts == (0, 1, 2, 3) and knowledge.name == tmp_path.name
    assert [q.direction for q in knowledge.questions] == ["backward"]
    assert [record.getMessage() for record in caplog.records] == [
        f"1 files of {tmp_path} are not documents and are passed over (first: {tmp_path}/photo.png)"
    ]


def test_questions_get_fact_and_direction(tmp_path: Path, documents: Path) -> None:
    questions = write(
        tmp_path / "q.jsonl",
        [
            {"question": "Where was Ada Fenwick born?", "answer": "Sable Point"},
            {"question": "Who works for Brightloom Textiles?", "answer": "Ada Fenwick"},
            {"question": "Who is the baker of Harrow Vale?", "answer": "Bo Marlow", "group": "g", "task": "D2N"},
            {"question": "What is Bo Marlow?", "answer": "The baker of Harrow Vale"},
            {"question": "Anything?", "answer": "Yes", "task": "backward", "fact": 1},
            {"question": "Quite unrelated?", "answer": "Yes", "direction": "forward"},
        ],
    )
    knowledge = load_knowledge(documents, questions)
    assert [(q.fact, q.direction) for q in knowledge.questions] == [
        (0, "forward"),
        (0, "backward"),
        (1, "forward"),
        (1, "backward"),
        (1, "backward"),
        (None, "forward"),
    ]
    assert (knowledge.questions[2].group, knowledge.questions[2].task) == ("g", "D2N")
    assert knowledge.questions[2].source == f"{questions}:3"
    assert [q.fact for q in load_knowledge(documents, questions, facts="1").questions] == [1, 1, 1]


def test_direction_is_read_from_the_first_wording(tmp_path: Path) -> None:
    rows = [{"text": "Ada is the pilot.", "fact": 0}, {"text": "The pilot is Ada.", "fact": 0}]
    questions = write(tmp_path / "q.jsonl", [{"question": "Who is the pilot?", "answer": "Ada"}])
    assert load_knowledge(write(tmp_path / "d.jsonl", rows), questions).questions[0].direction == "backward"
    assert load_knowledge(write(tmp_path / "d.jsonl", rows[::-1]), questions).questions[0].direction == "forward"


def test_unlinked_questions_are_left_out(tmp_path: Path, documents: Path, caplog: pytest.LogCaptureFixture) -> None:
    questions = write(
        tmp_path / "q.jsonl",
        [
            {"question": "Who works for Brightloom Textiles?", "answer": "Ada Fenwick"},
            {"question": "What is the capital of Norway?", "answer": "Oslo"},
        ],
    )
    assert len(load_knowledge(documents, questions).questions) == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"1 of 2 questions are left out: they could be linked to no document (first: {questions}:2); give each a "
        '"fact" or a "direction" (forward or backward) to keep it'
    ]


def test_no_question_can_be_linked(tmp_path: Path, documents: Path) -> None:
    questions = write(tmp_path / "q.jsonl", [{"question": "What is the capital of Norway?", "answer": "Oslo"}])
    fails(
        f"{questions}:1: none of the 1 questions could be linked to a document; check that questions and documents belong "
        'together, or give each question a "direction" (forward or backward)',
        documents,
        questions,
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            '{"body": "x", "id": 1}',
            'the row has no "text" (its fields: "body", "id"); add it, or name the field that holds the document with '
            "text_field",
        ),
        ("{}", 'the row has no "text" (its fields: none); add it, or name the field that holds the document with text_field'),
        ('{"text": null}', 'the row has no "text" (its fields: "text"); add it, or name the field that holds the document '
         "with text_field"),
        ('{"text": 5}', '"text" is int, expected a string; put it between quotes'),
        ('{"text": " "}', "the document is empty; give it a text, or delete it"),
        ('""', "the document is empty; give it a text, or delete it"),
        ('{"text": "a", "fact": -1}', '"fact" is -1, expected a whole number from 0; number the facts, or leave it out'),
        ('{"text": "a", "fact": "x"}', '"fact" is \'x\', expected a whole number from 0; number the facts, or leave it out'),
        ('{"text": "a", "fact": true}', '"fact" is True, expected a whole number from 0; number the facts, or leave it out'),
        ('{"text": "a", "entities": "a"}',
         '"entities" is \'a\', expected a list of strings; write it as ["name", "place"]'),
        ('{"text": "a", "entities": 3}', '"entities" is 3, expected a list of strings; write it as ["name", "place"]'),
    ],
)  # fmt: skip
def test_bad_document_rows(tmp_path: Path, row: str, message: str) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "a"}\n' + row)
    fails(f"{path}:2: {message}", path)


def test_facts_are_numbered_in_every_row_or_in_none(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "a", "fact": 1}, {"text": "b"}, {"text": "c"}])
    fails(f'{path}:2: the row has no "fact" though other rows of the set have one; number every row or none', path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"question": "Who?"}', 'the question has no answer; add an "answer" field, or delete the row'),
        ('{"question": "Who?", "answer": ""}', 'the question has no answer; add an "answer" field, or delete the row'),
        ('{"question": "Who?", "answer": null}', 'the question has no answer; add an "answer" field, or delete the row'),
        ('{"question": "Who?", "answer": 3}', '"answer" is int, expected a string; put it between quotes'),
        ('{"question": "Who?", "answer": [], "answers": ["", null]}',
         'the question has no answer; add an "answer" field, or delete the row'),
        ('{"question": "Who?", "answers": {"text": [], "answer_start": []}}',
         'the question has no answer; add an "answer" field, or delete the row'),
        ('{"question": "Who?", "answer": ["Ada", 3]}',
         '"answer" holds 3 in its list, expected a string; put it between quotes'),
        ('{"question": "Who?", "answer": "[1987, 1988]"}',
         '"answer" is [1987, 1988], which is one text or a list of accepted answers; write the list as JSON with every '
         'answer between double quotes, as in ["Ada", "Bo"], and one text of this look as a list of itself'),
        ('{"question": "Who?", "answer": "[\'Ada\' \'Bo\']"}',
         '"answer" is [\'Ada\' \'Bo\'], which is one text or a list of accepted answers; write the list as JSON with every '
         'answer between double quotes, as in ["Ada", "Bo"], and one text of this look as a list of itself'),
        ('{"question": "Who?", "answers": [["Ada"], ["Bo"]]}',
         '"answers" holds a list in a list; write the accepted answers as one list of strings, as in ["...", "..."]'),
        ('{"question": "Who?", "answer": {"spans": ["Ada"]}}',
         '"answer" is an object without "text" or "value" (its fields: "spans"); write the accepted answers as '
         '["...", "..."]'),
        ('{"answer": "Ada"}', 'the row has no "question" (its fields: "answer"); add it'),
        ('{"question": " ", "answer": "Ada"}', "the question is empty; write it, or delete the row"),
        ('{"question": "Who?", "answer": "Ada", "direction": "up"}',
         'direction "up" is neither "forward" nor "backward"; write one of the two, or leave the field out to have it '
         "worked out"),
        ('{"question": "Who?", "answer": "Ada", "task": 3}', '"task" is int, expected a string; put it between quotes'),
        ('"Who?"', 'the row is a string, expected an object with "question" and "answer"'),
        ("{", "not valid JSON (Expecting property name enclosed in double quotes at column 2); expected one JSON object a "
         "line"),
    ],
)  # fmt: skip
def test_bad_question_rows(tmp_path: Path, documents: Path, row: str, message: str) -> None:
    path = write(tmp_path / "q.jsonl", '{"question": "Where was Ada Fenwick born?", "answer": "Sable Point"}\n\n' + row)
    fails(f"{path}:3: {message}", documents, path)


ACCEPTED = ("Sable Point", "the Point of Sable")


@pytest.mark.parametrize(
    "fields",
    [
        {"answer": [*ACCEPTED]},
        {"answers": [*ACCEPTED]},
        {"answer": "Sable Point", "answers": [*ACCEPTED]},
        {"answer": {"text": [*ACCEPTED], "answer_start": [0, 4]}},
        {"answers": {"text": [*ACCEPTED, "Sable Point"], "answer_start": [0, 4, 0]}},
        {"answers": [{"text": each, "answer_start": 0} for each in ACCEPTED]},
        {"answer": {"value": "Sable Point", "aliases": [*ACCEPTED], "normalized_aliases": ["sable point"]}},
        {"answer": [None, "Sable Point", " ", "the Point of Sable", "Sable Point"]},
        {"answer": None, "answers": [*ACCEPTED]},
        {"answer": json.dumps(ACCEPTED)},
        {"answer": f" {list(ACCEPTED)} "},
        {"answers": json.dumps({"text": ACCEPTED, "answer_start": [0, 4]})},
        {"answer": json.dumps({"value": ACCEPTED[0], "aliases": ACCEPTED})},
    ],
)
def test_every_form_of_several_accepted_answers(tmp_path: Path, documents: Path, fields: dict[str, object]) -> None:
    row = {"question": "Where was Ada Fenwick born?", **fields}
    asked = [load_knowledge(documents, write(tmp_path / "q.jsonl", [row])).questions]
    table = {name: json.dumps(value) if isinstance(value, (list, dict)) else value for name, value in row.items()}
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, table)
    writer.writeheader()
    writer.writerow(table)
    asked.append(load_knowledge(documents, write(tmp_path / "q.csv", stream.getvalue())).questions)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "q.parquet")
    asked.append(load_knowledge(documents, tmp_path / "q.parquet").questions)
    for (question,) in asked:
        assert (question.answers, question.answer) == (ACCEPTED, ACCEPTED[0])
        assert (question.fact, question.direction) == (0, "forward")


@pytest.mark.parametrize(
    "answer", ["[sic]", "[Sable Point]", "{x | x > 0}", '{"born": "Sable Point"}', "(0, 1)", "[", "]["]
)
def test_an_answer_between_brackets_stays_what_it_is(tmp_path: Path, answer: str) -> None:
    (question,) = load_questions(
        write(tmp_path / "q.jsonl", [{"question": "What?", "answer": answer, "direction": "forward"}])
    )
    assert question.answers == (answer,)


def test_the_accepted_answer_that_the_document_holds_says_fact_and_direction(tmp_path: Path) -> None:
    documents = write(
        tmp_path / "d.jsonl", ["Bo Marlow paints ships.", "The keeper of the lighthouse of Vell is Mira Dorn."]
    )
    asked = [
        {"question": "Who keeps the lighthouse of Vell?", "answer": ["Captain Bo", "Mira Dorn"]},
        {"question": "What does Mira Dorn keep?", "answers": ["a tower", "the lighthouse of Vell"]},
    ]
    questions = load_knowledge(documents, write(tmp_path / "q.jsonl", asked)).questions
    assert [(each.fact, each.direction, each.answer) for each in questions] == [
        (1, "forward", "Captain Bo"),
        (1, "backward", "a tower"),
    ]


def test_rows_that_differ_in_the_answer_alone_are_one_question(tmp_path: Path, documents: Path) -> None:
    born, works = "Where was Ada Fenwick born?", "Who works for Brightloom Textiles?"
    rows: list[object] = [
        {"question": born, "answer": "Sable Point"},
        {"question": works, "answer": "Ada Fenwick"},
        {"question": works, "answer": "Ada Fenwick"},  # repeated, as in the published biographies
        {"question": born, "answer": ["a village", "Sable Point"]},
        {"question": born, "answer": "nowhere", "direction": "forward"},
        {"question": born, "answer": "by the sea", "fact": 1},  # of somebody else
        {"question": born, "answer": "at home", "task": "second"},
    ]
    questions = load_knowledge(documents, write(tmp_path / "q.jsonl", rows)).questions
    assert [(each.question, each.answers, each.fact) for each in questions] == [
        (born, ("Sable Point", "a village", "nowhere"), 0),
        (works, ("Ada Fenwick",), 0),
        (works, ("Ada Fenwick",), 0),
        (born, ("by the sea",), 1),
        (born, ("at home",), 0),
    ]
    directed = [{**row, "direction": "forward"} for row in rows if isinstance(row, dict)]
    directed.append({"question": born, "answer": "in a tale", "direction": "backward"})
    alone = load_questions(write(tmp_path / "alone.jsonl", directed))
    assert [(each.answers, each.direction) for each in alone] == [
        (("Sable Point", "a village", "nowhere", "by the sea"), "forward"),
        (("Ada Fenwick",), "forward"),
        (("Ada Fenwick",), "forward"),
        (("at home",), "forward"),
        (("in a tale",), "backward"),
    ]


def test_bad_question_files(tmp_path: Path, documents: Path) -> None:
    empty = write(tmp_path / "q.jsonl", "")
    fails(
        f"{empty}: the file holds no question; add rows with a question and an answer, or leave it out",
        documents,
        empty,
    )
    notes = write(tmp_path / "q.txt", "Who?")
    fails(
        f"{notes}: questions are read from .json, .jsonl, .csv, .parquet, with a question and an answer a row",
        documents,
        notes,
    )
    gone = tmp_path / "gone.jsonl"
    fails(
        f"{gone}: there is no such file or folder (looked at {gone}), and it is neither "
        f"{WORLDS} nor a Hub data set (user/name); check the path",
        documents,
        gone,
    )


def test_questions_in_csv(tmp_path: Path, documents: Path) -> None:
    content = 'question,answer,direction,fact\n"Where was Ada Fenwick born?",Sable Point,,\nWho?,Bo Marlow,backward,1\n'
    questions = load_knowledge(documents, write(tmp_path / "q.csv", content)).questions
    assert [(q.fact, q.direction) for q in questions] == [(0, "forward"), (1, "backward")]


@pytest.mark.parametrize(
    "name", ["nothing", "/no/such/file", "./no/folder", "data/facts.jsonl", "no\nfile", "x" * 5000]
)
def test_nothing_there(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fails(
        f"{name}: there is no such file or folder (looked at {Path(name).absolute()}), and it is neither "
        f"{WORLDS} nor a Hub data set (user/name); check the path",
        name,
    )


def test_questions_without_documents(tmp_path: Path) -> None:
    rows: list[object] = [
        {"question": "Who?", "answer": "Ada", "direction": "backward", "fact": 4},
        {"question": "Where?", "answer": "Oslo", "task": "forward"},
    ]
    questions = load_questions(write(tmp_path / "q.jsonl", rows))
    assert [(q.direction, q.fact, q.task) for q in questions] == [("backward", 4, ""), ("forward", None, "forward")]
    path = write(tmp_path / "bare_test.jsonl", [*rows, {"question": "When?", "answer": "1950"}])
    with pytest.raises(DataError) as error:
        load_questions(path)
    assert str(error.value) == (
        f"{path}:3: the question has no direction, and without documents none can be worked out; add a "
        '"direction" (forward or backward), or name the documents too'
    )


def test_empty_sources(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", "[]")
    fails(f'{path}: the file holds no document; add rows such as {{"text": "..."}}', path)
    empty = write(tmp_path / "empty.md", "---\ntitle: x\n---\n")
    fails(f"{empty}:1: the document is empty; give it a text, or delete it", empty)
    (tmp_path / "folder").mkdir()
    fails(
        f"{tmp_path / 'folder'}: no document in this folder; expected files of .json, .jsonl, .csv, .parquet, .txt, .md",
        tmp_path / "folder",
    )


def test_arguments_that_do_not_apply(documents: Path) -> None:
    def misused(message: str, *arguments: object, **options: object) -> None:
        fails(message, *arguments, error=ConfigurationError, **options)

    misused(
        'paraphrases="all": expected one of none, same_order, permute_order', "fictional:biography", paraphrases="all"
    )
    misused(
        f"size=3: only fictional worlds have a size, {documents} is none; select documents with facts",
        documents,
        size=3,
    )
    misused(
        f"revision=main: only Hub data sets have revisions, {documents} is local; drop it", documents, revision="main"
    )
    fails(
        f"{documents}: no documents for paraphrases=same_order (looked for train_paraphrase_same_order.json and "
        "train_paraphrase.json); only fictional worlds and the published layout have such variants; number the wordings "
        'of your own facts with a field "fact"',
        documents,
        paraphrases="same_order",
    )


def test_fictional_worlds(tmp_path: Path) -> None:
    knowledge = load_knowledge("fictional:biography", size=4, seed=3, paraphrases="same_order", facts=[1, 2])
    assert knowledge.name == "fictional:biography" and len(knowledge.documents) == 10 and len(knowledge.questions) == 18
    assert len(load_knowledge("fictional:name_description").documents) == 60
    name = knowledge.documents[0].entities[0]
    questions = write(tmp_path / "q.jsonl", [{"question": f"When was {name} born?", "answer": "in winter"}])
    own = load_knowledge("fictional:biography", questions, size=4, seed=3)
    assert [(q.fact, q.direction) for q in own.questions] == [(1, "forward")]
    fails(
        f"fictional:novel: there is no such fictional world; expected {WORLDS}",
        "fictional:novel",
    )


def test_hub_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    train = datasets.Dataset.from_dict({"text": [ADA, BO], "id": [1, 2]})
    test = datasets.Dataset.from_dict({"question": ["Where was Ada Fenwick born?"], "answer": ["Sable Point"]})
    calls: list[tuple[object, ...]] = []

    def load(repository: str, config: str | None, revision: str | None) -> datasets.DatasetDict:
        calls.append((repository, config, revision))
        return (
            datasets.DatasetDict(only=test)
            if repository == "me/questions"
            else datasets.DatasetDict(train=train, test=test)
        )

    monkeypatch.setattr(datasets, "load_dataset", load)
    knowledge = load_knowledge("me/people:small", "me/people:small", revision="v1")
    assert calls == [("me/people", "small", "v1")] * 2
    assert knowledge.name == "me/people:small" and [d.text for d in knowledge.documents] == [ADA, BO]
    assert knowledge.documents[1].source == "me/people:small:train row 2"
    assert [(q.fact, q.direction) for q in knowledge.questions] == [(0, "forward")]
    assert len(load_knowledge("me/people", "me/questions", revision="v1").questions) == 1
    assert calls[-1] == ("me/questions", None, None)
    fails(
        'me/people: split "train" has no column "body" (its columns: text, id); name the column that holds the document '
        "with text_field",
        "me/people",
        text_field="body",
    )
    train, test = train.rename_column("text", "question"), test.rename_column("answer", "a")
    fails('me/people: split "test" has no column "answer" (its columns: question, a); rename or add it', "me/people",
          "me/people", text_field="question")  # fmt: skip


def test_hub_data_set_with_several_accepted_answers(documents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    rows = [{"question": "Where was Ada Fenwick born?", "answers": {"text": [*ACCEPTED], "answer_start": [0, 4]}}]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: {"test": datasets.Dataset.from_list(rows)})
    assert [each.answers for each in load_knowledge(documents, "me/squad").questions] == [ACCEPTED]


def test_hub_data_set_from_a_local_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real loader, on a relative folder that reads like ``user/name`` only once it is gone from sight."""
    import datasets

    write(tmp_path / "user" / "name" / "train.jsonl", [{"text": ADA}])
    real = datasets.load_dataset
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda name, *_, **__: real(str(tmp_path / name), cache_dir=str(tmp_path / "cache")),
    )
    assert load_knowledge("user/name").documents[0].text == ADA


def test_hub_data_set_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    where = tmp_path / "nobody/nothing"
    message = (
        f"nobody/nothing: there is no such file or folder (looked at {where}), and it could not be loaded as a Hub"
    )
    with pytest.raises(
        DataError, match=f"^{re.escape(message)} data set .*; check the name and the network, or name a local"
    ):
        load_knowledge("nobody/nothing")


def test_hub_split_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    rows = datasets.Dataset.from_dict({"text": ["a"]})
    splits = datasets.DatasetDict(dev=rows, held_out=rows)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: splits)
    fails('me/people: the data set has no split "train" (its splits: dev, held_out)', "me/people")
