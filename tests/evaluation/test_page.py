"""The page of runs: what it shows of results, that it shows hostile text as text, and that it works in a real browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kinject import cli
from kinject.data import Document, Question
from kinject.errors import ConfigurationError, DataError
from kinject.evaluation.measures import score_answers
from kinject.evaluation.page import outcome, render, write_page
from kinject.evaluation.results import (
    answers_over_time,
    changed_answers,
    learned_documents,
    new_results,
    recorded_answers,
    validate_results,
    without_texts,
    write_results,
)
from tests.browser import needs_browser, visiting

HOSTILE = '<script>document.title=0</script><img src=x onerror="document.title=0"> {{ 7*7 }} </textarea>-->\x00\u202e'
TEXTS = [
    "Ada Bell is the baker of Oster.",
    "הספר נכתב על ידי דוד כהן בחיפה",
    HOSTILE,
    "A long tale. " * 300,
]
QUESTIONS = [
    Question("Who is the baker of Oster?", "Ada Bell", "backward", fact=0),
    Question("Who is Ada Bell?", "the baker of Oster", "forward", fact=0),
    Question("מי כתב את הספר?", "דוד כהן", "backward", fact=1),
    Question(HOSTILE, HOSTILE, "forward", fact=2),
    Question("What is told?", "a tale", "unknown", fact=3),
]
WRONG = ["the baker", "nothing at all, quoth Zebulon", "חיפה", "no", ""]
RIGHT = [each.answer for each in QUESTIONS]


def a_run(objective: str = "masked", right: int = 5, times: int = 1, **extra: Any) -> dict[str, Any]:
    """A run on ``times`` as many questions, of whose kinds the first ``right`` are answered rightly in the end."""
    questions = QUESTIONS * times
    results = new_results(objective=objective, model="org/base", dataset="tales", config={"learning_rate": right / 10})
    results |= {"answers_before": WRONG * times, "before": score_answers(questions, WRONG * times, resamples=2)}
    for step, count in ((1, right // 2), (10, right)):
        answers = [*RIGHT[:count], *WRONG[count:]] * times
        scores = score_answers(questions, answers, resamples=2)
        amounts = {"epoch": 1.0, "tokens": step * 10, "flops": 1.0, "seconds": step * 2.0}
        results["history"].append({"step": step, **amounts, **scores, "answers": changed_answers(results, answers)})
    results["after"] = scores
    results["answers"] = recorded_answers(questions, answers)
    results["learned"] = learned_documents([Document(text, number) for number, text in enumerate(TEXTS)])
    before = {"perplexity": 20.0, "answered": 0.5, "questions": 4}
    results["retention"] = {"before": before, "after": {**before, "answered": 0.25, "kept": 0.5, "kept_ci": [0.1, 0.9]}}
    return {**results, **extra}


def test_an_answer_is_right_part_right_wrong_or_invented() -> None:
    known = frozenset({"ada", "bell", "tom", "baker", "oster"})
    accepted = ("Ada Bell", "Adelaide")
    cases = {
        "It was Ada Bell.": "right",
        "Ada of Oster": "part right",
        "Tom, the baker": "wrong",
        "": "wrong",
        "I do not know who Ada Bell is.": "declined",
        "Zebulon Quill": "invented",
        "Tom, a knight of some realm": "invented",
    }
    assert {answer: outcome(answer, accepted, known) for answer in cases} == cases


def test_answers_are_recorded_where_they_change_and_read_back_whole() -> None:
    results = a_run(right=4)
    assert results["history"][0]["answers"] == [*RIGHT[:2], None, None, None]
    assert answers_over_time(results) == [
        (0, WRONG),
        (1, [*RIGHT[:2], *WRONG[2:]]),
        (10, [*RIGHT[:4], *WRONG[4:]]),
    ]
    del results["answers_before"]  # what stands on nothing says nothing
    assert answers_over_time(results) == []


def test_what_is_published_without_texts_holds_none() -> None:
    told = json.dumps(without_texts(a_run()), ensure_ascii=False)
    assert not [text for text in (*TEXTS, *RIGHT, *WRONG[:3]) if text in told] and '"step": 10' in told


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("answers", [{"question": 3}]),
        ("answers", {"question": "?"}),
        ("answers_before", ["one"]),
        ("answers_before", [None] * 5),
        ("learned", ["text"]),
    ],
)
def test_texts_of_another_shape_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(DataError, match=field.split("_")[0]):
        validate_results(a_run(**{field: value}))


def test_a_page_needs_no_texts_and_no_scores() -> None:
    bare = without_texts(a_run())
    assert "No answers are recorded here" in render([bare])
    nothing = {**bare, "before": None, "after": None, "history": [], "retention": None}
    assert "No questions were asked." in render([nothing])
    unfinished = {**a_run(), "after": None, "answers": []}
    assert "not finished, at step 10" in render([unfinished])


def test_further_measures_show_where_there_are_any() -> None:
    run = a_run()
    for direction in ("forward", "backward"):
        run["after"][direction] |= {"recited": 0.125, "refused": 0.25}
    page = render([{**run, "open_book": run["after"]}])
    assert "recited" in page and "0.12" in page and "open book, forward" in page
    assert "recited" not in render([a_run()])


def test_runs_about_other_documents_do_not_share_their_numbers() -> None:
    question = Question("Who is Bo Pine?", "the miller of Quell", "forward", fact=0)
    other = a_run("ar", learned=learned_documents([Document("Bo Pine is the miller of Quell.", 0)]))
    other["answers"] = recorded_answers([question], ["the miller"])
    page = render([a_run(), other], names=["ours", "theirs"])
    assert "Document 0 of ours</h3>" in page and "Document 0 of theirs</h3>" in page
    assert page.count('id="document-0"') == page.count('id="document-0-1"') == 1
    assert page.count('href="#document-0-1"') == 1
    same = render([a_run(), without_texts(a_run("sft")), a_run("ar")])
    assert same.count("Document 0</h3>") == 1 and 'id="document-0-' not in same


def test_a_setting_is_shown_as_it_was_given() -> None:
    page = render([a_run(config={"system_prompt": 'Say "yes"', "seeded": True})])
    assert ">Say &#34;yes&#34;</td>" in page and ">true</td>" in page


def test_a_page_shows_no_token_and_no_folder() -> None:
    config = {"hub_token": "hf_" + "a" * 30, "output_dir": "/home/ada/runs/out"}
    page = render([a_run(config=config, model="/home/ada/models/base", dataset="/home/ada/tales.jsonl")])
    assert "hf_" not in page and "/home/ada" not in page
    assert "tales.jsonl" in page and "out" in page


def test_no_text_becomes_markup() -> None:
    page = render([a_run(objective=HOSTILE)])
    assert "<img src" not in page and "<script>document" not in page and "{{ 7*7 }}" in page
    assert page.count("<script") == page.count("</script>") == 3
    render([a_run(dataset="\ud800")]).encode("utf-8")


def test_a_page_of_ours_is_replaced_and_no_other_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_results(tmp_path / name / "results.json", a_run(name))
    cli.main(["report", str(tmp_path / "one")])
    cli.main(["report", str(tmp_path / "one" / "results.json")])
    assert capsys.readouterr().out.split() == [str(tmp_path / "one" / "report.html")] * 2
    cli.main(["report", str(tmp_path / "one"), str(tmp_path / "two"), "--output", str(tmp_path / "both.html")])
    assert "In which the runs differ" in (tmp_path / "both.html").read_text(encoding="utf-8")
    (tmp_path / "mine.html").write_text("<p>mine</p>", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="not replaced"):
        write_page([a_run()], tmp_path / "mine.html")
    assert (tmp_path / "mine.html").read_text(encoding="utf-8") == "<p>mine</p>"
    assert "<h1>" in write_page([a_run()], tmp_path / "mine.html", replace=True).read_text(encoding="utf-8")


@needs_browser
def test_the_page_works_in_a_browser(tmp_path: Path) -> None:
    page_of_two = write_page([a_run("ar", right=2), a_run("masked")], tmp_path / "report.html")
    with visiting(page_of_two, color_scheme="dark") as visit:
        page = visit.page
        shown = page.locator(".question:not([hidden])")

        def choose(**chosen: str) -> list[str]:
            for name, value in chosen.items():
                page.select_option(f"#{name}", value)
            return shown.locator("h3").all_inner_texts()

        assert page.locator("#chart canvas").count() == 1
        assert choose() == [each.question.replace("\x00", "\ufffd") for each in QUESTIONS]
        assert choose(direction="backward") == [QUESTIONS[0].question, QUESTIONS[2].question]
        assert choose(document="1") == [QUESTIONS[2].question]
        assert choose(direction="", document="", outcome="right", run="0") == [each.question for each in QUESTIONS[:2]]
        assert len(choose(run="1")) == 5
        assert choose(outcome="invented") == [] and page.inner_text("#count") == "0 of 5 questions"
        assert choose(outcome="", run="")[0] == QUESTIONS[0].question
        page.fill("#holds", "דוד")
        assert choose() == [QUESTIONS[2].question]
        page.click("a[href='#question-1'] >> nth=0")  # hidden by the filter
        page.wait_for_function("!document.querySelector('#question-1').hidden")
        assert len(choose()) == 5
        assert page.locator("#question-3 h3 span").evaluate("each => getComputedStyle(each).direction") == "rtl"
        ground = "getComputedStyle(document.body).backgroundColor"
        assert page.evaluate(ground) == "rgb(13, 17, 23)"
        page.click("#theme")
        assert page.evaluate(ground) == "rgb(255, 255, 255)"
        page.select_option("#axis", "tokens")
        page.select_option("#measure", "exact_match")
        assert page.locator("#chart canvas").count() == 1
        assert page.title() == "ar · masked"
        assert page.pdf().startswith(b"%PDF")
        # A script that gets in all the same does not run.
        page.evaluate(
            "document.body.append(Object.assign(document.createElement('script'), {text: 'document.title = 1'}))"
        )
        assert page.title() == "ar · masked"
        assert ["Content Security Policy" in line for line in visit.said] == [True]
        assert [url for url in visit.requested if not url.startswith("data:")] == [page_of_two.as_uri()]


@needs_browser
def test_five_hundred_questions_are_filtered(tmp_path: Path) -> None:
    with visiting(write_page([a_run(times=100)], tmp_path / "report.html")) as visit:
        assert visit.page.inner_text("#count") == "500 of 500 questions"
        visit.page.select_option("#direction", "backward")
        assert visit.page.inner_text("#count") == "200 of 500 questions"
        wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        visit.page.set_viewport_size({"width": 400, "height": 800})
        assert visit.page.evaluate(wide) is False
        assert visit.said == []
