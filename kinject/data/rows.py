"""Records in, documents and unlinked questions out: which fields a row has, and what is wrong with it."""

from __future__ import annotations

import ast
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
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
    other_answers: tuple[str, ...] = ()

    @property
    def answers(self) -> tuple[str, ...]:
        """All answers that are accepted, the reference answer first."""
        return self.answer, *self.other_answers


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

    A ``task`` of ``forward`` or ``backward`` stands for the direction where no ``direction`` is given. Several accepted
    answers stand in ``answer`` or ``answers``, in any of the forms that :func:`accepted_answers` reads.

    Raises:
        DataError: a bare string, a missing or empty field, answers of no known form, or an unknown direction.
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
        answer, *others = accepted_answers(fields, where)
        group, task = _label(fields, "group", where), _label(fields, "task", where)
        direction = _label(fields, "direction", where) or (task if task in DIRECTIONS else "")
        if direction and direction not in DIRECTIONS:
            raise DataError(
                f'{where}: direction "{direction}" is neither "forward" nor "backward"; write one of the two, '
                "or leave the field out to have it worked out"
            )
        known: Direction | None = direction if direction in DIRECTIONS else None
        rows.append(QuestionRow(question, answer, known, group, task, _fact(fields, where), where, tuple(others)))
    return tuple(rows)


def accepted_answers(row: dict[str, Any], where: str, field: str = "answer") -> tuple[str, ...]:
    """Every answer that a row accepts, each once; those of ``answer`` before those of a field ``answers``.

    A field holds a string, a list of strings, SQuAD's ``{"text": [...], "answer_start": [...]}`` or a list of
    such, TriviaQA's ``{"value": ..., "aliases": [...]}``, or one of these written as JSON or as Python prints it, which
    is how a cell of a CSV holds a list. Null and blank entries say nothing and are left out.

    Raises:
        DataError: there is no answer, or one of another form.
    """
    found: dict[str, None] = {}
    for name in (field, "answers") if field == "answer" else (field,):
        found |= dict.fromkeys(_answers(row.get(name), f'{where}: "{name}"'))
    if not found:
        raise DataError(f'{where}: the question has no answer; add an "{field}" field, or delete the row')
    return tuple(found)


def _answers(value: object, where: str, inside: bool = False) -> list[str]:
    """The answers that a field holds, or an entry ``inside`` its list."""
    if value is None:
        return []
    if isinstance(value, str):
        written = None if inside else _written_out(value, where)
        return _answers(written, where) if written is not None else [value] if value.strip() else []
    if isinstance(value, dict):
        if "value" in value:
            parts = [value["value"], value.get("aliases")]
        elif "text" in value:
            parts = [value["text"]]
        else:
            names = ", ".join(f'"{name}"' for name in value) or "none"
            raise DataError(
                f'{where} is an object without "text" or "value" (its fields: {names}); write the accepted answers as '
                '["...", "..."]'
            )
        return [each for part in parts for each in _answers(part, where, inside=isinstance(part, str))]
    if not isinstance(value, (list, tuple)):
        what = f"holds {value!r} in its list" if inside else f"is {type(value).__name__}"
        raise DataError(f"{where} {what}, expected a string; put it between quotes")
    if inside:
        raise DataError(
            f'{where} holds a list in a list; write the accepted answers as one list of strings, as in ["...", "..."]'
        )
    return [each for entry in value for each in _answers(entry, where, inside=True)]


def _written_out(text: str, where: str) -> list[Any] | dict[str, Any] | None:
    """The list or object that ``text`` writes out, or None where it is an answer in its own words."""
    bare = text.strip()
    if not re.fullmatch(r"(?s)\[.*\]|\{.*\}", bare):
        return None
    value: Any = None
    try:
        value = json.loads(bare)
    except json.JSONDecodeError:
        try:
            literal = ast.literal_eval(bare)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            literal = None
        # As Python prints it; else "['Ada' 'Bo']", as NumPy prints two, would be read as one.
        value = literal if repr(literal) == bare else None
    if isinstance(value, dict):
        return None if {"text", "value"}.isdisjoint(value) else value
    if isinstance(value, list) and (not value or any(isinstance(each, (str, dict)) for each in value)):
        return value
    if value is None and not re.match(r"""\[\s*(?:["'{\[]|None\b)|\{\s*["'](?:text|value)["']""", bare):
        return None  # such as "[sic]" or "{x | x > 0}"
    raise DataError(
        f"{where} is {bare[:60]}, which is one text or a list of accepted answers; write the list as JSON with every answer "
        'between double quotes, as in ["Ada", "Bo"], and one text of this look as a list of itself'
    )


def merge_answers(rows: Sequence[QuestionRow]) -> tuple[QuestionRow, ...]:
    """``rows`` with those merged that ask the same and differ in the answer alone: each of their answers is accepted.

    A model can give but one answer to one question. Rows that repeat question and answer stay as often as they stand.
    """
    asked = [(row.question.strip(), row.group, row.task) for row in rows]
    directions: dict[tuple[str, ...], Direction] = {}  # of questions, since not each of their rows may name them
    facts: dict[tuple[str, ...], int] = {}
    for key, row in zip(asked, rows, strict=True):
        if row.direction is not None:
            directions.setdefault(key, row.direction)
        if row.fact is not None:
            facts.setdefault(key, row.fact)
    alike: dict[tuple[tuple[str, ...], Direction | None, int | None], list[int]] = defaultdict(list)
    for place, (key, row) in enumerate(zip(asked, rows, strict=True)):
        fact = facts.get(key) if row.fact is None else row.fact
        alike[key, row.direction or directions.get(key), fact].append(place)
    kept: list[QuestionRow | None] = [*rows]
    for (_, direction, fact), (first, *rest) in alike.items():
        same = [rows[place] for place in (first, *rest)]
        if len({frozenset(row.answers) for row in same}) > 1:
            answer, *others = dict.fromkeys(answer for row in same for answer in row.answers)
            kept[first] = replace(
                rows[first], answer=answer, other_answers=tuple(others), direction=direction, fact=fact
            )
            for place in rest:
                kept[place] = None
    return tuple(row for row in kept if row is not None)


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
