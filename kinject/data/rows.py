"""Turns records into documents and questions: reads the fields of a row, and names what is wrong with them.

Knows nothing of files, and not yet which document a question is about.
"""

from __future__ import annotations

import ast
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from kinject.data.knowledge import DIRECTIONS, UNKNOWN, Direction, Document
from kinject.data.records import Record, kind_of
from kinject.data.words import normalize, with_plain_line_ends
from kinject.errors import DataError, Faults

QUESTION_LABELS = ("direction", "group", "task", "fact", "wordings")
"""The fields that a row with a question may have beside the answer."""


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
    wordings: tuple[str, ...] = ()

    @property
    def answers(self) -> tuple[str, ...]:
        """All answers that are accepted, the reference answer first."""
        return self.answer, *self.other_answers


_MISSING = {"nan", "null", "none", "<na>", "n/a", "#n/a"}


def documents_from(
    records: Iterable[Record],
    text_field: str = "text",
    faults: Faults | None = None,
    title_field: str = "title",
) -> tuple[Document, ...]:
    """One document a record, each its own fact unless the rows number their facts in a field ``fact``.

    Args:
        records: rows with ``text_field`` and perhaps ``fact`` and ``entities``, bare strings, or conversations in one of
            the forms that :func:`conversation_of` reads.
        text_field: the field that holds the document.
        faults: collects the errors, so that the good documents are returned; without it, errors are raised.
        title_field: the field that holds the title of the document, where there is one.

    Raises:
        DataError: a row without text, an empty document, a bad ``fact`` or ``entities``, or a ``fact`` in only some
            of the rows.
    """
    found = Faults() if faults is None else faults
    rows: list[tuple[Document, bool]] = []
    for position, record in enumerate(records):
        with found:
            where = record.source
            row = {text_field: record.value} if isinstance(record.value, str) else record.value
            row = with_known_names(row, (text_field, "fact", "entities", title_field), where)
            text = row.get(text_field)
            blank = text is None or (isinstance(text, str) and not text.strip())  # CSV knows no null
            conversation = conversation_of(row, where) if blank else None
            messages = tuple((message["role"], message["content"]) for message in conversation or ())
            spoken = (content for role, content in messages if role != "system")
            text = "\n".join(spoken) if messages else _text(row, text_field, "document", where)
            if isinstance(record.value, dict) and text.strip().lower() in _MISSING:
                raise DataError(
                    f'{where}: "{text_field}" is "{text.strip()}", as programs write what is missing; give it a text, or '
                    "delete the row"
                )
            fact = _fact(row, where)
            numbered = fact is not None
            document = Document(
                with_plain_line_ends(text),
                position if fact is None else fact,
                _entities(row, where),
                where,
                messages=messages,
                title=record.title or _title(row, text_field, title_field, where),
                id=str(row["id"]) if isinstance(row.get("id"), (str, int)) else "",
            )
            rows.append((document, numbered))
    unnumbered = [document.source for document, numbered in rows if not numbered]
    with found:
        if unnumbered and len(unnumbered) < len(rows):
            raise DataError(
                f'{unnumbered[0]}: the row has no "fact" though other rows of the set have one; number every row or none'
            )
    if faults is None:
        found.raise_any()
    return tuple(document for document, _ in rows)


def documents_of(
    name: object, records: Sequence[Record], text_field: str, title_field: str = "title"
) -> tuple[Document, ...]:
    """The documents of the file ``name``, as `documents_from`.

    Raises:
        DataError: it holds none, or a row is malformed.
    """
    if not records:
        raise DataError(f'{name}: the file holds no document; add rows such as {{"{text_field}": "..."}}')
    return documents_from(records, text_field, title_field=title_field)


def question_rows_from(
    records: Iterable[Record],
    question_field: str = "question",
    answer_field: str = "answer",
    faults: Faults | None = None,
) -> tuple[QuestionRow, ...]:
    """One question a record: ``question`` and ``answer``, and perhaps ``direction``, ``group``, ``task``, ``fact``.

    A ``task`` of ``forward`` or ``backward`` stands for the direction where no ``direction`` is given. Several accepted
    answers stand in ``answer`` or ``answers``, in any of the forms that :func:`accepted_answers` reads; other ways to ask the
    same stand in ``wordings``, a list of strings.

    Args:
        records: the rows.
        question_field, answer_field: the fields that hold question and answer.
        faults: collects the errors, so that the good questions are returned; without it, errors are raised.

    Raises:
        DataError: a bare string, a missing or empty field, answers of no known form, or an unknown direction.
    """
    found = Faults() if faults is None else faults
    rows: list[QuestionRow] = []
    for record in records:
        with found:
            rows.append(_question_row(record, question_field, answer_field))
    if faults is None:
        found.raise_any()
    return tuple(rows)


