"""PDF in, Markdown out: lines of characters become paragraphs, headings and tables again, without heads, feet and hyphens.

A PDF knows where each character stands, not what it is part of. What is told from it here: a line that most pages begin or end
with is a running head; a line in larger type, or one that the outline names, is a heading; lines in columns are a table; a
paragraph ends where a line ends early, or where the gap below it is larger than usual. Knows nothing of files.
"""

from __future__ import annotations

import ctypes
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from kinject.errors import DataError

_HYPHENS = "-\u00ad\u2010\u0002\ufffe"  # PDFium writes U+0002 or U+FFFE for one at the end of a line
_LARGER = 1.12  # times the usual size of type, which makes a line a heading
_COLUMN = 1.8  # widths of a usual character between two cells of a table
_LIST = re.compile(r"(?:[•▪◦‣●○■□–—*-]|\(?\d{1,3}[.)]|\(?[a-z][.)])\s+")
_PAGE_NUMBER = re.compile(
    r"(?:page|seite|página|p\.)?\s*[-–]?\s*(?:\d{1,4}|[ivxlc]{1,7})\s*[-–]?(?:\s*(?:of|/|von|de)\s*\d{1,4})?",
    re.IGNORECASE,
)
_CONTENTS = re.compile(r"(?:\. ?){5,}\s*\S{0,5}$")  # dots that lead to the number of a page


@dataclass
class _Line:
    cells: list[str]  # one, or those of a row of a table
    size: float  # of its type, in points
    left: float
    right: float
    top: float
    bottom: float

    @property
    def text(self) -> str:
        return " ".join(self.cells)


def markdown_of_pdf(data: bytes) -> tuple[str, str]:
    """Title and text of a PDF; no text at all where its pages are pictures.

    Raises:
        DataError: it is locked by a password, or damaged.
    """
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        locked = "password" in str(error).lower()
        why = (
            "it is locked by a password; save an unlocked copy"
            if locked
            else f"it is no whole PDF ({error}); export it again"
        )
        raise DataError(why) from error
    try:
        title = str(document.get_metadata_value("Title") or "").strip()
        outline = {_folded(mark.get_title()): mark.level for mark in document.get_toc(max_depth=6)}
        pages = [list(_lines(page)) for page in (document[index] for index in range(len(document)))]
    finally:
        document.close()
    return title, "\n\n".join(_blocks(_without_running(pages), outline))


def _folded(text: str | None) -> str:
    return re.sub(r"[\W_]+", "", text or "").lower()


def _lines(page: Any) -> Iterator[_Line]:
    """The lines of a page in the order in which they are written."""
    import pypdfium2.raw as pdfium

    textpage = page.get_textpage()
    characters: list[tuple[str, float, float, float, float, float]] = []
    left, right, bottom, top = (ctypes.c_double() for _ in range(4))
    for index in range(textpage.count_chars()):
        character = chr(pdfium.FPDFText_GetUnicode(textpage, index))
        if character == "\n":
            if characters:
                yield _line(characters)
            characters = []
        elif character != "\r":
            pdfium.FPDFText_GetCharBox(textpage, index, left, right, bottom, top)
            size = pdfium.FPDFText_GetFontSize(textpage, index)
            box = (left.value, right.value, bottom.value, top.value)
            characters.append((character, *box, size))
    if characters:
        yield _line(characters)


def _line(characters: Sequence[tuple[str, float, float, float, float, float]]) -> _Line:
    inked = [each for each in characters if not each[0].isspace() and each[2] > each[1]]
    if not inked:
        return _Line([""], 0.0, 0.0, 0.0, 0.0, 0.0)
    width = median(each[2] - each[1] for each in inked) or 1.0
    cells, end = [""], inked[0][2]
    for character, left, right, _, _, _ in characters:
        if not character.isspace():
            if left - end > _COLUMN * max(width, 3.0) and cells[-1].strip():
                cells.append("")
            end = max(right, end) if right > left else end
        cells[-1] += character
    cells = [" ".join(cell.split()) for cell in cells if cell.strip()]
    return _Line(
        cells,
        median(each[5] for each in inked),
        min(each[1] for each in inked),
        max(each[2] for each in inked),
        max(each[4] for each in inked),
        min(each[3] for each in inked),
    )


