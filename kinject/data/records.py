"""Files in, records out: each row of a file with the line it stands on, so that a bad row can be named.

A record of .json, .jsonl, .csv or .parquet is a row (a mapping) or a bare string; of .txt and .md it is the whole file.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinject.errors import DataError

ROW_SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
TEXT_SUFFIXES = (".txt", ".md")


@dataclass(frozen=True)
class Record:
    """One row or bare string of a file, and where it stands."""

    value: dict[str, Any] | str
    source: str


def read_records(path: Path) -> list[Record]:
    """Every record of one file, in its order.

    Raises:
        DataError: the file is missing, unreadable, of an unknown kind, not UTF-8, or malformed (named by line).
    """
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        return list(_json_lines(path))
    if suffix == ".json":
        return list(_json(path))
    if suffix == ".csv":
        return _csv(path)
    if suffix == ".parquet":
        return list(_parquet(path))
    if suffix in TEXT_SUFFIXES:
        return [_whole_file(path)]
    raise DataError(
        f"{path}: {suffix + ' files are' if suffix else 'a file without an extension is'} not read; expected one of "
        f"{', '.join(ROW_SUFFIXES + TEXT_SUFFIXES)}; convert the file"
    )


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file (looked for {path.absolute()}); check the path") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error


def _read_text(path: Path) -> str:
    data = _read_bytes(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: not UTF-8 text (byte 0x{error.object[error.start]:02X}); save the file as UTF-8"
        ) from error


def _bad_json(path: Path, line: int, error: json.JSONDecodeError, expected: str) -> DataError:
    return DataError(f"{path}:{line}: not valid JSON ({error.msg} at column {error.colno}); expected {expected}")


def _checked(value: object, source: str) -> Record:
    if isinstance(value, (dict, str)):
        return Record(value, source)
    raise DataError(
        f"{source}: the row is {_kind(value)}, expected an object with named fields or a string; "
        'write it as {"text": "..."}'
    )


def _kind(value: object) -> str:
    names = {list: "a list", bool: "true or false", int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def _json_lines(path: Path) -> Iterator[Record]:
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise _bad_json(path, number, error, "one JSON object a line") from error
        yield _checked(value, f"{path}:{number}")


def _json(path: Path) -> Iterator[Record]:
    """A JSON list of rows or strings, or rows one after another; parsed item by item to know each one's line."""
    text = _read_text(path)
    decoder = json.JSONDecoder()
    space = re.compile(r"[ \t\r\n]*")
    expected = 'a list of rows such as [{"text": "..."}]'

    def skip(position: int) -> int:
        match = space.match(text, position)
        return match.end() if match else position

    position = skip(0)
    is_list = text.startswith("[", position)
    if not is_list and not text.startswith("{", position):
        raise DataError(f"{path}:{text.count(chr(10), 0, position) + 1}: expected {expected}")
    position = skip(position + 1) if is_list else position
    line, counted, first = 1, 0, True
    while position < len(text) and not (is_list and text[position] == "]"):
        line, counted = line + text.count("\n", counted, position), position
        if is_list and not first:
            if text[position] != ",":
                raise DataError(
                    f'{path}:{line}: not valid JSON (expected "," or "]" after the row); expected {expected}'
                )
            position = skip(position + 1)
            line, counted = line + text.count("\n", counted, position), position
        try:
            value, end = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise _bad_json(path, error.lineno, error, expected) from error
        yield _checked(value, f"{path}:{line}")
        position, first = skip(end), False
    if not is_list:
        return
    if position == len(text):
        last = text.rstrip().count("\n") + 1
        raise DataError(f'{path}:{last}: not valid JSON (the list is not closed by "]"); expected {expected}')
    rest = skip(position + 1)
    if rest < len(text):
        line += text.count("\n", counted, rest)
        raise DataError(f"{path}:{line}: not valid JSON (text after the end of the list); expected {expected}")


def _csv(path: Path) -> list[Record]:
    text = _read_text(path)
    records: list[Record] = []
    limit = csv.field_size_limit(max(len(text), 1))  # the module's own limit is 128 KiB a field
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        line, header = 1, next(reader, None)
        while header is not None:
            line = reader.line_num + 1
            row = next(reader, None)
            if row is None:
                break
            if len(row) not in (0, len(header)):  # a blank line has no field
                raise DataError(
                    f"{path}:{line}: the row has {len(row)} fields where the header has {len(header)}; "
                    "put fields that hold commas, quotes or line breaks between double quotes"
                )
            if row:
                records.append(Record(dict(zip(header, row, strict=True)), f"{path}:{line}"))
    except csv.Error as error:
        raise DataError(f"{path}:{line}: not valid CSV ({error}); double the quotes inside a quoted field") from error
    finally:
        csv.field_size_limit(limit)
    return records


def _parquet(path: Path) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    data = _read_bytes(path)
    try:
        table = pyarrow.parquet.read_table(io.BytesIO(data))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error}); write it again") from error
    for number, row in enumerate(table.to_pylist(), start=1):
        yield Record(row, f"{path}:row {number}")


def _whole_file(path: Path) -> Record:
    text = _read_text(path).replace("\r\n", "\n")
    if path.suffix.lower() == ".md":
        text = _without_front_matter(text)
    # The line break that ends a file belongs to the file, not to the document.
    return Record(text.strip("\n"), f"{path}:1")


def _without_front_matter(text: str) -> str:
    """``text`` after a leading YAML block between ``---`` lines; anything else between such lines is kept."""
    match = re.match(r"---[ \t]*\n(.*?\n)?(?:---|\.\.\.)[ \t]*(?:\n|$)", text, re.DOTALL)
    if not match:
        return text
    import yaml

    try:
        block = yaml.safe_load(match[1] or "")
    except yaml.YAMLError:
        return text
    return text[match.end() :] if block is None or isinstance(block, dict) else text
