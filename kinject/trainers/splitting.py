"""Splits documents to fit a token budget, without losing a word; every piece names its subject.

A document that is longer than the budget becomes several samples. It is cut at sentence ends where there are any, else after a
comma or the like, else between words, and inside a word only if that alone exceeds the budget. Nothing is dropped. Context that
a piece needs is repeated above it: the title of its document, the headings it stands under, and the header of a table that was
cut. Knows nothing of objectives and of the frames around documents.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import regex

from kinject.data.knowledge import names, with_title
from kinject.data.words import is_unspaced, sentence_ends
from kinject.errors import ConfigurationError

if TYPE_CHECKING:
    from kinject.prompts.encoding import EncodedDocument
    from kinject.prompts.templates import DocumentTemplate


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
