from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from kinject.commands.keeping import named_files
from kinject.data import load_knowledge, load_questions
from kinject.data.records import FILES, ROW_FILES
from kinject.errors import ConfigurationError, DataError
from tests.data.mixed_files import workbook

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


def test_runs_and_models_in_a_folder_are_no_documents(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "a.md", ADA)
    run = tmp_path / "outputs" / "wiki" / "masked"
    write(run / "results.json", json.dumps({"schema": 1, "objective": "masked", "model": "nano-ar", "before": {}}))
    write(run / "README.md", "# A card, which tells of documents.")
    write(run / "checkpoint-4" / "trainer_state.json", "{}")
    write(tmp_path / "model" / "model.safetensors", "")
    write(tmp_path / "model" / "README.md", "# A model")
    write(tmp_path / "other" / "results.json", [{"text": BO}])  # a file of that name may hold documents
    assert [each.text for each in load_knowledge(tmp_path).documents] == [ADA, BO]
    assert (
        f"2 folders of {tmp_path} hold a run or a model" in caplog.text and f"(first: {tmp_path}/model)" in caplog.text
    )
    assert [each.text for each in load_knowledge(str(tmp_path / "**" / "*.md")).documents] == [
        ADA,
        "# A model",
        "# A card, which tells of documents.",
    ]  # what a pattern names is meant
    (tmp_path / "a.md").unlink()
    (tmp_path / "other" / "results.json").unlink()
    with pytest.raises(DataError, match="no document in this folder"):
        load_knowledge(tmp_path)


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
        f"1 files of {tmp_path} hold no documents and are passed over: 1 .png (first: {tmp_path}/photo.png)"
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
            "--text_field 'body'",
        ),
        (
            "{}",
            'the row has no "text" (its fields: none); add it, or name the field that holds the document with --text_field',
        ),
        ('{"text": null}', '"text" is null; give it a text, or delete the row'),
        ('{"text": NaN}', '"text" is NaN; give it a text, or delete the row'),
        ('{"text": 5}', '"text" is a number (5), expected a string; write it between quotes: "5"'),
        ('{"text": true}', '"text" is true or false (True), expected a string; write it between quotes'),
        ('{"text": ["a"]}',
         "\"text\" is a list (['a']), expected a string; make a row of each, or join them to one text"),
        ('{"text": {"a": 1}}', "\"text\" is an object ({'a': 1}), expected a string; name the field that holds the document, "
         'as in {"text": "..."}'),
        ('{"meta": {"text": "a"}}', 'the row has no "text" (its fields: "meta"); there is one inside of "meta", move it out'),
        ('{"version": "1", "data": [{"context": "a"}]}', 'the row has no "text" (its fields: "version", "data"); if the rows '
         'stand in "data", write that list alone into the file, each with a field "text"'),
        ('{"Question": "Who?", "answer": "a"}', 'the row has no "text" (its fields: "Question", "answer"), but a question '
         'with its answer; pass the file with --questions to ask them, or call the fields "prompt" and "completion" to train '
         "on them"),
        ('{"Text": "a", "TEXT": "b"}', 'the fields "Text" and "TEXT" both stand for "text"; rename one'),
        ('{"text": "a", "text": "b"}', 'the row has "text" twice, of which only one could be kept; rename one, or make two '
         "rows"),
        ('{"messages": [{"role": "user", "content": "a", "content": "b"}]}', 'the row has "content" twice, of which only one '
         "could be kept; rename one, or make two rows"),
        ('{"text": "NaN"}', '"text" is "NaN", as programs write what is missing; give it a text, or delete the row'),
        ('{"text": "None "}', '"text" is "None", as programs write what is missing; give it a text, or delete the row'),
        ('{"messages": [{"role": ["user"], "content": "a"}]}', "message 1 of 'messages' is of the role ['user']; expected "
         "system, developer, user, assistant."),
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
        ('{"question": "Who?", "answer": 3}', '"answer" is a number, expected a string; put it between quotes'),
        ('{"question": "Who?", "answer": [], "answers": ["", null]}',
         'the question has no answer; add an "answer" field, or delete the row'),
        ('{"question": "Who?", "answers": {"text": [], "answer_start": []}}',
         'the question has no answer; add an "answer" field, or delete the row'),
        ('{"question": "Who?", "answer": ["Ada", 3]}',
         '"answer" holds 3 in its list, expected a string; put it between quotes'),
        ('{"question": "Who?", "answer": "[1987, 1988]"}',
         '"answer" is [1987, 1988], which may be one text or a list of accepted answers; write a list as JSON with every '
         'answer between double quotes, as in ["Ada", "Bo"], and a single text that looks like this as a list of one'),
        ('{"question": "Who?", "answer": "[\'Ada\' \'Bo\']"}',
         '"answer" is [\'Ada\' \'Bo\'], which may be one text or a list of accepted answers; write a list as JSON with every '
         'answer between double quotes, as in ["Ada", "Bo"], and a single text that looks like this as a list of one'),
        ('{"question": "Who?", "answers": [["Ada"], ["Bo"]]}',
         '"answers" holds a list in a list; write the accepted answers as one list of strings, as in ["...", "..."]'),
        ('{"question": "Who?", "answer": {"spans": ["Ada"]}}',
         '"answer" is an object without "text" or "value" (its fields: "spans"); write the accepted answers as '
         '["...", "..."]'),
        ('{"question": "Who?", "solution": "Ada"}', 'the row has no "answer" (its fields: "question", "solution"); add it, or '
         "name the field that holds the answer with --answer_field"),
        ('{"answer": "Ada"}', 'the row has no "question" (its fields: "answer"); add it, or name the field that holds the '
         "question with --question_field"),
        ('{"prompt": "Who?", "completion": "Ada"}', 'the row has no "question" (its fields: "prompt", "completion"); name them '
         "with --question_field 'prompt' --answer_field 'completion'"),
        ('{"instruction": "Who?", "input": "In Vell.", "output": "Ada"}', 'the row has no "question" (its fields: '
         '"instruction", "input", "output"); add it, or name the field that holds the question with --question_field'),
        ('{"instruction": "Who?", "input": "", "output": "Ada"}', 'the row has no "question" (its fields: "instruction", '
         "\"input\", \"output\"); name them with --question_field 'instruction' --answer_field 'output'"),
        ('{"question": " ", "answer": "Ada"}', "the question is empty; write it, or delete the row"),
        ('{"question": "Who?", "answer": "Ada", "direction": "up"}',
         'direction "up" is neither "forward" nor "backward"; write one of the two, or leave the field out to have it '
         "worked out"),
        ('{"question": "Who?", "answer": "Ada", "task": 3}', '"task" is a number (3), expected a string; write it between '
         'quotes: "3"'),
        ('{"question": "Who?", "answer": "Ada", "wordings": "[\'Whose?\'"}', '"wordings" is "[\'Whose?\'", expected a list of '
         'questions; write it as ["...", "..."], each with a text'),
        ('{"question": "Who?", "answer": true}', '"answer" is true or false, expected a string; put it between quotes'),
        ('{"messages": [{"role": "user", "content": "Who?"}]}', 'the row has no "question" (its fields: "messages"), but a '
         'conversation, which is learned as a document is; to ask it, write its last message of the user as "question" and '
         'the answer as "answer"'),
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
        f"{notes}: questions are read from {ROW_FILES}, with a question and an answer a row",
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
        f"{tmp_path / 'folder'}: no document in this folder; expected files of {FILES}",
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


