"""The notebooks of `examples/`: they run, what they claim is measured in them, and their outputs can be shown to anybody."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.test_docs import ROOT, check

NAMES = ("quickstart", "paper")


def read(name: str) -> Any:
    return nbformat.read(ROOT / "examples" / f"{name}.ipynb", as_version=4)


def cells(notebook: Any, kind: str) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def printed(notebook: Any) -> str:
    """What its cells print."""
    outputs = [output for cell in cells(notebook, "code") for output in cell.outputs]
    return "\n".join(output.text for output in outputs if output.output_type == "stream")


def check_quickstart(text: str) -> None:
    """The documents are learned in both directions, and were not known."""
    found = {
        name: (float(value), int(n)) for name, value, n in re.findall(r"^(\w+) +exact match (\S+), (\d+)", text, re.M)
    }
    assert found.keys() == {"forward", "backward"}
    assert all(value >= 0.75 and n == 4 for value, n in found.values())
    answers = re.findall(r"^    before  (.*)\n    after   (.*)$", text, re.M)
    assert len(answers) == 8
    assert all(before != after for before, after in answers)


def check_paper(text: str) -> None:
    """What the paper says: the reversal curse, what cures it, and what does not."""
    rows = re.findall(r"^(\w+), ([a-z ]+?) +(\d\.\d\d) +(\d\.\d\d)$", text, re.M)
    forward = {(objective, wordings): float(value) for objective, wordings, value, _ in rows}
    backward = {(objective, wordings): float(value) for objective, wordings, _, value in rows}
    assert len(rows) == 7
    assert min(forward.values()) >= 0.7
    assert backward["AR", "no paraphrases"] <= 0.2
    assert backward["AR", "same order"] <= 0.2
    for run in (("AR", "turned around"), ("masked", "no paraphrases"), ("diffusion", "no paraphrases")):
        assert backward[run] >= backward["AR", "no paraphrases"] + 0.5, run


CHECKS = {"quickstart": check_quickstart, "paper": check_paper}


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_and_shows_what_it_claims(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = read(name)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    CHECKS[name](printed(notebook))
    left = {"quickstart": {"my_documents", "questions.csv", "trained"}, "paper": set()}[name]
    assert {path.name for path in tmp_path.iterdir()} == left
    assert name != "quickstart" or (tmp_path / "trained" / "report.html").is_file()


@pytest.mark.parametrize("name", NAMES)
def test_the_outputs_that_are_published_are_whole_and_hold_nothing_of_a_machine(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    code = cells(notebook, "code")
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))  # run once, from top to bottom
    outputs = [output for cell in code for output in cell.outputs]
    assert all(output.output_type in ("stream", "display_data") for output in outputs)
    assert all(output.name == "stdout" for output in outputs if output.output_type == "stream")  # no warnings
    text = json.dumps(notebook)
    assert not re.search(r"/(?:home|root|tmp|work|usr|var|Users|content)/|site-packages|\bhf_\w{20}|\\u001b", text)
    assert len(text) < 200_000
    CHECKS[name](printed(notebook))
    assert ("image/png" in text) == (name == "paper")


@pytest.mark.parametrize("name", NAMES)
def test_what_a_notebook_names_is_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    notebook = read(name)
    prose = "\n".join(cell.source for cell in cells(notebook, "markdown"))
    for target in re.findall(r"\]\((?!http)([^)]+)\)", prose):
        assert (ROOT / "examples" / target).exists(), target
    for page in re.findall(r"`(docs/[\w.]+)`", prose):
        assert (ROOT / page).exists(), page
    blocks = re.findall(r"^```sh\n(.*?)^```", prose, re.M | re.S)
    commands = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    commands += re.findall(r"`(kinject [^`]+)`", prose.replace("\n", " "))
    commands += re.findall(r"^!(kinject .*)$", "\n".join(cell.source for cell in cells(notebook, "code")), re.M)
    assert len(commands) >= 1
    for command in commands:
        words = shlex.split(command)
        if len(words) > 2:
            check(words)


def test_no_notebook_is_left_out() -> None:
    assert sorted(path.stem for path in (ROOT / "examples").glob("*.ipynb")) == sorted(NAMES)
