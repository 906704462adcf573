"""Loads documents and questions from files, folders, the Hub, the published layout and invented worlds, and links them.

Knows nothing of tokens or models.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from glob import glob
from pathlib import Path

from kinject.compat import is_cached, is_hub_id
from kinject.data.converting import DOCUMENT_KINDS, EXTRA, missing_package
from kinject.data.direction import link_questions, linked_question
from kinject.data.knowledge import Document, KnowledgeSet, Question, check_paraphrases
from kinject.data.records import FILES, ROW_FILES, ROW_KINDS, TEXT_KINDS, Record, file_kind, read_records
from kinject.data.rows import (
    CONVERSATIONS,
    QUESTION_LABELS,
    QuestionRow,
    asks,
    documents_from,
    documents_of,
    merge_answers,
    question_rows_from,
    same_name,
)
from kinject.data.worlds.nano import nano, nano_biography, nano_population
from kinject.data.worlds.paper import QUESTIONS, VARIANTS, Layout, biography, name_description, read_variant
from kinject.errors import ConfigurationError, DataError, Faults, closest


def read_file(
    path: Path,
    text_field: str = "text",
    title_field: str = "title",
    asked_fields: tuple[str, str] = ("question", "answer"),
    own_questions: list[Path] | None = None,
) -> tuple[str, tuple[Document, ...], tuple[Document, ...]]:
    """``(paraphrases, documents, canonical)`` of any one file of documents.

    A file with a name of the published layout is read as that variant, with the canonical file beside it. Sheets of questions,
    which have ``asked_fields``, are not learned; ``own_questions`` collects the path of a spreadsheet that has some.

    Raises:
        DataError: a row is malformed, or a wording belongs to no canonical document.
    """
    for paraphrases, names in VARIANTS.items():
        for name in names:
            if path.name.endswith(name):
                canonical_path = path.with_name(path.name.removesuffix(name) + VARIANTS["none"][0])
                return paraphrases, *read_variant(path, canonical_path, text_field)
    records = _learned_rows(path, read_records(path), (text_field, title_field), asked_fields, own_questions)
    if not records and file_kind(path) in DOCUMENT_KINDS:
        raise DataError(
            f"{path}: no text is in it; where its pages are pictures, recognize their text first (for a PDF: ocrmypdf)"
        )
    documents = documents_of(path, records, text_field, title_field)
    return "none", documents, documents


def _asked_sheets(records: Sequence[Record], question_field: str, answer_field: str) -> set[str]:
    """The sheets of a spreadsheet that hold questions, where others hold documents."""
    asked = {record.sheet for record in records if asks(record, question_field, answer_field)}
    return asked if asked < {record.sheet for record in records} else set()


def _learned_rows(
    path: Path,
    records: list[Record],
    fields: tuple[str, str],
    asked_fields: tuple[str, str] = ("question", "answer"),
    own_questions: list[Path] | None = None,
) -> list[Record]:
    """The records of a file that are learned, each sheet of a spreadsheet for itself; those of questions are left out.

    Args:
        path: The file.
        records: All of its records.
        fields: Those that hold text and title.
        asked_fields: Those that hold question and answer.
        own_questions: Collects ``path`` where it has sheets of questions.
    """
    asked = _asked_sheets(records, *asked_fields)
    if asked and own_questions is not None:
        own_questions.append(path)
    sheets = dict.fromkeys(record.sheet for record in records if record.sheet not in asked)
    return [told for sheet in sheets for told in _told_rows(path, [r for r in records if r.sheet == sheet], *fields)]


def _told_rows(path: Path, records: list[Record], text_field: str, title_field: str) -> list[Record]:
    """Turn each row of a table without a column of texts into a text: its cells, each behind the name of its column.

    A table is a .csv, .tsv or .xlsx of two columns or more with short names, for which the user named no ``text_field``. The
    records of any other file are returned unchanged.
    """
    rows = [record.value for record in records if isinstance(record.value, dict)]
    if file_kind(path) not in (".csv", ".tsv", ".xlsx") or text_field != "text" or not rows or len(rows) < len(records):
        return records
    names = [*rows[0]]
    known = {text_field, "messages", "conversations", "prompt", "instruction", "question", "completion", "output"}
    if len(names) < 2 or any(len(name.split()) > 3 or any(same_name(name, each) for each in known) for name in names):
        return records
    own = [name for name in names if not any(same_name(name, each) for each in ("fact", "entities", title_field))]
    texts = ["\n".join(f"{name}: {_told(row[name])}" for name in own if _told(row[name])) for row in rows]
    logger.warning(
        '%s: no column is called "%s", so each row is learned as its columns with their names, the first as %r; name the '
        "column that holds the document with --text_field, if there is one",
        f'{path}, sheet "{records[0].sheet}"' if records[0].sheet else path, text_field, texts[0],
    )  # fmt: skip
    kept = {name: name for name in names if name not in own}
    return [
        replace(record, value={text_field: text, **{name: row[name] for name in kept}})
        for record, row, text in zip(records, rows, texts, strict=True)
        if text
    ]


def _told(cell: object) -> str:
    """A cell as a text; "" where it is empty."""
    return "" if cell is None or cell != cell else " ".join(str(cell).split())


logger = logging.getLogger(__name__)

FICTIONAL = {
    "name_description": name_description,
    "biography": biography,
    "nano": nano,
    "nano_biography": nano_biography,
    "nano_population": nano_population,
}
Source = str | os.PathLike[str]


def load_knowledge(
    documents: Source | Sequence[Source],
    questions: Source | None = None,
    *,
    paraphrases: str = "none",
    facts: str | Iterable[int] | None = None,
    size: int | None = None,
    seed: int = 0,
    text_field: str = "text",
    question_field: str = "question",
    answer_field: str = "answer",
    title_field: str = "title",
    revision: str | None = None,
) -> KnowledgeSet:
    """Documents and the questions about them, from wherever they are.

    Documents come from the first of these that ``documents`` names:

    - ``fictional:name_description`` or ``fictional:biography``: invented people, with questions; ``fictional:nano`` or
      ``fictional:nano_biography``: people that the nano models never met, in words that they know;
      ``fictional:nano_population``: the people they know;
    - a file: .json (a list of rows or strings), .jsonl, .csv, .tsv, .parquet, .xlsx (a row a document), .txt or .md (one
      document; of Markdown's front matter, YAML or TOML, only the title is read), or .pdf, .html, .docx, .pptx, .epub or
      .rst (one document, see :mod:`kinject.data.converting`); what is not compressed by itself may be (.gz);
    - a folder in the published layout (``train_*.json`` and ``test.jsonl``);
    - any other folder: all such files in it, recursively, in the order of their paths, except hidden ones;
    - a pattern such as ``docs/*.md``, in which ``**`` stands for any folders;
    - a Hub data set ``user/name`` or ``user/name:config`` (its train split).

    Files, folders and patterns may also be given as a list. A row may be a conversation instead of a document
    (:func:`kinject.data.rows.conversation_of`), whose last answer is learned. Rows may number their facts in a field
    ``fact`` and list their ``entities``; without it each document is a fact.
    Questions are rows with ``question`` and ``answer`` and perhaps ``direction``, ``group``, ``task`` and ``fact``.
    ``answer`` or ``answers`` may hold several accepted answers (:func:`kinject.data.rows.accepted_answers`), and so may
    rows that ask the same; fact and direction are those of the first that stands in a document.
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
        question_field, answer_field: the fields of a row that hold the question and its answer.
        title_field: the field of a row that holds the title of its document (:func:`kinject.data.knowledge.with_title`).
        revision: commit, branch or tag of a Hub data set.

    Raises:
        DataError: a source that is not there or is malformed; the message names file and line of all that is wrong.
        ConfigurationError: an argument that is unknown, or does not apply to the source.
    """
    check_paraphrases(paraphrases)
    alone = isinstance(documents, (str, os.PathLike))
    names = [os.fspath(documents)] if alone else [os.fspath(each) for each in documents]  # type: ignore[union-attr,arg-type]
    if not names:
        raise ConfigurationError("documents: the list is empty; name at least one file or folder")
    if not all(name.strip() for name in names) or (questions is not None and not os.fspath(questions).strip()):
        # The empty path is the folder that one is in, which nobody means by a variable of the shell that is not set.
        raise ConfigurationError(
            "documents or questions are named by an empty text; name a file or folder (. is the one that you are in)"
        )
    name = ", ".join(names)
    fictional = next((each for each in names if each.startswith("fictional:")), None)
    if fictional is not None and len(names) > 1:
        raise ConfigurationError(f"{fictional}: a fictional world cannot be mixed with other documents; name it alone")
    faults = Faults()
    rows: tuple[QuestionRow, ...] = ()
    if fictional is not None:
        knowledge = _fictional(name, size, seed, paraphrases)
        read = knowledge, knowledge.documents
        source = questions
    else:
        if size is not None:
            raise ConfigurationError(
                f"size={size}: only fictional worlds have a size, {name} is none; select documents with facts"
            )
        if revision is not None and any(os.path.exists(Path(each).expanduser()) for each in names):
            raise ConfigurationError(
                f"revision={revision}: only Hub data sets have revisions, {name} is local; drop it"
            )
        asked_fields = question_field, answer_field
        found = _find_files(names, questions, asked_fields)
        with faults:
            read = _read(names, found, paraphrases, (text_field, title_field), asked_fields, revision)
        source = found.own_questions() if questions is None else questions
    if source is not None:
        with faults:
            records = question_records(
                source,
                question_field,
                answer_field,
                revision=revision if os.fspath(source) == name else None,
                faults=faults,
                learned=() if fictional is not None else found.files,
            )
            rows = question_rows_from(records, question_field, answer_field, faults)
    faults.raise_any()
    knowledge, canonical = read
    if source is not None:
        knowledge = replace(knowledge, questions=link_questions(rows, knowledge.documents, canonical))
    return knowledge if facts is None else knowledge.select(facts)


def load_questions(
    questions: Source,
    revision: str | None = None,
    *,
    question_field: str = "question",
    answer_field: str = "answer",
) -> tuple[Question, ...]:
    """The questions of a file or Hub data set (its test split), without loading documents to learn.

    Directions are those of the rows (``direction``, or a ``task`` of ``forward`` or ``backward``). Those of a ``test.jsonl``
    in the published layout are worked out from the documents beside it.

    Raises:
        DataError: the source is not there or malformed, or a question has no direction.
    """
    faults = Faults()
    records = question_records(questions, question_field, answer_field, revision=revision, faults=faults)
    rows = question_rows_from(records, question_field, answer_field, faults)
    faults.raise_any()
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
        linked_question(row, row.direction, row.fact) for row in merge_answers(rows) if row.direction is not None
    )


def _fictional(name: str, size: int | None, seed: int, paraphrases: str) -> KnowledgeSet:
    world = FICTIONAL.get(name.removeprefix("fictional:"))
    if world is None:
        raise DataError(f"{name}: there is no such fictional world; expected {_worlds()}")
    return world(seed=seed, paraphrases=paraphrases) if size is None else world(size, seed, paraphrases)


def _worlds() -> str:
    names = [f"fictional:{name}" for name in FICTIONAL]
    return f"{', '.join(names[:-1])} or {names[-1]}"


@dataclass
class _Found:
    """The files behind the names of documents that the user gave.

    Attributes:
        layout: the published layout, if that was named; there are no other files then.
        files: files to read, each once.
        questions: files of questions at the top of a folder that is named, and spreadsheets with sheets of both.
        skipped: files in a folder, or of a pattern, of a kind that cannot be read.
        outputs: folders below that are the output of a run, or a model, and none of whose files is a document.
    """

    layout: Layout | None = None
    files: dict[Path, Path] = field(default_factory=dict)  # by their resolved path
    questions: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    outputs: list[Path] = field(default_factory=list)

    def own_questions(self) -> Path | None:
        """The file of questions that comes with the documents.

        Raises:
            DataError: there are several.
        """
        if len(self.questions) > 1:
            listed = ", ".join(map(str, self.questions))
            raise DataError(f"{listed}: several files of questions come with the documents; name one with --questions")
        return self.questions[0] if self.questions else None


def _find_files(names: Sequence[str], questions: Source | None, asked_fields: tuple[str, str]) -> _Found:
    """The local files behind ``names``, without the file of ``questions``; none for a single name that is not here."""
    found = _Found()
    asked = None if questions is None else Path(questions).expanduser().resolve()
    if asked is not None and asked.is_file() and file_kind(asked) == ".xlsx":
        asked = None if _asked_sheets(read_records(asked, Faults()), *asked_fields) else asked  # others are learned
    for name in names:
        path = Path(name).expanduser()
        layout = Layout.find(path)
        if layout and len(names) > 1:
            raise ConfigurationError(
                f"{name}: a data set in the published layout cannot be mixed with other documents; name it alone"
            )
        if layout:
            found.layout = layout
            found.questions += [layout.questions] if layout.questions else []
        elif os.path.isfile(path):
            found.files[path.resolve()] = path
        elif os.path.isdir(path):
            _walk(path, found, asked)
        elif re.search(r"[*?[]", name):
            matches = sorted(Path(match) for match in glob(str(path), recursive=True))
            if not matches:
                raise DataError(
                    f"{name}: no file or folder matches this pattern (looked in {Path.cwd()}); check the pattern"
                )
            for match in matches:
                if match.is_dir():
                    _walk(match, found, asked)
                else:
                    _take(match, found, asked)
        elif len(names) > 1:
            raise DataError(
                f"{name}: there is no such file or folder (looked at {path.absolute()}); check the path, and name "
                f"a Hub data set alone{near_path(name)}"
            )
    return found


_RESULTS, _RESULTS_BEGIN = "results.json", ('"schema"', '"objective"', '"model"')


def _walk(folder: Path, found: _Found, asked: Path | None) -> None:
    visible = [
        path
        for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix())
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    found.skipped += filter(_leads_elsewhere, visible)
    inside = [path for path in visible if path.is_file()]
    outputs = {path.parent for path in inside if _marks_output(path, folder)}
    found.outputs += sorted(each for each in outputs if outputs.isdisjoint(each.parents))
    for path in inside:
        if not outputs.isdisjoint(path.parents):
            continue
        if path.parent == folder and _holds_questions(path):
            found.questions.append(path)
        else:
            _take(path, found, asked)


def _leads_elsewhere(path: Path) -> bool:
    """Whether ``path`` is a link to a folder, which is not followed, or to nothing."""
    return path.is_symlink() and not path.is_file()


def _marks_output(path: Path, folder: Path) -> bool:
    """Whether ``path`` shows that a run wrote the folder it lies in, or that this is a model's and not ``folder`` itself."""
    if path.name != _RESULTS:
        return path.suffix == ".safetensors" and path.parent != folder
    try:
        with path.open(encoding="utf-8") as opened:
            begins = opened.read(1000)
    except (OSError, UnicodeDecodeError):
        return False
    return all(name in begins for name in _RESULTS_BEGIN)


def _take(path: Path, found: _Found, asked: Path | None) -> None:
    kind = file_kind(path)
    if not kind or (kind in DOCUMENT_KINDS and missing_package(kind)):
        found.skipped.append(path)
    elif path.resolve() != asked:
        found.files.setdefault(path.resolve(), path)


def _holds_questions(path: Path) -> bool:
    """Whether a file at the top of a folder holds its questions, not documents: test.jsonl, or questions.csv and the like."""
    return path.name == QUESTIONS or (path.name.lower().split(".")[0] == "questions" and file_kind(path) in ROW_KINDS)


def _read(
    names: Sequence[str],
    found: _Found,
    paraphrases: str,
    fields: tuple[str, str],
    asked_fields: tuple[str, str],
    revision: str | None,
) -> tuple[KnowledgeSet, tuple[Document, ...]]:
    """The set without questions, and its canonical documents; ``fields`` hold text and title."""
    text_field, title_field = fields
    name = ", ".join(names)
    path = Path(names[0]).expanduser()
    if found.layout:
        documents, canonical = found.layout.read(paraphrases, text_field)
        return KnowledgeSet(path.resolve().name, documents, paraphrases=paraphrases), canonical
    if paraphrases != "none":
        raise DataError(
            f"{name}: no documents for paraphrases={paraphrases} (looked for {' and '.join(VARIANTS[paraphrases])}); "
            "only fictional worlds and the published layout have such variants; number the wordings of your own facts "
            'with a field "fact"'
        )
    if names == [name] and os.path.isfile(path):
        name = _stem(path)
        paraphrases, documents, canonical = read_file(path, text_field, title_field, asked_fields, found.questions)
    elif found.files or found.skipped or len(names) > 1 or os.path.isdir(path):
        documents = canonical = _documents_of_files(names, found, fields, asked_fields)
        name = _set_name(names)
    else:
        records = _hub_records(
            name,
            revision,
            "train",
            ((text_field,), *CONVERSATIONS),
            ("input", "system", "fact", "entities", "id", title_field),
            "--text_field",
        )
        documents = canonical = documents_from(records, text_field, title_field=title_field)
    if paraphrases == "none" and len({document.fact for document in documents}) < len(documents):
        paraphrases = "same_order"  # the usual kind; whether they change the order is not checked
    return KnowledgeSet(name, documents, paraphrases=paraphrases), canonical


def _documents_of_files(
    names: Sequence[str], found: _Found, fields: tuple[str, str], asked_fields: tuple[str, str]
) -> tuple[Document, ...]:
    """The documents of every file that was found behind ``names``.

    Raises:
        DataError: there is none, or one is malformed; all faults of all files are named.
    """
    where = ", ".join(names)
    faults = Faults()
    records: list[Record] = []
    kinds = Counter(
        "link to a folder, or to nothing" if _leads_elsewhere(path) else path.suffix.lower() or "without ending"
        for path in found.skipped
    )
    for path in found.files.values():
        before = len(records)
        records.extend(_learned_rows(path, read_records(path, faults), fields, asked_fields, found.questions))
        if len(records) == before and not faults:
            kinds["empty"] += 1
    documents = documents_from(records, fields[0], faults, fields[1])
    faults.raise_any()
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items(), key=lambda item: (-item[1], item[0])))
    unreadable = [path for path in found.skipped if not _leads_elsewhere(path)]
    readable = sorted({file_kind(path) for path in unreadable if file_kind(path)})
    unread = f"; {', '.join(readable)} can be read after {EXTRA}" if readable else ""
    if found.outputs:
        logger.warning(
            "%d folders of %s hold a run or a model instead of documents, and are passed over (first: %s)",
            len(found.outputs),
            where,
            found.outputs[0],
        )
    if not documents:
        passed = f" (there are {listed})" if listed else ""
        folder = "in this folder" if len(names) == 1 and os.path.isdir(Path(where).expanduser()) else "there"
        raise DataError(f"{where}: no document {folder}{passed}; expected files of {FILES}{unread}")
    if kinds:
        first = f" (first: {found.skipped[0]})" if found.skipped else ""
        logger.warning(
            "%d files of %s hold no documents and are passed over: %s%s%s", kinds.total(), where, listed, first, unread
        )
    return documents


def _set_name(names: Sequence[str]) -> str:
    """What a set of local files is called: by its folder, or by what is named, up to three of them."""
    paths = [Path(name).expanduser() for name in names]
    plain = [next(each for each in (path, *path.parents) if not re.search(r"[*?[]", each.name)) for path in paths]
    called = [_stem(path) if path.is_file() else path.resolve().name for path in plain]
    return "+".join(called[:3]) + (f"+{len(called) - 3} more" if len(called) > 3 else "")


def _stem(path: Path) -> str:
    return Path(re.sub(r"\.gz$", "", path.name, flags=re.IGNORECASE)).stem


def question_records(
    source: Source,
    question_field: str = "question",
    answer_field: str = "answer",
    *,
    revision: str | None = None,
    faults: Faults | None = None,
    learned: Collection[Path] = (),
) -> list[Record]:
    """The records of a file or Hub data set (its test split) of questions; of a spreadsheet the sheets that hold questions.

    Args:
        source: The file or data set.
        question_field, answer_field: The fields that hold question and answer.
        revision: Commit, branch or tag of a data set.
        faults: Collects the errors, so that the good records are returned; without it, errors are raised.
        learned: Resolved paths of files whose other sheets are documents.

    Raises:
        DataError: there is no such source, or it is malformed or empty.
    """
    name = os.fspath(source)
    path = Path(name).expanduser()
    if not os.path.isfile(path):
        if os.path.isdir(path):
            raise DataError(f"{path}: questions are read from one file, and this is a folder; name the file in it")
        return _hub_records(
            name,
            revision,
            "test",
            ((question_field, answer_field), (question_field, "answers")),
            QUESTION_LABELS,
            "--question_field and --answer_field",
        )
    if file_kind(path) in TEXT_KINDS + DOCUMENT_KINDS:
        raise DataError(f"{path}: questions are read from {ROW_FILES}, with a question and an answer a row")
    records = read_records(path, faults)
    if not records and not faults:
        raise DataError(f"{path}: the file holds no question; add rows with a question and an answer, or leave it out")
    asked = _asked_sheets(records, question_field, answer_field)
    others = dict.fromkeys(f'"{record.sheet}"' for record in records if asked and record.sheet not in asked)
    if others and path.resolve() not in learned:
        logger.warning("%s: no questions are in %s, so nothing is asked from there", path, ", ".join(others))
    return [record for record in records if not asked or record.sheet in asked]


def may_be_data_set(name: str) -> bool:
    """Whether ``name`` has the form of a Hub data set, `user/name` or `user/name:config`; the Hub is not asked."""
    repository, colon, config = name.partition(":")
    return is_hub_id(repository) and bool(colon) == bool(config) and not file_kind(Path(name))


def near_path(name: str) -> str:
    """The end of an error about the path ``name``, which is not there: what was meant, if something like it is there."""
    path = Path(name).expanduser()
    folder = next((each for each in path.parents if os.path.isdir(each)), Path())
    wrong, *others = path.relative_to(folder).parts
    try:
        beside = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith(".") and entry.exists())
    except OSError:
        return ""
    by_stem = {Path(entry).stem: entry for entry in reversed(beside)}  # endings would make all files of a kind alike
    close = closest(Path(wrong).stem, by_stem)
    if close is None:
        return ""
    found = folder / by_stem[close]
    whole = found.joinpath(*others)
    return f"; did you mean {whole if whole.exists() else found}?"


def _absence(repository: str, revision: str | None) -> str | None:
    """Why the Hub's data set ``repository`` cannot be read; None where it is in a cache, or on the Hub.

    One request, so that a mistyped path does not wait for all that a download tries.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, RepositoryNotFoundError

    prepared = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets")
    start = repository.replace("/", "___").lower()
    kept = [each.name.lower() for each in prepared.iterdir()] if prepared.is_dir() else []
    if is_cached(repository, "dataset") or any(each.startswith(start) for each in kept):
        return None
    if constants.HF_HUB_OFFLINE:
        return (
            "no Hub data set of that name is in the local cache, while HF_HUB_OFFLINE is set, so that none is fetched"
        )
    try:
        HfApi(endpoint=constants.ENDPOINT).dataset_info(repository, revision=revision, timeout=10)
    except RepositoryNotFoundError:
        return f"{constants.ENDPOINT} has no data set of that name, or hides it from this token"
    except HfHubHTTPError:
        return None  # gated, or of another revision: what loads it says so
    except (HTTPError, OSError):
        return f"none of that name is in the local cache, and {constants.ENDPOINT} is not reached"
    return None


def _hub_records(
    name: str,
    revision: str | None,
    split: str,
    forms: Sequence[Sequence[str]],
    optional: Sequence[str],
    option: str,
) -> list[Record]:
    """The rows of one split of a Hub data set, with those of its columns that are read.

    Args:
        name: ``user/name`` or ``user/name:config``.
        revision: commit, branch or tag.
        split: the split to read; where the data set has only one, that one.
        forms: groups of columns, of which the split must have at least one whole group.
        optional: columns to keep beside them.
        option: the option that renames a column, for the error.

    Raises:
        DataError: there is no such data set or split, or no group of columns is whole.
    """
    repository, _, config = name.partition(":")
    missing_here = f"{name}: there is no such file or folder (looked at {Path(name).expanduser().absolute()})"
    if not may_be_data_set(name):
        raise DataError(
            f"{missing_here}, and it is neither {_worlds()} nor a Hub data set (user/name); check the path{near_path(name)}"
        )
    absence = _absence(repository, revision)
    if absence is not None:
        raise DataError(
            f"{missing_here}, and it could not be loaded as a Hub data set ({absence}); check the name and the network, or "
            f"name a local file{near_path(name)}"
        )
    import datasets  # half a second, for what may be there

    try:
        splits = datasets.load_dataset(repository, config or None, revision=revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"{missing_here}, and it could not be loaded as a Hub data set ({error}); check the name and the network, or name "
            f"a local file{near_path(name)}"
        ) from error
    if split not in splits and len(splits) == 1:
        split = next(iter(splits))
    if split not in splits:
        raise DataError(f'{name}: the data set has no split "{split}" (its splits: {", ".join(splits)})')
    rows = splits[split]
    columns = {name for form in (*forms, optional) for name in form}
    kept = [column for column in rows.column_names if any(same_name(column, name) for name in columns)]

    def missing(form: Sequence[str]) -> list[str]:
        return [name for name in form if not any(same_name(column, name) for column in kept)]

    if all(missing(form) for form in forms):
        what = "question and answer" if "question" in option else "the document"
        raise DataError(
            f'{name}: split "{split}" has no column "{missing(forms[0])[0]}" (its columns: '
            f"{', '.join(rows.column_names)}); name the column that holds {what} with {option}"
        )
    rows = rows.select_columns(kept)
    return [Record(row, f"{name}:{split} row {number}") for number, row in enumerate(rows, start=1)]
