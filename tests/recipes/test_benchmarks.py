"""The benchmarks on models and sizes that take seconds: what they compare, count and write. No figure is judged here."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import build_model, build_tokenizer
from tests.trainers.conftest import DOCUMENTS

SCRIPTS = Path(__file__).parents[2] / "recipes" / "benchmarks"


@pytest.fixture(scope="module")
def script() -> Iterator[Callable[[str], Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield importlib.import_module


def test_ways_take_turns_and_the_order_turns_too(script: Callable[[str], Any]) -> None:
    measuring, called = script("measuring"), []

    def called_as(name: str) -> Callable[[], float]:
        return lambda: called.append(name) or float(len(called))  # type: ignore[func-returns-value]

    seconds = measuring.take_turns({name: called_as(name) for name in "ab"}, 3)
    assert "".join(called) == "abbaab"
    assert seconds == {"a": [1.0, 4.0, 5.0], "b": [2.0, 3.0, 6.0]}
    assert measuring.medians(seconds) == {"a": 4.0, "b": 3.0}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read where Linux keeps them")
def test_a_peak_is_what_was_in_use_at_once(script: Callable[[str], Any]) -> None:
    program = """
import torch
from measuring import Peak
peak = Peak()
for size in (40, 80, 20):
    with peak.watch():
        block = torch.ones(size << 18)  # four bytes each
        del block