def test_an_empty_name_is_not_the_folder_that_one_is_in(documents: Path) -> None:
    for names in (("",), ([str(documents), " "],), (documents, "")):
        fails(
            "documents or questions are named by an empty text; name a file or folder (. is the one that you are in)",
            *names,
            error=ConfigurationError,
        )


def test_fictional_worlds(tmp_path: Path) -> None:
    knowledge = load_knowledge("fictional:biography", size=4, seed=3, paraphrases="same_order", facts=[1, 2])
    assert knowledge.name == "fictional:biography" and len(knowledge.documents) == 10 and len(knowledge.questions) == 18
    assert len(load_knowledge("fictional:name_description").documents) == 60
    name = knowledge.documents[0].entities[0]
    questions = write(tmp_path / "q.jsonl", [{"question": f"When was {name} born?", "answer": "in winter"}])
    own = load_knowledge("fictional:biography", questions, size=4, seed=3)
    assert [(q.fact, q.direction) for q in own.questions] == [(1, "unknown")]
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
    monkeypatch.setattr("kinject.data.readers._absence", lambda *_: None)
    knowledge = load_knowledge("me/people:small", "me/people:small", revision="v1")
    assert calls == [("me/people", "small", "v1")] * 2
    assert knowledge.name == "me/people:small" and [d.text for d in knowledge.documents] == [ADA, BO]
    assert knowledge.documents[1].source == "me/people:small:train row 2"
    assert [(q.fact, q.direction) for q in knowledge.questions] == [(0, "forward")]
    assert len(load_knowledge("me/people", "me/questions", revision="v1").questions) == 1
    assert calls[-1] == ("me/questions", None, None)
    fails(
        'me/people: split "train" has no column "body" (its columns: text, id); name the column that holds the document '
        "with --text_field",
        "me/people",
        text_field="body",
    )
    train, test = train.rename_column("text", "question"), test.rename_column("answer", "a")
    fails('me/people: split "test" has no column "answer" (its columns: question, a); name the column that holds '
          "question and answer with --question_field and --answer_field", "me/people",
          "me/people", text_field="question")  # fmt: skip


