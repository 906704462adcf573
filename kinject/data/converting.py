"""PDF, HTML, DOCX, PPTX, EPUB and reStructuredText in, clean Markdown out: what a reader would call the text of a file.

Titles, headings, lists and tables survive; navigation, page numbers, running heads, hyphenation and the marks of emphasis do
not. Each format is read by the library for it (extra `documents`); nothing is fetched, run or included. Knows nothing of rows,
questions or tokens.
"""

from __future__ import annotations

import io
import logging
import posixpath
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from html import unescape
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from kinject.data.pdf import markdown_of_pdf, table_of
from kinject.data.words import with_plain_line_ends
from kinject.errors import DataError

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag

logger = logging.getLogger(__name__)

# What reads each kind, as it is imported.
_NEEDS = {
    ".pdf": ("pypdfium2",),
    ".html": ("bs4", "markdownify"),
    ".docx": ("mammoth", "bs4", "markdownify"),
    ".pptx": ("pptx",),
    ".epub": ("bs4", "markdownify"),
    ".rst": ("docutils", "bs4", "markdownify"),
}
DOCUMENT_KINDS = tuple(_NEEDS)
EXTRA = "pip install 'kinject[documents]'"

# What programs call a document that nobody has named.
_BLANK_TITLES = {
    "presentation",
    "powerpoint presentation",
    "document",
    "word document",
    "untitled",
    "untitled document",
}
_LARGEST = 1 << 30  # bytes that the parts of an archive may have unpacked


def missing_package(kind: str) -> str:
    """A package that is needed to read ``kind`` and not installed; "" where none is missing."""
    return next((name for name in _NEEDS[kind] if find_spec(name) is None), "")


def convert(path: Path, kind: str, data: bytes) -> tuple[str, str]:
    """Title and text of a file, the text as Markdown; the title is "" where the text says it, or nobody does.

    Args:
        path: the file, for error messages.
        kind: one of `DOCUMENT_KINDS`.
        data: its bytes.

    Raises:
        DataError: the package that reads it is missing, or the file is damaged, locked, or of another kind.
    """
    package = missing_package(kind)
    if package:
        raise DataError(f"{path}: {kind} files are read by {package}, which is not installed: {EXTRA}")
    try:
        title, text = _CONVERTERS[kind](data)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(
            f"{path}: not a whole {kind} file ({error}); save it again in the program it is from"
        ) from error
    except (ValueError, OSError, AttributeError, TypeError, IndexError, RuntimeError) as error:
        # What the libraries raise on damaged files.
        raise DataError(f"{path}: cannot be read as {kind} ({error}); save it again, or export its text") from error
    text, title = _tidy(text), re.sub(r"^Microsoft \w+ - ", "", title)
    return ("" if _says(text, title) or title.strip().lower() in _BLANK_TITLES else " ".join(title.split())), text


def _says(text: str, title: str) -> bool:
    """Whether the first heading of ``text`` is its title."""
    first = text.partition("\n")[0]
    return first.startswith("# ") or first.lstrip("# ").strip() == title.strip()


def _tidy(text: str) -> str:
    """``text`` without invisible characters, trailing spaces and runs of empty lines."""
    text = with_plain_line_ends(re.sub("[\0\u00ad\u200b\u2060\ufeff]", "", text).replace("\u00a0", " "))
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")


def _open_archive(data: bytes) -> zipfile.ZipFile:
    """An Office or EPUB file as the archive it is.

    Raises:
        DataError: it is locked by a password, or would fill the memory.
    """
    if data.startswith(b"\xd0\xcf\x11\xe0"):
        raise DataError(
            "it is locked by a password, or of the format before 2007; save it unlocked in the present format"
        )
    archive = zipfile.ZipFile(io.BytesIO(data))
    if sum(entry.file_size for entry in archive.infolist()) > _LARGEST:
        raise DataError("its parts are over a gigabyte when unpacked; divide the file")
    return archive


# HTML.

