"""The published layout of NameDescription, Biography and Wiki (arXiv 2510.09885): ``train_*.json`` and ``test.jsonl``.

A folder holds the files of one data set, or, as in the authors' repository, one folder holds several and each file name
starts with its set: ``datasets/wiki`` then stands for ``datasets/wiki_train_no_paraphrase.json`` and so on.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kinject.data.direction import FactIndex
from kinject.data.knowledge import Document
from kinject.data.records import Record, read_records
from kinject.data.rows import documents_from
from kinject.errors import DataError

# The file names of each variant, the first that exists is read.
VARIANTS: dict[str, tuple[str, ...]] = {
    "none": ("train_no_paraphrase.json",),
    "same_order": ("train_paraphrase_same_order.json", "train_paraphrase.json"),
    "permute_order": ("train_paraphrase_change_order.json",),
}
QUESTIONS = "test.jsonl"


@dataclass(frozen=True)
class Layout:
    """Where the files of one published data set lie: each path is ``prefix`` + file name."""

    prefix: str

    @classmethod
    def find(cls, path: Path) -> Layout | None:
        """The layout in folder ``path``, or whose files are called ``path`` + ``_train_...``; ``None`` if neither."""
        for layout in (cls(f"{path}/"), cls(f"{path}_")):
            if layout.variants:
                return layout
        return None

    @classmethod
    def of_questions(cls, path: Path) -> Layout | None:
        """The layout that a file of questions belongs to; ``None`` if there are no documents beside it."""
        layout = cls(str(path).removesuffix(QUESTIONS))
        return layout if path.name.endswith(QUESTIONS) and layout.variants else None

    @property
    def variants(self) -> tuple[str, ...]:
        """The values of ``paraphrases`` that there are documents for."""
        return tuple(variant for variant, names in VARIANTS.items() if any(map(self.has, names)))

    def file(self, name: str) -> Path:
        """The path of one file of the layout."""
        return Path(self.prefix + name)

    def has(self, name: str) -> bool:
        """Whether the layout has a file."""
        return os.path.isfile(self.file(name))  # unlike Path.is_file, never raises, however long the name

    @property
    def questions(self) -> Path | None:
        """The file of questions, if there is one."""
        return self.file(QUESTIONS) if self.has(QUESTIONS) else None

    def read(self, paraphrases: str, text_field: str = "text") -> tuple[tuple[Document, ...], tuple[Document, ...]]:
        """The documents of one variant and the canonical documents, which number the facts.

        Raises:
            DataError: the variant has no file, or a wording belongs to no canonical document.
        """
        names = VARIANTS[paraphrases]
        path = next((self.file(name) for name in names if self.has(name)), None)
        if path is None:
            raise DataError(
                f"{self.prefix}: no documents for paraphrases={paraphrases} (looked for "
                f"{' and '.join(names)}); the variants here are {', '.join(self.variants)}"
            )
        return _read_variant(path, self.file(VARIANTS["none"][0]), text_field)


def read_file(
    path: Path, text_field: str = "text", title_field: str = "title"
) -> tuple[str, tuple[Document, ...], tuple[Document, ...]]:
    """``(paraphrases, documents, canonical)`` of any one file of documents.

    A file with a name of the published layout is read as that variant, with the canonical file beside it.

    Raises:
        DataError: a row is malformed, or a wording belongs to no canonical document.
    """
    for paraphrases, names in VARIANTS.items():
        for name in names:
            if path.name.endswith(name):
                canonical_path = path.with_name(path.name.removesuffix(name) + VARIANTS["none"][0])
                return paraphrases, *_read_variant(path, canonical_path, text_field)
    documents = _documents(path, read_records(path), text_field, title_field)
    return "none", documents, documents


def _read_variant(
    path: Path, canonical_path: Path, text_field: str
) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
    """``(documents, canonical)``, the facts numbered by ``canonical_path`` unless the rows have numbers of their own."""
    records = read_records(path)
    documents = _documents(path, records, text_field)
    if path == canonical_path or not canonical_path.is_file() or _numbered(records):
        return documents, documents
    canonical = _documents(canonical_path, read_records(canonical_path), text_field)
    return group_wordings(documents, canonical), canonical


def _documents(
    path: Path, records: Sequence[Record], text_field: str, title_field: str = "title"
) -> tuple[Document, ...]:
    if not records:
        raise DataError(f'{path}: the file holds no document; add rows such as {{"{text_field}": "..."}}')
    return documents_from(records, text_field, title_field=title_field)


def _numbered(records: Sequence[Record]) -> bool:
    return any(isinstance(record.value, dict) and record.value.get("fact") is not None for record in records)


def group_wordings(documents: Sequence[Document], canonical: Sequence[Document]) -> tuple[Document, ...]:
    """``documents`` with the fact of the canonical document that each one words.

    A wording belongs to the canonical text it repeats, else to the one that shares the most telling words with it.
    Where the wordings of a fact stand together in blocks of one size, each block goes where most of it belongs.

    Raises:
        DataError: a wording shares no word with any canonical document.
    """
    index = FactIndex(
        ((document.fact, document.text) for document in canonical), (document.text for document in documents)
    )
    verbatim = {document.text: document.fact for document in reversed(canonical)}
    facts: list[int] = []
    for document in documents:
        fact = verbatim.get(document.text)
        fact = index.nearest(document.text) if fact is None else fact
        if fact is None:
            raise DataError(
                f"{document.source}: the text is a wording of no document in {canonical[0].source.rpartition(':')[0]}; "
                'number the facts of both files with a field "fact"'
            )
        facts.append(fact)
    size, rest = divmod(len(facts), len(set(facts)))
    if rest == 0:
        blocks = [facts[start : start + size] for start in range(0, len(facts), size)]
        main = [Counter(block).most_common(1)[0][0] for block in blocks]
        if len(set(main)) == len(main):
            facts = [fact for fact in main for _ in range(size)]
    return tuple(replace(document, fact=fact) for document, fact in zip(documents, facts, strict=True))