def test_hub_data_set_with_several_accepted_answers(documents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    rows = [{"question": "Where was Ada Fenwick born?", "answers": {"text": [*ACCEPTED], "answer_start": [0, 4]}}]
    monkeypatch.setattr("kinject.data.readers._absence", lambda *_: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: {"test": datasets.Dataset.from_list(rows)})
    assert [each.answers for each in load_knowledge(documents, "me/squad").questions] == [ACCEPTED]


def test_hub_data_set_from_a_local_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real loader, on a relative folder that reads like ``user/name`` only once it is gone from sight."""
    import datasets

    write(tmp_path / "user" / "name" / "train.jsonl", [{"text": ADA}])
    real = datasets.load_dataset
    monkeypatch.setattr("kinject.data.readers._absence", lambda *_: None)
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


def test_a_mistyped_path_names_what_is_beside_it_and_loads_no_library(tmp_path: Path) -> None:
    write(tmp_path / "docs" / "wiki.md", ADA)
    write(tmp_path / "questions.jsonl", "{}")
    meant = {
        "docs/wikki": "; did you mean docs/wiki.md?",
        "docs/wkii.md": "; did you mean docs/wiki.md?",
        "dosc": "; did you mean docs?",
        "dcos/wiki.md": "; did you mean docs/wiki.md?",
        "question.jsonl": "; did you mean questions.jsonl?",
        "nobody/nothing": "or name a local file",
    }
    code = """
import json, sys
from kinject.data import load_knowledge
said = {}
for name in json.load(sys.stdin):
    try:
        load_knowledge(name)
    except ValueError as error:
        said[name] = str(error)
json.dump({"said": said, "heavy": sorted({"datasets", "torch"} & set(sys.modules))}, sys.stdout)
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, input=json.dumps([*meant]), capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["heavy"] == [] and [*found["said"]] == [*meant]
    for name, end in meant.items():
        assert found["said"][name].startswith(f"{name}: there is no such file or folder") and found["said"][
            name
        ].endswith(end)


def test_hub_split_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    rows = datasets.Dataset.from_dict({"text": ["a"]})
    splits = datasets.DatasetDict(dev=rows, held_out=rows)
    monkeypatch.setattr("kinject.data.readers._absence", lambda *_: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: splits)
    fails('me/people: the data set has no split "train" (its splits: dev, held_out)', "me/people")


# What people have.


def test_all_faults_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "text,note\nfine,x\none,two,three\n5,y\n")
    write(tmp_path / "b.jsonl", '{"text": "fine"}\nnot json\n{"text": null}\n{"body": "b"}\n')
    (tmp_path / "c.txt").write_bytes(b"Mira\0")
    write(tmp_path / "questions.jsonl", [{"question": "Who?"}])
    with pytest.raises(DataError) as error:
        load_knowledge(tmp_path)
    assert [fault.removeprefix(f"{tmp_path}/").partition(": ")[0] for fault in error.value.faults] == [
        "a.csv:3", "b.jsonl:2", "c.txt:1", "b.jsonl:3", "b.jsonl:4", "questions.jsonl:1",
    ]  # fmt: skip
    assert str(error.value).splitlines() == list(error.value.faults)


