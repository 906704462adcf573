"""Files as other programs write them, for tests: PDF, HTML, DOCX, PPTX, EPUB, and a spreadsheet's CSV."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure


def write_pdf(path: Path, pages: Sequence[Sequence[tuple[float, float, float, str]]], title: str = "") -> Path:
    """A PDF whose pages hold texts at (x, y) in points from the upper left, with a size of type."""
    with PdfPages(path, metadata={"Title": title, "CreationDate": None}) as pdf:
        for texts in pages:
            figure = Figure(figsize=(595 / 72, 842 / 72))
            for x, y, size, text in texts:
                figure.text(x / 595, 1 - y / 842, text, fontsize=size, parse_math=False)
            pdf.savefig(figure)
    return path


def page(
    lines: Sequence[str], *, number: int = 1, heading: str = "", head: str = ""
) -> list[tuple[float, float, float, str]]:
    """A page of running text, with a head and a page number where asked."""
    texts = [(72.0, 50.0, 9.0, head)] if head else []
    texts += [(72.0, 90.0, 18.0, heading)] if heading else []
    texts += [(72.0, 120.0 + 14 * place, 11.0, line) for place, line in enumerate(lines)]
    return [*texts, (297.0, 810.0, 9.0, str(number))]


def write_docx(path: Path, body: str) -> Path:
    """A DOCX of WordprocessingML paragraphs and tables, as Word nests them."""
    content = "application/vnd.openxmlformats-officedocument.wordprocessingml"
    space = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    parts = {
        "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Default '
        'Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Override '
        f'PartName="/word/document.xml" ContentType="{content}.document.main+xml"/><Override PartName="/word/styles.xml" '
        f'ContentType="{content}.styles+xml"/></Types>',
        "_rels/.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship '
        f'Id="r1" Type="{relation}/officeDocument" Target="word/document.xml"/></Relationships>',
        "word/_rels/document.xml.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/'
        f'relationships"><Relationship Id="r1" Type="{relation}/styles" Target="styles.xml"/></Relationships>',
        "word/styles.xml": f"<w:styles {space}>"
        + "".join(
            f'<w:style w:type="paragraph" w:styleId="{name.replace(" ", "")}"><w:name w:val="{name}"/></w:style>'
            for name in ("Title", "heading 1", "heading 2")
        )
        + "</w:styles>",
        "word/document.xml": f"<w:document {space}><w:body>{body}</w:body></w:document>",
    }
    return _zip(path, parts)


def paragraph(text: str, style: str = "") -> str:
    """A paragraph of WordprocessingML."""
    styled = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{styled}<w:r><w:t>{text}</w:t></w:r></w:p>"


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table of WordprocessingML."""
    lines = ("".join(f"<w:tc>{paragraph(cell)}</w:tc>" for cell in row) for row in rows)
    return f"<w:tbl>{''.join(f'<w:tr>{line}</w:tr>' for line in lines)}</w:tbl>"


def write_epub(path: Path, title: str, chapters: Sequence[str]) -> Path:
    """A book with a navigation page, which is no chapter."""
    items = "".join(f'<item id="c{place}" href="text/c%20{place}.xhtml"/>' for place in range(len(chapters)))
    spine = "".join(f'<itemref idref="c{place}"/>' for place in range(len(chapters)))
    parts = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": '<?xml version="1.0"?><container><rootfiles><rootfile full-path="OPS/book.opf"/></rootfiles>'
        "</container>",
        "OPS/book.opf": f'<?xml version="1.0"?><package><metadata><dc:title>{title}</dc:title></metadata><manifest><item '
        f'id="nav" href="nav.xhtml" properties="nav"/>{items}</manifest><spine><itemref idref="nav"/>{spine}</spine></package>',
        "OPS/nav.xhtml": "<html><body><p>Where is what</p></body></html>",
        **{
            f"OPS/text/c {place}.xhtml": f'<?xml version="1.0"?><html><head></head><body>{chapter}</body></html>'
            for place, chapter in enumerate(chapters)
        },
    }
    return _zip(path, parts)


def _zip(path: Path, parts: dict[str, str]) -> Path:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    path.write_bytes(packed.getvalue())
    return path


def workbook(path: Path, **sheets: list[list[Any]]) -> Path:
    """A spreadsheet with these sheets; one whose name begins with `hidden` is hidden."""
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        sheet.sheet_state = "hidden" if name.startswith("hidden") else "visible"
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path
