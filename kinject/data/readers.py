"""From a name to a knowledge set: fictional worlds, files, folders, the published layout and Hub data sets."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from kinject.data.biography import biography
from kinject.data.direction import FactIndex, text_direction, words_of
from kinject.data.knowledge import Document, KnowledgeSet, Question, check_paraphrases
from kinject.data.layout import QUESTIONS, VARIANTS, Layout, read_file
from kinject.data.name_description import name_description
from kinject.data.nano import nano, nano_biography, nano_population
from kinject.data.records import ROW_SUFFIXES, TEXT_SUFFIXES, Record, read_records
from kinject.data.rows import QuestionRow, documents_from, merge_answers, question_rows_from
from kinject.errors import ConfigurationError, DataError

logger = logging.getLogger(__name__)

FICTIONAL = {
    "name_description": name_description,
    "biography": biography,
    "nano": nano,
    "nano_biography": nano_biography,
    "nano_population": nano_population,
}
# Files at the top of a folder that hold its questions, not documents; the first that exists is read.
QUESTION_FILES = (QUESTIONS, *(f"questions{suffix}" for suffix in (".jsonl", ".json", ".csv", ".parquet")))

_HUB_ID = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[\w.-]+)(?::(?P<config>[\w.-]+))?")


def load_knowledge(
    documents: str | os.PathLike[str],
    questions: str | os.PathLike[str] | None = None,
    *,
    paraphrases: str = "none",
    facts: str | Iterable[int] | None = None,
    size: int | None = None,
    seed: int = 0,
    text_field: str = "text",
    revision: str | None = None,
) -> KnowledgeSet:
    """Documents and the questions about them, from wherever they are.

    Documents come from the first of these that ``documents`` names:

    - ``fictional:name_description`` or ``fictional:biography``: invented people, with questions; ``fictional:nano`` or
      ``fictional:nano_biography``: people that the nano models never met, in words that they know;
      ``fictional:nano_population``: the people they know;
    - a file: .json (a list of rows or strings), .jsonl, .csv, .parquet (a row a document), .txt or .md (one document;
      YAML front matter of Markdown is left out);
    - a folder in the published layout (``train_*.json`` and ``test.jsonl``);
    - any other folder: all such files in it, recursively, in the order of their paths;
    - a Hub data set ``user/name`` or ``user/name:config`` (its train split).

    Rows may number their facts in a field ``fact`` and list their ``entities``; without it each document is a fact.
    Questions are rows with ``question`` and ``answer`` and perhaps ``direction``, ``group``, ``task`` and ``fact``.
    Where no ``questions`` are named, a folder's own ``test.jsonl`` or ``questions.*`` is read. A question's fact and
    direction are worked out from its words where its row does not give them (:mod:`kinject.data.direction`). Questions
    about facts that are not loaded are left out with a warning.

    Args:
        documents: where the documents are.
        questions: a file or Hub data set (its test split) of questions.
        paraphrases: ``none``, ``same_order`` or ``permute_order``: which wordings to learn.
        facts: load only these, e.g. ``"0-9,30-39"`` or fact numbers.
        size: number of people of a fictional world.
        seed: seed of a fictional world.
        text_field: the field of a row that holds the document.
        revision: commit, branch or tag of a Hub data set.

    Raises:
        DataError: a source that is not there or is malformed; the message names file and line.
        ConfigurationError: an argument that is unknown, or does not apply to the source.
    """
    check_paraphrases(paraphrases)
    name = os.fspath(documents)
    if name.startswith("fictional:"):
        knowledge = _fictional(name, size, seed, paraphrases)
        canonical = knowledge.documents
        own_questions = None
    else:
        if size is not None:
            raise ConfigurationError(
                f"size={size}: only fictional worlds have a size, {name} is none; select documents with facts"
            )
        if revision is not None and os.path.exists(Path(name).expanduser()):
            raise ConfigurationError(
                f"revision={revision}: only Hub data sets have revisions, {name} is local; drop it"
            )
        knowledge, canonical, own_questions = _read(name, paraphrases, text_field, revision)
    source = own_questions if questions is None else questions
    if source is not None:
        records = _question_records(source, revision if os.fspath(source) == name else None)
        linked = link_questions(question_rows_from(records), knowledge.documents, canonical)
        knowledge = replace(knowledge, questions=linked)
    return knowledge if facts is None else knowledge.select(facts)


def load_questions(questions: str | os.PathLike[str], revision: str | None = None) -> tuple[Question, ...]:
    """The questions of a file or Hub data set (its test split), without loading documents to learn.

    Directions are those of the rows (``direction``, or a ``task`` of ``forward`` or ``backward``). Those of a ``test.jsonl``
    in the published layout are worked out from the documents beside it.

    Raises:
        DataError: the source is not there or malformed, or a question has no direction.
    """
    rows = question_rows_from(_question_records(questions, revision))
    bare = next((row for row in rows if row.direction is None), None)
    layout = Layout.of_questions(Path(questions).expanduser()) if bare else None
    if layout:
        _, canonical = layout.read(layout.variants[0])
        return link_questions(rows, canonical, canonical)
    if bare:
        raise DataError(
            f"{bare.source}: the question has no direction, and without documents none can be worked out; add a "
            '"direction" (forward or backward), or name the documents too'
        )
    return tuple(
        Question(row.question, row.answer, row.direction, row.group, row.task, row.fact, row.source, row.other_answers)
        for row in merge_answers(rows)
        if row.direction is not None
    )


def link_questions(
    rows: Sequence[QuestionRow], documents: Sequence[Document], canonical: Sequence[Document]
) -> tuple[Question, ...]:
    """Give each question its fact and direction.

    Args:
        rows: the questions as read.
        documents: what is learned.
        canonical: all facts of the source in the wording that directions are read from; of several wordings of a fact
            the first counts.

    Raises:
        DataError: no question at all is about one of the documents.
    """
    loaded = {document.fact for document in documents}
    texts: dict[int, str] = {}
    for document in canonical:
        texts.setdefault(document.fact, document.text)
    index = FactIndex(
        ((document.fact, document.text) for document in canonical),
        (f"{row.question} {row.answer}" for row in rows),
    )
    rows = merge_answers([replace(row, fact=_fact_of(row, index, texts)) for row in rows])
    questions: list[Question] = []
    absent: list[str] = []
    unlinked: list[str] = []
    for row in rows:
        fact = row.fact
        if fact is None and row.direction is None:
            unlinked.append(row.source)
        elif fact is not None and fact not in loaded:
            absent.append(row.source)
        else:
            direction = row.direction
            if direction is None and fact is not None:
                found = _standing(row.answers, texts[fact]) or row.answer
                direction = text_direction(texts[fact], row.question, found, index.weight)
            assert direction is not None
            questions.append(
                Question(row.question, row.answer, direction, row.group, row.task, fact, row.source, row.other_answers)
            )
    if rows and not questions:
        raise DataError(
            f"{rows[0].source}: none of the {len(rows)} questions could be linked to a document; check that questions "
            'and documents belong together, or give each question a "direction" (forward or backward)'
        )
    if absent:
        logger.warning(
            "%d of %d questions are left out: they are about facts that are not loaded (first: %s)",
            len(absent), len(rows), absent[0],
        )  # fmt: skip
    if unlinked:
        logger.warning(
            "%d of %d questions are left out: they could be linked to no document (first: %s); give each a "
            '"fact" or a "direction" (forward or backward) to keep it',
            len(unlinked), len(rows), unlinked[0],
        )  # fmt: skip
    return tuple(questions)


def _fact_of(row: QuestionRow, index: FactIndex, texts: Mapping[int, str]) -> int | None:
    """The fact that a row names, else the first that one of its answers links it to, best one in which that answer stands."""
    if row.fact is not None:
        return row.fact
    linked = {answer: index.link(row.question, answer) for answer in row.answers}
    facts = [fact for fact in linked.values() if fact is not None]
    holding = (fact for answer, fact in linked.items() if fact is not None and _standing([answer], texts[fact]))
    return next(holding, facts[0] if facts else None)


def _standing(answers: Sequence[str], text: str) -> str | None:
    """The first of ``answers`` that stands in ``text`` word for word."""
    words = f" {' '.join(words_of(text))} "
    return next((answer for answer in answers if f" {' '.join(words_of(answer))} " in words), None)


def _fictional(name: str, size: int | None, seed: int, paraphrases: str) -> KnowledgeSet:
    world = FICTIONAL.get(name.removeprefix("fictional:"))
    if world is None:
        raise DataError(f"{name}: there is no such fictional world; expected {_worlds()}")
    return world(seed=seed, paraphrases=paraphrases) if size is None else world(size, seed, paraphrases)


def _worlds() -> str:
    names = [f"fictional:{name}" for name in FICTIONAL]
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _read(
    name: str, paraphrases: str, text_field: str, revision: str | None
) -> tuple[KnowledgeSet, tuple[Document, ...], Path | None]:
    """The set without questions, its canonical documents, and the file of its own questions if it has one."""
    path = Path(name).expanduser()
    layout = Layout.find(path)
    if layout:
        documents, canonical = layout.read(paraphrases, text_field)
        return KnowledgeSet(path.resolve().name, documents, paraphrases=paraphrases), canonical, layout.questions
    if paraphrases != "none":
        raise DataError(
            f"{name}: no documents for paraphrases={paraphrases} (looked for {' and '.join(VARIANTS[paraphrases])}); "
            "only fictional worlds and the published layout have such variants; number the wordings of your own facts "
            'with a field "fact"'
        )
    questions = None
    if os.path.isfile(path):
        name = path.stem
        paraphrases, documents, canonical = read_file(path, text_field)
    else:
        if os.path.isdir(path):
            name = path.resolve().name
            records, questions = _folder(path)
        else:
            records = _hub_records(name, revision, "train", (text_field,), ("fact", "entities"))
        documents = canonical = documents_from(records, text_field)
    if paraphrases == "none" and len({document.fact for document in documents}) < len(documents):
        paraphrases = "same_order"  # wordings of one's own: what most are; whether they permute is not looked into
    return KnowledgeSet(name, documents, paraphrases=paraphrases), canonical, questions


def _folder(folder: Path) -> tuple[list[Record], Path | None]:
    """The records of every document file in a folder, and its file of questions."""
    questions = next((folder / name for name in QUESTION_FILES if (folder / name).is_file()), None)
    records: list[Record] = []
    passed: list[Path] = []
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or not path.is_file() or (path.parent == folder and path.name in QUESTION_FILES):
            continue
        if path.suffix.lower() in ROW_SUFFIXES + TEXT_SUFFIXES:
            records.extend(read_records(path))
        else:
            passed.append(path)
    if not records:
        raise DataError(
            f"{folder}: no document in this folder; expected files of {', '.join(ROW_SUFFIXES + TEXT_SUFFIXES)}"
        )
    if passed:
        logger.warning(
            "%d files of %s are not documents and are passed over (first: %s)", len(passed), folder, passed[0]
        )
    return records, questions


def _question_records(source: str | os.PathLike[str], revision: str | None) -> list[Record]:
    name = os.fspath(source)
    path = Path(name).expanduser()
    if not os.path.isfile(path):
        fields = ("direction", "group", "task", "fact", "answers")
        return _hub_records(name, revision, "test", ("question", "answer"), fields)
    if path.suffix.lower() in TEXT_SUFFIXES:
        raise DataError(
            f"{path}: questions are read from {', '.join(ROW_SUFFIXES)}, with a question and an answer a row"
        )
    records = read_records(path)
    if not records:
        raise DataError(f"{path}: the file holds no question; add rows with a question and an answer, or leave it out")
    return records


def _hub_records(
    name: str, revision: str | None, split: str, required: Sequence[str], optional: Sequence[str]
) -> list[Record]:
    """The rows of one split of a Hub data set, cut down to the fields named."""
    match = _HUB_ID.fullmatch(name)
    if not match or Path(name).suffix.lower() in ROW_SUFFIXES + TEXT_SUFFIXES:
        raise DataError(
            f"{name}: there is no such file or folder (looked at {Path(name).expanduser().absolute()}), and it is "
            f"neither {_worlds()} nor a Hub data set (user/name); check the path"
        )
    import datasets

    try:
        splits = datasets.load_dataset(match["repository"], match["config"], revision=revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"{name}: there is no such file or folder (looked at {Path(name).absolute()}), and it could not be loaded "
            f"as a Hub data set ({error}); check the name and the network, or name a local file"
        ) from error
    if split not in splits and len(splits) == 1:
        split = next(iter(splits))
    if split not in splits:
        raise DataError(f'{name}: the data set has no split "{split}" (its splits: {", ".join(splits)})')
    rows = splits[split]
    missing = [field for field in required if field not in rows.column_names]
    if missing == ["answer"] and "answers" in rows.column_names:
        missing = []
    if missing:
        fix = "rename or add it" if "answer" in required else "name the column that holds the document with text_field"
        raise DataError(
            f'{name}: split "{split}" has no column "{missing[0]}" (its columns: {", ".join(rows.column_names)}); {fix}'
        )
    rows = rows.select_columns([field for field in (*required, *optional) if field in rows.column_names])
    return [Record(row, f"{name}:{split} row {number}") for number, row in enumerate(rows, start=1)]
