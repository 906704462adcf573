"""Turns the rows of a data set into samples for a trainer: framed by prompts, and split to fit without losing a word.

Knows no masks and no losses.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import regex
from datasets import Dataset, Features, IterableDataset, Value
from transformers import AutoConfig

from kinject.data.knowledge import names, with_title
from kinject.data.rows import conversation_of
from kinject.data.words import is_unspaced, sentence_ends
from kinject.errors import ConfigurationError, DataError, KinjectError
from kinject.models.diffusion import text_config
from kinject.prompts.templates import ANSWER, DocumentTemplate
from kinject.trainers.checkpointing import row_tags
from kinject.trainers.collator import ALWAYS
from kinject.trainers.document_config import CorruptionSFTConfig
from kinject.trainers.infilling import hidden_words

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from kinject.prompts.encoding import EncodedDocument
    from kinject.prompts.templates import Frame
    from kinject.trainers.document_config import DocumentSFTConfig
    from kinject.trainers.infilling import EntityReport


logger = logging.getLogger(__name__)

_STREAMED = 100  # rows at the beginning of a stream that a resumed run compares
_INTEGER, _INTEGERS = Value("int64"), [Value("int64")]
PREPARED = Features(
    {
        "document_ids": _INTEGERS,
        "word_ids": _INTEGERS,
        "gaps": [_INTEGERS],
        "frames": [{"before": _INTEGERS, "between": _INTEGERS, "after": _INTEGERS, "has_copy": Value("bool")}],
        "length": _INTEGER,
        "sample": _INTEGER,
        "fixed_masks": Value("bool"),
        "turn": _INTEGER,
        "epochs": _INTEGERS,
        "weight": Value("float32"),
        "predictions": {"ids": [_INTEGERS], "log_probs": [[Value("float32")]]},
    }
)
"""The columns of a prepared data set. Their types are given, since none could be inferred from rows whose column is empty."""


def question_and_answer(
    row: Mapping[str, Any], where: str, text_field: str = "text"
) -> tuple[str | list[dict[str, str]], str] | None:
    """Prompt (messages up to the last answer) and answer of a row that is a conversation; None for a document.

    Args:
        row: A document, or a conversation in one of the forms that `kinject.data.rows.conversation_of` reads.
        where: What an error calls the row.
        text_field: The field of a document. A row with this field is a conversation only if it also has `messages` or
            `prompt`; other names of questions and answers are then taken for further columns of the document.

    Raises:
        DataError: a conversation without an answer, or with what cannot be learned.
    """
    if is_spoken(row):
        return row["prompt"], row["completion"]
    if row.get(text_field) is not None and not row.get("messages") and not row.get("prompt"):
        return None
    messages = conversation_of(row, where)
    return None if messages is None else (messages[:-1], messages[-1]["content"])


def is_spoken(row: Mapping[str, Any]) -> bool:
    """Whether ``row`` is a question with an answer that every objective learns as it is: rehearsed or practiced."""
    return bool(row.get("rehearsal") or (row.get("practice") and row.get("prompt")))


def check_datasets(train: Any, evaluation: Any) -> None:
    """Refuse anything but data sets with rows.

    Args:
        train: The training data set.
        evaluation: The evaluation data set, a dictionary of several by name, or None.

    Raises:
        ConfigurationError: one is a list, a dictionary of splits, or missing.
        DataError: one holds no row.
    """
    several = evaluation if isinstance(evaluation, dict) else {"eval": evaluation}
    given = {str(name): dataset for name, dataset in several.items() if dataset is not None}
    for name, dataset in [("train", train), *given.items()]:
        _check_dataset(dataset, name)


def _check_dataset(dataset: Any, name: str) -> None:
    if isinstance(dataset, Mapping):
        raise ConfigurationError(
            f"{name}_dataset is a {type(dataset).__name__} of {', '.join(map(str, dataset))}; pass one of them, such as "
            f"dataset['{next(iter(dataset), 'train')}']."
        )
    if not isinstance(dataset, (Dataset, IterableDataset)):
        raise ConfigurationError(
            f"{name}_dataset is {'missing' if dataset is None else f'a {type(dataset).__name__}'}; pass a data set of the "
            "library datasets, such as datasets.Dataset.from_list(rows)."
        )
    if next(iter(dataset), None) is None:
        raise DataError(f"the {name} data set holds no row; give it at least one document or conversation.")


class Preparation:
    """Turns rows into framed and split samples for a trainer; its objective decides what they show.

    Args:
        trainer: A `DocumentSFTTrainer`; only what an objective decides is asked of it.
        tokenizer: Encodes prompts and documents.
        args: Its settings.
        vocabulary_size: The ids that the model has embeddings for.

    Attributes:
        template: Frames around plain documents.
        reports: By data set, how many documents lack the entities that the settings need.
        row_tags: `row_tags` of the training rows as they were given; of a stream, of its first hundred rows.
    """

    def __init__(
        self, trainer: Any, tokenizer: PreTrainedTokenizerBase, args: DocumentSFTConfig, vocabulary_size: int
    ) -> None:
        self._trainer, self._tokenizer, self._args = trainer, tokenizer, args
        self._vocabulary_size = vocabulary_size
        self.template = DocumentTemplate(tokenizer, trainer._document_wordings(args), args.system_prompt)
        self.reports: dict[str, EntityReport] = {}
        self.row_tags: str | None = None
        self._by_row = False

    @cached_property
    def _row_template(self) -> DocumentTemplate:
        """Frames of a question with its answer."""
        return DocumentTemplate(self._tokenizer, self._trainer._row_wordings(self._args), self._args.system_prompt)

    @cached_property
    def _rehearsal_template(self) -> DocumentTemplate:
        """Frames of a question with what the model itself answered."""
        return DocumentTemplate(self._tokenizer, (ANSWER,), self._args.system_prompt)

    def prepare(self, dataset: Dataset | IterableDataset, name: str) -> Dataset | IterableDataset:
        """The samples of ``dataset``, with the columns `PREPARED`; one that has them is returned as it is.

        Args:
            dataset: Rows of `text`, `prompt`/`completion` or `messages`.
            name: `train`, or what the data set is called in messages.
        """
        columns = list(dataset.features or next(iter(dataset)))
        self._by_row = "practice" in columns
        if name == "train":
            given = dataset.select_columns([column for column in columns if column != "predictions"])
            if isinstance(given, IterableDataset):
                given = given.take(_STREAMED)
            documents = (row for row in given if not (row.get("rehearsal") or row.get("practice")))
            self.row_tags = row_tags(map(_as_given, documents))
        if "document_ids" in columns:
            return dataset
        report = self._trainer._entity_report(self._args)

        def prepare(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
            prepared: dict[str, list[Any]] = {column: [] for column in PREPARED}
            for position, index in enumerate(indices):
                row = {column: values[position] for column, values in batch.items()}
                for sample in self._prepared(row, f"row {index} of the {name} data set", report):
                    for column, value in sample.items():
                        prepared[column].append(value)
                    prepared["fixed_masks"].append(name != "train")
            return prepared

        # Not cached: the fingerprint of a bound method is not stable, and preparing costs less than hashing it.
        options: dict[str, Any] = {"desc": f"Tokenizing {name}"} if isinstance(dataset, Dataset) else {}
        options |= {"remove_columns": columns, "features": PREPARED}
        dataset = dataset.map(prepare, batched=True, with_indices=True, **options)
        if report is not None and isinstance(dataset, Dataset):  # a stream is prepared while it is read
            self.reports[name] = report
            for line in report.warnings() if self._args.process_index == 0 else ():
                logger.warning(line)
        dataset = dataset.map(_number_samples, batched=True, with_indices=True)
        return dataset.shuffle(seed=self._args.seed) if self._args.shuffle_dataset else dataset

    def require_framed(self) -> None:
        """Refuse frames around documents with tokens that the model has no embedding for.

        Raises:
            ConfigurationError: there is such a token.
        """
        parts = [part for frame in self.template.frames for part in (frame.before, frame.between, frame.after)]
        self._require_embeddings([index for part in parts for index in part], "the prompt around documents")

    def _require_embeddings(self, ids: Sequence[int], where: str) -> None:
        """Refuse tokens that the tokenizer knows and the model does not, before any step is taken.

        Raises:
            ConfigurationError: there is one in ``ids``.
        """
        largest = max(ids)
        if largest >= self._vocabulary_size:
            token = self._tokenizer.convert_ids_to_tokens(largest)
            raise ConfigurationError(
                f"{where} holds the token {token!r} (id {largest}), for which the model has no embedding: its vocabulary "
                f"ends at {self._vocabulary_size - 1}. Take the tokenizer that belongs to the model, or resize the model's "
                "embeddings (resize_token_embeddings) and train those."
            )

    def _prepared(self, row: Mapping[str, Any], where: str, report: EntityReport | None) -> Iterator[dict[str, Any]]:
        """The samples of a row with the columns of `PREPARED`, except the one that says whether masks are fixed."""
        args, forbidden = self._args, self._trainer._forbidden_id()
        mask_unit = args.mask_unit if isinstance(args, CorruptionSFTConfig) else None
        samples = list(self._samples(row, where))
        if report is not None and samples[0][1] is None:  # a document
            report.add(with_title(title_of(row, args), row[args.dataset_text_field]), row, where)
        for document, own_frames in samples:
            shown = [
                document.ids,
                *(ids for frame in own_frames or () for ids in (frame.before, frame.between, frame.after)),
            ]
            if forbidden is not None and any(forbidden in ids for ids in shown):
                raise DataError(
                    f"{where} holds the mask token (id {forbidden}), which stands for what is hidden. Remove it from the "
                    "text, or set the model's mask_token_id to a token that texts do not hold."
                )
            self._require_embeddings(document.ids, where)
            frames = own_frames or self.template.frames
            yield {
                "document_ids": document.ids,
                "word_ids": hidden_words(document, row, mask_unit),
                "gaps": self._trainer._gaps(document, row, args),
                "frames": own_frames and [vars(frame) for frame in own_frames],
                "length": max(sample_length(frame, len(document.ids)) for frame in frames),
                "sample": 0,
                "turn": row["turn"] if row.get("rehearsal") else ALWAYS,
                "epochs": row.get("epochs"),
                "weight": 1.0 if self._by_row else None,
                "predictions": row.get("predictions") if row.get("rehearsal") else None,
            }

    def _samples(self, row: Mapping[str, Any], where: str) -> Iterator[tuple[EncodedDocument, Sequence[Frame] | None]]:
        """The samples of one row: encoded document, and frames of its own if it is a question with an answer."""
        args, row_template = self._args, self._row_template
        where = row.get("read_from") or where
        conversation = question_and_answer(row, where, args.dataset_text_field)
        if conversation is not None:
            prompt, answer = conversation
            if is_spoken(row):  # every objective learns it as it is
                row_template = self._rehearsal_template
            try:
                row_template.require_spoken(answer)
                frames = row_template.row_frames(prompt)
            except KinjectError as error:
                raise type(error)(f"{where}: {error}") from error
            document = row_template.encode(answer)
            length = max(sample_length(frame, len(document.ids)) for frame in frames)
            if args.max_length is not None and length > args.max_length:
                raise ConfigurationError(
                    f"{where}: question and answer take {length} tokens, over max_length {args.max_length}. "
                    "Raise --max_length; the answer is never cut."
                )
            yield document, frames
            return
        text = row.get(args.dataset_text_field)
        if not isinstance(text, str) or not text.strip():
            what = "is empty" if isinstance(text, str) else "is missing"
            raise DataError(
                f"{where}: '{args.dataset_text_field}' {what}. Expected a document, or 'prompt' and 'completion', or "
                "'messages'."
            )
        title, nameless = title_of(row, args), 0
        for document in self._pieces(text, title):
            nameless += bool(title.strip()) and not names(document.text, title)
            yield document, None
            for beside in self._trainer._texts_beside(document.text, row, args):
                yield from ((piece, None) for piece in self._pieces(beside))
        if nameless:
            logger.warning(
                "%s: its title is too long to stand above %d of its pieces, which are learned without it; shorten the "
                "title (%s), or raise --max_length",
                where,
                nameless,
                title.strip()[:60],
            )

    def _pieces(self, text: str, title: str = "") -> Iterator[EncodedDocument]:
        """``text`` under its ``title``, in pieces that fit `max_length` with the frame around them."""
        args, template = self._args, self.template
        if args.max_length is None:
            return iter([template.encode(with_title(title, text))])
        copies = 2 if any(frame.has_copy for frame in template.frames) else 1
        budget = (args.max_length - template.overhead()) // copies
        return split_document(template, text, budget, title, headings=args.keep_titles)


def title_of(row: Mapping[str, Any], args: DocumentSFTConfig) -> str:
    """The title that is put before the documents of ``row``; empty without `keep_titles`."""
    title = row.get("title") if args.keep_titles else None
    return title if isinstance(title, str) else ""


def vocabulary_size(model: str | PreTrainedModel | PeftModel, args: DocumentSFTConfig) -> int:
    """The number of ids that ``model``, or the one at that path, has embeddings for; read before any document is."""
    if not isinstance(model, str):
        return int(text_config(model).vocab_size)
    options = args.model_init_kwargs if isinstance(args.model_init_kwargs, dict) else {}
    config = AutoConfig.from_pretrained(
        model, revision=options.get("revision"), trust_remote_code=getattr(args, "trust_remote_code", False)
    )
    return int(config.get_text_config().vocab_size)


def sample_length(frame: Frame, document_length: int) -> int:
    """The tokens of a sample of ``document_length`` tokens in ``frame``."""
    copies = 2 if frame.has_copy else 1
    return len(frame.before) + len(frame.between) + len(frame.after) + copies * document_length


def _as_given(row: Mapping[str, Any]) -> dict[str, Any]:
    """``row`` without what `with_practice` and `with_kept` add to it."""
    return {name: value for name, value in row.items() if name not in ("practice", "epochs")}


def _number_samples(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[int]]:
    return {"sample": indices}


# Splitting. A document that is longer than the budget becomes several samples. It is cut at sentence ends where there are any,
# else after a comma or the like, else between words, and inside a word only if that alone exceeds the budget. Nothing is
# dropped. Context that a piece needs is repeated above it: the title of its document, the headings it stands under, and the
# header of a table that was cut.

# Commas, colons and dashes; in most scripts before white space, the wide ones of Chinese and Japanese anywhere.
_CLAUSE_END = regex.compile(
    r"[,;:،؛၊፣፤፥–—―…]++[\p{Pe}\p{Pf}\"'*_`]*+(?=\s)|[，、；：､﹐﹑﹔]++[\p{Pe}\p{Pf}]*+", regex.VERSION1
)
_WORD_END = regex.compile(r"(?<=\S)(?=\s)")
_CHARACTER = regex.compile(r"\X")  # what a reader takes for one
# Typesetters' rules for text without spaces: no line begins with a closing mark, and none ends with an opening one or with a
# vowel that is written before its consonant.
_KEPT_BEFORE = regex.compile(r"[\p{Pe}\p{Pf}\p{Terminal_Punctuation}\p{M}・·ー々〜…—]", regex.VERSION1)
_KEPT_BEHIND = regex.compile(r"[\p{Ps}\p{Pi}เแโใไເແໂໃໄ]", regex.VERSION1)
_WIDE = regex.compile(r"[\p{East_Asian_Width=F}\p{East_Asian_Width=W}]", regex.VERSION1)

# Markdown.
_FENCE = regex.compile(r" {0,3}(`{3,}|~{3,})")
_HEADING = regex.compile(r" {0,3}(#{1,6})[ \t]+\S")
_UNDERLINE = regex.compile(r" {0,3}(?:(=+)|-{2,})[ \t]*")
_TABLE_RULE = regex.compile(r"[ \t>]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*")

# The part of the budget that repeated context may take; more only above the row of a table that still fits.
_MOST_REPEATED = 0.75


class _Heading(NamedTuple):
    start: int
    end: int
    level: int
    text: str
    path: tuple[str, ...]  # the headings above it, from the outermost


class _Table(NamedTuple):
    start: int
    body: int  # where its first row begins
    end: int
    header: str


def split_document(
    template: DocumentTemplate, text: str, budget: int, title: str = "", headings: bool = True
) -> Iterator[EncodedDocument]:
    """Encode ``text`` as one or more documents of at most ``budget`` tokens each.

    White space at a cut is dropped, unless it indents a line. Every other character of the text appears in exactly one piece,
    in order, apart from the context that is repeated above a piece.

    Args:
        template: Encodes the pieces.
        text: The document.
        budget: The most tokens of a piece, repeated context included.
        title: Stands above every piece; above the first only if its text does not name it.
        headings: Whether the Markdown headings above a cut are repeated.

    Raises:
        ConfigurationError: ``budget`` is below one token.
    """
    if budget < 1:
        raise ConfigurationError(
            f"max_length leaves {budget} tokens for the document after the prompt around it; raise --max_length."
        )
    whole = template.encode(with_title(title, text))
    if len(whole.ids) <= budget:
        yield whole
        return
    yield from _Cutting(template, text, budget, title.strip(), headings).pieces()


class _Cutting:
    """Splits one document that is longer than the budget."""

    def __init__(self, template: DocumentTemplate, text: str, budget: int, title: str, headings: bool) -> None:
        self._template, self._text, self._budget, self._title = template, text, budget, title
        self._token_starts = [start for start, _ in template.encode(text).offsets]  # ascending, one a token
        found, self._tables = _markdown(text)
        self._headings = found if headings else []
        words = [match.end() for match in _WORD_END.finditer(text)]
        self._ends = [*self._sentences_and_clauses(found), words]

    def pieces(self) -> Iterator[EncodedDocument]:
        position = 0
        while position < len(self._text):
            piece, position = self._piece(position)
            if piece is not None:
                yield piece

    # Where to cut.

    def _sentences_and_clauses(self, headings: Sequence[_Heading]) -> tuple[list[int], list[int], list[int]]:
        """The ends of sentences, of table headers, and of clauses.

        A heading is not cut off from its text, and the end of a sentence within a row of a table counts as that of a clause.
        """
        text = self._text
        spans = [(each.start, _next_word(text, each.end)) for each in headings]
        spans = sorted([*spans, *((table.start, table.body) for table in self._tables)])
        sentences: list[int] = []
        clauses = [match.end() for match in _CLAUSE_END.finditer(text)]
        for end in sentence_ends(text):
            index = bisect_left(spans, (end,)) - 1
            if index < 0 or end > spans[index][1]:
                within_row = self._table_at(end) and text[end - 1] != "\n"
                (clauses if within_row else sentences).append(end)
        return sentences, [table.body for table in self._tables], sorted(clauses)

    @cached_property
    def _characters(self) -> tuple[list[int], list[int]]:
        """Positions between characters: those at which text without spaces may be split, and all of them."""
        text = self._text
        every = [match.end() for match in _CHARACTER.finditer(text)][:-1]
        good = [
            end
            for end in every
            if not (_KEPT_BEFORE.match(text, end) or _KEPT_BEHIND.match(text, end - 1))
            and any(is_unspaced(each) or _WIDE.match(each) for each in (text[end - 1], text[end]))
        ]
        return good, every

    def _cut(self, position: int, furthest: int) -> int:
        """The last position to split at of the best kind there is, after ``position`` and up to ``furthest``."""
        found = next(filter(None, (_last(ends, position, furthest) for ends in self._ends)), None)
        found = found or next(filter(None, (_last(ends, position, furthest) for ends in self._characters)), None)
        return found or furthest

    # What stands above a piece.

    def _table_at(self, position: int) -> _Table | None:
        """The table in whose rows ``position`` lies."""
        index = bisect_right(self._tables, position, key=lambda table: table.body) - 1
        return self._tables[index] if index >= 0 and position < self._tables[index].end else None

    def _above(self, position: int) -> tuple[list[str], str]:
        """The title and headings above a piece that begins at ``position``, and the header of its table."""
        position = _next_word(self._text, position)
        index = bisect_right(self._headings, position, key=lambda heading: heading.start) - 1
        above: list[str] = []
        if index >= 0:
            heading = self._headings[index]
            above = [*heading.path, *([heading.text] if heading.end <= position else [])]
        title = [self._title] if self._title and not any(names(text, self._title) for text in above) else []
        table = self._table_at(position)
        header = table.header if table else ""
        # Where not all fits, the outer headings are left out first, then the line below the header of the table.
        aboves = [[*title, *above[skipped:]] for skipped in range(len(above) + 1)]
        headers = (header, header.partition("\n")[0])
        choices = [(each, line) for each in ([*aboves, []] if table else ()) for line in headers]
        choices += [(each, "") for each in ([*title, *above], [*title, *above[-1:]], title)]
        row = self._text[position : table.end].partition("\n")[0] if table else ""
        with_row = (each for each in choices if each[1] and self._count(_composed(*each, row)) <= self._budget)
        most = int(_MOST_REPEATED * self._budget)
        alone = (each for each in choices if self._count(_composed(*each, "")) <= most)
        return next(with_row, None) or next(alone, ([], ""))

    def _count(self, text: str) -> int:
        return len(self._template.encode(text).ids) if text else 0  # mostly nothing stands above a piece

    def _piece(self, position: int) -> tuple[EncodedDocument | None, int]:
        """The piece that begins at ``position``, and where it ends."""
        if self._title and position <= _next_word(self._text, 0):
            piece, end = self._fitted(position, [], "")
            if piece is not None and names(piece.text, self._title):
                return piece, end
        above, header = self._above(position)
        piece, end = self._fitted(position, above, header)
        if piece is not None and len(piece.ids) > self._budget and (above or header):
            return self._fitted(position, [], "")  # the context does not fit
        return piece, end

    def _fitted(self, position: int, above: Sequence[str], header: str) -> tuple[EncodedDocument | None, int]:
        """A piece from ``position`` on that fits and is at least one character long, and where it ends."""
        room = self._budget - self._count(_composed(above, header, ""))
        first = bisect_left(self._token_starts, position)
        rest_fits = len(self._token_starts) - first <= room
        furthest = len(self._text) if rest_fits else max(self._token_starts[first + room], position + 1)
        while True:
            end = furthest if furthest == len(self._text) else self._cut(position, furthest)
            chunk = _without_outer_space(self._text, position, end)
            if not chunk:
                return None, end
            encoded = self._template.encode(_composed(above, header, chunk))
            if len(encoded.ids) <= self._budget or end - position <= 1:
                return encoded, end
            # A piece may tokenize into more tokens than it had in the document; take less until it fits.
            taken = len(encoded.ids) - self._budget + room
            furthest = position + max(1, (end - position) * room // (taken + 1))


def _last(ends: Sequence[int], position: int, furthest: int) -> int | None:
    index = bisect_right(ends, furthest) - 1
    return ends[index] if index >= 0 and ends[index] > position else None


def _next_word(text: str, position: int) -> int:
    """The first character from ``position`` on that is no white space, or the end."""
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _without_outer_space(text: str, start: int, end: int) -> str:
    """The text from ``start`` to ``end`` without white space around it, except what indents its first line."""
    chunk = text[start:end].rstrip()
    lead = chunk[: len(chunk) - len(chunk.lstrip())]
    if "\n" in lead:
        return chunk[lead.rindex("\n") + 1 :]
    return chunk if start == 0 or text[start - 1] == "\n" else chunk.lstrip()


def _composed(above: Sequence[str], header: str, chunk: str) -> str:
    below = "\n".join(part for part in (header, chunk) if part)
    return "\n\n".join([*above, below] if below else above)


def _markdown(text: str) -> tuple[list[_Heading], list[_Table]]:
    """The headings and tables of ``text``, none inside fenced code."""
    headings: list[_Heading] = []
    tables: list[_Table] = []
    fence = ""
    position = 0
    previous: tuple[int, str] | None = None  # start and text of the line before, if it may be a heading or table header
    alone = True  # whether an empty line stands before that line
    in_table = False
    for line in text.split("\n"):
        start, end, position = position, position + len(line), position + len(line) + 1
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not line[mark.end() :].strip():
                fence = ""
            previous, alone, in_table = None, True, False
            continue
        if in_table and "|" in line:
            tables[-1] = tables[-1]._replace(end=end)
            continue
        in_table = False
        if mark:
            fence = mark[1]
        elif found := _HEADING.match(line):
            headings.append(_below(headings, start, end, len(found[1]), line.strip()))
        elif previous and alone and (found := _UNDERLINE.fullmatch(line)):
            headings.append(_below(headings, previous[0], end, 1 if found[1] else 2, text[previous[0] : end]))
        elif previous and "|" in previous[1] and "|" in line and _TABLE_RULE.fullmatch(line):
            tables.append(_Table(previous[0], min(position, len(text)), end, text[previous[0] : end]))
            in_table = True
        elif line.strip():
            alone, previous = previous is None, (start, line)
            continue
        previous = None
    return headings, tables


def _below(headings: Sequence[_Heading], start: int, end: int, level: int, text: str) -> _Heading:
    """The heading that follows ``headings``, with the path of those it stands under."""
    path: tuple[str, ...] = ()
    for earlier in reversed(headings):
        if earlier.level < level:
            path = (*earlier.path, earlier.text)
            break
    return _Heading(start, end, level, text, path)
