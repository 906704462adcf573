"""Files of other programs as clean Markdown: what survives, what is left out, and what is said of files that cannot be read."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from kinject.data import converting, load_knowledge
from kinject.errors import DataError
from tests.data.mixed_files import page, paragraph, table, write_docx, write_epub, write_pdf


def read(path: Path) -> tuple[str, str]:
    (document,) = load_knowledge(path).documents
    return document.title, document.text


def test_pdf_paragraphs_headings_tables_and_hyphens(tmp_path: Path) -> None:
    lines = [
        "Mira Dorn keeps the lighthouse of Vell, which is the old-",
        "est of the coast. It was built of red granite from the inner",
    ]
    second = page(["quarries of Oster.", "", "The lamp was lit in 1901."], number=2, heading="", head="The Coast")
    columns = [
        (72.0, 300.0, 11.0, "Tower"),
        (250.0, 300.0, 11.0, "Height"),
        (72.0, 314.0, 11.0, "Vell"),
        (250.0, 314.0, 11.0, "31 m"),
    ]
    third = [*page(["Both towers are listed here."], number=3, heading="Towers", head="The Coast"), *columns]
    first = page(lines, heading="Lighthouses", head="The Coast")
    title, text = read(write_pdf(tmp_path / "a.pdf", [first, second, third], title="The coast of Vell"))
    assert title == "The coast of Vell"
    assert text.split("\n\n")[-6:] == [
        "# Lighthouses",
        "Mira Dorn keeps the lighthouse of Vell, which is the oldest of the coast. It was built of red granite from the inner "
        "quarries of Oster.",
        "The lamp was lit in 1901.",
        "# Towers",
        "Both towers are listed here.",
        "| Tower | Height |\n| --- | --- |\n| Vell | 31 m |",
    ]
    assert text.count("The Coast") == 1  # on the first page it may be a title


def test_html_without_what_stands_around_it(tmp_path: Path) -> None:
    html = """<!doctype html><html><head><title>Vell - The Coast Wiki</title><script>var x = "never";</script></head>
    <body class="has-sidebar"><nav><a href="/">Start</a></nav><div class="breadcrumbs">Wiki / Towers</div>
    <div id="sidebar"><p>Popular pages</p></div><main><ul><li><a href="#h">History</a></li><li><a href="#k">Keeper</a></li></ul>
    <h1>The lighthouse of Vell<a class="headerlink" href="#x">¶</a></h1><p>It is kept by <b>Mira
    Dorn</b><!-- a comment -->, says <a href="https://a.b">the town</a>.</p><h2>History</h2><ul><li>built in 1901</li><li>burnt
    in 1911</li></ul><table><tr><td>Tower</td><td>Height</td></tr><tr><td>Vell</td><td>31&nbsp;m</td></tr></table>
    <pre>a
  b</pre></main><footer>Imprint</footer></body></html>"""
    (tmp_path / "a.htm").write_text(html, encoding="utf-8")
    title, text = read(tmp_path / "a.htm")
    assert title == ""  # the first heading says it
    assert text == (
        "# The lighthouse of Vell\n\nIt is kept by Mira Dorn, says the town.\n\n## History\n\n- built in 1901\n"
        "- burnt in 1911\n\n| Tower | Height |\n| --- | --- |\n| Vell | 31 m |\n\n```\na\n  b\n```"
    )


def test_a_page_that_is_one_list_of_links_keeps_it(tmp_path: Path) -> None:
    rows = "".join(f'<li><a href="/{name}">{name}</a></li>' for name in ("Vell", "Oster", "Sable"))
    (tmp_path / "a.html").write_text(
        f"<title>Towers</title><body><div id=nav><ul>{rows}</ul></div></body>", encoding="utf-8"
    )
    assert read(tmp_path / "a.html") == ("Towers", "- Vell\n- Oster\n- Sable")


def test_docx(tmp_path: Path) -> None:
    body = (
        paragraph("The Harbor", "Title") + paragraph("Keepers", "heading1") + paragraph("Mira Dorn keeps the light.")
        + table([["Boat", "Captain"], ["Tern", "Bo Marlow"]])
    )  # fmt: skip
    title, text = read(write_docx(tmp_path / "a.docx", body))
    assert title == ""
    assert text == (
        "# The Harbor\n\n# Keepers\n\nMira Dorn keeps the light.\n\n| Boat | Captain |\n| --- | --- |\n| Tern | Bo Marlow |"
    )


def test_pptx(tmp_path: Path) -> None:
    import pptx
    from pptx.util import Inches

    show = pptx.Presentation()
    slide = show.slides.add_slide(show.slide_layouts[1])
    slide.shapes.title.text = "The light of Vell"
    slide.placeholders[1].text_frame.text = "Kept by Mira Dorn"
    slide.placeholders[1].text_frame.add_paragraph().text = "Lit in 1901"
    cells = slide.shapes.add_table(2, 2, Inches(1), Inches(3), Inches(4), Inches(1)).table
    for place, word in enumerate(("Boat", "Captain", "Tern", "Bo Marlow")):
        cells.cell(*divmod(place, 2)).text = word
    slide.notes_slide.notes_text_frame.text = "Say who built it."
    show.save(str(tmp_path / "a.pptx"))
    assert read(tmp_path / "a.pptx") == (
        "",
        "## The light of Vell\n\n- Kept by Mira Dorn\n- Lit in 1901\n\n| Boat | Captain |\n| --- | --- |\n| Tern | Bo Marlow |"
        "\n\nSay who built it.",
    )


def test_epub_in_the_order_of_its_spine(tmp_path: Path) -> None:
    chapters = ["<h1>Dawn</h1><p>Mira wakes.</p>", "<p>Bo sleeps &amp; dreams.</p>"]
    assert read(write_epub(tmp_path / "a.epub", "Two Days", chapters)) == (
        "" , "# Dawn\n\nMira wakes.\n\nBo sleeps & dreams."
    )  # fmt: skip
    assert read(write_epub(tmp_path / "b.epub", "Two Days", chapters[1:])) == ("Two Days", "Bo sleeps & dreams.")


def test_rst_keeps_what_only_sphinx_knows_and_includes_nothing(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("never", encoding="utf-8")
    text = (
        "Harbor\n======\n\nSee :py:class:`~boats.Tern` and :ref:`the light <light>`.\n\n.. versionadded:: 2.1\n   The lamp.\n\n"
        ".. include:: secret.txt\n\n.. raw:: html\n\n   <b>never</b>\n\nKeepers\n-------\n\n* *Mira* Dorn\n* Bo Marlow\n"
    )
    (tmp_path / "a.rst").write_text(text, encoding="utf-8")
    assert read(tmp_path / "a.rst") == (
        "",
        "# Harbor\n\nSee boats.Tern and the light.\n\n2.1 The lamp.\n\n## Keepers\n\n- Mira Dorn\n- Bo Marlow",
    )


def test_a_spreadsheet_without_a_column_of_texts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "staff.csv"
    path.write_text("\ufeffName;Role;Since\nMira Dorn;keeper;1901\nBo Marlow;captain;\n", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        texts = [each.text for each in load_knowledge(path).documents]
    assert texts == ["Name: Mira Dorn\nRole: keeper\nSince: 1901", "Name: Bo Marlow\nRole: captain"]
    assert "each row is learned as its columns with their names" in caplog.text
    with pytest.raises(DataError, match='has no "body"'):  # who names a column means one
        load_knowledge(path, text_field="body")


def test_a_folder_of_all_kinds(tmp_path: Path) -> None:
    write_pdf(tmp_path / "a.pdf", [page(["Mira Dorn keeps the lighthouse."])])
    write_docx(tmp_path / "b.docx", paragraph("Bo Marlow paints ships."))
    (tmp_path / "c.html").write_text("<p>Ada Fenwick bakes bread.</p>", encoding="utf-8")
    (tmp_path / "d.md").write_text("---\ntitle: Mills\n---\nTom Bell runs one.", encoding="utf-8")
    assert [(each.title, each.text) for each in load_knowledge(tmp_path).documents] == [
        ("", "Mira Dorn keeps the lighthouse."),
        ("", "Bo Marlow paints ships."),
        ("", "Ada Fenwick bakes bread."),
        ("Mills", "Tom Bell runs one."),
    ]


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.pdf", b"%PDF-1.4 cut off", "no whole PDF"),
        ("a.docx", b"PK\x03\x04cut off", "not a whole .docx file"),
        ("a.docx", b"\xd0\xcf\x11\xe0locked", "locked by a password"),
        ("a.epub", b"no archive", "not a whole .epub file"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=says) as error:
        load_knowledge(tmp_path / name)
    assert str(error.value).startswith(f"{tmp_path / name}: ")


def test_a_pdf_of_pictures_says_so(tmp_path: Path) -> None:
    path = write_pdf(tmp_path / "scan.pdf", [[]])
    with pytest.raises(DataError, match="no text is in it; .*ocrmypdf"):
        load_knowledge(path)


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    path = write_pdf(tmp_path / "a.pdf", [page(["Mira Dorn keeps the lighthouse."])])
    (tmp_path / "b.md").write_text("Bo Marlow paints ships.", encoding="utf-8")
    monkeypatch.setattr(converting, "find_spec", lambda name: None)
    with pytest.raises(
        DataError, match=r"a\.pdf: .pdf files are read by pypdfium2, .* pip install 'kinject\[documents\]'"
    ):
        load_knowledge(path)
    assert len(load_knowledge(tmp_path).documents) == 1
    assert "1 .pdf" in caplog.text and "can be read after pip install 'kinject[documents]'" in caplog.text


def test_notes_are_part_of_the_text(tmp_path: Path) -> None:
    rst = "Mills\n=====\n\nAda Fenwick [1]_ bakes.\n\n.. [1] She began in 1987.\n\n.. note:: The mill is closed.\n"
    (tmp_path / "a.rst").write_text(rst, encoding="utf-8")
    (document,) = load_knowledge(tmp_path / "a.rst").documents
    assert "She began in 1987." in document.text and "The mill is closed." in document.text
    text = "<p>Ada Fenwick bakes bread in the old mill of Vell.</p>"
    for kind in ('epub:type="footnote"', 'role="doc-footnote"', 'role="note"', 'class="admonition tip"'):
        (tmp_path / "a.html").write_text(f"{text}<aside {kind}>She began in 1987.</aside>", encoding="utf-8")
        assert "She began" in load_knowledge(tmp_path / "a.html").documents[0].text, kind
    (tmp_path / "a.html").write_text(f"{text}<aside>Read more</aside>", encoding="utf-8")
    assert "Read more" not in load_knowledge(tmp_path / "a.html").documents[0].text


def test_restructured_text_says_its_encoding_as_other_texts_do(tmp_path: Path) -> None:
    (tmp_path / "a.rst").write_bytes("Ada bakes.\n\nZoë keeps the café.\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"a.rst:3: not UTF-8 text .* probably CP1252"):
        load_knowledge(tmp_path / "a.rst")
    (tmp_path / "a.rst").write_bytes("Zoë keeps the café.\n".encode("utf-16"))
    assert load_knowledge(tmp_path / "a.rst").documents[0].text == "Zoë keeps the café."