_NEVER_TEXT = (
    "script",
    "style",
    "noscript",
    "template",
    "svg",
    "iframe",
    "object",
    "button",
    "select",
    "input",
    "head",
)
_FURNITURE = ("nav", "footer", "aside", "form", "dialog")
_FURNITURE_ROLES = {"navigation", "banner", "contentinfo", "search", "complementary", "menu", "menubar", "dialog"}
# Words of a class or id that mark what stands around a text.
_FURNITURE_WORDS = set(
    str.split(
        """nav navbar navigation navheader navfooter sidebar breadcrumb breadcrumbs menu toc tableofcontents footer pagination
        pager skip skiplink headerlink cookie cookies share sharing social related advert ads editsection noprint"""
    )
)
# Kinds of <aside> that are part of the text, by role, `epub:type` or class: notes in a book or in documentation.
_NOTES = {"admonition", "endnote", "footnote", "footnotes", "note", "rearnote", "topic"}
_ANCHORS = {"#", "¶", "§", "", "🔗", "↑", "Δ"}
# Emphasis is no part of what is learned; links and pictures neither.
_PLAIN = [
    *(
        "a",
        "b",
        "strong",
        "em",
        "i",
        "u",
        "s",
        "del",
        "ins",
        "small",
        "mark",
        "code",
        "kbd",
        "samp",
        "var",
        "sub",
        "sup",
    ),
    *("abbr", "cite", "q", "span", "img", "figure", "font", "tt"),
]


def markdown_of_html(html: str | bytes) -> tuple[str, str]:
    """Title and text of a page, without navigation and the like."""
    soup = _parsed(html)
    title = soup.title.get_text(" ", strip=True) if soup.title else ""
    return title, _markdown(soup)


def _parsed(markup: str | bytes) -> BeautifulSoup:
    from bs4 import BeautifulSoup, XMLParsedAsHTMLWarning

    with warnings.catch_warnings():  # XHTML is read as well by a parser that forgives, and that follows no entity
        warnings.simplefilter("ignore", XMLParsedAsHTMLWarning)
        return BeautifulSoup(markup, "html.parser")


def _markdown(soup: BeautifulSoup) -> str:
    from bs4 import Comment, NavigableString
    from markdownify import MarkdownConverter

    for each in soup.find_all(string=lambda text: isinstance(text, Comment) or type(text) is not NavigableString):
        each.extract()
    for tag in soup.find_all([*_NEVER_TEXT, "img"]):
        tag.decompose()
    for mark in soup.find_all("a"):
        if mark.get_text(strip=True) in _ANCHORS:
            mark.decompose()
    mains = soup.find_all("main") or soup.find_all(role="main") or soup.find_all("article")
    content = mains[0] if len(mains) == 1 and len(mains[0].get_text()) > 0 else soup.body or soup
    _drop_furniture(content)
    for string in content.find_all(string=True):
        if string.find_parent("pre") is None:
            string.replace_with(NavigableString(re.sub(r"\s+", " ", string)))
    converter = MarkdownConverter(
        heading_style="ATX",
        bullets="-",
        strip=_PLAIN,
        escape_asterisks=False,
        escape_underscores=False,
        escape_misc=False,
        table_infer_header=True,
    )
    return str(converter.convert_soup(content))


def _drop_furniture(content: Tag) -> None:
    """Take navigation and the like out of ``content``; what holds most of the text, or its main heading, is none."""
    whole = len(content.get_text())
    for tag in content.find_all(True):
        if tag.decomposed:
            continue
        words = {
            word.lower() for name in (*_listed(tag.get("class")), *_listed(tag.get("id"))) for word in _words(name)
        }
        kinds = {
            *words,
            *_listed(tag.get("epub:type")),
            *(role.removeprefix("doc-") for role in _listed(tag.get("role"))),
        }
        furniture = (
            (tag.name in _FURNITURE and not (tag.name == "aside" and kinds & _NOTES))
            or bool(_FURNITURE_ROLES & set(_listed(tag.get("role"))))
            or tag.get("aria-hidden") == "true"
            or tag.has_attr("hidden")
            or bool(words & _FURNITURE_WORDS)
            or _is_contents(tag)
        )
        if furniture and len(tag.get_text()) <= whole / 2 and tag.find(["h1", "main", "article"]) is None:
            tag.decompose()


def _listed(value: Any) -> list[str]:
    return value.split() if isinstance(value, str) else list(value or ())


def _words(name: str) -> list[str]:
    return re.split(r"[-_\s]+", name) + [re.sub(r"[-_]", "", name)]


def _is_contents(tag: Tag) -> bool:
    """Whether ``tag`` is a list of links into its own page."""
    if tag.name not in ("ul", "ol") or len(links := tag.find_all("a")) < 2:
        return False
    inside = all(str(link.get("href") or "").startswith("#") for link in links)
    linked = sum(len(link.get_text(strip=True)) for link in links)
    return inside and linked >= 0.9 * len(tag.get_text("", strip=True))


# Office.


