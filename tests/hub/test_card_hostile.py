"""Whatever a document, a question, a name or a setting holds, the card keeps its structure: it is text, never markup."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from kinject.evaluation.results import read_results
from kinject.hub.card import read_card, write_card
from kinject.hub.card_metadata import code, fenced, slug
from tests.hub.runs import some_run, write_run

HOSTILE = {
    "front matter": "---\nlicense: mit\nbase_model: evil/model\n---\n# Another card",
    "end of front matter": "x\n---\n\n# Another card\n",
    "yaml": "'\"]}\n- a: &b !!python/object/apply:os.system ['x']\n  <<: *b\n# c",
    "yaml value": "no",
    "yaml number": "1e3",
    "html": "<script>alert(1)</script><img src=x onerror=alert(1)></div></table><!--",
    "markdown": "# Title\n\n## Results\n\n| a | b |\n| - | - |\n| 1 | 2 |\n\n* * *\n- [x] **bold** _it_ ~~no~~",
    "links": "[a](javascript:alert(1)) ![b](http://e.vil/x.png) <http://e.vil> http://e.vil www.e.vil me@e.vil\n\n[c]: http://e.vil",
    "fences": "```\n# out\n```\n~~~~\n`````` and ` and `` \n\t```python\n",
    "backticks": "`",
    "many backticks": "`` ` ``` ",
    "pipes": "a | b || \\| c \\",
    "templates": "{{ 7 * 7 }}{% raw %}{0}{name}%s%(x)s${HOME}$(id) {#",
    "mathematics": "$x$ $$y$$ \\(z\\) \\[w\\]",
    "line ends": "a\rb\r\nc\x0bd\x0ce\x85f\u2028g\u2029h\x00\x1b[31m",
    "right to left": "\u202egnp.exe\u202c\u2066x\u2069\ufeff",
    "file address": "file://",
    "root": "/",
    "path": "/home/me/texts",
    "home": "~/texts/",
    "drive": "C:\\texts",
    "surrogate": "a\ud800b",
    "space": " \t\n ",
    "long": "x" * 100_000,
    "emoji": "\U0001f469\u200d\U0001f52c \u0646\u0627\u0645 \u540d\u524d",
}


class Structure(HTMLParser):
    """The tags and attributes of a page, without its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[Any] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, attrs))

    def handle_endtag(self, tag: str) -> None:
        self.found.append(tag)

    def handle_comment(self, data: str) -> None:
        self.found.append(("comment", data))


def run_with(text: str) -> dict[str, Any]:
    """Results with ``text`` wherever a user or a data set can put one, but never as a word that kinject knows."""
    results = some_run(
        dataset=text,
        model=f"x {text}",
        model_source="directory",
        paraphrases=f"x {text}",
        selection=f"x {text}",
        config={"system_prompt": text, "documents": [text], "nested": {"key": text}},
        document_texts=[text, text],
        baselines=[some_run(objective=text, dataset=text, model=text)],
    )
    results["answers"] = [{"question": text, "direction": "forward", "answer": text, "expected": text}]
    measured = results["after"]["groups"]
    results["after"]["groups"] = {f"{index}{text}": cell for index, cell in enumerate(measured.values())}
    return results


def structure_of(card: str) -> list[Any]:
    body = ModelCard(card).text
    return Structure(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(body)).found


def write(directory: Path, text: str) -> str:
    run = write_run(directory / "run", run_with(text))
    return write_card(directory, results=run, include_documents=True).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("harmless"), "harmless")


def check(directory: Path, text: str, harmless: str) -> None:
    card = write(directory, text)
    assert structure_of(card) == structure_of(harmless)
    data, expected = ModelCard(card).data, ModelCard(harmless).data
    assert data.to_dict().keys() - {"datasets"} == expected.to_dict().keys()  # a text can be the name of a data set
    assert (data.license, data.base_model, data.tags) == (None, None, expected.tags)
    assert read_card(card)["after"] == read_card(harmless)["after"]


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_text_changes_no_structure(tmp_path: Path, harmless: str, kind: str) -> None:
    if kind == "surrogate":  # not writable as UTF-8, but as an escape in JSON
        directory = write_run(tmp_path, run_with("SURROGATE"))
        file = directory / "results.json"
        file.write_text(file.read_text().replace("SURROGATE", "a\\ud800b"))
        write_card(directory, include_documents=True)
        return
    check(tmp_path, HOSTILE[kind], harmless)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(
        st.one_of(st.sampled_from("`~|\\<>&*_#-[]()!{}$%:'\"\n\r\t a1"), st.characters(codec="utf-8")), max_size=60
    )
)
def test_no_text_changes_the_structure(tmp_path_factory: pytest.TempPathFactory, harmless: str, text: str) -> None:
    check(tmp_path_factory.mktemp("any"), text, harmless)


def test_documents_and_settings_are_shown_as_they_are(tmp_path: Path) -> None:
    for kind in ("front matter", "html", "markdown", "links", "fences", "templates", "mathematics", "emoji"):
        card = write(tmp_path, HOSTILE[kind])
        blocks = [token.content for token in MarkdownIt().parse(card) if token.type == "fence"]
        assert f"{HOSTILE[kind]}\n\n{HOSTILE[kind]}\n" in blocks
        assert read_card(card)["config"] == read_results(tmp_path / "run")["config"]


def test_a_title_is_no_markup_and_no_address() -> None:
    assert slug("Qwen2.5-7B_x") == "Qwen2.5-7B-x"
    assert slug("www.e.vil") == "www-e-vil" and slug("_*`<a>`*_") == "a" and slug("\u202e") == "model"
    assert len(slug("x" * 1000)) < 100


def test_code_holds_any_text() -> None:
    inline = MarkdownIt()
    shown = {"a`b": "a`b", "``": "``", "`": "`", " a ": "a", "\\`": "\\`", "a\nb": "a b", "": " "}
    for text, expected in shown.items():
        children = inline.parseInline(f"x {code(text)} y")[0].children or []
        assert [child.type for child in children] == ["text", "code_inline", "text"]
        assert children[1].content == expected
    for text in ("```", "~~~", "a\n````\nb", ""):
        assert [token.content for token in inline.parse(fenced(text))] == [f"{text}\n" if text else "\n"]
