"""What is run, resumed, repeated and left alone; a grid that is killed ends as one that is not."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kinject.errors import RunStopped
from kinject.evaluation.results import read_results
from kinject.reproduction.command import _figures_only, main
from kinject.reproduction.grid import Launch, Run, checkpoints, estimate, finished_results, run_grid, state, table_runs
from tests.reproduction.recipes_folder import small_recipes, write_recipes

# Enough of them that a run can be killed in the middle.
EPOCHS = {"scales/nano.yaml:options.num_train_epochs": 8}


def launch(tmp_path: Path) -> Launch:
    return Launch(recipes=tmp_path / "recipes", runs=tmp_path / "runs")


def one_run(tmp_path: Path) -> Run:
    recipes = small_recipes(tmp_path / "recipes", EPOCHS)
    return table_runs(recipes, recipes.table("table5"), {}, Path("data"))[0]


def quietly(run: Run, event: str) -> None:
    pass


def scores(run: Run, how: Launch) -> Any:
    found = read_results(how.directory(run))
    kept = ("before", "after", "answers")
    return [found[name] for name in kept] + [{**entry, "seconds": 0} for entry in found["history"]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    folder = tmp_path_factory.mktemp("finished")
    run = one_run(folder)
    assert run_grid([run], launch(folder), report=quietly) == {}
    return folder, run


def test_a_finished_run_is_done_and_trained_on_what_was_estimated(finished: tuple[Path, Run]) -> None:
    folder, run = finished
    directory = launch(folder).directory(run)
    assert state(directory) == "done" and not list(directory.glob("checkpoint-*"))
    scale = small_recipes(folder / "again", EPOCHS).scale
    found = read_results(directory)["train"]
    assert (found["steps"], found["tokens"]) == (estimate(run, scale).steps, round(estimate(run, scale).tokens))


def test_methods_with_the_same_settings_share_a_run(finished: tuple[Path, Run]) -> None:
    folder, run = finished
    other = replace(run, method="the same by another name")
    assert other.key == run.key and other.name != run.name
    assert launch(folder).directory(other) == launch(folder).directory(run)
    assert launch(folder).directory(replace(other, options={**run.options, "seed": 99})).name.startswith("nano_ar")


def test_a_finished_run_is_not_repeated_until_the_code_changes(finished: tuple[Path, Run], tmp_path: Path) -> None:
    source, run = finished
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    directory, events = launch(tmp_path).directory(run), []
    before = (directory / "results.json").stat().st_mtime_ns
    run_grid([run], launch(tmp_path), report=lambda _, event: events.append(event))
    assert events == ["finished"] and (directory / "results.json").stat().st_mtime_ns == before
    about = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    (directory / "run.json").write_text(json.dumps({**about, "code": "other"}), encoding="utf-8")
    assert state(directory) == "stale"
    run_grid([run], launch(tmp_path), keep_stale=True, report=quietly)
    assert (directory / "results.json").stat().st_mtime_ns == before
    run_grid([run], launch(tmp_path), report=lambda _, event: events.append(event))
    assert events[1:] == ["started", "finished"] and state(directory) == "done"
    assert scores(run, launch(tmp_path)) == scores(run, launch(source))


def test_a_half_written_directory_is_never_done(finished: tuple[Path, Run], tmp_path: Path) -> None:
    source, run = finished
    directory = tmp_path / "run"
    shutil.copytree(launch(source).directory(run), directory)
    found = json.loads((directory / "results.json").read_text(encoding="utf-8"))
    del found["answers"]  # as it is between the last evaluation and the end
    (directory / "results.json").write_text(json.dumps(found), encoding="utf-8")
    assert finished_results(directory) is None and state(directory) == "missing"
    (directory / "checkpoint-3").mkdir()
    assert checkpoints(directory) == [] and state(directory) == "missing"
    (directory / "checkpoint-3" / "trainer_state.json").write_text("{", encoding="utf-8")
    assert state(directory) == "missing"
    (directory / "checkpoint-3" / "trainer_state.json").write_text("{}", encoding="utf-8")
    assert state(directory) == "partial"
    (directory / "run.json").unlink()
    assert state(directory) == "missing"


def test_a_run_that_fails_is_named_with_its_last_words(tmp_path: Path) -> None:
    run = one_run(tmp_path)
    broken = Run(run.model, run.dataset, run.method, run.seed, run.recipe, {**run.options, "mask_ratio": "x"})
    failures = run_grid([broken], launch(tmp_path), report=quietly)
    assert "status 2" in failures[broken.name] and "unknown option" in failures[broken.name]


def test_several_processes_are_launched_by_accelerate(tmp_path: Path) -> None:
    run = one_run(tmp_path)
    how = Launch(tmp_path / "recipes", tmp_path / "runs", accelerate_config=Path("zero3.yaml"))
    command = how.command(run)
    assert command[1:5] == ["-m", "accelerate.commands.launch", "--config_file", "zero3.yaml"]
    assert command[5].endswith("ar_ft.py") and "--output_dir" in command


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM ends no program of Windows in its own way")
def test_a_grid_that_is_told_to_stop_tells_its_runs(tmp_path: Path) -> None:
    waiting = """
import signal, sys, time
def told(*_):
    open(sys.argv[1] + "/told", "w").close()
    sys.exit(143)