def asks(record: Record, question_field: str = "question", answer_field: str = "answer") -> bool:
    """Whether a record has the fields of a question and its answer, and no text to learn."""
    names = record.value if isinstance(record.value, dict) else ()

    def has(field: str) -> bool:
        return any(same_name(name, field) for name in names)

    return has(question_field) and (has(answer_field) or has("answers")) and not has("text")


def _question_row(record: Record, question_field: str, answer_field: str) -> QuestionRow:
    where = record.source
    if isinstance(record.value, str):
        raise DataError(
            f'{where}: the row is a string, expected an object with "{question_field}" and "{answer_field}"'
        )
    fields = with_known_names(record.value, (question_field, answer_field, "answers", *QUESTION_LABELS), where)
    question = _text(fields, question_field, "question", where)
    if not question.strip():
        raise DataError(f"{where}: the question is empty; write it, or delete the row")
    others = fields.keys() - {question_field, *QUESTION_LABELS}
    if others and not {answer_field, "answers"} & others:
        raise _missing(fields, answer_field, "answer", where)
    answer, *other_answers = accepted_answers(fields, where, answer_field)
    group, task = _label(fields, "group", where), _label(fields, "task", where)
    direction = _label(fields, "direction", where).strip().lower()
    direction = direction or (task.strip().lower() if task.strip().lower() in DIRECTIONS else "")
    if direction and direction not in (*DIRECTIONS, UNKNOWN):
        raise DataError(
            f'{where}: direction "{direction}" is neither "forward" nor "backward"; write one of the two, '
            "or leave the field out to have it worked out"
        )
    known: Direction | None = direction if direction in (*DIRECTIONS, UNKNOWN) else None
    return QuestionRow(
        question,
        answer,
        known,
        group,
        task,
        _fact(fields, where),
        where,
        tuple(other_answers),
        _wordings(fields, where),
    )


# Answers.


def accepted_answers(row: Mapping[str, Any], where: str, field: str = "answer") -> tuple[str, ...]:
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
    if value is None or value != value:  # NaN is what pandas writes for none
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
        what = f"holds {value!r} in its list" if inside else f"is {kind_of(value)}"
        raise DataError(f"{where} {what}, expected a string; put it between quotes")
    if inside:
        raise DataError(
            f'{where} holds a list in a list; write the accepted answers as one list of strings, as in ["...", "..."]'
        )
    return [each for entry in value for each in _answers(entry, where, inside=True)]


def _written_out(text: str, where: str) -> list[Any] | dict[str, Any] | None:
    """The list or object that ``text`` spells out; None where ``text`` is a plain answer."""
    bare = text.strip()
    if not re.fullmatch(r"(?s)\[.*\]|\{.*\}", bare):
        return None
    value: Any = None
    try:
        value = json.loads(bare)
    except (ValueError, RecursionError):
        try:
            literal = ast.literal_eval(bare)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            literal = None
        # Only as Python prints it: NumPy prints two strings as "['Ada' 'Bo']", which Python would read as one.
        value = literal if repr(literal) == bare else None
    if isinstance(value, dict):
        return None if {"text", "value"}.isdisjoint(value) else value
    if isinstance(value, list) and (not value or any(isinstance(each, (str, dict)) for each in value)):
        return value
    if value is None and not re.match(r"""\[\s*(?:["'{\[]|None\b)|\{\s*["'](?:text|value)["']""", bare):
        return None  # such as "[sic]" or "{x | x > 0}"
    raise DataError(
        f"{where} is {bare[:60]}, which may be one text or a list of accepted answers; write a list as JSON with every answer "
        'between double quotes, as in ["Ada", "Bo"], and a single text that looks like this as a list of one'
    )


def merge_answers(rows: Sequence[QuestionRow]) -> tuple[QuestionRow, ...]:
    """Merge rows that ask the same question and differ only in the answer; each of their answers is accepted then.

    A model gives one answer to a question, so separate rows could not all be right. Rows that repeat question and answer stay.
    """
    asked = [(row.question.strip(), row.group, row.task) for row in rows]
    directions: dict[tuple[str, ...], Direction] = {}  # by question, as only some of its rows may name one
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
                rows[first],
                answer=answer,
                other_answers=tuple(others),
                direction=direction,
                fact=fact,
                wordings=tuple(dict.fromkeys(wording for row in same for wording in row.wordings)),
            )
            for place in rest:
                kept[place] = None
    return tuple(row for row in kept if row is not None)


