"""The benchmark of the fast mode: one run, both ways, and what its JSON file says."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kinject.models import attend_in_blocks
from tests.evaluation.parts import TOKENIZER, build_diffusion

SCRIPT = Path(__file__).parents[2] / "recipes" / "benchmarks" / "diffusion_answering.py"


@pytest.fixture(scope="module")
def benchmark() -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location("diffusion_answering", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their annotations up
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        spec.loader.exec_module(module)
        yield module
    del sys.modules[spec.name]


def test_all_ways_are_run_and_reported(benchmark: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = build_diffusion()
    for name in ("full", "block"):
        if name == "block":
            attend_in_blocks(model, 8)
        model.save_pretrained(tmp_path / name)
        TOKENIZER.save_pretrained(tmp_path / name)
    out = tmp_path / "report.json"
    options = {
        "model": tmp_path / "full",
        "questions": 6,
        "batch_size": 4,
        "answer_length": 16,
        "steps": 16,
        "json": out,
    }
    options["block_model"] = tmp_path / "block"
    benchmark.main([part for name, value in options.items() for part in (f"--{name}", str(value))])
    report = json.loads(out.read_text())
    assert report["published"]["nfe"] == 16 and report["published"]["calls"] == 2 * 16
    assert 0 < report["fast"]["nfe"] <= 16
    ratios = report["ratios"]
    assert ratios["nfe"] == pytest.approx(16 / report["fast"]["nfe"])
    assert ratios["wall"] == pytest.approx(report["published"]["seconds"] / report["fast"]["seconds"])
    assert ratios["same_answers"] == pytest.approx(1 - len(report["differing"]) / 6)
    assert all(each["published"] != each["fast"] for each in report["differing"])
    assert report["block"]["model"] == "block" and 0 < report["block"]["nfe"] <= 24  # blocks that the prompt begins
    assert ratios["block_nfe"] == pytest.approx(16 / report["block"]["nfe"])
    assert ratios["block_wall_to_fast"] == pytest.approx(report["fast"]["seconds"] / report["block"]["seconds"])
    shown = capsys.readouterr().out
    assert "6 of 6 questions" in shown and f"same answers {ratios['same_answers']:.1%}" in shown


@pytest.mark.parametrize("documents", ["fictional:nano_population", "fictional:name_description"])
def test_questions_are_distinct_and_spread_over_people(benchmark: Any, documents: str) -> None:
    pairs = benchmark.load_questions(documents, 20, 60)
    assert len({question for question, _ in pairs}) == 60
    assert len({answer for _, answer in pairs[:20]}) == 20


def test_user_errors_take_one_line(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--questions", "1", "--answer_length", "4", "--steps", "4"]
    for options, message in (
        (["--size", "2"], "--documents fictional:nano_population brings 12 questions, expected 200"),
        (["--block_length", "5"], "answer_length is 128, expected a multiple of block_length 5"),
        ([*small, "--block_model", "nano-diffusion"], "--block_model nano-diffusion has no blocks"),
        (["--model", "./nowhere"], "model './nowhere': no such directory"),
    ):
        with pytest.raises(SystemExit):
            benchmark.main(options)
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {message}")  # after bars of loading