def _docx(data: bytes) -> tuple[str, str]:
    import mammoth

    archive = _open_archive(data)
    styles = "p[style-name='Title'] => h1:fresh\np[style-name='Subtitle'] => p:fresh"
    html = mammoth.convert_to_html(
        io.BytesIO(data), style_map=styles, convert_image=mammoth.images.img_element(_no_image)
    )
    title, text = markdown_of_html(html.value)
    return title or _core_title(archive), text


def _no_image(image: Any) -> dict[str, str]:
    return {"src": ""}


def _core_title(archive: zipfile.ZipFile) -> str:
    """The title in the properties of an Office file."""
    if "docProps/core.xml" not in archive.namelist():
        return ""
    found = re.search(rb"<dc:title>([^<]*)</dc:title>", archive.read("docProps/core.xml"))
    return unescape(found[1].decode("utf-8", "replace")) if found else ""


def _pptx(data: bytes) -> tuple[str, str]:
    import pptx

    archive = _open_archive(data)
    parts: list[str] = []
    for slide in pptx.Presentation(io.BytesIO(data)).slides:
        title = slide.shapes.title
        heading = " ".join(title.text_frame.text.split()) if title is not None else ""
        parts += [f"## {heading}"] if heading else []
        parts += [text for shape in slide.shapes if shape != title for text in _shape_texts(shape)]
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            parts += [slide.notes_slide.notes_text_frame.text.strip()]
    return _core_title(archive), "\n\n".join(part for part in parts if part)


_SLIDE_FURNITURE = ("DATE", "FOOTER", "SLIDE_NUMBER", "HEADER")


def _shape_texts(shape: Any) -> Iterator[str]:
    """What a shape of a slide says, the shapes of a group one by one."""
    if shape.is_placeholder and str(shape.placeholder_format.type).split(" ")[0] in _SLIDE_FURNITURE:
        return
    if hasattr(shape, "shapes"):
        for each in shape.shapes:
            yield from _shape_texts(each)
    elif getattr(shape, "has_table", False):
        yield table_of([[" ".join(cell.text.split()) for cell in row.cells] for row in shape.table.rows])
    elif getattr(shape, "has_chart", False):
        for plot in shape.chart.plots:
            rows = [["", *(series.name for series in plot.series)]]
            for index, category in enumerate(plot.categories):
                values = [series.values[index] if index < len(series.values) else None for series in plot.series]
                rows.append([str(category), *("" if value is None else f"{value:g}" for value in values)])
            yield table_of(rows)
    elif shape.has_text_frame:
        said = [(paragraph.level, " ".join(paragraph.text.split())) for paragraph in shape.text_frame.paragraphs]
        said = [(level, text) for level, text in said if text]
        if len(said) > 1:
            yield "\n".join(f"{'  ' * level}- {text}" for level, text in said)
        else:
            yield from (text for _, text in said)


# Books.


def _epub(data: bytes) -> tuple[str, str]:
    archive = _open_archive(data)
    if "META-INF/encryption.xml" in archive.namelist() and b"<enc:EncryptedData" in archive.read(
        "META-INF/encryption.xml"
    ):
        fonts = re.findall(rb'URI="([^"]*)"', archive.read("META-INF/encryption.xml"))
        if any(not name.lower().endswith((b".otf", b".ttf", b".woff", b".woff2")) for name in fonts):
            raise DataError("the book is locked (DRM); only books without a lock can be read")
    container = _parsed(archive.read("META-INF/container.xml"))
    place = str(container.find("rootfile")["full-path"])  # type: ignore[index]
    package = _parsed(archive.read(place))
    named = package.find("dc:title")
    items = {
        str(item["id"]): unquote(str(item["href"]))
        for item in package.find_all("item")
        if item.get("id") and item.get("href") and "nav" not in str(item.get("properties") or "").split()
    }
    chapters = [items[str(each["idref"])] for each in package.find_all("itemref") if each.get("idref") in items]
    texts = []
    for chapter in chapters:
        title, text = markdown_of_html(
            archive.read(posixpath.normpath(posixpath.join(posixpath.dirname(place), chapter)))
        )
        texts.append(_tidy(text))
    return named.get_text(" ", strip=True) if named else "", "\n\n".join(texts)


# reStructuredText.


def _rst(data: bytes) -> tuple[str, str]:
    from docutils.core import publish_parts

    text = data.decode("utf-8-sig")
    _know_names(text)
    settings = {
        "report_level": 5,
        "halt_level": 5,
        "file_insertion_enabled": False,
        "raw_enabled": False,
        "embed_stylesheet": False,
        "stylesheet_path": None,
        "stylesheet": None,
        "doctitle_xform": False,
        "initial_header_level": 1,
        "sectsubtitle_xform": False,
        "input_encoding": "unicode",
        "smart_quotes": False,
        "syntax_highlight": "none",
        "_disable_config": True,
    }
    parts = publish_parts(text, writer="html5", settings_overrides=settings)
    return "", markdown_of_html(parts["html_body"])[1]


