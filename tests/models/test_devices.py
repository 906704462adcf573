"""Whatever asks a model asks it on the accelerator: the seam that looks for one is replaced by a device that records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import kinject
from kinject.cli import main
from kinject.models import devices

ON_META = (torch.device("meta"), torch.bfloat16)  # a device that every machine has, and that computes nothing


@pytest.fixture
def beside_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """Pretend that there is one, and keep what is asked on it."""
    seen: list[tuple[Any, Any]] = []

    def answers(model: Any, tokenizer: Any, questions: Sequence[str], **options: Any) -> list[str]:
        seen.append((model.device, model.dtype))
        return ["Ada"] * len(questions)

    monkeypatch.setattr(devices, "accelerator", lambda: torch.device("meta"))
    monkeypatch.setattr(devices, "is_fast_in_bf16", lambda device: True)
    monkeypatch.setattr("kinject.evaluation.asking.answer_questions", answers)
    return seen


@pytest.mark.usefixtures("beside_an_accelerator")
def test_load_gives_a_model_on_the_accelerator_in_its_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    model = kinject.load("nano-ar").model
    assert (model.device, model.dtype) == ON_META
    assert kinject.load("nano-ar", dtype="float32").model.dtype == torch.float32
    there = kinject.load("nano-ar", device="cpu").model
    assert (there.device.type, there.dtype) == ("cpu", torch.float32)
    monkeypatch.setattr(devices, "is_fast_in_bf16", lambda device: False)
    assert kinject.load("nano-ar").model.dtype == torch.float32


def test_without_one_the_processor_computes_in_the_precision_of_the_checkpoint() -> None:
    assert devices.device_and_dtype("cpu") == (torch.device("cpu"), None)
    assert kinject.load("nano-ar", device="cpu").model.dtype == torch.float32


def test_ask_and_eval_ask_on_the_accelerator_and_say_so(
    beside_an_accelerator: list[tuple[Any, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["ask", "nano-ar", "Who?"])
    said = capsys.readouterr()
    assert "answer: Ada" in said.out and "nano-ar on meta, bfloat16" in said.err
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question": "Who?", "answer": "Ada", "direction": "forward"}\n', encoding="utf-8")
    main(["eval", "nano-ar", "--questions", str(questions), "--output_dir", str(tmp_path / "out")])
    assert "nano-ar on meta, bfloat16" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "results.json").read_text())["device"] == "meta, bfloat16"
    assert beside_an_accelerator == [ON_META, ON_META]


def test_what_cannot_be_moved_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[Any] = []
    here = {"device": torch.device("cpu"), "to": moved.append}
    for kept in ({"is_quantized": True}, {"hf_device_map": {"": 0}}):
        devices.place(SimpleNamespace(**here, **kept), torch.device("meta"))
    devices.place(SimpleNamespace(**here), torch.device("cpu"))
    assert moved == []
    devices.place(SimpleNamespace(**here), torch.device("meta"))
    assert moved == [torch.device("meta")]


def test_a_model_is_put_back_where_it_was() -> None:
    moves: list[str] = []
    fake: Any = SimpleNamespace(device=torch.device("cpu"))

    def to(device: torch.device) -> None:
        moves.append(device.type)
        fake.device = device

    fake.to = to
    with pytest.raises(KeyError), devices.placed(fake, torch.device("meta")):
        raise KeyError
    assert moves == ["meta", "cpu"]
