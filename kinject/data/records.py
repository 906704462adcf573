"""Reads files into records: each row with the line that it stands on, so that an error can name it.

A record of .json, .jsonl, .csv, .tsv, .parquet or .xlsx is a row (a mapping) or a bare string; of .txt, .md, .pdf and other
files of text it is the whole file. Which fields a row should have is not known here.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import logging
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, time
from itertools import islice
from pathlib import Path
from typing import Any

from kinject.data.converting import DOCUMENT_KINDS, convert, front_matter
from kinject.data.words import with_plain_line_ends
from kinject.errors import DataError, Faults

logger = logging.getLogger(__name__)

# Endings that mean the same as another.
_ALIASES = {
    ".ndjson": ".jsonl",
    ".jsonlines": ".jsonl",
    ".tab": ".tsv",
    ".text": ".txt",
    ".markdown": ".md",
    ".mdx": ".md",
    ".htm": ".html",
    ".xhtml": ".html",
    ".rest": ".rst",
}
ROW_KINDS = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".xlsx")
TEXT_KINDS = (".txt", ".md")
_PACKED = (".parquet", ".xlsx", ".pdf", ".docx", ".pptx", ".epub")  # compressed already, so not read with .gz
ROW_FILES = ".json, .jsonl (.ndjson, .jsonlines), .csv, .tsv, .parquet, .xlsx"
FILES = f"{ROW_FILES}, .txt (.text), .md (.markdown, .mdx), .pdf, .html (.htm), .docx, .pptx, .epub, .rst"
"""The kinds of files, as error messages list them. Those that are not compressed already may end with .gz as well."""

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "pipes"}
_BYTE_ORDER_MARKS = (  # that of UTF-16 begins the one of UTF-32
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What a file with another ending than its content begins with.
_SIGNATURES = {
    b"%PDF": "a PDF; convert it to text",
    b"PK\x03\x04": "a ZIP archive, such as of .xlsx or .docx; give it its own ending, or export the text",
    b"\xd0\xcf\x11\xe0": "an old Office document; save it as .xlsx or .csv, or export its text",
    b"\x1f\x8b": "compressed with gzip; let its name end with .gz",
    b"{\\rtf": "rich text; save it as plain text",
    b"PAR1": "a Parquet file; let its name end with .parquet",
}
# Encodings to tell apart where a file is not UTF-8. Of those of East Asia the first bytes of common characters are given: read
# in a wrong one, a text is full of rare characters. The other Latin ones read much like cp1252, so that the message shows how
# the line reads in it.
_COMMON = {
    "cp932": [*range(0x81, 0x84), *range(0x88, 0x98)],
    "cp949": [0xA1, 0xA3, *range(0xB0, 0xC9)],
    "euc_jp": [0xA1, 0xA3, 0xA4, 0xA5, *range(0xB0, 0xD0)],
    "gb18030": [0xA1, 0xA3, *range(0xB0, 0xD8)],
    "big5": [*range(0xA1, 0xC7)],
}
_MOSTLY = 0.9  # of the characters are common ones in the right encoding
_CYRILLIC = ["cp1251", "koi8_r"]
_OTHER_ALPHABETS = [*_CYRILLIC, "cp1253", "cp1255", "cp1256"]
_LATIN = ["cp1252", "cp1250"]


@dataclass(frozen=True)
class Record:
    """One row or bare string of a file, and where it stands."""

    value: dict[str, Any] | str
    source: str
    title: str = ""  # of a whole file, from its front matter or properties
    sheet: str = ""  # of a spreadsheet that has several


def file_kind(path: Path) -> str:
    """How a file is read, as the ending that stands for it (`.csv`); "" for a file that is not read at all."""
    name = path.name.lower()
    stem = name.removesuffix(".gz")
    suffix = Path(stem).suffix
    kind = _ALIASES.get(suffix, suffix)
    known = kind in ROW_KINDS + TEXT_KINDS + DOCUMENT_KINDS and (stem == name or kind not in _PACKED)
    return kind if known else ""


def read_records(path: Path, faults: Faults | None = None) -> list[Record]:
    """Every record of one file, in its order.

    Args:
        path: the file.
        faults: collects the errors, so that the good records are returned; without it, errors are raised.

    Raises:
        DataError: the file is missing, unreadable, of an unknown kind, in another encoding, or malformed; every fault
            that can be told is named by its line.
    """
    found = Faults() if faults is None else faults
    records: list[Record] = []
    with found:
        kind = file_kind(path)
        if not kind:
            suffix = path.suffix.lower()
            raise DataError(
                f"{path}: {suffix + ' files are' if suffix else 'a file without an extension is'} not read; expected one "
                f"of {FILES}; convert the file"
            )
        for record in _READERS[kind](path, found):
            records.append(record)
    if faults is None:
        found.raise_any()
    return records


# Bytes and characters.


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.name.lower().endswith(".gz") else data
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file (looked for {path.absolute()}); check the path") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: not a whole gzip file ({error}); compress it again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error


def _read_text(path: Path) -> str:
    """The characters of a file in UTF-8, or in UTF-16 or UTF-32 where a byte order mark says so."""
    data = _read_bytes(path)
    for signature, what in _SIGNATURES.items():
        if data.startswith(signature):
            raise DataError(f"{path}: not text, but {what}")
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8-sig")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8-sig":
            raise DataError(f"{path}: not whole {encoding.upper()} text ({error.reason}); save it as UTF-8") from error
        if b"\0" in data:
            raise DataError(f"{path}: {_null_bytes(data)}") from error
        raise _not_utf8(path, error) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{path}:{line}: {_null_bytes(data)}")
    return text


def _null_bytes(data: bytes) -> str:
    """What NUL bytes mean: UTF-16 without its mark where every other byte is one, else no text."""
    for encoding, other in (("UTF-16LE", data[1::2]), ("UTF-16BE", data[::2])):
        if other.count(0) > 0.4 * len(other):
            return f"not UTF-8 text, but probably {encoding} without a byte order mark; save the file as UTF-8"
    return "holds a NUL byte, which no text does: the file is damaged, or not text; export it again, or remove the byte"


def _not_utf8(path: Path, error: UnicodeDecodeError) -> DataError:
    data = error.object
    line = data.count(b"\n", 0, error.start) + 1
    start = max(data.rfind(b"\n", 0, error.start), data.rfind(b"\r", 0, error.start)) + 1
    sample = data[start : start + 2**16]
    message = f"{path}:{line}: not UTF-8 text (byte 0x{data[error.start]:02X}); save the file as UTF-8"
    likely = _likely_encoding(sample)
    if not likely:
        return DataError(message)
    reads = "".join(sample.decode(likely, errors="replace").strip().splitlines()[:1])[:60]
    name = likely.replace("_", "-").upper()
    return DataError(
        f"{message}. It is probably {name}, in which the line reads {reads!r}: iconv -f {name} -t UTF-8 '{path}' > "
        f"'{path.with_name('utf8-' + path.name)}' (or another encoding, if that reads wrong)"
    )


def _likely_encoding(sample: bytes) -> str:
    """The encoding that ``sample``, the lines of a text from one that is no UTF-8 on, is probably written in; "" for none."""
    import charset_normalizer

    common = {name: _share_of_common(sample, name) for name in _COMMON}
    # The first of several: all that is common in cp949 is so in euc_jp as well.
    best = max(common, key=lambda name: common[name])
    if common[best] >= _MOSTLY:
        return best
    found = charset_normalizer.from_bytes(sample, cp_isolation=[_LATIN[0], *_COMMON, *_OTHER_ALPHABETS]).best()
    if found is None:
        return ""
    # No word mixes letters of two alphabets: "Cafй" is "Café" in the encoding of Western Europe.
    mixed = re.search(r"[A-Za-z][\u0370-\u1fff]|[\u0370-\u1fff][A-Za-z]", str(found))
    if found.encoding in _LATIN or (found.encoding in _OTHER_ALPHABETS and mixed):
        return min(_LATIN, key=lambda name: _signs_in_words(sample, name))
    if found.encoding in _CYRILLIC:  # each reads the other with small and capital letters interchanged
        return max(_CYRILLIC, key=lambda name: sum(map(str.islower, sample.decode(name, errors="ignore"))))
    return found.encoding


def _share_of_common(sample: bytes, encoding: str) -> float:
    """The share of the characters beyond ASCII of ``sample`` that are common ones in an ``encoding`` of East Asia."""
    try:
        characters = [each.encode(encoding) for each in sample.decode(encoding) if each > "\x7f"]
    except UnicodeError:
        return 0.0
    usual = [
        len(each) == 2 and each[0] in _COMMON[encoding] and (encoding in ("cp932", "big5") or each[1] > 0xA0)
        for each in characters
    ]
    return sum(usual) / max(len(usual), 1)


def _signs_in_words(sample: bytes, encoding: str) -> int:
    """How many signs, such as £ or ³, stand beside letters where ``sample`` is read in ``encoding``."""
    text, sign = sample.decode(encoding, errors="replace"), r"[^\w\s\x00-\x7f\u2000-\u206f«»]"
    return len(re.findall(rf"[^\W\d_]{sign}|{sign}[^\W\d_]|[¹²³]", text))


# JSON.


class _Decoder(json.JSONDecoder):
    """Decodes JSON and notes names that stand twice in an object; the library silently keeps the last.

    What Python gives up on, lists in lists without end and numbers of thousands of digits, is an error of JSON as well.
    """

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=self._object)
        self.repeated: list[str] = []

    def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
        """The value that begins at ``idx``, and where it ends."""
        try:
            return super().raw_decode(s, idx)
        except json.JSONDecodeError:
            raise
        except RecursionError:
            raise json.JSONDecodeError("too many lists or objects in one another", s, idx) from None
        except ValueError:  # of `int`
            raise json.JSONDecodeError("a number of too many digits", s, idx) from None

    def _object(self, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(pairs)
        if len(row) < len(pairs):
            self.repeated += [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        return row

    def checked(self, value: object, source: str) -> Record:
        """The value that was decoded last, as a record.

        Raises:
            DataError: it is neither an object nor a string, or names a field twice.
        """
        repeated, self.repeated = self.repeated, []
        if repeated:
            raise DataError(
                f'{source}: the row has "{repeated[0]}" twice, of which only one could be kept; rename one, or make two rows'
            )
        return _checked(value, source)


def _checked(value: object, source: str) -> Record:
    if isinstance(value, (dict, str)):
        return Record(value, source)
    raise DataError(
        f"{source}: the row is {kind_of(value)}, expected an object with named fields or a string; "
        'write it as {"text": "..."}'
    )


def kind_of(value: object) -> str:
    """What a value is, in the words of JSON."""
    if isinstance(value, float) and value != value:
        return "NaN"
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "true or false",
        int: "a number",
        float: "a number",
        type(None): "null",
    }
    return names.get(type(value), type(value).__name__)


def _bad_json(path: Path, line: int, error: json.JSONDecodeError, expected: str) -> DataError:
    return DataError(f"{path}:{line}: not valid JSON ({error.msg} at column {error.colno}); expected {expected}")


def _json_lines(path: Path, faults: Faults) -> Iterator[Record]:
    text = with_plain_line_ends(_read_text(path))
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if _is_no_json_lines(lines):
        yield from _json_values(path, text, faults)
        return
    decoder = _Decoder()
    for number, line in lines:
        with faults:
            try:
                value = decoder.decode(line.lstrip("\ufeff"))  # a mark inside the file, where files were concatenated
            except json.JSONDecodeError as error:
                decoder.repeated = []
                raise _bad_json(path, number, error, "one JSON object a line") from error
            yield decoder.checked(value, f"{path}:{number}")


def _is_no_json_lines(lines: Sequence[tuple[int, str]]) -> bool:
    """Whether a .jsonl file holds one list, or objects over several lines, instead of one value a line."""
    whole = []
    for _, line in lines[:2]:
        try:
            whole.append(_Decoder().decode(line))
        except json.JSONDecodeError:
            whole.append(None)
    if len(whole) == 1:
        return isinstance(whole[0], list)
    first, second = (line.lstrip() for _, line in lines[:2]) if len(whole) == 2 else ("", "{")
    rows = any(isinstance(value, (dict, str)) for value in whole)
    return not rows and (first.startswith("[") or not second.startswith("{"))


def _json(path: Path, faults: Faults) -> Iterator[Record]:
    yield from _json_values(path, with_plain_line_ends(_read_text(path)), faults)


def _json_values(path: Path, text: str, faults: Faults) -> Iterator[Record]:
    """A JSON list of rows or strings, rows one after another, or one object that holds a table."""
    decoder = _Decoder()
    records: list[Record] = []
    with faults:
        for value, line in _json_items(path, text, decoder):
            with faults:
                records.append(decoder.checked(value, f"{path}:{line}"))
    alone = len(records) == 1 and not text.lstrip().startswith("[")
    table = _rows_of_table(records[0].value) if alone else None
    if table is None:
        yield from records
        return
    for number, row in enumerate(table, start=1):
        with faults:
            yield _checked(row, f"{path}:row {number}")


def _json_items(path: Path, text: str, decoder: _Decoder) -> Iterator[tuple[object, int]]:
    """The items of a JSON list, or values one after another, with the line of each; parsed one by one to know it."""
    space = re.compile(r"[ \t\n]*")
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
        yield value, line
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


def _rows_of_cells(names: Sequence[Any], rows: object) -> list[Any] | None:
    """Each of ``rows``, a list of cells, by the ``names`` of its columns; None where they do not fit each other."""
    if len({*map(str, names)}) < len(names) or not isinstance(rows, list):
        return None
    if any(not isinstance(cells, list) or len(cells) != len(names) for cells in rows):
        return None
    return [dict(zip(map(str, names), cells, strict=True)) for cells in rows]


def _rows_of_table(value: object) -> list[Any] | None:
    """The rows of an object that holds a whole table, as pandas and datasets write it; None for any other.

    That is ``{"text": ["a", "b"]}``, ``{"text": {"0": "a", "1": "b"}}``, ``{"0": {"text": "a"}, "1": {"text": "b"}}`` or
    ``{"columns": ["text"], "index": [0, 1], "data": [["a"], ["b"]]}``.
    """
    if not isinstance(value, dict) or not value:
        return None
    if value.keys() == {"columns", "index", "data"} and isinstance(value["columns"], list):  # of pandas, too
        return _rows_of_cells(value["columns"], value["data"])
    columns = list(value.values())
    if all(isinstance(column, list) for column in columns):
        if len({len(column) for column in columns}) > 1 or not any(
            column and all(isinstance(cell, str) for cell in column) for column in columns
        ):
            return None
        return [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)]
    if not all(isinstance(column, dict) and column for column in columns):
        return None
    indices = list(columns[0])
    if all(index.isdigit() for index in indices) and all(list(column) == indices for column in columns):
        return [{name: column[index] for name, column in value.items()} for index in indices]
    return columns if all(name.isdigit() for name in value) else None


# Tables.


def _csv(path: Path, faults: Faults) -> Iterator[Record]:
    text = _read_text(path)
    given = re.match(r'"?sep=(.)"?[ \t,;]*(?:\r\n|\r|\n)', text, re.IGNORECASE)  # a line of Excel's
    body = text[given.end() :] if given else text
    limit = csv.field_size_limit(max(len(text), 1))  # the module's own limit is 128 KiB a field
    try:
        delimiter = given[1] if given else _delimiter(body, "\t" if file_kind(path) == ".tsv" else ",")
        lines = _csv_lines(path, body, delimiter, 1 if given else 0)
        records: list[Record] = []
        with faults:
            for record in _table(lines, path, faults, _DELIMITERS.get(delimiter, f"{delimiter!r}")):
                records.append(record)
    finally:
        csv.field_size_limit(limit)  # the limit holds for the whole process, so it is set back
    yield from records


def _delimiter(text: str, usual: str) -> str:
    """The delimiter that splits the header and gives every row as many fields; of several such or none, the ``usual`` one."""
    widths: dict[str, tuple[bool, int]] = {}
    for delimiter in _DELIMITERS:
        try:
            rows = [row for row in islice(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), 50) if row]
        except csv.Error:
            rows = []
        if rows and len(rows[0]) > 1:
            widths[delimiter] = (
                all(len(_without_empty_end(row, len(rows[0]))) == len(rows[0]) for row in rows),
                len(rows[0]),
            )
    return max(
        widths, key=lambda delimiter: (widths[delimiter][0], delimiter == usual, widths[delimiter][1]), default=usual
    )


def _csv_lines(path: Path, text: str, delimiter: str, skipped: int) -> Iterator[tuple[str, list[str]]]:
    """Each row, with the line that it begins on."""
    # If every delimiter of the header is followed by a space, so are those of the rows.
    header = next((line for line in io.StringIO(text) if line.strip()), "")
    spaced = delimiter not in " \t" and header.count(delimiter) == header.count(delimiter + " ") > 0
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=spaced, strict=True)
    line = 1 + skipped
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"{path}:{line}: not valid CSV ({error}); double the quotes inside a quoted field"
            ) from error
        if row is None:
            return
        yield f"{path}:{line}", row
        line = reader.line_num + 1 + skipped


def _without_empty_end(row: Sequence[Any], width: int) -> Sequence[Any]:
    """``row`` without the empty cells that a spreadsheet writes beyond its header."""
    end = len(row)
    while end > width and row[end - 1] in ("", None):
        end -= 1
    return row[:end]


def _table(rows: Iterable[tuple[str, Sequence[Any]]], path: Path, faults: Faults, parted_by: str) -> Iterator[Record]:
    """Records of a table whose first row names the fields; rows without any content are passed over.

    Args:
        rows: Where each row stands, and its cells.
        path: The file.
        faults: Collects the errors of rows.
        parted_by: What parts the fields in the file; "" where nothing does, as in a spreadsheet.
    """
    rows = iter(rows)
    header: list[str] = []
    where = f"{path}:1"
    while not header:
        place, cells = next(rows, (None, ()))
        if place is None:
            return
        where = place
        header = [str(_column_name(cell)) for cell in _without_empty_end(cells, 0)]
    repeated = [name for name, count in Counter(filter(None, header)).items() if count > 1]
    if repeated:
        raise DataError(
            f'{where}: the header names "{repeated[0]}" twice, of which only one could be kept; rename one of the two columns'
        )
    for where, cells in rows:
        row = _without_empty_end(cells, len(header))
        blank = len(header) > 1 and all(cell is None or not str(cell).strip() for cell in row)
        if blank or not row:  # a blank line has no field
            continue
        with faults:
            if len(row) != len(header):
                fix = f"put fields that hold {parted_by}, quotes or line breaks between double quotes"
                fix += ", and keep the empty fields that end a row" if len(row) < len(header) else ""
                raise DataError(
                    f"{where}: the row has {len(row)} fields where the header has {len(header)}; "
                    + (fix if parted_by else "let the first row of the sheet name every column, with no title above it")
                )
            yield Record({name: cell for name, cell in zip(header, row, strict=True) if name}, where)


def _column_name(cell: object) -> str:
    return "" if cell is None else str(cell).strip().strip("\ufeff").strip()


def _xlsx(path: Path, faults: Faults) -> Iterator[Record]:
    data = _read_bytes(path)
    try:
        import openpyxl
    except ImportError as error:
        raise DataError(
            f"{path}: spreadsheets are read by openpyxl, which is not installed: pip install 'kinject[xlsx]'. Or save the "
            "sheet as .csv"
        ) from error
    try:
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        sheets = {sheet.title: [list(row) for row in sheet.iter_rows()] for sheet in book.worksheets}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: not a readable .xlsx file ({error}); save it again, or as .csv") from error
    hidden = [sheet.title for sheet in book.worksheets if sheet.sheet_state != "visible"]
    filled = {
        name: rows
        for name, rows in sheets.items()
        if name not in hidden and any(cell.value is not None for row in rows for cell in row)
    }
    bare = [
        name for name, rows in filled.items() if sum(any(cell.value is not None for cell in row) for row in rows) < 2
    ]
    if hidden:
        logger.warning(
            "%s: %s, and passed over; show what is to be read", path, _sheets(hidden, "is hidden", "are hidden")
        )
    alone = len(filled) == 1
    if bare and not alone:
        only = "the names of columns, and no row below them; it is passed over"
        logger.warning("%s: %s", path, _sheets(bare, f"holds {only}", f"hold {only}"))
    for name, rows in filled.items():
        place = f"{path}:" if alone else f'{path}:sheet "{name}", row '
        lines = ((f"{place}{number}", [_cell(cell) for cell in row]) for number, row in enumerate(rows, start=1))
        with faults:
            for record in _table(lines, path, faults, ""):
                yield record if alone else replace(record, sheet=name)


def _sheets(names: Sequence[str], one: str, several: str) -> str:
    """``names`` of sheets in a sentence whose end is for ``one`` or for ``several``."""
    listed = ", ".join(f'"{name}"' for name in names)
    return f"the sheet {listed} {one}" if len(names) == 1 else f"the sheets {listed} {several}"


def _cell(cell: Any) -> Any:
    """The value of a cell as it would stand in a CSV file; what is shown in a form unknown here stays what it is."""
    value, form = cell.value, str(getattr(cell, "number_format", "General"))
    shares = re.fullmatch(r"0(?:\.(0+))?%", form)
    if shares and isinstance(value, (int, float)):
        return f"{value:.{len(shares[1] or '')}%}"
    if isinstance(value, datetime) and value.time() == time() and "h" not in form.lower():
        return value.date()
    if getattr(cell, "data_type", "") == "e":  # an error such as #REF!
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and form in ("General", "@", "0"):
        return str(int(value)) if value == int(value) else repr(value)
    return value


def _parquet(path: Path, faults: Faults) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    data = _read_bytes(path)
    try:
        names = pyarrow.parquet.read_schema(io.BytesIO(data)).names
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise DataError(
                f'{path}: two columns are called "{repeated[0]}", of which only one could be kept; rename one'
            )
        table = pyarrow.parquet.read_table(io.BytesIO(data))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error}); write it again") from error
    for number, row in enumerate(table.to_pylist(), start=1):
        yield Record({name: _text_of_bytes(value) for name, value in row.items()}, f"{path}:row {number}")


def _text_of_bytes(value: object) -> object:
    """Bytes as the text they are: some programs write texts as binary columns."""
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return value


# Texts.


def _whole_file(path: Path, faults: Faults) -> Iterator[Record]:
    text = with_plain_line_ends(_read_text(path))
    title = ""
    if file_kind(path) == ".md":
        title, text = front_matter(text, path)
    # The line break that ends a file belongs to the file, not to the document.
    yield Record(text.strip("\n"), f"{path}:1", title)


def _converted(path: Path, faults: Faults) -> Iterator[Record]:
    kind = file_kind(path)
    data = _read_text(path).encode() if kind == ".rst" else _read_bytes(path)  # the others say what they are written in
    title, text = convert(path, kind, data)
    yield from [Record(text, f"{path}:1", title)] if text.strip() else []


_READERS: dict[str, Callable[[Path, Faults], Iterator[Record]]] = {
    ".json": _json,
    ".jsonl": _json_lines,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
    ".xlsx": _xlsx,
    ".txt": _whole_file,
    ".md": _whole_file,
    **dict.fromkeys(DOCUMENT_KINDS, _converted),
}
