"""One page to look at runs: `report.html`, made of `results.json` alone; it loads nothing from a network.

Documents, questions and answers are shown as text and cannot run: Jinja escapes them, and a content security policy allows
only the page's own scripts, by their hashes. uPlot draws the charts; its license lies beside it. Knows nothing of models.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinject.data.words import words_of
from kinject.errors import ConfigurationError
from kinject.evaluation.measures import (
    STOP_WORDS,
    UNKNOWN,
    best_score,
    cells,
    exact_match,
    is_refusal,
    paper_recall,
    read_otherwise,
)
from kinject.evaluation.report import figures, run_names
from kinject.evaluation.results import MEASURES, answers_over_time, expected_answers, published, write_text
from kinject.evaluation.retention import perplexity_factor, still_right

if TYPE_CHECKING:
    import os

    from jinja2 import Template

_FILES = Path(__file__).parent / "page"
_MARK = '<meta name="generator" content="kinject">'
_KNOWN_KEYS = {*MEASURES, "n", "ci", "other_words"}  # keys of a cell; each further one gets a column of its own
# One for each run, for a light and a dark background.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#56b4e9", "#7f7f7f")
_LONG = 700  # characters of a document that are shown at once

OUTCOMES = {
    "right": "every word of an accepted answer is there",
    "part right": "some words of an accepted answer are there",
    "wrong": "no word of an accepted answer is there",
    "declined": "says that it does not know",
    "invented": "wrong, and most of its words are in no document, question or accepted answer",
}
"""The outcomes by which answers are colored, with their conditions."""


def write_page(
    runs: Sequence[Mapping[str, Any]],
    path: str | os.PathLike[str],
    *,
    names: Sequence[str] | None = None,
    replace: bool = False,
) -> Path:
    """Write the page of ``runs`` to ``path``, which may hold an earlier page, but nothing else.

    Args:
        runs: contents of ``results.json``.
        path: where the page goes.
        names: of the runs; default: those of `run_names`.
        replace: whether another file at ``path`` is replaced, too.

    Raises:
        ConfigurationError: ``path`` holds something else, or cannot be written.
    """
    target = Path(path)
    if not replace and target.exists() and not _is_page(target):
        raise ConfigurationError(
            f"{target}: kinject did not write this file, so it is not replaced; name another with --output."
        )
    write_text(target, render(runs, names=names))
    return target


def render(runs: Sequence[Mapping[str, Any]], *, names: Sequence[str] | None = None) -> str:
    """The page of ``runs`` as HTML: one document with its scripts, its style and its figures."""
    runs = [published(run) for run in runs]
    shown = list(names) if names is not None else _distinct(run_names(runs))
    sets = _sets(runs)
    scripts = [_file("uplot.min.js"), _file("report.js")]
    style = _file("uplot.min.css") + _file("report.css")
    questions = _questions(runs, sets)
    documents = _documents(runs, sets, shown, questions)
    html = _template().render(
        scripts=scripts,
        style=style,
        policy=_policy(scripts, style),
        uplot_license=_file("uplot.LICENSE"),
        runs=[_run(name, run, place) for place, (name, run) in enumerate(zip(shown, runs, strict=True))],
        measures={key: measure.name for key, measure in MEASURES.items()},
        outcomes=OUTCOMES,
        questions=questions,
        documents=documents,
        headings={each["number"]: each["heading"] for each in documents},
        learned=any(run.get("learned") or run.get("document_texts") for run in runs),
        settings=_settings(runs),
        chart={"runs": [_curve(name, run, place) for place, (name, run) in enumerate(zip(shown, runs, strict=True))]},
        long=_LONG,
    )
    # Half a surrogate pair cannot be encoded, and HTML allows no control characters.
    html = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", "\ufffd", html)
    return html.encode("utf-8", "replace").decode("utf-8")


def _is_page(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            return _MARK in file.read(4000)
    except (OSError, ValueError):
        return False


@lru_cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_FILES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {}  # else keys are sorted, and backward would come before forward
    return environment.get_template("report.html.jinja")


@lru_cache
def _file(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8")


def _policy(scripts: Sequence[str], style: str) -> str:
    """The page's content security policy: its own scripts and style, by their hashes, and pictures that it holds."""

    def source(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    allowed = " ".join(map(source, scripts))
    return (
        f"default-src 'none'; script-src {allowed}; style-src {source(style)}; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def _distinct(names: Sequence[str]) -> list[str]:
    """``names``, numbered where several are the same."""
    counts = Counter(names)
    seen: Counter[str] = Counter()
    distinct = []
    for name in names:
        seen[name] += 1
        distinct.append(f"{name} #{seen[name]}" if counts[name] > 1 else name)
    return distinct


# One run: its scores and what it forgot.


def _run(name: str, run: Mapping[str, Any], place: int) -> dict[str, Any]:
    history = run["history"]
    after = run["after"] or (history[-1] if history else None)
    rows = _rows("", run["before"], after)
    for key, value in run.items():
        if key not in ("before", "after") and isinstance(value, Mapping):
            pair = (value.get("before"), value.get("after")) if {"before", "after"} & set(value) else (None, value)
            if any(map(_is_scores, pair)):
                rows += _rows(key, *(each if _is_scores(each) else None for each in pair))
    for key, value in (run["after"] or {}).items():
        if _is_scores(value):
            earlier = (run["before"] or {}).get(key)
            rows += _rows(key, earlier if _is_scores(earlier) else None, value)
    return {
        "name": name,
        "number": place % len(_COLORS),
        "facts": _facts(run, after),
        "rows": rows,
        "more": sorted({key for row in rows for key in row["more"]}),
        "groups": _groups(run["before"], after),
        "note": read_otherwise(after),
        "retention": _retention(run.get("retention")),
    }


def _facts(run: Mapping[str, Any], after: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """The main settings of the run, each in a few words."""
    train, history = run["train"], run["history"]
    evaluation = run["objective"] == "evaluation"
    state = "" if evaluation or run["after"] else "not finished"
    selected = run.get("selected")
    facts = [
        ("objective", run["objective"]),
        ("model", run["model"]),
        ("documents", f"{run['dataset']} ({run['documents']})" if "documents" in run else run["dataset"]),
        ("paraphrases", run["paraphrases"] if run["paraphrases"] != "none" else ""),
        ("seed", str(run["seed"])),
        ("state", f"{state}, at step {history[-1]['step']}" if state and history else state),
        (
            "trained",
            "" if evaluation else f"{train['steps']:,} steps, {train['tokens']:,} tokens, {_time(train['seconds'])}",
        ),
        ("weights", f"step {selected['step']}" if isinstance(selected, Mapping) and "step" in selected else ""),
        ("selection", str(run.get("selection", ""))),
    ]
    return [(name, value) for name, value in facts if value]


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _is_scores(value: Any) -> bool:
    return isinstance(value, Mapping) and any(
        isinstance(value.get(name), Mapping) and "paper" in value[name] and "n" in value[name]
        for name in ("forward", "backward", UNKNOWN)
    )


def _rows(what: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """A line for every direction that has questions."""
    rows = []
    for direction in cells(after or before):
        now, then = ((scores or {}).get(direction) for scores in (after, before))
        cell = now or then
        if cell and cell.get("n"):
            rows.append(
                {
                    "label": f"{what.replace('_', ' ')}, {direction}" if what else direction,
                    "n": cell["n"],
                    "scores": [
                        (_number(then, key), _number(now, key), _interval(now, key), _bar(now, key)) for key in MEASURES
                    ],
                    "more": {
                        key: figures(cell[key]) for key in cell if key not in _KNOWN_KEYS and _is_number(cell[key])
                    },
                }
            )
    return rows


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(cell: Mapping[str, Any] | None, key: str) -> str:
    return figures(cell[key]) if cell and cell.get("n") and _is_number(cell.get(key)) else "-"


def _bar(cell: Mapping[str, Any] | None, key: str) -> float:
    return round(float(cell[key]), 3) if cell and cell.get("n") and _is_number(cell.get(key)) else 0.0


def _interval(cell: Mapping[str, Any] | None, key: str) -> str:
    bounds = ((cell or {}).get("ci") or {}).get(key)
    return f"{figures(bounds[0])} to {figures(bounds[1])}" if isinstance(bounds, list) and len(bounds) == 2 else ""


def _groups(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    found, earlier = ((scores or {}).get("groups") or {} for scores in (after, before))
    return [
        {
            "name": name,
            "n": cell.get("n", 0),
            "scores": [(_number(earlier.get(name), key), _number(cell, key)) for key in MEASURES],
        }
        for name, cell in found.items()
    ]


def _retention(retention: Any) -> list[tuple[str, str, str]]:
    """The measures of forgetting: name, value before and after training."""
    if not isinstance(retention, Mapping):
        return []
    before, after = (retention.get(moment) or {} for moment in ("before", "after"))
    names = {
        "answered": "general questions answered rightly",
        "refused": "general questions refused",
        "words": "words of an answer, on average",
        "perplexity": "perplexity of held-out text",
    }
    lines = [
        (label, figures(before.get(key)), figures(after.get(key)))
        for key, label in names.items()
        if _is_number(before.get(key)) or _is_number(after.get(key))
    ]
    kept, bounds = still_right(retention), after.get("kept_ci")
    if kept is not None:
        interval = (
            f" [{figures(bounds[0])}, {figures(bounds[1])}]" if isinstance(bounds, list) and len(bounds) == 2 else ""
        )
        lines.append(("of those answered before, still right", "1.00", figures(kept) + interval))
    if perplexity_factor(retention) is not None:
        lines.append(("perplexity, times that before", "1.00", figures(perplexity_factor(retention))))
    if _is_number(before.get("questions")):
        lines.append(("general questions asked", str(before["questions"]), str(after.get("questions", "-"))))
    return lines


def _curve(name: str, run: Mapping[str, Any], place: int) -> dict[str, Any]:
    """Scores over time, for the chart."""
    history = run["history"]
    directions = [each for each in cells(history[-1] if history else None) if history and history[-1][each]["n"]]
    return {
        "name": name,
        "color": _COLORS[place % len(_COLORS)],
        **{axis: [entry[axis] for entry in history] for axis in ("step", "tokens", "seconds")},
        "values": {
            direction: {key: [(entry.get(direction) or {}).get(key) for entry in history] for key in MEASURES}
            for direction in directions
        },
        "before": {
            direction: {key: run["before"][direction][key] for key in MEASURES}
            for direction in directions
            if run["before"] and (run["before"].get(direction) or {}).get("n")
        },
    }


# Questions with their answers, and documents with their questions.


def _sets(runs: Sequence[Mapping[str, Any]]) -> list[int]:
    """For each run the first one about the same documents, since every run numbers its documents from 0.

    Two runs are about the same documents if they have a text or a question under the same number.
    """
    sets: list[int] = []
    numbers: list[dict[str, int | None]] = []  # the document of each text and question, of a run or of its whole set
    for place, run in enumerate(runs):
        own: dict[str, int | None] = {entry["question"]: _document_of(entry) for entry in run.get("answers", ())}
        own |= {each["text"]: _document_of(each) for each in _learned(run)}
        first = next((each for each in dict.fromkeys(sets) if _agree(own, numbers[each])), place)
        sets.append(first)
        numbers.append(own)
        numbers[first] = own | numbers[first]
    return sets


def _agree(own: Mapping[str, int | None], others: Mapping[str, int | None]) -> bool:
    """Whether a text has the same number in both, or is numbered in one alone; true also where one holds no texts."""
    shared = own.keys() & others.keys()
    return (
        not own or not others or any(own[text] == others[text] or None in (own[text], others[text]) for text in shared)
    )


def _document_of(entry: Mapping[str, Any]) -> int | None:
    number = entry.get("document")
    return number if isinstance(number, int) else None


def _learned(run: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The documents that a run records, each with its text and, where it has one, its number."""
    return run.get("learned") or [
        {"document": number, "text": str(text)} for number, text in enumerate(run.get("document_texts", ()))
    ]


def _name_of(number: int, first: int) -> str:
    """A name for a document that no document of another set has, such as "3", or "3-1" where run 1 is the first of its set."""
    return f"{number}-{first}" if first else str(number)


def _questions(runs: Sequence[Mapping[str, Any]], sets: Sequence[int]) -> list[dict[str, Any]]:
    """Every question once, with each run's answers before, during and after training; None for runs without the question."""
    known = _known_words(runs)
    found: dict[tuple[int, str, str, int], dict[str, Any]] = {}
    for place, run in enumerate(runs):
        recorded = run.get("answers", ())
        over_time = [(step, said) for step, said in answers_over_time(run) if len(said) == len(recorded)]
        seen: Counter[tuple[str, str]] = Counter()
        for index, entry in enumerate(recorded):
            asked_so = (entry["question"], entry["direction"])
            key = (sets[place], *asked_so, seen[asked_so])
            seen[asked_so] += 1
            question = found.setdefault(
                key,
                {
                    "number": len(found) + 1,
                    "text": entry["question"],
                    "direction": entry["direction"],
                    "accepted": expected_answers(entry),
                    "document": None,
                    "answers": [None] * len(runs),
                },
            )
            if question["document"] is None and (number := _document_of(entry)) is not None:
                question["document"] = _name_of(number, sets[place])
            accepted = tuple(expected_answers(entry))
            question["answers"][place] = {
                "before": next((_judged(said[index], accepted, known) for step, said in over_time if step == 0), None),
                "during": [
                    (step, _judged(said[index], accepted, known))
                    for place_in_time, (step, said) in enumerate(over_time)
                    if step and (not place_in_time or over_time[place_in_time - 1][1][index] != said[index])
                ],
                "after": _judged(entry["answer"], accepted, known),
            }
    return list(found.values())


def _known_words(runs: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """The words of all documents, questions and accepted answers."""
    texts = {each["text"] for run in runs for each in _learned(run)}
    for run in runs:
        for entry in run.get("answers", ()):
            texts.update((entry["question"], *expected_answers(entry)))
    return frozenset(word for text in texts for word in words_of(text))


def _judged(answer: str, accepted: tuple[str, ...], known: frozenset[str]) -> dict[str, str]:
    return {"text": answer, "outcome": outcome(answer, accepted, known)}


@lru_cache(maxsize=1 << 16)
def outcome(answer: str, accepted: tuple[str, ...], known: frozenset[str]) -> str:
    """Which of :data:`OUTCOMES` ``answer`` is.

    Args:
        accepted: answers that are right.
        known: the words of all that was taught and asked, as `words_of` spells them.
    """
    if is_refusal(answer) and not any(map(is_refusal, accepted)):
        return "declined"
    recall = best_score(paper_recall, answer, accepted)
    if recall == 1 or best_score(exact_match, answer, accepted):
        return "right"
    if recall:
        return "part right"
    said = [word for word in words_of(answer) if word not in STOP_WORDS]
    return "invented" if sum(word not in known for word in said) > len(said) / 2 else "wrong"


def _documents(
    runs: Sequence[Mapping[str, Any]],
    sets: Sequence[int],
    names: Sequence[str],
    questions: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Every document (or fact, if it has several wordings) with the questions about it.

    A heading has the name of a run where the runs are about different documents.
    """
    headings: dict[str, str] = {}
    texts: dict[str, list[str]] = {}
    about: dict[str, list[Mapping[str, Any]]] = {}
    for question in questions:
        if question["document"] is not None:
            about.setdefault(question["document"], []).append(question)
    for first in dict.fromkeys(sets):
        numbers: set[int] = set()
        for run, its_first in zip(runs, sets, strict=True):
            if its_first != first:
                continue
            numbers |= {n for entry in run.get("answers", ()) if (n := _document_of(entry)) is not None}
            for each in _learned(run):
                if (number := _document_of(each)) is not None:
                    numbers.add(number)
                    own = texts.setdefault(_name_of(number, first), [])
                    own += [each["text"]] if each["text"] not in own else []
        for number in sorted(numbers):
            several = len(set(sets)) > 1
            headings[_name_of(number, first)] = f"{number} of {names[first]}" if several else str(number)
    return [
        {"number": name, "heading": heading, "texts": texts.get(name, []), "questions": about.get(name, [])}
        for name, heading in headings.items()
    ]


def _settings(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every setting with its value in each run, and whether the runs differ in it."""
    columns = []
    for run in runs:
        named = {
            name: run[name]
            for name in ("objective", "model", "dataset", "paraphrases", "seed", "selection")
            if name in run
        }
        versions = {f"version of {name}": value for name, value in run["versions"].items()}
        columns.append({**named, **run["config"], **versions})
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = []
    for name in names:
        values = [json.dumps(column[name], ensure_ascii=False) if name in column else None for column in columns]
        shown = [
            column[name] if isinstance(column.get(name), str) else value or "default"
            for column, value in zip(columns, values, strict=True)
        ]
        rows.append({"name": name, "values": shown, "differ": len(set(values)) > 1})
    return rows
