"""The runs of a table: their settings, a fingerprint of all that decides their results, their cost, and starting them.

Missing runs are started, several at once, each in its own process, and killed ones are resumed. Compares no figures.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kinject.data.practice import practiced
from kinject.errors import ConfigurationError, DataError, KinjectError, RunStopped
from kinject.evaluation.results import files_fingerprint, read_results, write_json, write_text
from kinject.reproduction.specification import SCRIPTS, Dataset, Method, Recipes, Scale, Table, load_yaml

if TYPE_CHECKING:
    from types import FrameType

    from transformers import PreTrainedTokenizerBase

    from kinject.prompts.templates import DocumentTemplate, Frame


# Runs, and the settings of each.

# Settings that change where a run writes or what it shows, but not its results.
_NO_RESULT = ("output_dir", "report_to", "logging_steps", "disable_tqdm", "save_total_limit")
_FILES = ("questions", "wordings", "model_name_or_path")  # settings besides the documents that may name local files


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        model, dataset, method, seed: Its place in the grid.
        recipe: `ar`, `masked` or `diffusion`.
        options: All settings, those of the recipe's YAML file included.
        data: Fingerprint of local documents, questions, wordings and models, whose content may change under the same name.
    """

    model: str
    dataset: str
    method: str
    seed: int
    recipe: str
    options: dict[str, Any] = field(hash=False)
    data: str = ""

    @property
    def key(self) -> str:
        """A hash of the settings and documents that identifies the run, in 10 hexadecimal digits."""
        deciding = {name: value for name, value in self.options.items() if name not in _NO_RESULT}
        # `data` has the content of local documents, so their folder does not matter.
        if data_fingerprint(str(self.options["documents"])):
            deciding["documents"] = Path(str(self.options["documents"])).name
        text = json.dumps([self.recipe, deciding, self.data], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    @property
    def name(self) -> str:
        """A readable, unique name for its directory."""
        parts = (self.model, self.dataset, self.method, str(self.seed), self.key)
        return "-".join(re.sub(r"[^\w.]+", "_", part) for part in parts)

    @property
    def label(self) -> str:
        """The run's name in plans and progress."""
        return f"{self.model} {self.dataset} {self.method} seed {self.seed}"

    @property
    def script(self) -> str:
        """The recipe's script, in `recipes/`."""
        return SCRIPTS[self.recipe]

    def scaled(self, factor: float) -> Run:
        """The same run with ``factor`` times as many steps."""
        options = _scaled(self.options, factor)
        return Run(self.model, self.dataset, self.method, self.seed, self.recipe, options, self.data)


def table_runs(recipes: Recipes, table: Table, overrides: Mapping[str, Any], data_dir: Path) -> list[Run]:
    """The runs that ``table`` and its claims need at the scale of ``recipes``, in the order of its rows.

    Args:
        recipes: The content of `recipes/`.
        table: The table.
        overrides: Settings that replace all others.
        data_dir: Replaces `{data_dir}` in settings.

    Raises:
        ConfigurationError: no run is left, or the YAML file of a model and recipe is missing.
    """
    methods = list(table.methods)
    for claim in table.claims:
        methods += [name for name in recipes.claims[claim].methods if name not in methods]
    runs = [run for name in methods for run in method_runs(recipes, table, name, overrides, data_dir)]
    if not runs:
        raise ConfigurationError(f"'{table.title}' has no run at scale {recipes.scale_name}; see {recipes.folder}.")
    return runs


def method_runs(
    recipes: Recipes, table: Table, name: str, overrides: Mapping[str, Any], data_dir: Path
) -> Iterator[Run]:
    """The runs of one method on the datasets of ``table``; arguments as in `table_runs`."""
    scale, method = recipes.scale, recipes.methods[name]
    overrides = {**table.options, **overrides}
    datasets = dict.fromkeys(panel.dataset for panel in table.panels.values())
    if name in scale.without or (scale.methods and name not in scale.methods):
        return
    for model_name, model in scale.models.items():
        if model.family != method.family:
            continue
        for dataset_name in datasets:
            dataset = scale.datasets.get(dataset_name)
            if dataset is None or method.paraphrases not in dataset.wordings:
                continue
            base = load_yaml(recipes.folder / model.recipes / f"{model.files.get(method.recipe, method.recipe)}.yaml")
            options = _resolved(base, scale.options, name, method, dataset, overrides, data_dir)
            others = [str(options[option]) for option in _FILES if options.get(option)]
            data = data_fingerprint(str(options["documents"]), *others)
            for seed in scale.seeds:
                seeded = {**options, **dict.fromkeys(scale.seed_options, seed)}
                yield Run(model_name, dataset_name, name, seed, method.recipe, seeded, data)


def _resolved(
    base: Mapping[str, Any],
    scale_options: Mapping[str, Any],
    name: str,
    method: Method,
    dataset: Dataset,
    overrides: Mapping[str, Any],
    data_dir: Path,
) -> dict[str, Any]:
    """All settings of a run except its seed; those of later sources replace those of earlier ones."""
    options = {
        **base,
        **scale_options,
        **dataset.options,
        **method.options,
        **dataset.methods.get(name, {}),
        **overrides,
        "paraphrases": method.paraphrases,
    }
    documents = str(options.get("documents", "")).replace("{data_dir}", str(data_dir))
    options["documents"] = documents
    if int(options.get("max_steps", -1)) <= 0:
        # With several wordings an epoch is as many times longer; fewer epochs keep the number of samples.
        options["num_train_epochs"] = float(options["num_train_epochs"]) / dataset.wordings[method.paraphrases]
    return options if method.steps == 1 else _scaled(options, method.steps)


def _scaled(options: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """``options`` with ``factor`` times as many steps."""
    if int(options.get("max_steps", -1)) > 0:
        return {**options, "max_steps": max(1, round(options["max_steps"] * factor))}
    return {**options, "num_train_epochs": round(float(options["num_train_epochs"]) * factor, 4)}


# Fingerprints: besides its settings, kinject's code and local documents, questions and models decide the results of a run.

PACKAGE = Path(__file__).parent.parent
# Code that shows, publishes or orders results, but makes none.
_SHAPES_NO_RESULT = (
    "reproduction",
    "hub",
    "cli.py",
    "__main__.py",
    "commands/doctor.py",
    "commands/output_dir.py",
    "evaluation/report.py",
    "evaluation/lm_eval.py",
    "evaluation/qa_metric.py",
    "trainers/hub_hooks.py",
)
_COMPILED = (".pyc", ".pyo")


@cache
def code_fingerprint(package: Path = PACKAGE) -> str:
    """A hash of the code, and of the files of shipped models, that decide results, in 10 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        relative = path.relative_to(package).as_posix()
        if relative.startswith(_SHAPES_NO_RESULT):
            continue
        if path.suffix == ".py":
            digest.update(f"{relative}\n{bare_code(path.read_text(encoding='utf-8'))}\n".encode())
        elif path.is_file() and path.suffix not in _COMPILED:
            digest.update(f"{relative}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:10]


def bare_code(source: str) -> str:
    """``source`` without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and (
            ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


@cache
def data_fingerprint(documents: str, *others: str) -> str:
    """A hash of the local files behind ``documents``; empty for fictional worlds, Hub data sets and missing files.

    Args:
        documents: As `--documents` takes them.
        others: Further files and folders that a run reads, such as its questions or its model; names without a file are
            ignored.
    """
    path = Path(documents).expanduser()
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    if not path.exists():  # in the published layout several data sets may share a folder: `wiki` is `wiki_*`
        files = sorted(path.parent.glob(f"{path.name}_*")) if path.parent.is_dir() else []
    for other in map(Path, others):
        files += sorted(each for each in other.rglob("*") if each.is_file()) if other.is_dir() else []
        files += [other] if other.is_file() else []
    return files_fingerprint(files) if files else ""


# Estimates of a run's cost: tokens, floating-point operations and hours.

_REHEARSED = 40.0  # tokens of a general prompt with its answer, where no tokenizer is there to count them
_PROMPTS = 256  # general prompts whose tokens are counted
_INFILLED = 0.45  # mean share of a document that is not part of an infilling sample's answer
_FRAME = 20.0  # tokens around a document, where no tokenizer is there to count them
_TOKENS_A_WORD = 1.4
_TOKENS_ASKED = 40.0  # tokens of a question of practice with its answer


@dataclass(frozen=True)
class Cost:
    """The expected cost of a run.

    Attributes:
        steps: Optimizer steps.
        tokens: Tokens of all samples, without padding.
        flops: Floating-point operations of training.
        hours: Hours of one device.
        counted: Whether tokens were counted, not assumed.
    """

    steps: int
    tokens: float
    flops: float
    hours: float
    counted: bool


def estimate(run: Run, scale: Scale, processes: int = 1) -> Cost:
    """The expected cost of ``run`` at ``scale``, where so many ``processes`` share a step."""
    model, dataset = scale.models[run.model], scale.datasets[run.dataset]
    samples, tokens_a_sample, counted = _samples(run, dataset)
    stated, asked = practiced(samples, *(float(run.options.get(name, 0.0)) for name in ("practice", "abstain")))
    if asked:
        tokens_a_sample = ((samples + stated) * tokens_a_sample + asked * _TOKENS_ASKED) / (samples + stated + asked)
        samples, counted = samples + stated + asked, False
    share = float(run.options.get("rehearsal", 0.0))
    if share:
        from kinject.trainers.rehearsal import rehearsal_size  # with torch, which takes seconds

        rehearsed = rehearsal_size(samples, share)
        tokens_a_sample = (samples * tokens_a_sample + rehearsed * _rehearsed_tokens(run)) / (samples + rehearsed)
        samples, counted = samples + rehearsed, False
    batch = int(run.options.get("per_device_train_batch_size", 8)) * processes
    batch *= int(run.options.get("gradient_accumulation_steps", 1))
    steps_an_epoch = -(-samples // batch)
    steps = int(run.options.get("max_steps", -1))
    if steps <= 0:
        epochs = float(run.options["num_train_epochs"])
        steps = -int(-epochs * steps_an_epoch // 1)
    tokens = steps / steps_an_epoch * samples * tokens_a_sample
    tokens *= model.copies
    flops = tokens * 6.0 * model.parameters
    return Cost(steps, tokens, flops, flops / float(scale.device["flops"]) / 3600, counted and model.copies == 1)


def matched(runs: Sequence[Run], references: Sequence[Run], scale: Scale, processes: int = 1) -> list[Run]:
    """``runs`` with the number of steps at which they take as many floating-point operations as the reference.

    Args:
        runs: The runs to change.
        references: One run for each dataset and autoregressive model. A diffusion model, which has no reference of its own,
            takes the first one of its dataset.
        scale, processes: As for `estimate`.
    """
    budgets: dict[tuple[str, str], float] = {}
    for each in references:
        flops = estimate(each, scale, processes).flops
        budgets.setdefault((each.model, each.dataset), flops)
        budgets.setdefault(("", each.dataset), flops)
    return [
        each.scaled(
            budgets.get((each.model, each.dataset), budgets["", each.dataset]) / estimate(each, scale, processes).flops
        )
        for each in runs
    ]


def _samples(run: Run, dataset: Dataset) -> tuple[int, float, bool]:
    """Number of samples in an epoch, mean tokens of a sample, and whether they were counted."""
    texts = _run_texts(run)
    copies = 2.0 if run.recipe == "masked" else 1.0
    infilled = float(run.options.get("infill_share", 0.0))
    copies -= _INFILLED * infilled  # the answer of such a sample is only the gap
    reversals = 2 if run.options.get("objective") == "reverse" else 1
    tokenizer = _tokenizer(str(run.options["model_name_or_path"])) if texts else None
    if not texts:
        documents = (dataset.documents or 1) * dataset.wordings[str(run.options["paraphrases"])]
        return documents * reversals, copies * (dataset.tokens or 50.0) + _FRAME, False
    if tokenizer is None:
        words = sum(len(text.split()) for text in texts) / len(texts)
        return len(texts) * reversals, copies * _TOKENS_A_WORD * words + _FRAME, False
    from kinject.prompts.templates import DocumentTemplate

    template = DocumentTemplate(tokenizer, _wordings(run.recipe, run.options), run.options.get("system_prompt"))
    return len(texts) * reversals, copies * _length(template, texts) + _around(template.frames), not infilled


def _rehearsed_tokens(run: Run) -> float:
    """Mean tokens of a general prompt with its answer, which is assumed to be as long as a document."""
    texts = _run_texts(run)
    tokenizer = _tokenizer(str(run.options["model_name_or_path"])) if texts else None
    if tokenizer is None:
        return _REHEARSED
    from kinject.prompts.templates import ANSWER, DocumentTemplate
    from kinject.trainers.rehearsal import rehearsal_prompts

    template = DocumentTemplate(tokenizer, (ANSWER,), run.options.get("system_prompt"))
    frames = [template.row_frames(prompt)[0] for prompt in rehearsal_prompts(str(run.options["documents"]), _PROMPTS)]
    return _around(frames) + min(_length(template, texts), float(run.options.get("max_new_tokens", 128)))


def _length(template: DocumentTemplate, texts: Sequence[str]) -> float:
    """Mean tokens of a document."""
    return sum(len(template.encode(text).ids) for text in texts) / len(texts)


def _around(frames: Sequence[Frame]) -> float:
    """Mean tokens around a document."""
    return sum(len(frame.before) + len(frame.between) + len(frame.after) for frame in frames) / len(frames)


def _run_texts(run: Run) -> tuple[str, ...]:
    """The documents of ``run``; empty if they are not on this machine."""
    return _texts(
        str(run.options["documents"]),
        str(run.options["paraphrases"]),
        run.options.get("facts"),
        run.options.get("size"),
        run.options.get("world_seed", 0),
    )


def _wordings(recipe: str, options: Mapping[str, Any]) -> Any:
    from kinject.prompts.templates import FACT, RAW, RAW_FROM_BEGIN, named_wordings

    if recipe == "masked":
        return named_wordings(str(options.get("wordings", "paper")))
    plain, default = (RAW_FROM_BEGIN, "raw") if recipe == "diffusion" else (RAW, "chat")
    return (plain,) if options.get("frame", default) == "raw" else (FACT,)


@cache
def _texts(documents: str, paraphrases: str, facts: Any, size: int | None, seed: int) -> tuple[str, ...]:
    """The documents; empty if they are not on this machine."""
    from kinject.data import load_knowledge

    fictional = documents.startswith("fictional:")
    if not fictional and not data_fingerprint(documents):
        return ()
    where = documents if fictional else str(Path(documents).expanduser())
    try:
        knowledge = load_knowledge(where, paraphrases=paraphrases, facts=facts, size=size, seed=seed)
    except DataError:  # only a part of the published data is there, without these wordings; the run itself says so
        return ()
    return tuple(document.text for document in knowledge.documents)


@cache
def _tokenizer(name: str) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a model on this machine; None for a model that would have to be downloaded."""
    from kinject.models.loading import tokenizer_and_vocabulary
    from kinject.models.names import OWN_MODELS

    if name not in OWN_MODELS and not Path(name).is_dir():
        return None
    try:
        found = tokenizer_and_vocabulary(name)
    except KinjectError:
        return None
    return None if found is None else found[0]


# Starting runs. A run's directory holds `run.json` (its settings and a fingerprint of the code), `config.yaml`, `log.txt` and
# the files of the recipe. A run is finished when its `results.json` holds the answers, which a recipe writes last. The run's
# process locks the directory, so that two grids, or a grid and a run that a killed grid left behind, do not use it at once.

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
    processes = _Processes()
    with ThreadPoolExecutor(launch.jobs) as pool, processes.told_to_stop():
        waiting = {pool.submit(_run, run, launch, keep_stale, report, processes): run for run in runs}
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


class _Processes:
    """The processes of the runs. SIGTERM is passed on to them, since nobody would wait for them; Ctrl-C they get themselves."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._told = False

    def wait_for(self, command: Sequence[str], **options: Any) -> int:
        """Start a process and return its status once it has ended."""
        with subprocess.Popen(command, **options) as process:
            self._running.add(process)
            if self._told:  # between the decision to start it and its start
                process.terminate()
            try:
                return process.wait()
            finally:
                self._running.discard(process)

    @contextmanager
    def told_to_stop(self) -> Iterator[None]:
        """Pass SIGTERM on in the block, and end it by `RunStopped`; in another thread than the main one, do nothing.

        Raises:
            RunStopped: the signal came.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former = signal.signal(signal.SIGTERM, self._pass_on)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, former)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._told = True
        for process in [*self._running]:
            process.terminate()
        raise RunStopped(number, "stopped, and so are the runs. The same command goes on with what is not finished.")


def _run(run: Run, launch: Launch, keep_stale: bool, report: Callable[[Run, str], None], processes: _Processes) -> str:
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
            status = processes.wait_for(
                command,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env=environment,
                pass_fds=kept,
                # The accelerate files name their DeepSpeed files relative to the checkout.
                cwd=launch.recipes.parent if launch.accelerate_config else None,
            )
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
