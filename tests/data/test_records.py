from __future__ import annotations

import csv
import gzip
import io
import json
import re
import sys
from datetime import datetime
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinject.data.records import FILES, Record, file_kind, read_records
from kinject.errors import DataError
from tests.data.mixed_files import workbook

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
    path = write(tmp_path / "a.jsonl", '\ufeff{"text": "a\u2028b"}\r\n\r\n\ufeff"c"\n')
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
        ("a.json", "[null]", '{}:1: the row is null, expected an object with named fields or a string; write it as '
         '{"text": "..."}'),
        (
            "a.jsonl",
            '"a"\n["a"]',
            '{}:2: the row is a list, expected an object with named fields or a string; write it as {"text": "..."}',
        ),
        ("a.json", "[" * 10**5, "{}:1: not valid JSON (too many lists or objects in one another at column 2); expected a list "
         'of rows such as [{"text": "..."}]'),
        ("a.jsonl", '{"fact": ' + "9" * 5000 + "}", "{}:1: not valid JSON (a number of too many digits at column 1); expected "
         "one JSON object a line"),
        ("a.odt", "", f"{{}}: .odt files are not read; expected one of {FILES}; convert the file"),
        ("README", "", f"{{}}: a file without an extension is not read; expected one of {FILES}; convert the file"),
        ("a.xlsx.gz", "", f"{{}}: .gz files are not read; expected one of {FILES}; convert the file"),
        ("a.json", '{"text": "a", "text": "b"}', '{}:1: the row has "text" twice, of which only one could be kept; rename one, '
         "or make two rows"),
        ("a.csv", "text,note, text\na,b,c\n", '{}:1: the header names "text" twice, of which only one could be kept; rename '
         "one of the two columns"),
        ("a.csv", "text;note\na;b;c\n", "{}:2: the row has 3 fields where the header has 2; put fields that hold semicolons, "
         "quotes or line breaks between double quotes"),
        ("a.csv", "text,note\na\n", "{}:2: the row has 1 fields where the header has 2; put fields that hold commas, quotes or "
         "line breaks between double quotes, and keep the empty fields that end a row"),
        ("a.txt", b"Mira\nDorn\0", "{}:2: holds a NUL byte, which no text does: the file is damaged, or not text; export "
         "it again, or remove the byte"),
        ("a.csv", "text\nMira Dorn\n".encode("utf-16-le"), "{}:1: not UTF-8 text, but probably UTF-16LE without a byte order "
         "mark; save the file as UTF-8"),
        ("a.txt", "Zoë keeps it".encode("utf-16-be"), "{}: not UTF-8 text, but probably UTF-16BE without a byte order mark; "
         "save the file as UTF-8"),
        ("a.csv", b"PK\x03\x04", "{}: not text, but a ZIP archive, such as of .xlsx or .docx; give it its own ending, or "
         "export the text"),
        ("a.txt", b"{\\rtf1", "{}: not text, but rich text; save it as plain text"),
        ("a.txt", b"%PDF-1.7", "{}: not text, but a PDF; convert it to text"),
        ("a.jsonl.gz", b"text", "{}: not a whole gzip file (Not a gzipped file (b'te')); compress it again"),
    ],
)  # fmt: skip
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
        ("---\nnot: [closed\n---\nbody", "body"),
        ("---\ntitle: {{ page }}\n---\n\nbody", "body"),
        ("+++\ntitle = 'T'\ndraft = false\n[params]\nn = 1\n+++\n\nbody", "body"),
        ("+++\ntitle = 'T\n+++\nbody", "body"),
        ("---\n\nKeeper: Ada\n\n---\n\nbody", "---\n\nKeeper: Ada\n\n---\n\nbody"),
        ("---\n\ntitle: T\n---\nbody", "body"),
        ("+++\nno field\n+++\nbody", "+++\nno field\n+++\nbody"),
        ("---\njust a line\n---\nbody", "---\njust a line\n---\nbody"),
        ("# Ada\n\n---\n\nbody", "# Ada\n\n---\n\nbody"),
        ("--- never closed\n", "--- never closed"),
    ],
)
def test_markdown_front_matter(tmp_path: Path, content: str, expected: str) -> None:
    assert read_records(write(tmp_path / "a.md", content))[0].value == expected


