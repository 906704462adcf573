"""Scores in `.eval_results`, and data sets that the Hub can register as benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import load_dataset

from kinject.cli import main
from kinject.commands.evaluate import compare
from kinject.data import load_knowledge
from kinject.errors import ConfigurationError, DataError
from kinject.evaluation.results import write_results
from kinject.hub.card_metadata import (
    ENTRIES,
    TASKS,
    benchmark_of,
    differences,
    entries_of,
    read_entries,
    write_benchmark,
    write_entries,
)
from kinject.hub.publishing import push
from tests.hub.conftest import User
from tests.hub.runs import some_run, write_run
from tests.hub.trained import whole_model


def test_entries_say_what_the_results_say_and_are_read_back(tmp_path: Path) -> None:
    results = some_run()
    path = write_entries(tmp_path, results, "ada/world")
    assert path == tmp_path / ENTRIES
    rows = yaml.safe_load(path.read_text())
    assert [row["dataset"] for row in rows] == [{"id": "ada/world", "task_id": task} for task in TASKS]
    assert [row["value"] for row in rows] == [
        results["after"][direction][measure] for direction, measure in TASKS.values()
    ]
    assert f"{results['after']['forward']['n']} questions, 95% interval" in rows[0]["notes"]
    scores = read_entries(path.read_text())
    assert scores == {
        direction: {name: results["after"][direction][name] for name in ("paper", "exact_match", "f1", "n")}
        for direction in ("forward", "backward")
    }
    assert differences(results["after"], scores) == []
    scores["backward"]["f1"] = 0.123
    (said,) = differences(results["after"], scores)
    assert said.startswith("backward, token F1: 0.123, and the card 0.")


def test_nothing_is_claimed_of_a_run_that_was_not_asked_or_learned_from_no_data_set_of_the_hub(tmp_path: Path) -> None:
    results = some_run()
    assert write_entries(tmp_path, {**results, "after": None, "history": []}, "ada/world") is None
    assert benchmark_of({**results, "dataset": "ada/people:default"}) == "ada/people"
    assert benchmark_of({**results, "dataset": "people.jsonl"}) is None
    assert benchmark_of({**results, "dataset": "people.jsonl"}, "ada/world") == "ada/world"
    with pytest.raises(ConfigurationError, match="^benchmark 'world' is no data set of the Hub; expected user/name"):
        benchmark_of(results, "world")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- value: 1", "KeyError"),
        ("words", "AttributeError|TypeError"),
        ("[", "ParserError"),
        (
            "- {dataset: {id: a/b, task_id: forward_f1}, value: 78.5}",
            "the value of forward_f1 is 78.5; expected a number",
        ),
        ("- {dataset: {id: a/b, task_id: forward_f1}, value: true}", "the value of forward_f1 is True"),
    ],
)
def test_entries_by_other_hands_are_refused_with_their_fault(text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_entries(text)


def test_other_tasks_are_left_out() -> None:
    assert read_entries("- {dataset: {id: cais/hle, task_id: default}, value: 20.9}") == {}
    assert read_entries("") == {}


def test_a_world_is_written_as_a_benchmark_that_kinject_and_datasets_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "world"
    main(["benchmark", "fictional:nano", "--size", "4", "--world_seed", "3", "--output_dir", str(folder)])
    assert "hf upload --repo-type dataset" in capsys.readouterr().out
    world, read = load_knowledge("fictional:nano", size=4, seed=3), load_knowledge(str(folder))
    assert [each.text for each in read.documents] == [each.text for each in world.documents]
    assert [(each.question, each.answers, each.direction, each.fact) for each in read.questions] == [
        (each.question, each.answers, each.direction, each.fact) for each in world.questions
    ]
    said = yaml.safe_load((folder / "eval.yaml").read_text())
    assert [each["id"] for each in said["tasks"]] == list(TASKS)
    assert said["description"].startswith(
        f"What a model knows after it has learned the {len(world.documents)} documents"
    )
    for task in said["tasks"]:  # what the tasks name is there
        assert len(load_dataset(str(folder), task["config"], split=task["split"])) == len(world.questions)
    assert load_dataset(str(folder), "documents", split="train")["text"][0] == world.documents[0].text
    with pytest.raises(ConfigurationError, match="is there already; name a new directory.$"):
        write_benchmark(world, folder)


def test_a_push_writes_entries_and_compare_reads_them(
    online: User, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = whole_model(tmp_path / "run")
    write_results(directory / "results.json", some_run())
    pushed = push(directory, "ada/people", benchmark="ada/world")
    assert ENTRIES in pushed.files and not (directory / ENTRIES).exists()
    published = online.hub.files("ada/people")[ENTRIES].decode()
    assert [row["dataset"]["id"] for row in yaml.safe_load(published)] == ["ada/world"] * len(TASKS)
    assert ".eval_results says" not in compare(["ada/people"])
    push(directory, "ada/people")  # of no benchmark any more
    assert ENTRIES not in online.hub.files("ada/people")


def test_compare_reads_entries_without_a_card_and_says_where_they_differ_from_one(tmp_path: Path) -> None:
    results = some_run()
    alone = tmp_path / "alone"
    alone.mkdir()
    write_entries(alone, results, "ada/world")
    both = write_run(tmp_path / "both", results)
    changed: dict[str, Any] = {**results, "after": {**results["after"], "forward": dict(results["after"]["forward"])}}
    changed["after"]["forward"]["exact_match"] = 0.987
    write_entries(both, changed, "ada/world")
    table = compare([str(alone), str(both)])
    row = next(line for line in table.splitlines() if "alone" in line and ".eval_results" not in line)
    for direction in ("forward", "backward"):
        assert f"{results['after'][direction]['exact_match']:.2f}" in row
    (said,) = [line for line in table.splitlines() if ".eval_results" in line]
    assert said.startswith(f"{both}: .eval_results says of forward, exact match: 0.987, and the card 0.")
    assert len(entries_of(changed, "ada/world")) == len(TASKS)