def test_the_first_of_very_many_faults_are_shown(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": ""}] * 500)
    with pytest.raises(DataError) as error:
        load_knowledge(path)
    lines = str(error.value).splitlines()
    assert len(lines) == 21 and lines[-1] == "and 480 more like these" and len(error.value.faults) == 500


def test_passed_over_files_are_counted_by_kind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.md", "b.PNG", "c.png", "d.odt", "LICENSE", "e.doc"):
        write(tmp_path / name, "text")
    write(tmp_path / "f.json", "[]")
    assert len(load_knowledge(tmp_path).documents) == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"6 files of {tmp_path} hold no documents and are passed over: 2 .png, 1 .doc, 1 .odt, 1 empty, 1 without ending "
        f"(first: {tmp_path}/LICENSE)"
    ]
    (tmp_path / "a.md").unlink()
    (tmp_path / "f.json").unlink()
    fails(
        f"{tmp_path}: no document in this folder (there are 2 .png, 1 .doc, 1 .odt, 1 without ending); expected files of "
        f"{FILES}",
        tmp_path,
    )


def test_several_paths_and_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.md", "b/c.txt", "b/d.jsonl.gz.txt", "docs/e.md", "docs/f.md", "docs/g.txt", "docs/deep/h.md"):
        write(tmp_path / name, f"from {Path(name).name[0]}")
    write(tmp_path / "b" / "questions.csv", "question,answer,direction\nWho?,Ada,forward\n")

    def texts(*names: str) -> list[str]:
        return [document.text.removeprefix("from ") for document in load_knowledge(names).documents]

    assert texts("docs/*.md") == ["e", "f"] and texts("docs/**/*.md") == ["h", "e", "f"]
    knowledge = load_knowledge(["a.md", tmp_path / "b", "docs/*.md", "docs/f.md"])
    assert [document.text for document in knowledge.documents] == [f"from {name}" for name in "acdef"]
    assert knowledge.facts == (0, 1, 2, 3, 4) and knowledge.name == "a+b+docs+1 more"
    assert [question.answer for question in knowledge.questions] == ["Ada"]
    assert load_knowledge("docs/*.md").name == "docs"
    fails(f"docs/*.rst: no file or folder matches this pattern (looked in {tmp_path}); check the pattern", "docs/*.rst")
    fails(
        f"gone.md: there is no such file or folder (looked at {tmp_path}/gone.md); check the path, and name a Hub data "
        "set alone",
        ["a.md", "gone.md"],
    )
    fails("documents: the list is empty; name at least one file or folder", [], error=ConfigurationError)
    fails(
        "fictional:nano: a fictional world cannot be mixed with other documents; name it alone",
        ["a.md", "fictional:nano"],
        error=ConfigurationError,
    )
    write(tmp_path / "docs" / "Questions.jsonl", [{"question": "Who?", "answer": "Bo", "direction": "forward"}])
    fails(
        f"{tmp_path}/b/questions.csv, docs/Questions.jsonl: several files of questions come with the documents; name one with "
        "--questions",
        [tmp_path / "b", "docs"],
    )


