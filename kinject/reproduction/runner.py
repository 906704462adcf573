"""Starts the missing runs of a grid, several at once, each in its own process; killed runs are resumed. Knows no tables.

A run's directory holds `run.json` (its settings and a fingerprint of the code), `config.yaml`, `log.txt` and the files of the
recipe. A run is finished when its `results.json` holds the answers, which a recipe writes last. The run's process locks the
directory, so that two grids, or a grid and a run that a killed grid left behind, do not use it at the same time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kinject.errors import ConfigurationError, KinjectError
from kinject.evaluation.results import read_results, write_json, write_text
from kinject.reproduction.grid import Run, code_fingerprint

State = Literal["done", "stale", "partial", "missing"]


@dataclass(frozen=True)
class Launch:
    """How runs are started.

    Attributes:
        recipes: The folder of the scripts.
        runs: The folder of the runs' directories.
        jobs: Number of runs at once.
        threads: Processor threads of each run.
        accelerate_config: Configuration file of `accelerate launch`, if runs are started through that.
    """

    recipes: Path
    runs: Path
    jobs: int = 1
    threads: int = 1
    accelerate_config: Path | None = None

    def directory(self, run: Run) -> Path:
        """The directory of ``run``: its own, or that of a run with the same settings under another method's name."""
        own = self.runs / run.name
        return own if own.exists() else next(iter(sorted(self.runs.glob(f"*-{run.key}"))), own)

    def command(self, run: Run, *options: str) -> list[str]:
        """The command of ``run``, with further ``options``."""
        directory = self.directory(run)
        start = [sys.executable]
        if self.accelerate_config is not None:
            start += ["-m", "accelerate.commands.launch", "--config_file", str(self.accelerate_config)]
        script = str(self.recipes / run.script)
        shown = ["--output_dir", str(directory), "--disable_tqdm", "true"]  # progress bars would only fill the log
        return [*start, script, "--config", str(directory / "config.yaml"), *shown, *options]


def state(directory: Path, code: str | None = None) -> State:
    """The state of the run in ``directory``; `stale` means finished, but with other code than ``code`` (default: this one)."""
    started = _read_json(directory / "run.json")
    if started is None:
        return "missing"
    current = started.get("code") == (code or code_fingerprint())
    if finished_results(directory) is not None:
        return "done" if current else "stale"
    return "partial" if current and checkpoints(directory) else "missing"


def finished_results(directory: Path) -> dict[str, Any] | None:
    """The results of a finished run, else None."""
    try:
        results = read_results(directory)
    except KinjectError:
        return None
    return results if results["after"] is not None and "answers" in results else None


def checkpoints(directory: Path) -> list[Path]:
    """The checkpoints that were written to their end."""
    found = sorted(directory.glob("checkpoint-*"))
    if not found:
        return []  # without importing torch
    from kinject.trainers.checkpointing import is_whole_checkpoint

    return [path for path in found if is_whole_checkpoint(path)]


def run_grid(
    runs: Sequence[Run], launch: Launch, *, keep_stale: bool = False, report: Callable[[Run, str], None]
) -> dict[str, str]:
    """Start those of ``runs`` that are not finished.

    Args:
        runs: In the order in which they are started.
        launch: How they are started.
        keep_stale: Whether results of other code count as finished.
        report: Called with a run and `started`, `resumed`, `finished` or `failed`, from several threads.

    Returns:
        The reasons of failed runs, by the name of the run.
    """
    failures: dict[str, str] = {}
    with ThreadPoolExecutor(launch.jobs) as pool:
        waiting = {pool.submit(_run, run, launch, keep_stale, report): run for run in runs}
        try:
            for future in as_completed(waiting):
                problem = future.result()
                if problem:
                    failures[waiting[future].name] = problem
        except BaseException:
            for future in waiting:
                future.cancel()
            raise
    return failures


def _run(run: Run, launch: Launch, keep_stale: bool, report: Callable[[Run, str], None]) -> str:
    """Start ``run`` unless it is finished; returns why it failed, or an empty text."""
    directory = launch.directory(run)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"{directory}: cannot be made ({error.strerror}); choose another --output_dir."
        ) from error
    with _locked(directory) as lock:
        found = state(directory)  # another grid may have finished it while this one waited
        if found == "done" or (found == "stale" and keep_stale):
            report(run, "finished")
            return ""
        resumes = found == "partial"
        _prepare(directory, run, resumes)
        report(run, "resumed" if resumes else "started")
        anew = ("--resume_from_checkpoint", "false", "--overwrite")
        command = launch.command(run, *(("--resume_from_checkpoint", "true") if resumes else anew))
        threads = str(launch.threads)
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
        log = directory / "log.txt"
        with log.open("a", encoding="utf-8") as output:
            kept = () if lock is None else (lock,)  # the run holds the lock too, in case this process is killed
            status = subprocess.run(
                command,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env=environment,
                pass_fds=kept,
                # The accelerate files name their DeepSpeed files relative to the checkout.
                cwd=launch.recipes.parent if launch.accelerate_config else None,
            ).returncode
        if state(directory) != "done":
            report(run, "failed")
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            return f"status {status}: {lines[-1] if lines else 'no output'} ({log})"
        for checkpoint in directory.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
        report(run, "finished")
        return ""


def _prepare(directory: Path, run: Run, resumes: bool) -> None:
    """Delete everything in ``directory`` except complete checkpoints to resume from, and write `config.yaml` and `run.json`."""
    import yaml

    complete = checkpoints(directory) if resumes else []
    keep = {directory / "lock", *complete, *((directory / "results.json", directory / "log.txt") if resumes else ())}
    for path in directory.iterdir():
        if path in keep or path == directory / "best" and resumes:
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_text(directory / "config.yaml", yaml.safe_dump(run.options, sort_keys=True, allow_unicode=True))
    about = {"run": run.label, "key": run.key, "code": code_fingerprint(), "data": run.data}
    write_json(directory / "run.json", about)


@contextmanager
def _locked(directory: Path) -> Iterator[int | None]:
    """Hold the lock of ``directory``, after waiting for another holder; None on Windows, which has no such locks."""
    if sys.platform == "win32":
        yield None
        return
    import fcntl

    with (directory / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
