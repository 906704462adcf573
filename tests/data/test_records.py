from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinject.data.records import Record, read_records
from kinject.errors import DataError

text = st.text(st.characters(codec="utf-8"), max_size=20)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def fails(path: Path, message: str) -> None:
    """Reading ``path`` fails with exactly ``message``, in which ``{}`` stands for the path."""
    with pytest.raises(DataError, match=f"^{re.escape(message.replace('{}', str(path)))}$"):
        read_records(path)


@settings(max_examples=50)
@given(texts=st.lists(text, max_size=6), gaps=st.lists(st.sampled_from(["", " ", "\n", "\n\n  ", "\r\n"]), min_size=16))
def test_json_list_knows_lines(tmp_path_factory: pytest.TempPathFactory, texts: list[str], gaps: list[str]) -> None:
    items = [json.dumps({"text": value}) if i % 2 else json.dumps(value) for i, value in enumerate(texts)]
    content, lines = gaps[0] + "[", []
    for i, item in enumerate(items):
        content += ("," if i else "") + gaps[2 * i + 1]
        lines.append(content.count("\n") + 1)
        content += item + gaps[2 * i + 2]
    content += "]" + gaps[-1]
    path = write(tmp_path_factory.getbasetemp() / "list.json", content)
    expected = [json.loads(item) for item in items]
    assert read_records(path) == [Record(v, f"{path}:{n}") for v, n in zip(expected, lines, strict=True)]