@pytest.mark.parametrize(
    ("front", "title"),
    [
        ("---\ntitle: Vell Light\nkeeper: Ada\n---\n", "Vell Light"),
        ("---\nTitle: 'Vell: the Light'\n...\n", "Vell: the Light"),
        ("---\ntitle: |\n  Vell\n  Light\n---\n", "Vell Light"),
        ("---\ntitle: 1984\n---\n", "1984"),
        ("---\ntitle: No\n---\n", "No"),
        ("---\ntitle: 2020-01-02\n---\n", "2020-01-02"),
        ("+++\ntitle = 'Vell'\n+++\n", "Vell"),
        ('+++\ntitle = """\nVell\nLight"""\n+++\n', "Vell Light"),
        ("---\nkeeper: Ada\n---\n", ""),
        ("---\ntitle: {{ page }}\n---\n", ""),
        ("---\ntitle: [a, b]\n---\n", ""),
        ("---\ntitle:\n---\n", ""),
        ("", ""),
    ],
)
def test_front_matter_gives_the_title(tmp_path: Path, front: str, title: str) -> None:
    (record,) = read_records(write(tmp_path / "a.md", f"{front}\nIt is old.\n"))
    assert (record.value, record.title) == ("It is old.", title)
    (record,) = read_records(write(tmp_path / "a.txt", f"{front}\nIt is old.\n"))
    assert record.title == ""


def test_front_matter_that_cannot_be_read_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_records(write(tmp_path / "a.md", "---\nkeeper: Ada\ntitle: {{ page }}\n---\nbody"))
    assert "a.md: its front matter cannot be read (line 3: " in caplog.text


def test_text_file_is_one_document(tmp_path: Path) -> None:
    path = write(tmp_path / "A.TXT", "one\n\n  two \n---\n")
    assert read_records(path) == [Record("one\n\n  two \n---", f"{path}:1")]


@pytest.mark.parametrize(
    ("encoding", "line"),
    [
        ("cp1252", "Zoë keeps the café of Vell."),
        ("cp1252", "# Café"),
        ("gb18030", "米拉守护着维尔灯塔。"),
        ("cp932", "ミラは灯台を守っています。"),
        ("cp949", "미라 도른은 등대를 지킨다."),
        ("cp1251", "Мира Дорн хранит маяк Велла."),
        ("koi8-r", "Мария Иванова основала музей стекла в бухте."),
        ("cp1250", "Łukasz Żółkiewski założył muzeum szkła w zatoce."),
        ("cp1252", "Die Straße kostet 5 £ für „Müller“."),
        ("cp932", "山田太郎は青い橋を設計した。"),
        ("euc-jp", "山田太郎は青い橋を設計した。"),
        ("gb18030", "林若川执导了电影《赤灯》，于1987年上映。"),
        ("big5", "林若川執導了電影《赤燈》，於1987年上映。"),
        ("cp949", "임서윤은 영화 『붉은 등』을 감독했다."),
    ],
)
def test_the_likely_encoding_is_named(tmp_path: Path, encoding: str, line: str) -> None:
    path = write(tmp_path / "a.csv", f"text\nfine\n{line}\n".encode(encoding))
    name = encoding.upper()
    with pytest.raises(DataError) as error:
        read_records(path)
    assert re.match(rf"{path}:3: not UTF-8 text \(byte 0x[0-9A-F]{{2}}\); save the file as UTF-8\. ", str(error.value))
    assert f"probably {name}, in which the line reads {line!r}: iconv -f {name} -t UTF-8 '{path}' > " in str(
        error.value
    )