def test_the_file_of_questions_is_no_document(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", ADA)
    questions = write(tmp_path / "asked.jsonl", [{"question": "Where was Ada Fenwick born?", "answer": "Sable Point"}])
    knowledge = load_knowledge(tmp_path, questions)
    assert [document.text for document in knowledge.documents] == [ADA] and len(knowledge.questions) == 1


def test_fields_by_name(tmp_path: Path) -> None:
    documents = write(tmp_path / "d.csv", f" Body ,Note\n{ADA},x\n")
    questions = write(tmp_path / "q.csv", "Prompt, Completion\nWhere was Ada Fenwick born?, Sable Point\n")
    options = {"text_field": "body", "question_field": "prompt", "answer_field": "completion"}
    (question,) = load_knowledge(documents, questions, **options).questions  # type: ignore[arg-type]
    assert (question.question, question.answer) == ("Where was Ada Fenwick born?", "Sable Point")
    rows: list[object] = [{"q": "Who?", "a": "Ada", "Direction": "Backward"}]
    (question,) = load_questions(write(tmp_path / "q.jsonl", rows), question_field="q", answer_field="a")
    assert (question.answer, question.direction) == ("Ada", "backward")


@pytest.mark.parametrize("given", ["question, answer ", "Question,Answer", "QUESTION;ANSWER", "\ufeffquestion\tanswer"])
def test_headers_as_spreadsheets_write_them(tmp_path: Path, documents: Path, given: str) -> None:
    delimiter = next(each for each in ";\t," if each in given)
    row = delimiter.join(["Where was Ada Fenwick born?", "Sable Point"])
    questions = load_knowledge(documents, write(tmp_path / "q.csv", f"{given}\n{row}\n")).questions
    assert [(question.question, question.answer) for question in questions] == [
        ("Where was Ada Fenwick born?", "Sable Point")
    ]


CONVERSATION = [("user", "Who keeps the lighthouse of Vell?"), ("assistant", "Mira Dorn")]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": CONVERSATION[0][1]}, {"role": "assistant", "content": "Mira Dorn"}]},
        {"prompt": CONVERSATION[0][1], "completion": "Mira Dorn"},
        {"prompt": CONVERSATION[0][1], "completion": " Mira Dorn\n"},
        {"Prompt": [{"role": "user", "content": CONVERSATION[0][1]}],
         "Completion": [{"role": "assistant", "content": "Mira Dorn"}]},
        {"conversations": [{"from": "human", "value": CONVERSATION[0][1]}, {"from": "gpt", "value": "Mira Dorn"}]},
        {"instruction": "Who keeps the lighthouse", "input": "of Vell?", "output": "Mira Dorn"},
        {"messages": [
            {"role": "user", "content": [{"type": "text", "text": "Who keeps "},
                                         {"type": "text", "text": "the lighthouse of Vell?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Mira Dorn", "image_url": None}], "tool_calls": None},
        ]},
    ],
)  # fmt: skip
def test_conversations_are_learned(tmp_path: Path, row: dict[str, object]) -> None:
    path = write(tmp_path / "rows.jsonl", [row, {"text": BO}])
    questions = write(tmp_path / "q.jsonl", [{"question": "Who keeps the lighthouse of Vell?", "answer": "Mira Dorn"}])
    knowledge = load_knowledge(path, questions)
    spoken = [(role, " ".join(content.split())) for role, content in knowledge.documents[0].messages]
    assert spoken == CONVERSATION and knowledge.documents[1].messages == ()
    assert [(question.fact, question.direction) for question in knowledge.questions] == [(0, "forward")]
    dataset = knowledge.to_dataset()
    assert dataset.column_names == ["text", "fact", "entities", "messages", "read_from"]
    assert dataset[1]["messages"] is None and dataset[1]["read_from"] == f"{path}:2"
    assert [message["role"] for message in dataset[0]["messages"]] == ["user", "assistant"]


