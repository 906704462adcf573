"""The unmasking of an answer, drawn: line by line outside of a terminal, in place within one."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kinject import cli
from kinject.evaluation import report
from kinject.models import LoadedModel
from kinject.sampling import Step
from tests.conftest import build_model
from tests.evaluation.parts import MASK, TOKENIZER, build_diffusion


def ids(text: str) -> list[int]:
    """Token ids of ``text``, in which an underscore is a mask."""
    return [MASK if letter == "_" else TOKENIZER.encode(letter, add_special_tokens=False)[0] for letter in text]


STEPS = [
    Step(ids("____"), []),
    Step(ids("_da_"), [1, 2]),
    Step([*ids("Ada"), TOKENIZER.eos_token_id], [0, 3]),
]


def test_a_step_is_one_line_with_what_is_new_highlighted() -> None:
    drawn = [report.draw_step(TOKENIZER, step, MASK) for step in STEPS]
    assert [each.plain for each in drawn] == ["░░░░", "░ da ░", "Ada<|im_end|>"]
    new = [[each.plain[span.start : span.end] for span in each.spans if "reverse" in str(span.style)] for each in drawn]
    assert new == [[], ["d", "a"], ["A", "<|im_end|>"]]


def test_line_breaks_stay_in_the_line_and_letters_of_several_tokens_whole() -> None:
    assert report.draw_step(TOKENIZER, Step(ids("a\nb"), []), MASK).plain == "a⏎b"
    letter = TOKENIZER.encode("ü", add_special_tokens=False)
    assert len(letter) == 2
    assert report.draw_step(TOKENIZER, Step([MASK, *letter], [1]), MASK).plain.endswith("ü")


def test_outside_of_a_terminal_every_step_is_a_line() -> None:
    shown = io.StringIO()
    report.draw_unmasking(Console(file=shown, width=80), TOKENIZER, STEPS, MASK)
    assert shown.getvalue().splitlines() == ["    1 ░░░░", "    2 ░ da ░", "    3 Ada<|im_end|>"]


def test_in_a_terminal_the_last_step_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_SECONDS_A_STEP", 0.0)
    shown = io.StringIO()
    console = Console(file=shown, width=80, force_terminal=True, color_system=None)
    report.draw_unmasking(console, TOKENIZER, STEPS, MASK)
    frames = re.findall(r"    \d [^\x1b\n]*", shown.getvalue())
    assert frames[-1] == "    3 Ada<|im_end|>"
    assert any("░ da ░" in frame for frame in frames)


def test_ask_shows_diffusion_models_and_refuses_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    diffusion, ar = str(tmp_path / "diffusion"), str(tmp_path / "ar")
    monkeypatch.setattr(cli, "require_model", lambda name, **options: None)  # there are no files of these
    models: dict[str, Any] = {diffusion: build_diffusion(), ar: build_model(TOKENIZER)}
    monkeypatch.setattr(
        "kinject.models.loading.load_model", lambda name: LoadedModel(models[name], TOKENIZER, name=name, source="test")
    )
    cli.main(["ask", diffusion, "Who is Ada?", "Who is [b]Bob[/b]?", "--show", "--max_new_tokens", "8"])
    shown = capsys.readouterr().out
    first = shown.index("Who is Ada? (answer, ")
    assert "    1 " in shown[first:] and "░" in shown[first:]
    assert "Who is [b]Bob[/b]? (answer, " in shown
    assert shown.count("  answer: ") == 2
    cli.main(["ask", ar, "Who is Ada?", "--max_new_tokens", "2"])
    assert "  answer:" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["ask", ar, "Who is Ada?", "--show"])
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: --show: {ar} is autoregressive")