signal.signal(signal.SIGTERM, told)
open(sys.argv[1] + "/ready", "w").close()
time.sleep(60)
"""

    class Waiting(Launch):
        def command(self, run: Run, *options: str) -> list[str]:
            return [sys.executable, "-c", waiting, str(tmp_path)]

    def stop_once_ready() -> None:
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    former = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=stop_once_ready, daemon=True).start()
    with pytest.raises(RunStopped, match="The same command goes on with what is not finished"):
        run_grid([one_run(tmp_path)], Waiting(tmp_path / "recipes", tmp_path / "runs"), report=quietly)
    assert (tmp_path / "told").exists() and signal.getsignal(signal.SIGTERM) is former


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is a signal of POSIX")
def test_a_grid_killed_at_a_random_moment_finishes_with_the_same_results(
    finished: tuple[Path, Run], tmp_path: Path
) -> None:
    write_recipes(
        tmp_path / "recipes", {**EPOCHS, "tables/table5.yaml:methods": ["ar"], "tables/table5.yaml:claims": []}
    )
    arguments = ["table5", "--jobs", "2", "--recipes", str(tmp_path / "recipes"), "--output_dir", str(tmp_path / "out")]
    killed = Launch(recipes=tmp_path / "recipes", runs=tmp_path / "out" / "nano" / "runs")
    draw = random.SystemRandom()
    step, moment = draw.randint(1, 4), draw.uniform(0.0, 0.3)
    # Four steps and the answers at the end are still to come then, but a busy machine may let the grid end before our turn.
    said = None
    for when in ((step, moment), (1, 0.0), (1, 0.0)):
        said = said or kill(arguments, killed, *when)
    assert said, "the grid ended three times before it was killed"
    main(arguments)
    source, run = finished
    assert scores(run, killed) == scores(run, launch(source)), said
    (row,) = json.loads((tmp_path / "out" / "nano" / "table5.json").read_text(encoding="utf-8"))
    assert row["after"] == _figures_only(read_results(killed.directory(run)))["after"], said


def kill(arguments: list[str], how: Launch, step: int, moment: float) -> str | None:
    """Start a grid and kill it ``moment`` seconds after the checkpoint of ``step``; what was done, None if it had ended."""
    shutil.rmtree(how.runs, ignore_errors=True)
    code = "from kinject.reproduction.command import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not any(saved >= step for saved in steps_saved(how.runs)) and process.poll() is None:
        time.sleep(0.02)
    time.sleep(moment)
    if process.poll() is not None:
        assert process.returncode == 0
        return None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return f"killed {moment:.3f} s after checkpoint {step}"


def steps_saved(runs: Path) -> list[int]:
    return [int(path.name.rpartition("-")[2]) for path in runs.glob("*/checkpoint-*")]


def test_a_dry_run_shows_the_plan_and_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_recipes(tmp_path / "recipes")
    places = ["--recipes", str(tmp_path / "recipes"), "--output_dir", str(tmp_path / "out")]
    main(["table5", *places, "--dry-run", "--seeds", "3", "4"])
    shown = capsys.readouterr().out
    assert "6 runs, 6 to do" in shown and "nano-ar people masked seed 4" in shown and "hours of one core" in shown
    with pytest.raises(SystemExit):
        main(["table5", *places, "--dry-run", "--models", "nano-br"])
    assert "--models nano-br: the scale has nano-ar" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_only_some_models_of_a_scale_are_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["table2", "--scale", "nano", "--output_dir", str(tmp_path), "--dry-run", "--models", "nano-block"])
    shown = capsys.readouterr().out
    assert "nano-block name_description diffusion seed 0" in shown and "nano-diffusion" not in shown


def test_models_that_are_left_out_still_set_the_matched_compute(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def plan(*models: str) -> list[list[str]]:
        only = ["--models", *models] if models else []
        main(["table2", "--output_dir", str(tmp_path), "--dry-run", "--matched_compute", "--seeds", "0", *only])
        lines = capsys.readouterr().out.splitlines()
        return [line.split() for line in lines if line.startswith("nano-block")]

    assert plan("nano-block") == plan() != []


def test_data_that_is_not_there_is_told_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = {"documents": "{data_dir}/people"}
    write_recipes(tmp_path / "recipes", {"scales/nano.yaml:datasets.people.options": documents})
    places = ["--recipes", str(tmp_path / "recipes"), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as error:
        main(["table5", *places, "--data_dir", str(tmp_path / "data")])
    assert error.value.code == 2 and "--data_dir" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["table5", *places, "--jobs", "0"])
    assert "--jobs 0: expected 1 or more" in capsys.readouterr().err


def test_configuration_of_accelerate_must_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_recipes(tmp_path / "recipes", {"scales/nano.yaml:launch": "accelerate"})
    with pytest.raises(SystemExit):
        main(["table5", "--recipes", str(tmp_path / "recipes"), "--accelerate_config", str(tmp_path / "no.yaml")])
    assert "no.yaml: no such file" in capsys.readouterr().err


def test_what_is_written_for_committing_holds_no_text(finished: tuple[Path, Run]) -> None:
    folder, run = finished
    found = read_results(launch(folder).directory(run))
    assert found["answers"]
    written = json.dumps(_figures_only({**found, "retention": {"before": {"answered": 1.0, "right": ["Who?"]}}}))
    assert "Who?" not in written and not any(each["question"] in written for each in found["answers"])