@settings(max_examples=50)
@given(texts=st.lists(text.filter(lambda value: "\0" not in value), max_size=6))  # NUL: from Python 3.11 on
def test_csv_round_trip(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(["id", "text"])
    writer.writerows((i, value) for i, value in enumerate(texts))
    path = write(tmp_path_factory.getbasetemp() / "rows.csv", stream.getvalue())
    assert [record.value for record in read_records(path)] == [
        {"id": str(i), "text": value} for i, value in enumerate(texts)
    ]


def test_csv_lines_and_long_fields(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    path = write(tmp_path / "a.csv", "text,fact\r\n" + '"two\nlines",0\r\n\r\n' + "x" * 200_000 + ",1\r\n")
    records = read_records(path)
    assert [record.source for record in records] == [f"{path}:2", f"{path}:5"]
    assert records[0].value == {"text": "two\nlines", "fact": "0"}
    assert csv.field_size_limit() == limit


def test_bad_csv(tmp_path: Path) -> None:
    fails(
        write(tmp_path / "a.csv", "text,fact\none, two, three\n"),
        "{}:2: the row has 3 fields where the header has 2; put fields that hold commas, quotes or line breaks between "
        "double quotes",
    )
    fails(
        write(tmp_path / "b.csv", 'text\nok\n"never\nclosed\n'),
        "{}:3: not valid CSV (unexpected end of data); double the quotes inside a quoted field",
    )
    assert read_records(write(tmp_path / "empty.csv", "")) == []


def test_json_lines(tmp_path: Path) -> None:
    # U+2028 is a line break to str.splitlines but not to JSON Lines.
    path = write(tmp_path / "a.jsonl", '\ufeff{"text": "a\u2028b"}\r\n\r\n"c"\n')
    assert read_records(path) == [Record({"text": "a\u2028b"}, f"{path}:1"), Record("c", f"{path}:3")]


def test_json_rows_one_after_another(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", '{"text": "a"}\n{"text":\n "b"}\n')
    assert read_records(path) == [Record({"text": "a"}, f"{path}:1"), Record({"text": "b"}, f"{path}:2")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            '{"text": "a"}\n{"text": b}\n',
            "{}:2: not valid JSON (Expecting value at column 10); expected one JSON object a line",
        ),
        (
            "a.json",
            '[\n{"text": "a"},\n{"text": "b"\n]',
            """{}:4: not valid JSON (Expecting ',' delimiter at column 1); expected a list of rows such as """
            '[{"text": "..."}]',
        ),
        (
            "a.json",
            '[\n{"text": "a"}\n{"text": "b"}\n]',
            '{}:3: not valid JSON (expected "," or "]" after the row); expected a list of rows such as [{"text": "..."}]',
        ),
        (
            "a.json",
            '[\n{"text": "a"},\n]',
            '{}:3: not valid JSON (Expecting value at column 1); expected a list of rows such as [{"text": "..."}]',
        ),
        (
            "a.json",
            '[\n{"text": "a"}\n\n',
            '{}:2: not valid JSON (the list is not closed by "]"); expected a list of rows such as [{"text": "..."}]',
        ),
        (
            "a.json",
            '[\n"a"\n]\n\n x',
            '{}:5: not valid JSON (text after the end of the list); expected a list of rows such as [{"text": "..."}]',
        ),
        ("a.json", "\n\n", '{}:3: expected a list of rows such as [{"text": "..."}]'),
        (
            "a.json",
            '["a",\n 7]',
            '{}:2: the row is a number, expected an object with named fields or a string; write it as {"text": "..."}',
        ),
        (
            "a.jsonl",
            '["a"]',
            '{}:1: the row is a list, expected an object with named fields or a string; write it as {"text": "..."}',
        ),
        ("a.txt", b"fine\ncaf\xe9\n", "{}:2: not UTF-8 text (byte 0xE9); save the file as UTF-8"),
        ("a.jsonl", b"\xef\xbb\xbf\n\n\xff", "{}:3: not UTF-8 text (byte 0xFF); save the file as UTF-8"),
        ("a.json", '["a"]'.encode("utf-16"), "{}:1: not UTF-8 text (byte 0xFF); save the file as UTF-8"),
        (
            "a.docx",
            "",
            "{}: .docx files are not read; expected one of .json, .jsonl, .csv, .parquet, .txt, .md; convert the file",
        ),
        (
            "README",
            "",
            "{}: a file without an extension is not read; expected one of .json, .jsonl, .csv, .parquet, .txt, .md; "
            "convert the file",
        ),
    ],
)
def test_malformed_files(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    fails(write(tmp_path / name, content), message)


def test_missing_and_unreadable(tmp_path: Path) -> None:
    fails(tmp_path / "no.json", "{}: there is no such file (looked for {}); check the path")
    (tmp_path / "folder.json").mkdir()
    fails(tmp_path / "folder.json", "{}: cannot be read (Is a directory); check the path and its permissions")


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"], "fact": [3, 4]}), path)
    assert read_records(path) == [
        Record({"text": "a", "fact": 3}, f"{path}:row 1"),
        Record({"text": "b", "fact": 4}, f"{path}:row 2"),
    ]
    with pytest.raises(DataError, match=r"bad\.parquet: not a readable Parquet file .*; write it again$"):
        read_records(write(tmp_path / "bad.parquet", "not parquet"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("---\ntitle: T\n---\n\n# Ada\n\nbody  \n", "# Ada\n\nbody  "),
        ("\ufeff---\r\ntitle: T\r\n---\r\nbody\r\n", "body"),
        ("---\n---\nbody", "body"),
        ("---\nnot: [closed\n---\nbody", "---\nnot: [closed\n---\nbody"),
        ("---\njust a line\n---\nbody", "---\njust a line\n---\nbody"),
        ("# Ada\n\n---\n\nbody", "# Ada\n\n---\n\nbody"),
        ("--- never closed\n", "--- never closed"),
    ],
)
def test_markdown_front_matter(tmp_path: Path, content: str, expected: str) -> None:
    assert read_records(write(tmp_path / "a.md", content))[0].value == expected


def test_text_file_is_one_document(tmp_path: Path) -> None:
    path = write(tmp_path / "A.TXT", "one\n\n  two \n---\n")
    assert read_records(path) == [Record("one\n\n  two \n---", f"{path}:1")]