@pytest.mark.parametrize("data", [b"\xa0", b"a\n\x85\n", b"\xff", b"\x81\x8d\x8f", b"\xff\xfea", bytes(range(1, 256))])
def test_bytes_of_no_text_are_refused(tmp_path: Path, data: bytes) -> None:
    for name in ("a.txt", "a.csv", "a.jsonl", "a.json"):
        path = write(tmp_path / name, data)
        with pytest.raises(DataError, match=rf"^{path}:(\d+:)? not (UTF-8|whole UTF-16) text"):
            read_records(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_marked_encodings_and_line_ends(tmp_path: Path, encoding: str, newline: str) -> None:
    table = newline.join(["text\tnote", "Zoë keeps 灯塔\tx", "Tom\ty", ""])
    assert [record.value for record in read_records(write(tmp_path / "a.csv", table.encode(encoding)))] == [
        {"text": "Zoë keeps 灯塔", "note": "x"},
        {"text": "Tom", "note": "y"},
    ]
    rows = newline.join(['{"text": "Zoë"}', '{"text": "Tom"}'])
    for name in ("a.jsonl", "a.json"):
        path = write(tmp_path / name, rows.encode(encoding))
        assert read_records(path) == [Record({"text": "Zoë"}, f"{path}:1"), Record({"text": "Tom"}, f"{path}:2")]
    path = write(tmp_path / "a.txt", newline.join(["Zoë", "", "Tom", ""]).encode(encoding))
    assert read_records(path) == [Record("Zoë\n\nTom", f"{path}:1")]


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("semicolons.csv", "text;note\nMira Dorn, aged 50;1,5\n", [("Mira Dorn, aged 50", "1,5")]),
        ("commas.tsv", "text,note\nMira Dorn,x\n", [("Mira Dorn", "x")]),
        ("told.csv", "sep=;\r\ntext;note\r\nMira;x\r\n", [("Mira", "x")]),
        ("told_quoted.csv", '"sep=|"\ntext|note\nMira|x\n', [("Mira", "x")]),
        ("tabs.csv", "text\tnote\nMira, too\tx\n", [("Mira, too", "x")]),
        ("tabs.tsv", "text\tnote\nMira, too\tx\n", [("Mira, too", "x")]),
        ("pipes.csv", "text|note\nMira, too|x\n", [("Mira, too", "x")]),
        ("marked.csv", "\ufefftext;note\nMira;x\n", [("Mira", "x")]),
        ("commas.csv", "text,note\n\"Mira; Tom\",\"x\ny\"\n", [("Mira; Tom", "x\ny")]),
        ("both.csv", 'text,"note"\nMira;x;y,z\n', [("Mira;x;y", "z")]),
        ("spaces.csv", 'text, note\nMira, "x, y"\n', [("Mira", "x, y")]),
        ("padded.csv", "text ,note , \nMira,x,\n", [("Mira", "x")]),
        ("wide.csv", "text,note,,\nMira,x,,\nTom,y\n,,,\n", [("Mira", "x"), ("Tom", "y")]),
        ("blank.csv", "\ntext;note\n;\nMira;x\n;\n ; \nTom;y\n", [("Mira", "x"), ("Tom", "y")]),
        ("line_breaks.csv", 'text;note\r\n"Mira\nDorn";x\r\n', [("Mira\nDorn", "x")]),
    ],
)  # fmt: skip
def test_tables_as_spreadsheets_write_them(
    tmp_path: Path, name: str, content: str, rows: list[tuple[str, str]]
) -> None:
    records = read_records(write(tmp_path / name, content))
    assert [record.value for record in records] == [{"text": text, "note": note} for text, note in rows]


def test_lines_of_a_told_delimiter_and_of_line_breaks(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'sep=;\ntext;note\n"two\nlines";x\nMira;y\n')
    assert [record.source for record in read_records(path)] == [f"{path}:3", f"{path}:5"]


