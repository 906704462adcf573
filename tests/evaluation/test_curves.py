"""`report_to tensorboard|trackio|wandb` stores how forward and backward answers develop, from before training on.

Each is read back from what it wrote to the disk, without a network.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from kinject.commands.recipe import train
from kinject.data import load_knowledge
from kinject.errors import ConfigurationError
from kinject.evaluation.results import read_results
from tests.conftest import build_model, build_tokenizer

DIRECTIONS = ("forward", "backward")


@pytest.fixture(autouse=True)
def learning(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that answers a third of the questions more rightly at every evaluation."""
    expected = {each.question: each.answer for each in load_knowledge("fictional:name_description", size=2).questions}
    calls: list[int] = []

    def answer(model: Any, tokenizer: Any, questions: Sequence[str], **_: Any) -> list[str]:
        calls.append(1)
        return [expected[each] if index % 3 < len(calls) - 1 else "" for index, each in enumerate(questions)]

    monkeypatch.setattr("kinject.evaluation.asking.answer_questions", answer)


def inject(tmp_path: Path, report_to: str, **options: Any) -> list[tuple[int, float, float]]:
    """Train with ``report_to``; the curve that should show: step, forward and backward."""
    tokenizer = build_tokenizer()
    build_model(tokenizer).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    settings = {
        "model_name_or_path": tmp_path / "base",
        "output_dir": tmp_path / "out",
        "documents": "fictional:name_description",
        "size": 2,
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "evaluations": 2,
        "logging_steps": 1,
        "retention": False,
        "save_strategy": "no",
        "bf16": False,
        "report_to": report_to,
        **options,
    }
    train("masked", [part for key, value in settings.items() for part in (f"--{key}", str(value))])
    results = read_results(tmp_path / "out")
    measured = [{"step": 0, **results["before"]}, *results["history"]]
    points = [(each["step"], *(round(each[name]["paper"], 4) for name in DIRECTIONS)) for each in measured]
    assert [step for step, *_ in points][0] == 0 and len({tuple(scores) for _, *scores in points}) == len(points) > 2
    return points  # type: ignore[return-value]


def curve_of(logged: Iterable[Mapping[str, Any]]) -> list[tuple[int, float, float]]:
    """The curve in the entries that a tracker stored."""
    entries = [each for each in logged if "train/forward" in each]
    return [(each["train/global_step"], *(each[f"train/{name}"] for name in DIRECTIONS)) for each in entries]


def approximately(curve: list[tuple[int, float, float]]) -> list[Any]:
    return [pytest.approx(point, abs=1e-6) for point in curve]


def test_tensorboard_stores_the_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    expected = inject(tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    forward, backward = (events.Scalars(f"train/{name}") for name in DIRECTIONS)
    found = [(one.step, one.value, other.value) for one, other in zip(forward, backward, strict=True)]
    assert found == approximately(expected)


def test_trackio_stores_the_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    for module in ("trackio", "trackio.utils", "trackio.sqlite_storage"):
        monkeypatch.setattr(f"{module}.TRACKIO_DIR", tmp_path / "logs")  # read from the environment at its import
    expected = inject(tmp_path, "trackio", project="people", run_name="masked")
    assert list((tmp_path / "logs").glob("people*.db"))
    assert SQLiteStorage.get_runs("people") == ["masked"]
    assert curve_of(SQLiteStorage.get_logs("people", "masked")) == approximately(expected)


def test_wandb_stores_the_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    settings = {"MODE": "offline", "DIR": str(tmp_path), "SILENT": "true", "ERROR_REPORTING": "false"}
    settings["X_SERVICE_WAIT"] = "300"  # seconds, on a busy machine
    for name, value in settings.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    expected = inject(tmp_path, "wandb")
    wandb.teardown()  # waits until all is written
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert curve_of(wandb_history(file)) == approximately(expected)


def wandb_history(file: Path) -> Iterator[dict[str, Any]]:
    """The logged entries in a file that is to be synchronized later: records of protobuf in a log of LevelDB's format."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, record = file.read_bytes(), 7, b""
    assert content.startswith(b":W&B")
    while position + 7 <= len(content):
        _, length, kind = struct.unpack_from("<IHB", content, position)
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if (left := 32768 - position % 32768) < 7:  # no header crosses a block's end
            position += left
        if kind in (1, 4):  # whole, or the last part
            entry = Record.FromString(record)
            record = b""
            if entry.HasField("history"):
                items = entry.history.item
                yield {"/".join(each.nested_key) or each.key: json.loads(each.value_json) for each in items}


@pytest.mark.parametrize(
    ("report_to", "message"),
    [
        ("trackio", "report_to: TrackioCallback requires trackio to be installed.* pip install 'kinject.trackers.'"),
        ("wandb", "report_to: WandbCallback requires wandb to be installed.* --report_to none does without"),
        ("tensorboard", "report_to: TensorBoardCallback requires tensorboard to be installed"),
        ("notebook", "report_to is 'notebook'; expected none, all or one of azure_ml, .*wandb"),
    ],
)
def test_a_tracker_that_cannot_run_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report_to: str, message: str
) -> None:
    for name in ("trackio", "wandb", "tensorboard"):
        monkeypatch.setattr(f"transformers.integrations.integration_utils.is_{name}_available", lambda: False)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.setattr("kinject.commands.inject.load_for_training", None)  # so that loading would fail
    with pytest.raises(ConfigurationError, match=message):
        train("masked", ["--model", "nano-ar", "--report_to", report_to, "--output_dir", str(tmp_path)])