USER, ANSWER = {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [USER, ANSWER, USER]}, ": the last of 'messages' must be the assistant's answer, which is learned, but "
         "its role is 'user'; drop what follows the last answer, or add one."),
        ({"messages": [ANSWER]}, ": no message of the user stands before the answer; add the question."),
        ({"messages": [USER, {"role": "assistant", "content": " "}]},
         ": the answer (the last of 'messages') is empty; write it, or delete the row."),
        ({"messages": []}, ": 'messages' is an empty list, expected messages such as "),
        ({"messages": "Who?"}, ": 'messages' is a string, expected messages such as "),
        ({"messages": [{"user": "Who?"}]}, ": message 1 of 'messages' has no role (its fields: 'user'); expected system, "
         "developer, user, assistant."),
        ({"messages": [{"role": "bot", "content": "x"}]}, ": message 1 of 'messages' is of the role 'bot'; expected system, "
         "developer, user, assistant."),
        ({"messages": [USER, {"role": "assistant", "content": None}]},
         ": message 2 of 'messages' has no text: its content is null; expected a text, or parts of the type text."),
        ({"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [{"type": "function"}]}]},
         ": message 2 of 'messages' calls a tool ('tool_calls'): kinject learns answers in words; leave the row out, or write "
         "what is called and returned as text."),
        ({"messages": [USER, {"role": "tool", "content": "x"}, ANSWER]},
         ": message 2 of 'messages' is of the role 'tool': kinject learns"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, ANSWER]},
         ": message 1 of 'messages' holds a part of the type 'image_url'; kinject learns text alone"),
        ({"prompt": "Who?"}, ": the answer is missing ('completion' is absent or null); add it, or delete the row."),
        ({"prompt": "Who?", "completion": ""}, ": the answer ('completion') is empty; write it, or delete the row."),
        ({"prompt": "", "completion": "Ada"}, ": the question before the answer is empty; write it, or delete the row."),
        ({"prompt": "Who?", "completion": ["Ada", "A. F."]}, ": 'completion' is a list of texts, expected one text or "),
        ({"prompt": "Who?", "completion": 3}, ": 'completion' is a number, expected messages such as "),
        ({"instruction": "Who?", "output": ""}, ": the answer ('output') is empty; write it, or delete the row."),
        ({"conversations": [{"from": "human", "value": "Who?"}, {"from": "observation", "value": "x"}]},
         ": message 2 of 'conversations' is of the role 'observation': kinject learns answers in words"),
    ],
)  # fmt: skip
def test_conversations_that_cannot_be_learned(tmp_path: Path, row: dict[str, object], message: str) -> None:
    path = write(tmp_path / "rows.jsonl", [{"text": BO}, row])
    with pytest.raises(DataError, match=f"^{re.escape(f'{path}:2{message}')}"):
        load_knowledge(path)


def test_the_indentation_of_an_answer_stays(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"prompt": "Go on.", "completion": "\n    return 1\n    # end\n\n"}])
    assert load_knowledge(path).documents[0].messages[-1] == ("assistant", "    return 1\n    # end")


def test_lists_in_a_cell(tmp_path: Path) -> None:
    messages = json.dumps([USER, ANSWER]).replace('"', '""')
    path = write(tmp_path / "rows.csv", f'text;entities;messages\nMira;"[""Mira""]";\n;;"{messages}"\n')
    assert [(d.text, d.entities) for d in load_knowledge(path).documents] == [("Mira", ("Mira",)), ("Who?\nAda", ())]


def test_a_table_without_names_of_fields(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "Mira Dorn keeps the lighthouse,x\nTom Bell runs the mill,y\n")
    fails(
        f'{path}:2: the row has no "text" (its fields: "Mira Dorn keeps the lighthouse", "x"); if the first line of the file '
        "names no fields, put one before it that does",
        path,
    )


def test_titles_are_read_and_questions_linked_by_them(tmp_path: Path) -> None:
    rows = [
        {"title": "Vell Lighthouse", "text": "It was built in 1901 and is kept by Mira Dorn."},
        {"title": "Oster Mill", "text": "Oster Mill was built in 1911 and is run by Tom Bell."},
        {"title": None, "text": "The quay is red."},
        {"title": 1984, "text": "It is a novel."},
    ]
    path = tmp_path / "docs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    questions = tmp_path / "q.jsonl"
    asked = [("Who keeps Vell Lighthouse?", "Mira Dorn"), ("What is kept by Mira Dorn?", "Vell Lighthouse")]
    questions.write_text("\n".join(json.dumps({"question": q, "answer": a}) for q, a in asked), encoding="utf-8")
    knowledge = load_knowledge(path, questions)
    assert [document.title for document in knowledge.documents] == ["Vell Lighthouse", "Oster Mill", "", "1984"]
    assert [(question.fact, question.direction) for question in knowledge.questions] == [
        (0, "forward"),
        (0, "backward"),
    ]
    assert knowledge.documents[0].titled_text == "Vell Lighthouse\n\nIt was built in 1901 and is kept by Mira Dorn."
    assert knowledge.documents[1].titled_text == rows[1]["text"]
    assert knowledge.to_dataset()["title"] == ["Vell Lighthouse", "Oster Mill", "", "1984"]
    assert knowledge.titles().startswith("3 of 4 documents carry a title, and 2 of them do not name it")
    assert "learned as 'Vell Lighthouse\\n\\nIt was built in 1901" in knowledge.titles()
    assert load_knowledge(path, title_field="nowhere").titles() == ""