# Names of fields.


def same_name(one: str, other: str) -> bool:
    """Whether two names of fields are equal but for case, spaces around them and invisible characters."""
    return _bare_name(one) == _bare_name(other)


@lru_cache(maxsize=1 << 10)
def _bare_name(name: str) -> str:
    return normalize(name).strip().casefold()


def with_known_names(row: Mapping[str, Any], names: Sequence[str], where: str) -> dict[str, Any]:
    """``row`` with its fields renamed to those of ``names`` that they equal as `same_name` compares them.

    Raises:
        DataError: two fields of the row match the same name.
    """
    renamed = dict(row)
    for name in names:
        if name in renamed:
            continue
        alike = [key for key in renamed if same_name(key, name)]
        if len(alike) > 1:
            listed = " and ".join(f'"{key}"' for key in alike)
            raise DataError(f'{where}: the fields {listed} both stand for "{name}"; rename one')
        for key in alike:
            renamed[name] = renamed.pop(key)
    return renamed


def _missing(row: Mapping[str, Any], field: str, what: str, where: str) -> DataError:
    """The error for a row without ``field``, which should hold the ``what`` (document, question or answer), with a fix."""
    listed = ", ".join(f'"{name}"' for name in row) or "none"
    start = f'{where}: the row has no "{field}" (its fields: {listed})'
    option = {"document": "--text_field"}.get(what, f"--{what}_field")
    pair = _question_fields(row)
    if pair and what == "document":
        return DataError(
            f"{start}, but a question with its answer; pass the file with --questions to ask them, or call the fields "
            '"prompt" and "completion" to train on them'
        )
    if pair and field not in pair and what in ("question", "answer"):
        return DataError(f"{start}; name them with --question_field '{pair[0]}' --answer_field '{pair[1]}'")
    nested = next((name for name, value in row.items() if _holds_rows(value)), None)
    if nested in ("messages", "conversations") and what != "document":
        return DataError(
            f"{start}, but a conversation, which is learned as a document is; to ask it, write its last message of the user as "
            '"question" and the answer as "answer"'
        )
    if nested is not None:
        return DataError(
            f'{start}; if the rows stand in "{nested}", write that list alone into the file, each with a field "{field}"'
        )
    inner = next((name for name, value in row.items() if isinstance(value, dict) and field in value), None)
    if inner is not None:
        return DataError(f'{start}; there is one inside of "{inner}", move it out')
    if any(len(name.split()) > 3 for name in row):
        return DataError(f"{start}; if the first line of the file names no fields, put one before it that does")
    only = next(iter(row)) if len(row) == 1 else ""
    sign = re.search(r"[^\w\s]", only)
    if sign and field in re.split(r"\W+", only):
        return DataError(
            f"{start}; if {sign[0]!r} parts its columns, part them by commas, semicolons, tabs or pipes instead"
        )
    texts = {name: value for name, value in row.items() if isinstance(value, str) and value.strip()}
    if what == "document" and len(texts) > 1 and all(len(text.split()) > 4 for text in texts.values()):
        return DataError(f'{start}; if each of them is a document, write a list of rows: [{{"{field}": "..."}}, ...]')
    likely = max(texts, key=lambda name: len(texts[name]), default="") if what == "document" else ""
    return DataError(
        f"{start}; add it, or name the field that holds the {what} with {option}{f' {likely!r}' if likely else ''}"
    )


_QUESTION_NAMES = (("question", "answer"), ("question", "answers"), ("prompt", "completion"), ("instruction", "output"))


def _question_fields(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """The two fields of a row whose names are common for a question and its answer; None where there are none."""
    asked_further = any(same_name(key, "input") and value for key, value in row.items())  # beside the instruction
    for names in _QUESTION_NAMES[:-1] if asked_further else _QUESTION_NAMES:
        found = [next((key for key in row if same_name(key, name)), None) for name in names]
        if found[0] is not None and found[1] is not None:
            return found[0], found[1]
    return None


def _holds_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)


# Values of fields.