def test_one_column_keeps_what_looks_like_a_delimiter(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text\nMira; Tom\nLia|Bo\n""\n')
    assert [record.value for record in read_records(path)] == [{"text": "Mira; Tom"}, {"text": "Lia|Bo"}, {"text": ""}]


def test_an_index_column_of_pandas_is_no_field(tmp_path: Path) -> None:
    assert read_records(write(tmp_path / "a.csv", ",text\n0,Mira\n"))[0].value == {"text": "Mira"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", '{"text": ["a", "b"], "fact": [0, 1]}'),
        ("a.json", '{"text": {"0": "a", "1": "b"}, "fact": {"0": 0, "1": 1}}'),
        ("a.json", '{"0": {"text": "a", "fact": 0}, "1": {"text": "b", "fact": 1}}'),
        ("a.json", '{"columns": ["text", "fact"], "index": [0, 1], "data": [["a", 0], ["b", 1]]}'),
        ("a.json", '{"text": "a", "fact": 0}\n{"text": "b", "fact": 1}'),
        ("a.jsonl", '{\n "text": "a",\n "fact": 0\n}\n{\n "text": "b",\n "fact": 1\n}'),
        ("a.jsonl", '[{"text": "a", "fact": 0}, {"text": "b", "fact": 1}]'),
        ("a.jsonl", '[\n{"text": "a", "fact": 0},\n{"text": "b", "fact": 1}\n]'),
        ("a.JSONL", '{"text": "a", "fact": 0}\n{"text": "b", "fact": 1}'),
        ("a.ndjson", '{"text": "a", "fact": 0}\n{"text": "b", "fact": 1}'),
        ("a.jsonlines", '{"text": "a", "fact": 0}\n{"text": "b", "fact": 1}'),
    ],
)
def test_json_as_libraries_write_it(tmp_path: Path, name: str, content: str) -> None:
    rows = [record.value for record in read_records(write(tmp_path / name, content))]
    assert rows == [{"text": "a", "fact": 0}, {"text": "b", "fact": 1}]


@pytest.mark.parametrize(
    "table",
    [
        {"columns": ["text", "fact"], "index": [0], "data": [["a"]]},
        {"columns": ["text", "text"], "index": [0], "data": [["a", "b"]]},
        {"columns": ["text"], "index": [0], "data": ["a"]},
        {"columns": 1, "index": 1, "data": [["a"]]},
    ],
)
def test_a_table_of_pandas_that_is_none_stays_one_row(tmp_path: Path, table: dict[str, object]) -> None:
    assert [record.value for record in read_records(write(tmp_path / "a.json", json.dumps(table)))] == [table]


@pytest.mark.parametrize(
    "row",
    [{"messages": [{"role": "user"}, {"role": "assistant"}]}, {"entities": ["a"], "text": "a"}, {"meta": {"a": 1}}],
)
def test_one_object_of_lists_may_be_a_row(tmp_path: Path, row: dict[str, object]) -> None:
    assert [record.value for record in read_records(write(tmp_path / "a.json", json.dumps(row)))] == [row]


def test_compressed_files(tmp_path: Path) -> None:
    for name, content in {
        "a.jsonl.gz": '{"text": "a"}',
        "b.CSV.GZ": "text\na\n",
        "c.json.gz": '[{"text": "a"}]',
    }.items():
        assert [record.value for record in read_records(write(tmp_path / name, gzip.compress(content.encode())))] == [
            {"text": "a"}
        ]
    path = write(tmp_path / "d.md.gz", gzip.compress(b"---\ntitle: T\n---\na\n"))
    assert read_records(path) == [Record("a", f"{path}:1", "T")]


def test_kinds_of_files() -> None:
    kinds = {
        name: file_kind(Path(name)) for name in ("a.MDX", "b.text", "c.tab", "d.rst", ".csv", "e.json.GZ", "gz", "f.")
    }
    assert kinds == {"a.MDX": ".md", "b.text": ".txt", "c.tab": ".tsv", "d.rst": ".rst", ".csv": "", "e.json.GZ": ".json",
                     "gz": "", "f.": ""}  # fmt: skip