def test_titles_of_a_folder_come_from_its_front_matter(tmp_path: Path) -> None:
    (tmp_path / "vell.md").write_text("---\ntitle: Vell\n---\nIt is old.", encoding="utf-8")
    (tmp_path / "docs.csv").write_text("Name,text\nOster,It is red.\n", encoding="utf-8")
    titles = [document.title for document in load_knowledge(tmp_path, title_field="name").documents]
    assert titles == ["Oster", "Vell"]


def test_a_title_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "docs.jsonl"
    path.write_text('{"title": ["a"], "text": "b"}', encoding="utf-8")
    with pytest.raises(DataError, match='docs.jsonl:1: "title" is a list, .*--title_field'):
        load_knowledge(path)


def test_other_wordings_of_a_question_are_read_from_every_kind_of_row(tmp_path: Path) -> None:
    rows = [
        {
            "question": "Who?",
            "answer": "Ada",
            "direction": "forward",
            "wordings": ["Which one?", "Who?", "Which one?", "Say who."],
        },
        {"question": "When?", "answer": "1900", "direction": "forward", "wordings": "What year?"},
        {"question": "Where?", "answer": "Vell", "direction": "forward"},
    ]
    expected = [("Which one?", "Say who."), ("What year?",), ()]
    lines = tmp_path / "questions.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert [each.wordings for each in load_questions(lines)] == expected
    table = tmp_path / "questions.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "answer", "direction", "Wordings"])
        for row in rows:
            given = row.get("wordings", "")
            writer.writerow(
                [
                    row["question"],
                    row["answer"],
                    row["direction"],
                    given if isinstance(given, str) else json.dumps(given),
                ]
            )
    assert [each.wordings for each in load_questions(table)] == expected
    for wrong in ([1], {"a": "b"}, ["ok?", " "]):
        lines.write_text(json.dumps({**rows[2], "wordings": wrong}) + "\n", encoding="utf-8")
        with pytest.raises(DataError, match=r'questions.jsonl:1: "wordings" is .* expected a list of questions'):
            load_questions(lines)


ASKED = [["question", "answer"], ["Who keeps the well?", "Mira Dorn"]]
WELLS = [["text"], ["Mira Dorn keeps the well."]]


def test_a_sheet_of_questions_is_asked_and_the_others_are_learned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = [["name", "trade"], ["Tom Bell", "miller"], ["Ada Voss", "baker"]]
    path = workbook(tmp_path / "kb.xlsx", Wells=WELLS, People=told, Asked=ASKED)
    for questions in (None, path):
        for documents in (path, tmp_path, str(tmp_path / "*.xlsx")):
            knowledge = load_knowledge(documents, questions)
            texts = ["Mira Dorn keeps the well.", "name: Tom Bell\ntrade: miller", "name: Ada Voss\ntrade: baker"]
            assert [each.text for each in knowledge.documents] == texts, documents
            assert [(each.question, each.fact) for each in knowledge.questions] == [("Who keeps the well?", 0)]
    assert {record.getMessage().partition(": no column")[0] for record in caplog.records} == {f'{path}, sheet "People"'}
    assert [each.source for each in named_files(load_knowledge(path), str(path)).documents] == ["kb.xlsx"] * 3


