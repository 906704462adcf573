"""Records in, documents and unlinked questions out: which fields a row has, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kinject.data.knowledge import DIRECTIONS, Direction, Document
from kinject.data.records import Record
from kinject.errors import DataError


@dataclass(frozen=True)
class QuestionRow:
    """A question as a file gives it: the direction and the fact may still have to be worked out."""

    question: str
    answer: str
    direction: Direction | None
    group: str
    task: str
    fact: int | None
    source: str


def documents_from(records: Iterable[Record], text_field: str = "text") -> tuple[Document, ...]:
    """One document a record, each its own fact unless the rows number their facts in a field ``fact``.

    Args:
        records: rows with ``text_field`` and perhaps ``fact`` and ``entities``, or bare strings.
        text_field: the field that holds the document.

    Raises:
        DataError: a row without text, an empty document, a bad ``fact`` or ``entities``, or a ``fact`` in only some
            of the rows.
    """
    rows: list[tuple[str, int | None, tuple[str, ...], str]] = []
    hint = "or name the field that holds the document with text_field"
    for record in records:
        row = {text_field: record.value} if isinstance(record.value, str) else record.value
        text = _text(row, text_field, record.source, hint)
        rows.append((text, _fact(row, record.source), _entities(row, record.source), record.source))
    unnumbered = [source for _, fact, _, source in rows if fact is None]
    if unnumbered and len(unnumbered) < len(rows):
        raise DataError(
            f'{unnumbered[0]}: the row has no "fact" though other rows of the set have one; number every row or none'
        )
    return tuple(
        Document(text, position if fact is None else fact, entities, source)
        for position, (text, fact, entities, source) in enumerate(rows)
    )


def question_rows_from(records: Iterable[Record]) -> tuple[QuestionRow, ...]:
    """One question a record: ``question`` and ``answer``, and perhaps ``direction``, ``group``, ``task``, ``fact``.

    A ``task`` of ``forward`` or ``backward`` stands for the direction where no ``direction`` is given.

    Raises:
        DataError: a bare string, a missing or empty field, or an unknown direction.
    """
    rows: list[QuestionRow] = []
    for record in records:
        where = record.source
        if isinstance(record.value, str):
            raise DataError(f'{where}: the row is a string, expected an object with "question" and "answer"')
        fields = record.value
        question = _text(fields, "question", where)
        if not question.strip():
            raise DataError(f"{where}: the question is empty; write it, or delete the row")
        answer = (
            _text(fields, "answer", where, "a question needs its reference answer")
            if fields.get("answer") is not None
            else ""
        )
        if not answer.strip():
            raise DataError(f'{where}: the question has no answer; add an "answer" field, or delete the row')
        group, task = _label(fields, "group", where), _label(fields, "task", where)
        direction = _label(fields, "direction", where) or (task if task in DIRECTIONS else "")
        if direction and direction not in DIRECTIONS:
            raise DataError(
                f'{where}: direction "{direction}" is neither "forward" nor "backward"; write one of the two, '
                "or leave the field out to have it worked out"
            )
        known: Direction | None = direction if direction in DIRECTIONS else None
        rows.append(QuestionRow(question, answer, known, group, task, _fact(fields, where), where))
    return tuple(rows)


def _text(row: dict[str, Any], field: str, where: str, hint: str = "") -> str:
    value = row.get(field)
    if value is None:
        found = ", ".join(f'"{name}"' for name in row) or "none"
        raise DataError(f'{where}: the row has no "{field}" (its fields: {found}); add it{", " + hint if hint else ""}')
    if not isinstance(value, str):
        raise DataError(f'{where}: "{field}" is {type(value).__name__}, expected a string; put it between quotes')
    return value


def _label(row: dict[str, Any], field: str, where: str) -> str:
    value = row.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f'{where}: "{field}" is {type(value).__name__}, expected a string; put it between quotes')
    return value


def _fact(row: dict[str, Any], where: str) -> int | None:
    value = row.get("fact")
    if value is None or value == "":  # CSV knows no null
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DataError(
            f'{where}: "fact" is {value!r}, expected a whole number from 0; number the facts, or leave it out'
        )
    return value


def _entities(row: dict[str, Any], where: str) -> tuple[str, ...]:
    value = row.get("entities") or ()
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise DataError(f'{where}: "entities" is {value!r}, expected a list of strings; write it as ["name", "place"]')
    return tuple(value)