def _without_running(pages: Sequence[list[_Line]]) -> list[list[_Line]]:
    """The pages without page numbers, contents with leading dots, and what stands above or below the text of most.

    What the first page begins with stays: there it is the title.
    """
    kept = [[line for line in page if line.text.strip() and not _CONTENTS.search(line.text)] for page in pages]
    for _ in range(3):  # a head may have several lines
        for edge in (_topmost, _lowest):
            shapes = Counter(_shape(edge(page)) for page in kept if len(page) > 1)
            common = {shape for shape, count in shapes.items() if count >= 3 and count > 0.3 * len(kept)}
            for place, page in enumerate(kept):
                if not page:
                    continue
                line = edge(page)
                title = place == 0 and edge is _topmost
                if _PAGE_NUMBER.fullmatch(line.text) or (len(page) > 1 and not title and _shape(line) in common):
                    page.remove(line)
    return kept


def _topmost(page: Sequence[_Line]) -> _Line:
    return max(page, key=lambda line: line.top)


def _lowest(page: Sequence[_Line]) -> _Line:
    return min(page, key=lambda line: line.bottom)


def _shape(line: _Line) -> str:
    return re.sub(r"\d+", "#", line.text)


def _blocks(pages: Sequence[Sequence[_Line]], outline: dict[str, int]) -> Iterator[str]:
    """Headings, tables, entries of lists and paragraphs; a paragraph may go on over the end of a page."""
    lines = [line for page in pages for line in page]
    if not lines:
        return
    weights: Counter[float] = Counter()
    for line in lines:
        weights[round(line.size, 1)] += len(line.text)
    usual = weights.most_common(1)[0][0]
    sizes = sorted({round(line.size, 1) for line in lines if line.size > _LARGER * usual}, reverse=True)
    gaps = [above.bottom - below.top for page in pages for above, below in zip(page, page[1:], strict=False)]
    gap = median([each for each in gaps if each > 0] or [0.0])
    right = sorted(line.right for line in lines)[int(0.9 * (len(lines) - 1))]
    paragraph: list[_Line] = []
    table: list[list[str]] = []
    heading, level = "", 0

    def flush() -> Iterator[str]:
        nonlocal heading
        if heading:
            yield f"{'#' * level} {heading}"
        heading = ""
        if len(table) > 1:
            yield table_of(table)
        elif table:
            yield "  ".join(table[0])
        table.clear()
        if paragraph:
            yield _joined(paragraph)
        paragraph.clear()

    for page in pages:
        for index, line in enumerate(page):
            above = page[index - 1] if index else None
            far = above is not None and above.bottom - line.top > 1.5 * gap + 0.3 * usual
            named = outline.get(_folded(line.text))
            large = round(line.size, 1) in sizes and len(line.text) < 200
            if (named is not None and len(line.text) < 200) or large:
                depth = min(named + 1 if named is not None else sizes.index(round(line.size, 1)) + 1, 6)
                if not (heading and depth == level and not far):
                    yield from flush()
                    level = depth
                heading = f"{heading} {line.text}".strip()
                continue
            if heading:
                yield from flush()
            if len(line.cells) > 1 and not _LIST.match(line.text):
                if paragraph or (table and (far or len(line.cells) > len(table[0]))):
                    yield from flush()
                table.append(line.cells)
                continue
            if table:
                yield from flush()
            ended = bool(paragraph) and (
                far
                or bool(_LIST.match(line.text))
                or (paragraph[-1].right < 0.8 * right and paragraph[-1].text.rstrip()[-1:] in ".!?:;”\"'。！？")
            )
            if ended:
                yield from flush()
            paragraph.append(line)
    yield from flush()


def _joined(lines: Sequence[_Line]) -> str:
    """The lines of a paragraph as one; a word that was hyphenated is whole again."""
    text = lines[0].text
    for line in lines[1:]:
        following = line.text
        if (
            text
            and text[-1] in _HYPHENS
            and text[-2:-1].isalpha()
            and following[:1].islower()
            or text
            and text[-1] in _HYPHENS[1:]
        ):
            text = text[:-1] + following
        else:
            text = f"{text} {following}"
    text = re.sub(r"(?<=\w)[\u0002\ufffe]\s?(?=[^\W\d_A-Z])", "", text)  # PDFium joins such lines by itself
    text = re.sub(r"[\u0002\ufffe]", "-", text)
    return re.sub(r"^[•▪◦‣●○■□]\s*", "- ", text)


def table_of(rows: list[list[str]]) -> str:
    """A Markdown table whose first row is its header; "" where no cell says anything."""
    if not any(cell for row in rows for cell in row):
        return ""
    width = max((len(row) for row in rows), default=0)
    lines = [
        "| " + " | ".join([*(cell.replace("|", "/") for cell in row), *[""] * (width - len(row))]) + " |"
        for row in rows
    ]
    return "\n".join([*lines[:1], "|" + " --- |" * width, *lines[1:]])