def test_sheets_of_other_names_of_fields_and_those_that_nobody_asks_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = [["Frage", "Antwort"], ["Who keeps the well?", "Mira Dorn"]]
    notes = [["note", "by"], ["late", "me"]]
    path = workbook(tmp_path / "kb.xlsx", Wells=WELLS, Asked=asked)
    fields = {"question_field": "frage", "answer_field": "antwort"}
    assert [each.question for each in load_knowledge(path, **fields).questions] == ["Who keeps the well?"]
    asked[0].append("direction")
    asked[1].append("backward")
    alone = workbook(tmp_path / "q.xlsx", Asked=asked, Notes=notes)
    assert [each.question for each in load_questions(alone, **fields)] == ["Who keeps the well?"]
    assert [record.getMessage() for record in caplog.records] == [
        f'{alone}: no questions are in "Notes", so nothing is asked from there'
    ]
    where = f'{alone}:sheet "Asked", row 2: the row has no "question" (its fields: "Frage", "Antwort", "direction")'
    with pytest.raises(DataError, match=re.escape(where)):
        load_questions(alone)


def test_faults_of_sheets_are_told_all_at_once(tmp_path: Path) -> None:
    path = workbook(
        tmp_path / "kb.xlsx",
        Wells=[["text"], ["Mira Dorn keeps the well."]],
        Mills=[["body"], ["Tom Bell runs a mill."]],
        Asked=[["question", "answer"], ["Who keeps the well?", None]],
    )
    fails(
        f'{path}:sheet "Mills", row 2: the row has no "text" (its fields: "body"); add it, or name the field that holds the '
        f"document with --text_field 'body'\n"
        f'{path}:sheet "Asked", row 2: the question has no answer; add an "answer" field, or delete the row',
        path,
    )


def test_line_ends_of_windows_are_no_part_of_what_is_learned(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_bytes(b'text,note\r\n"Ada bakes.\r\nBo paints.",x\r\n')
    assert load_knowledge(table).documents[0].text == "Ada bakes.\nBo paints."
    row = write(tmp_path / "a.jsonl", [{"text": "Ada bakes.\r\nBo paints.\rTom runs."}])
    assert load_knowledge(row).documents[0].text == "Ada bakes.\nBo paints.\nTom runs."
    row = write(tmp_path / "b.jsonl", [{"prompt": "Who\r\nbakes?", "completion": "Ada\r\nFenwick"}])
    assert load_knowledge(row).documents[0].messages == (("user", "Who\nbakes?"), ("assistant", "Ada\nFenwick"))


def test_invisible_characters_in_the_names_of_columns(tmp_path: Path) -> None:
    table = write(tmp_path / "a.csv", f"te\u200bxt,title\u200e\xa0\n{ADA},Ada\n")
    document = load_knowledge(table).documents[0]
    assert (document.text, document.title) == (ADA, "Ada")


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Who?", "output": "Ada", "system": "Be brief."},
        {"System": "Be brief.", "conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Ada"}]},
        {
            "system": "Be long.",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Who?"},
                {"role": "assistant", "content": "Ada"},
            ],
        },
    ],
)
def test_the_system_message_of_a_row_is_kept(tmp_path: Path, row: dict[str, object]) -> None:
    (document,) = load_knowledge(write(tmp_path / "a.jsonl", [row])).documents
    assert document.messages == (("system", "Be brief."), ("user", "Who?"), ("assistant", "Ada"))


def test_advice_on_files_that_are_parted_otherwise(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="if '\\^' parts its columns, part them by commas, semicolons, tabs or pipes instead"
    ):
        load_knowledge(write(tmp_path / "a.csv", f"text^title\n{ADA}^Ada\n"))
    with pytest.raises(DataError, match="if each of them is a document, write a list of rows"):
        load_knowledge(write(tmp_path / "a.json", json.dumps({"Ada": ADA, "Bo": BO})))


def test_links_that_are_not_followed_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "wiki"
    write(folder / "a.md", ADA)
    write(tmp_path / "other" / "b.md", BO)
    (folder / "linked.md").symlink_to(tmp_path / "other" / "b.md")
    (folder / "more").symlink_to(tmp_path / "other")
    (folder / "gone.txt").symlink_to(tmp_path / "nothing")
    assert [each.text for each in load_knowledge(folder).documents] == [ADA, BO]
    assert "passed over: 2 link to a folder, or to nothing" in caplog.text
    with pytest.raises(DataError, match=r"check the path$"):  # not "did you mean" itself
        load_knowledge(folder / "gone.txt")