print(peak.bytes)
"""
    # A process of its own, as in the benchmark: what others have freed here would be taken for free.
    environment = {**os.environ, **script("measuring").RETURN_MEMORY, "PYTHONPATH": str(SCRIPTS)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert 75 << 20 <= int(done.stdout) < 120 << 20


def test_three_ways_train_on_the_same_rows_to_the_same_loss(
    script: Callable[[str], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    training_step = script("training_step")
    tokenizer = build_tokenizer()

    def build(attention: str) -> Any:
        model = build_model(tokenizer)
        model.set_attn_implementation(attention)
        return model

    given = training_step.Material(build, tokenizer, [text * times for text in DOCUMENTS for times in (1, 2)], 4)
    memory = {"public": 4, "trl": 3, "ours": 1}
    found = training_step.compare_on(given, memory, 1)
    assert found["ratios"]["max_loss_difference"] < 1e-5
    assert found["ratios"]["memory_vs_public_loop"] == 0.25
    assert found["scored_tokens"] == sum(2 + 3 * len(text.encode()) for text in DOCUMENTS)
    for other in ("public", "trl"):
        ratio = found["ratios"][f"tokens_per_second_vs_{other}" + ("_loop" if other == "public" else "")]
        assert ratio == pytest.approx(found["seconds"][other][0] / found["seconds"]["ours"][0])
    training_step.show({"models": {"tiny": found}})
    assert "tiny ours" in capsys.readouterr().out


def test_the_worst_model_stands_for_all(script: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    training_step = script("training_step")
    figures = iter([(2.0, 0.3, 1.2, 1e-6), (3.0, 0.4, 1.1, 1e-7)])
    names = ("tokens_per_second_vs_public_loop", "memory_vs_public_loop", "tokens_per_second_vs_trl")
    monkeypatch.setattr(training_step, "memory_alone", lambda *_: 1)
    monkeypatch.setattr(training_step, "material", lambda *_: None)
    monkeypatch.setattr(
        training_step,
        "compare_on",
        lambda *_: {"ratios": dict(zip((*names, "max_loss_difference"), next(figures), strict=True))},
    )
    report = training_step.compare(training_step.build_parser().parse_args([]))
    assert list(report["ratios"].values()) == [2.0, 0.4, 1.1, 1e-6]


def test_answers_are_timed_and_compared(
    script: Callable[[str], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.json"
    script("answering").main(["--questions", "12", "--repetitions", "1", "--max_new_tokens", "16", "--json", str(out)])
    report = json.loads(out.read_text())
    assert report["ratios"]["same_answers"] == 1 and report["differing"] == []
    assert report["ratios"]["wall"] == pytest.approx(report["seconds"]["public"][0] / report["seconds"]["ours"][0])
    assert report["questions"] == 12 and report["exact_match"] == 1
    assert "12 questions, answers of" in capsys.readouterr().out


def test_an_answer_in_full_is_cut_at_its_end(script: Callable[[str], Any]) -> None:
    from kinject.evaluation import answer_questions
    from kinject.models.loading import LoadedModel

    tokenizer = build_tokenizer()
    loaded = LoadedModel(build_model(tokenizer), tokenizer, "tiny", "directory")
    questions = ["Who keeps Lantern Rock?", "Who?", "Who mapped the salt caves of Orrin?"]
    full = script("answering").answer_in_full(loaded, questions, max_new_tokens=24, batch_size=2)
    assert full == answer_questions(loaded.model, tokenizer, questions, max_new_tokens=24, batch_size=3)


def test_generated_statements_are_different_and_injected_as_by_the_command(script: Callable[[str], Any]) -> None:
    many_documents = script("many_documents")
    texts = many_documents.statements(2_000)
    assert len(set(texts)) == 2_000 and texts[:10] == many_documents.statements(2_000)[:10]
    found = many_documents.run(40, 3, 4)
    assert len(found["memory"]) == 3 and min(found["memory"]) > 0
    assert found["startup"]["processor"] > 0 and found["startup"]["seconds"] > 0


def test_linear_start_up_and_flat_memory_have_ratios_of_one(
    script: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    many_documents = script("many_documents")

    class Done:
        def __init__(self, command: list[str], **_: Any) -> None:
            count = int(command[command.index("--counts") + 1])
            startup = {"seconds": 9.0, "processor": 5 + count / 1000}
            self.stdout = json.dumps({"startup": startup, "memory": [7, *[8] * 19]})

    monkeypatch.setattr(many_documents.subprocess, "run", Done)
    report = many_documents.compare([10, 100, 1000], argparse.Namespace(max_steps=20, batch_size=2))
    assert report["ratios"] == {"startup_per_document": pytest.approx(1), "memory_growth": 1}
    many_documents.show(report)


def test_a_point_has_both_ways_at_its_shape(script: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    scaling = script("scaling")

    class Steps:
        bytes = 0

        @contextmanager
        def watch(self) -> Iterator[None]:
            yield
            self.bytes += 1

    monkeypatch.setattr(scaling, "Peak", Steps)
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    monkeypatch.setattr(scaling, "SMALL", small)
    monkeypatch.setattr(scaling, "DEFAULTS", {"length": 16, "batch": 2, "vocabulary": 2_048})
    report = scaling.measure({"length": (16, 64)}, steps=2, repetitions=1)
    short, long = report["points"]
    assert short["tokens_of_a_row"] * 2 < long["tokens_of_a_row"]
    for quantity in ("tokens_per_second", "memory"):
        assert set(long[quantity]) == {"public", "ours"} and min(long[quantity].values()) > 0
        ratio = report["ratios"][f"length_{quantity}"]
        assert ratio == pytest.approx(long[quantity]["ours"] / long[quantity]["public"])
    assert long["memory"] == {"public": 2, "ours": 2}  # every step of one pass was watched
    scaling.show(report)


def test_what_proves_a_gpu_runs_small_on_a_processor(
    script: Callable[[str], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    gpu = script("gpu")
    gpu.main(["--cpu", "--json", str(out)])
    report = json.loads(out.read_text())
    assert report["ok"] and report["errors"] == {}
    assert list(report["seconds"]) == list(gpu.DEADLINES) == list(report["measurements"])
    proved = {(each["section"], each["name"]) for each in report["checks"] if each["ok"]}
    assert {section for section, _ in proved} >= {"parity", "devices", "kernels", "compile", "answering", "inject"}
    assert ("parity", "sampler's noise, bit for bit") in proved
    found = report["measurements"]["step"]
    for case in ("tiny full", "tiny lora"):
        assert {"public", "trl", "shipped", "tuned"} == set(found[case])
        assert all(way["tokens_per_second"] > 0 for way in found[case].values())
    assert report["ratios"]["tiny_full_tokens_per_second_vs_trl"] > 0
    assert "kernels: a step takes FlashAttention" in capsys.readouterr().out


def test_a_section_that_hangs_or_fails_is_recorded_and_the_others_are_kept(
    script: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu, out = script("gpu"), tmp_path / "out.json"
    monkeypatch.setattr(gpu, "DEADLINES", {"machine": 600, "parity": 5, "devices": 600})

    def run(command: list[str], timeout: float) -> Any:
        section = command[command.index("--section") + 1]
        if section == "parity":
            raise subprocess.TimeoutExpired(command, timeout)
        if section == "machine":
            into = Path(command[command.index("--into") + 1])
            into.write_text(json.dumps({"checks": [{"name": "a", "value": 1, "ok": True, "limit": "1"}]}))
        return argparse.Namespace(returncode=int(section == "devices"))

    monkeypatch.setattr(gpu.subprocess, "run", run)
    with pytest.raises(SystemExit) as ended:
        gpu.main(["--json", str(out)])
    report = json.loads(out.read_text())
    assert ended.value.code == 1 and not report["ok"]
    assert report["errors"] == {"parity": "ended after 5 s", "devices": "ended with status 1"}
    assert [each["name"] for each in report["checks"]] == ["a"]


def test_memory_is_read_of_a_second_step_however_few_rows_are_timed(
    script: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    training_step = script("training_step")
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> Any:
        commands.append(command)
        return argparse.Namespace(stdout='{"memory": 5}')

    monkeypatch.setattr(training_step.subprocess, "run", run)
    monkeypatch.setattr(training_step, "material", lambda *_: None)
    monkeypatch.setattr(training_step, "compare_on", lambda *_: {"ratios": dict.fromkeys(NAMES, 1.0)})
    for options, rows in ((["--rows", "16"], "48"), (["--quick"], "32"), (["--rows", "4", "--batch_size", "8"], "24")):
        commands.clear()
        monkeypatch.setattr(training_step, "write_report", lambda *_: None)
        monkeypatch.setattr(training_step, "show", lambda *_: None)
        training_step.main(options)
        assert {command[command.index("--rows") + 1] for command in commands} == {rows}
        sizes = {command[command.index("--batch_size") + 1] for command in commands}
        assert sizes == ({"8"} if "8" in options else {"16"})  # the quick run's steps are as large as the full one's


NAMES = ("tokens_per_second_vs_public_loop", "memory_vs_public_loop", "tokens_per_second_vs_trl", "max_loss_difference")


def test_arms_learn_in_turns_until_they_know_enough(script: Callable[[str], Any]) -> None:
    time_to_knowledge, turns = script("time_to_knowledge"), []

    class Arm:
        """Says after every epoch how much it knows."""

        def __init__(self, name: str, known: list[float]) -> None:
            self.name, self.known, self.epoch, self.told = name, known, 0, []
            self.said: list[Any] = [{"epoch": 0}]

        def send(self, goes_on: bool) -> None:
            self.told.append(goes_on)
            if not goes_on:
                return
            turns.append(self.name)
            self.epoch += 1
            over = self.epoch > len(self.known)
            spent = {"epoch": self.epoch, "seconds": 2.0 * self.epoch, "tokens": 10 * self.epoch}
            macro = {} if over else {"macro": {"paper": self.known[self.epoch - 1]}}
            self.said.append(None if over else spent | macro)

        def recv(self) -> Any:
            return self.said.pop(0)

    arms = {"public": Arm("p", [0.1, 0.2, 0.3]), "trl": Arm("t", [0.1, 0.2, 0.9]), "ours": Arm("o", [0.5, 0.8, 0.9])}
    reports = time_to_knowledge.take_turns(arms, 0.8)
    assert "".join(turns) == "pto" + "otp" + "pt" + "p"  # ours was enough after two, and public had no more epochs
    assert arms["ours"].told == [True, True, False] and arms["public"].told == [True] * 4
    outcomes = {name: time_to_knowledge.outcome(said, 0.8) for name, said in reports.items()}
    assert [outcomes[name]["reached"] for name in arms] == [False, True, True]
    found = time_to_knowledge.ratios([{"arms": outcomes}])
    assert found["ratios"]["tokens_of_trl"] == found["ratios"]["seconds_of_trl"] == 1.5
    assert found["at_least"] == ["seconds_of_public", "tokens_of_public"]
    never = {**outcomes, "ours": {**outcomes["ours"], "reached": False}}
    assert time_to_knowledge.ratios([{"arms": outcomes}, {"arms": never}]) == {"ratios": {}, "at_least": []}


def test_the_paper_s_recipe_is_the_same_batches_in_the_loop_and_in_trl(script: Callable[[str], Any]) -> None:
    time_to_knowledge = script("time_to_knowledge")
    options = ["--size", "4", "--epochs", "2", "--every", "1", "--levers", "collapse_masks"]
    tasks = time_to_knowledge.tasks_of(time_to_knowledge.build_parser().parse_args(options), seed=3)
    said: dict[str, list[dict[str, Any]]] = {}
    for task in tasks:
        said[task.arm] = []

        def report(each: dict[str, Any], into: list[dict[str, Any]] = said[task.arm]) -> bool:
            into.append(each)
            return True

        time_to_knowledge.learn(task, report)
    assert list(said) == ["public", "trl", "ours", "ours + collapse_masks"]
    assert all([each["epoch"] for each in reports] == [0, 1, 2] for reports in said.values())
    for public, trl in zip(said["public"][1:], said["trl"][1:], strict=True):
        assert public["tokens"] == trl["tokens"] and public["steps"] == trl["steps"] == public["epoch"]
        assert public["scores"] == trl["scores"]  # the same weights: the same recipe on the same batches
    assert 0 < said["ours + collapse_masks"][-1]["tokens"] < said["ours"][-1]["tokens"]
    assert all(reports[1]["seconds"] < reports[2]["seconds"] for reports in said.values())
    with pytest.raises(time_to_knowledge.Enough):
        time_to_knowledge.learn(tasks[0], lambda each: each["epoch"] == 0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("answering", ["--questions", "0"], "argument --questions: expected a whole number from 1 on, got '0'"),
        ("diffusion_answering", ["--batch_size", "some"], "argument --batch_size: expected a whole number from 1 on"),
        ("many_documents", ["--counts", "10", "999999"], "--counts 999999: there are 110592 different statements"),
        ("long_run", ["--steps", "3"], "--steps 3 --every 50: expected 4 steps or more"),
    ],
)
def test_sizes_that_cannot_be_measured_are_refused_in_one_line(
    script: Callable[[str], Any], capsys: pytest.CaptureFixture[str], name: str, options: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        script(name).main(options)
    assert stopped.value.code == 2
    assert f"error: {message}" in capsys.readouterr().err.splitlines()[-1]
