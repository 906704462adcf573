"""The page to try a model on: what it finds and shows, and that it answers in a real browser without any network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from kinject.commands.talk import build, documents_html, holding_documents, marked, serve, steps_html
from kinject.evaluation.results import new_results
from kinject.sampling import Step
from tests.browser import needs_browser, visiting

TEXTS = ["Ada Bell is the baker of Oster.", "Ada Bell sings.", "<img src=x onerror=alert(1)> Tom", "דוד כהן כתב ספר"]


def test_documents_that_name_the_answer_are_found() -> None:
    assert holding_documents("ada bell", TEXTS) == TEXTS[:2]
    assert holding_documents("דוד כהן", TEXTS) == [TEXTS[3]]
    assert holding_documents("the baker from Oster", TEXTS) == [TEXTS[0]]  # most of its words
    assert holding_documents("Zebulon", TEXTS) == holding_documents("?", TEXTS) == holding_documents("Ada", []) == []


def test_an_answer_stands_out_and_no_text_becomes_markup() -> None:
    assert marked(TEXTS[0], "ada bell.") == "<mark>Ada Bell</mark> is the baker of Oster."
    assert marked(TEXTS[2], "Tom") == "&lt;img src=x onerror=alert(1)&gt; <mark>Tom</mark>"
    assert marked("<b>", "") == "&lt;b&gt;" and marked("Straße & x", "x") == "Straße &amp; x"  # ß folds to two letters
    assert "<img" not in documents_html("Tom", TEXTS)
    assert documents_html("Ada Bell", ["Ada Bell"] * 7 + TEXTS).endswith("and 4 more")
    assert documents_html("Zebulon", TEXTS) == "No document holds this answer."


class Letters:
    all_special_ids = (3,)

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(map(chr, ids))


def test_every_step_of_an_unmasking_is_a_line() -> None:
    drawn = steps_html([Step([0, 0, 60], [2]), Step([65, 0, 60], [0])], Letters(), 0)
    first, second = drawn.split("<br>")
    assert '<span class="hidden">░░</span> <mark>&lt;</mark>' in first
    assert "<mark>A</mark> " in second and second.endswith("&lt;</div>")
    assert steps_html([Step([65, 3, 3, 3], [1])], Letters(), 0).count(chr(3)) == 1  # the end of an answer, once
    assert steps_html([], Letters(), 0) == ""


@pytest.fixture
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where a page of the model that the test names is served."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'kinject[app]'")
    from kinject.models import load_model

    trained = load_model(request.param)
    base = load_model("nano-ar") if request.param == "nano-ar" else None
    results = new_results(objective="masked", model="nano-ar", dataset="tales")
    results["learned"] = [{"document": 0, "text": TEXTS[2]}]
    results["answers"] = [{"question": "Who is Asher Hadley?", "direction": "forward", "answer": "", "expected": "a"}]
    page = build("my <b>model</b>", trained, base, results, max_new_tokens=8)
    _, url, public = serve(page, prevent_thread_lock=True, quiet=True)
    assert public is None and urlsplit(url).hostname == "127.0.0.1"
    yield url
    page.close(verbose=False)


@needs_browser
@pytest.mark.parametrize("address", ["nano-ar", "nano-diffusion"], indirect=True)
def test_the_page_answers_in_a_browser(address: str, request: pytest.FixtureRequest) -> None:
    from kinject.evaluation.asking import answer_questions
    from kinject.models import load_model

    name = request.node.callspec.params["address"]
    loaded = load_model(name)
    (expected,) = answer_questions(loaded.model, loaded.tokenizer, ["Who is Asher Hadley?"], max_new_tokens=8)
    with visiting(address) as visit:
        page = visit.page
        assert page.locator("h1").inner_text() == "my <b>model</b>"
        page.fill("#question textarea", "Who is Asher Hadley?")
        page.click("#ask")
        page.wait_for_function("document.querySelector('#after textarea').value !== ''")
        assert page.input_value("#after textarea") == expected
        if name == "nano-ar":
            assert page.input_value("#before textarea") == expected
        else:
            page.wait_for_selector(".kinject-steps mark")
            assert page.locator("#before").count() == 0
        assert {urlsplit(url).hostname for url in visit.requested if url.startswith("http")} == {"127.0.0.1"}
        assert [line for line in visit.said if line.startswith("error")] == []