def _text(row: Mapping[str, Any], field: str, what: str, where: str) -> str:
    """The text in a field of a row."""
    if field not in row:
        raise _missing(row, field, what, where)
    value = row[field]
    if value is None or value != value:  # NaN, which is how pandas writes what is missing
        raise DataError(f'{where}: "{field}" is {kind_of(value)}; give it a text, or delete the row')
    if not isinstance(value, str):
        shown = str(value)[:60]
        fix = {
            dict: f'name the field that holds the {what}, as in {{"{field}": "..."}}',
            list: "make a row of each, or join them to one text",
            tuple: "make a row of each, or join them to one text",
            bool: "write it between quotes",
            int: f'write it between quotes: "{shown}"',
            float: f'write it between quotes: "{shown}"',
        }.get(type(value), "write it as text")
        raise DataError(f'{where}: "{field}" is {kind_of(value)} ({shown}), expected a string; {fix}')
    return value


def _label(row: Mapping[str, Any], field: str, where: str) -> str:
    value = row.get(field)
    if value is None:
        return ""
    return _text(row, field, "label", where)


def _title(row: Mapping[str, Any], text_field: str, title_field: str, where: str) -> str:
    value = row.get(title_field)
    if value is None or title_field == text_field:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise DataError(
            f'{where}: "{title_field}" is {kind_of(value)}, expected the title of the document as a string; write one, or name '
            "another field with --title_field (one that no row has leaves titles out)"
        )
    return " ".join(str(value).split())


def _fact(row: Mapping[str, Any], where: str) -> int | None:
    value = row.get("fact")
    if value is None or value != value or (isinstance(value, str) and not value.strip()):  # CSV knows no null
        return None
    # A column with gaps is one of floats to pandas, which writes 5 as 5.0.
    whole = re.fullmatch(r"\s*(\d+)(?:[.,]0+)?\s*", value, re.ASCII) if isinstance(value, str) else None
    if whole:
        return int(whole[1])
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DataError(
            f'{where}: "fact" is {value!r}, expected a whole number from 0; number the facts, or leave it out'
        )
    return value


def _parsed_list(value: object) -> object:
    """The list that a cell of a table writes out as JSON; any other value as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _wordings(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Other ways to ask the question of a row, each once."""
    value = row.get("wordings")
    if value is None or value != value or (isinstance(value, str) and not value.strip()):  # CSV knows no null
        return ()
    value = _parsed_list(value)
    broken = isinstance(value, str) and value.lstrip().startswith("[")  # a list that is no JSON
    value = [value] if isinstance(value, str) and not broken else value
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) and each.strip() for each in value):
        raise DataError(
            f'{where}: "wordings" is {value!r}, expected a list of questions; write it as ["...", "..."], each with a text'
        )
    return tuple(dict.fromkeys(each for each in value if each.strip() != str(row.get("question", "")).strip()))


def _entities(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    value = row.get("entities")
    if value is None or value == "":  # CSV knows no null
        return ()
    value = _parsed_list(value)
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise DataError(f'{where}: "entities" is {value!r}, expected a list of strings; write it as ["name", "place"]')
    return tuple(value)


# Conversations.

CONVERSATIONS = (("messages",), ("conversations",), ("prompt", "completion"), ("instruction", "output"))
"""Groups of fields, each of which makes a row a conversation; see `conversation_of`."""
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_SHAREGPT_ROLES = {**_ROLES, "human": "user", "gpt": "assistant"}
_NOT_TRAINED = "kinject learns answers in words; leave the row out, or write what is called and returned as text"


def conversation_of(
    row: Mapping[str, Any], where: str, prompt_field: str = "prompt", completion_field: str = "completion"
) -> list[dict[str, str]] | None:
    """The messages of a row that ends with the answer to learn; None for a row of another form.

    These forms are read; case and spaces around the names of fields are ignored:

    - ``messages`` of ``role`` and ``content`` (a text, or parts of the type text), or the same in ``conversations``,
      where they may be called ``from`` (human, gpt) and ``value``;
    - ``prompt_field`` and ``completion_field``, each a text or such messages;
    - ``instruction``, perhaps ``input``, and ``output``.

    A text in a field ``system`` is the system message, unless the messages begin with one.

    White space around an answer is dropped, as most chat templates do; the indentation of its first line stays.

    Raises:
        DataError: messages that hold no text, call tools, or end with no answer to a message of the user.
    """
    named = (prompt_field, completion_field, "input", "system", *(name for form in CONVERSATIONS for name in form))
    row = with_known_names(row, named, where)
    given = {name: value for name, value in row.items() if value is not None}
    name = next((each for each in ("messages", "conversations") if given.get(each, "") != ""), None)
    if name is not None:
        messages = _messages(_parsed_list(given[name]), name, where)
        _require_answered(messages, f"the last of '{name}'", where)
    elif prompt_field in given:
        messages = _messages_or_text(given[prompt_field], prompt_field, "user", where)
        if completion_field not in given:
            raise DataError(
                f"{where}: the answer is missing ('{completion_field}' is absent or null); add it, or delete the row."
            )
        answer = given[completion_field]
        messages += _messages_or_text(answer, completion_field, "assistant", where)
        last = f"'{completion_field}'" if isinstance(answer, str) else f"the last of '{completion_field}'"
        _require_answered(messages, last, where)
    elif "instruction" in given and ("output" in given or "output" in row):
        asked = [_plain(given.get(name), name, where) for name in ("instruction", "input")]
        messages = [{"role": "user", "content": "\n".join(text for text in asked if text.strip())}]
        messages.append({"role": "assistant", "content": _plain(given.get("output"), "output", where)})
        _require_answered(messages, "'output'", where)
    else:
        return None
    system = given.get("system")
    if isinstance(system, str) and system.strip() and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    messages = [{**message, "content": with_plain_line_ends(message["content"])} for message in messages]
    messages[-1]["content"] = re.sub(r"\A(?:[ \t]*\n)*(?: (?=\S))?", "", messages[-1]["content"].rstrip())
    return messages


def _plain(value: object, name: str, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{where}: '{name}' is {kind_of(value)}, expected a text.")
    return value


def _messages_or_text(value: object, name: str, role: str, where: str) -> list[dict[str, str]]:
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    return _messages(value, name, where)


def _messages(value: object, name: str, where: str) -> list[dict[str, str]]:
    expected = 'messages such as [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]'
    if isinstance(value, (list, tuple)) and value and all(isinstance(each, str) for each in value):
        raise DataError(
            f"{where}: '{name}' is a list of texts, expected one text or {expected}; make a row of each text."
        )
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, Mapping) for each in value):
        raise DataError(f"{where}: '{name}' is {kind_of(value)}, expected {expected}.")
    if not value:
        raise DataError(f"{where}: '{name}' is an empty list, expected {expected}.")
    return [
        _message(message, f"{where}: message {number} of '{name}'") for number, message in enumerate(value, start=1)
    ]