def test_parquet_of_other_programs(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array(["Zoë".encode()])}), path)
    assert read_records(path)[0].value == {"text": "Zoë"}
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, ["text", "text"]), path)
    fails(path, '{}: two columns are called "text", of which only one could be kept; rename one')


def test_spreadsheets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.title = "Facts"
    for row in (["Text", "fact", "share"], ["Mira", 5, 2500], [None, None, None], ["Tom", 6.0, None]):
        book.active.append(row)
    book.active["C2"].number_format = "#,##0"  # shown as 2,500
    book.create_sheet("Empty")
    path = tmp_path / "a.xlsx"
    book.save(path)
    assert read_records(path) == [
        Record({"Text": "Mira", "fact": "5", "share": 2500}, f"{path}:2"),
        Record({"Text": "Tom", "fact": "6", "share": None}, f"{path}:4"),
    ]
    assert not caplog.records
    with pytest.raises(DataError, match=r"bad\.xlsx: not a readable \.xlsx file .*; save it again, or as \.csv$"):
        read_records(write(tmp_path / "bad.xlsx", "text"))


def test_every_sheet_is_read_and_faults_and_what_is_left_out_name_theirs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = workbook(
        tmp_path / "a.xlsx",
        Wells=[["text"], ["Mira keeps a well."]],
        Empty=[],
        Mills=[["text", "title"], [], ["Tom runs a mill.", "Tom"]],
        hidden=[["text"], ["a secret"]],
        Header=[["text"]],
    )
    assert read_records(path) == [
        Record({"text": "Mira keeps a well."}, f'{path}:sheet "Wells", row 2', sheet="Wells"),
        Record({"text": "Tom runs a mill.", "title": "Tom"}, f'{path}:sheet "Mills", row 3', sheet="Mills"),
    ]
    assert [record.getMessage() for record in caplog.records] == [
        f'{path}: the sheet "hidden" is hidden, and passed over; show what is to be read',
        f'{path}: the sheet "Header" holds the names of columns, and no row below them; it is passed over',
    ]
    fails(
        workbook(tmp_path / "b.xlsx", A=[["text", "text"], ["a", "b"]], B=[["text"], ["a"]], C=[["id", "id"], [1, 2]]),
        '{}:sheet "A", row 1: the header names "text" twice, of which only one could be kept; rename one of the two columns\n'
        '{}:sheet "C", row 1: the header names "id" twice, of which only one could be kept; rename one of the two columns',
    )


def test_spreadsheets_without_their_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    fails(
        write(tmp_path / "a.xlsx", ""),
        "{}: spreadsheets are read by openpyxl, which is not installed: pip install 'kinject[xlsx]'. Or save the sheet as .csv",
    )


def test_cells_read_as_they_are_shown(tmp_path: Path) -> None:
    book = pytest.importorskip("openpyxl").Workbook()
    sheet = book.active
    sheet.append(["name", "day", "moment", "share", "exact"])
    sheet.append(["Ada", datetime(1931, 5, 1), datetime(1931, 5, 1), 0.25, 0.125])
    for cell, shown in (("B2", "yyyy-mm-dd"), ("C2", "yyyy-mm-dd hh:mm"), ("D2", "0%"), ("E2", "0.0%")):
        sheet[cell].number_format = shown
    book.save(tmp_path / "a.xlsx")
    (record,) = read_records(tmp_path / "a.xlsx")
    assert isinstance(record.value, dict)
    assert [str(value) for value in record.value.values()] == [
        "Ada",
        "1931-05-01",
        "1931-05-01 00:00:00",
        "25%",
        "12.5%",
    ]


def test_a_title_above_the_names_of_columns(tmp_path: Path) -> None:
    book = pytest.importorskip("openpyxl").Workbook()
    for row in (["My list"], ["name", "role"], ["Ada", "baker"]):
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    with pytest.raises(
        DataError, match="has 2 fields where the header has 1; let the first row of the sheet name every"
    ):
        read_records(tmp_path / "a.xlsx")
