"""A run that is killed at any moment and resumed ends as if it had never been: the same weights, scores and files."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from kinject.trainers.checkpointing import is_whole_checkpoint
from tests.trust import faults
from tests.trust.runs import ARMS, STEPS, finish, log_of, run, scores, start, weights

KILLS = int(os.environ.get("KINJECT_TRUST_KILLS", "2"))


@pytest.mark.parametrize("arm", ARMS)
def test_a_run_that_is_killed_again_and_again_ends_as_an_uninterrupted_one(arm: str, tmp_path: Path) -> None:
    began = time.monotonic()
    run(arm, tmp_path / "whole")
    seconds = time.monotonic() - began
    moments = random.Random(arm)
    interrupted = tmp_path / "killed"
    for _ in range(KILLS):
        process = start(arm, interrupted, resume_from_checkpoint="true")
        process.join(moments.uniform(0.2, 1.0) * seconds)
        process.kill()
        assert finish(process) in (0, -signal.SIGKILL), log_of(interrupted)
    run(arm, interrupted, resume_from_checkpoint="true")
    assert_alike(interrupted, tmp_path / "whole")


def assert_alike(resumed: Path, whole: Path) -> None:
    """Both ended in the same weights, bit for bit, and tell the same of it."""
    assert weights(resumed) == weights(whole)
    assert scores(resumed) == scores(whole)
    steps = [entry["step"] for entry in scores(resumed)["history"]]
    assert steps == sorted(set(steps)) and steps[-1] == STEPS


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never interrupted, with the best weights chosen."""
    directory = tmp_path_factory.mktemp("uninterrupted") / "run"
    run("masked-lora", directory, select_on="test")
    return directory


@pytest.mark.parametrize(
    "fault",
    [
        faults.in_weights,
        faults.in_optimizer,
        faults.in_state,
        faults.in_rotation,
        faults.in_evaluation,
        faults.in_results,
        faults.in_best,
        faults.at_the_end,
    ],
)
def test_a_run_that_is_killed_while_it_writes_goes_on_from_what_is_whole(
    fault: Callable[[Path], None], whole: Path, tmp_path: Path
) -> None:
    process = start("masked-lora", tmp_path / "run", fault=fault, select_on="test")
    assert finish(process) == -signal.SIGKILL, log_of(tmp_path / "run")
    run("masked-lora", tmp_path / "run", select_on="test", resume_from_checkpoint="true")
    assert_alike(tmp_path / "run", whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_stop_saves_a_checkpoint_and_says_how_to_go_on(
    number: signal.Signals, whole: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    told = partial(faults.told_to_stop, number=number, times=1)
    assert finish(start("masked-lora", directory, fault=told, select_on="test", save_strategy="no")) == 128 + number
    assert [saved.name for saved in directory.glob("checkpoint-*")] == ["checkpoint-3"]
    assert log_of(directory).splitlines()[-1] == (
        f"stopped at step 3 of {STEPS}; checkpoint-3 is saved. Go on with the same command and "
        "--resume_from_checkpoint true."
    )
    run("masked-lora", directory, select_on="test", resume_from_checkpoint="true")
    assert_alike(directory, whole)


def test_a_second_signal_ends_a_run_at_once(tmp_path: Path) -> None:
    told = partial(faults.told_to_stop, number=signal.SIGINT, times=2)
    assert finish(start("masked-lora", tmp_path / "run", fault=told, save_strategy="no")) == 128 + signal.SIGINT
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    assert "without a checkpoint" in log_of(tmp_path / "run")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB; only root can mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_stops_a_run_and_leaves_the_checkpoint_before(
    small_disk: Path, whole: Path, tmp_path: Path
) -> None:
    options = {"select_on": "test", "save_total_limit": 20}
    directory = small_disk / "run"
    Path(f"{directory}.log.txt").symlink_to(tmp_path / "log.txt")  # not onto the small disk
    assert finish(start("masked-lora", directory, **options)) == 2
    said = log_of(directory).splitlines()[-1]
    kept = max(directory.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    assert said.startswith("error: ") and f"{kept.name} is whole: free space and go on from it" in said
    assert is_whole_checkpoint(kept)
    elsewhere = tmp_path / "run"
    shutil.copytree(directory, elsewhere)
    run("masked-lora", elsewhere, resume_from_checkpoint="true", **options)
    assert_alike(elsewhere, whole)


def test_a_checkpoint_that_is_named_must_be_whole(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    checkpoint = next((tmp_path / "run").glob("checkpoint-*"))
    os.truncate(checkpoint / "optimizer.pt", 1000)
    process = start("masked-lora", tmp_path / "run", resume_from_checkpoint=checkpoint)
    assert finish(process) == 2
    assert "is no checkpoint that was written to its end" in log_of(tmp_path / "run").splitlines()[-1]