def _message(message: Mapping[str, Any], where: str) -> dict[str, str]:
    called = next((key for key in ("tool_calls", "function_call") if message.get(key)), None)
    if called:
        raise DataError(f"{where} calls a tool ('{called}'): {_NOT_TRAINED}.")
    sharegpt = message.get("role") is None and message.get("from") is not None
    role, content = message.get("from" if sharegpt else "role"), message.get("value" if sharegpt else "content")
    if role in ("tool", "function", "function_call", "observation", "ipython"):
        raise DataError(f"{where} is of the role '{role}': {_NOT_TRAINED}.")
    known = _SHAREGPT_ROLES if sharegpt else _ROLES
    if not isinstance(role, str) or role not in known:
        fields = ", ".join(f"'{key}'" for key in message)
        said = f"is of the role {role!r}" if role is not None else f"has no role (its fields: {fields})"
        raise DataError(f"{where} {said}; expected {', '.join(known)}.")
    return {"role": known[role], "content": _content(content, where)}


def _content(content: object, where: str) -> str:
    """The text of a message: itself, or its parts of the type text one after another."""
    if isinstance(content, str):
        return content
    if not isinstance(content, (list, tuple)):
        raise DataError(
            f"{where} has no text: its content is {kind_of(content)}; expected a text, or parts of the type text."
        )
    texts = []
    for part in content:
        if isinstance(part, Mapping) and part.get("type") not in (None, "text"):
            raise DataError(
                f"{where} holds a part of the type '{part['type']}'; kinject learns text alone: leave the row out, or keep "
                "its parts of the type text."
            )
        text = part.get("text") if isinstance(part, Mapping) else part
        if not isinstance(text, str):
            raise DataError(f"{where} holds a part without text: {str(part)[:60]}.")
        texts.append(text)
    return "".join(texts)


def _require_answered(messages: Sequence[Mapping[str, str]], last: str, where: str) -> None:
    if messages[-1]["role"] != "assistant":
        raise DataError(
            f"{where}: {last} must be the assistant's answer, which is learned, but its role is "
            f"'{messages[-1]['role']}'; drop what follows the last answer, or add one."
        )
    if not messages[-1]["content"].strip():
        raise DataError(f"{where}: the answer ({last}) is empty; write it, or delete the row.")
    if len(messages) < 2 or messages[-2]["role"] != "user":
        raise DataError(f"{where}: no message of the user stands before the answer; add the question.")
    if not messages[-2]["content"].strip():
        raise DataError(f"{where}: the question before the answer is empty; write it, or delete the row.")