def _know_names(text: str) -> None:
    """Let docutils keep the text of directives and roles that it does not know, such as those of Sphinx.

    It would report them and leave their text out.
    """
    from docutils import nodes
    from docutils.parsers.rst import Directive, directives, languages, roles
    from docutils.utils import Reporter, new_document

    class AnyOption(dict[str, Any]):
        def __missing__(self, name: str) -> Callable[[str | None], str | None]:
            return directives.unchanged

    class Kept(Directive):
        has_content = True
        optional_arguments = 1000
        final_argument_whitespace = True
        option_spec = AnyOption({"class": directives.unchanged})

        def run(self) -> list[nodes.Node]:
            kept: list[nodes.Node] = []
            if self.arguments:
                kept += [nodes.paragraph("", " ".join(self.arguments))]
            body = nodes.container()
            self.state.nested_parse(self.content, self.content_offset, body)
            return [*kept, *body.children]

    def kept(
        name: str, rawtext: str, text: str, *rest: Any, **options: Any
    ) -> tuple[list[nodes.Node], list[nodes.Node]]:
        return [nodes.inline(rawtext, re.sub(r"\s*<[^>]*>$", "", text).lstrip("~!"))], []

    english = languages.get_language("en")
    document = new_document("")
    document.reporter = Reporter("", 5, 5, io.StringIO())
    for name in set(re.findall(r"^[ \t]*\.\. (?:\|[^|]+\| )?([\w:+.-]+?)::(?:\s|$)", text, re.MULTILINE)):
        if directives.directive(name, english, document)[0] is None:
            directives.register_directive(name, Kept)
    for name in set(re.findall(r"(?<![\w`]):([a-zA-Z][\w:+.-]*):`", text)):
        if roles.role(name, english, 0, document.reporter)[0] is None:
            roles.register_local_role(name, kept)


# Markdown, which needs no converting but for the block on its top.

_FRONT_MATTER = re.compile(
    r"(?:---[ \t]*\n(?P<yaml>.*?\n)??(?:---|\.\.\.)|\+\+\+[ \t]*\n(?P<toml>.*?\n)??\+\+\+)[ \t]*(?:\n|$)", re.DOTALL
)
_FIELDS_ALONE = re.compile(r"(?:[\w -]+[:=].*\n|[ \t#\]}-].*\n)+")


def front_matter(text: str, path: Path) -> tuple[str, str]:
    """The title in a leading YAML (``---``) or TOML (``+++``) block, and the ``text`` behind that block.

    Where the marks are rulers with other text between them, all of ``text`` is kept.
    """
    match = _FRONT_MATTER.match(text)
    if not match:
        return "", text
    block, rest = match["yaml"] or match["toml"] or "", text[match.end() :]
    try:
        fields = _toml(block) if match[0].startswith("+") else _yaml(block)
    except ValueError as error:
        if not _FIELDS_ALONE.fullmatch(block):
            return "", text  # rulers, and text between them
        logger.warning(
            "%s: its front matter cannot be read (%s) and is left out, with the title if it has one; write it as valid %s",
            path, error, "TOML" if match[0].startswith("+") else "YAML",
        )  # fmt: skip
        return "", rest
    if not isinstance(fields, dict):
        return "", rest if fields is None else text
    title = next((value for name, value in fields.items() if str(name).lower() == "title"), None)
    if title is None and not (block or "\n").splitlines()[0].strip() and block.strip():
        return "", text  # the mark is a ruler, as an empty line follows it
    return ("" if isinstance(title, (dict, list)) or title is None else " ".join(str(title).split())), rest


def _yaml(block: str) -> object:
    import yaml

    try:
        return yaml.load(block, yaml.BaseLoader)  # nosec: it makes nothing but strings
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ValueError(f"line {mark.line + 2}: {error.problem}" if mark else "no YAML") from error  # type: ignore[attr-defined]


def _toml(block: str) -> object:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    return tomllib.loads(block)  # its errors are ValueErrors


_CONVERTERS: dict[str, Callable[[bytes], tuple[str, str]]] = {
    ".pdf": markdown_of_pdf,
    ".html": markdown_of_html,
    ".docx": _docx,
    ".pptx": _pptx,
    ".epub": _epub,
    ".rst": _rst,
}
