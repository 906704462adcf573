r"""The cost until a model knows its documents: the public loop and trl with the paper's recipe, and ours.

    python recipes/benchmarks/time_to_knowledge.py --quick --json out.json             # thirty nano statements, one seed
    python recipes/benchmarks/time_to_knowledge.py --quick --seeds 0 1 2               # three populations, three seeds
    python recipes/benchmarks/time_to_knowledge.py --model smollm2-135m --documents data/name_description \
        --facts 0-9,30-39                                                              # twenty published statements

All start from the same weights, learn the same documents in batches of the same size, and are asked the same questions after
every `--every` epochs, until the macro mean of forward and backward reaches `--target` by the paper's recall:

- `public`: a plain loop as in the paper's code (`ways.py`) with the paper's recipe: all weights, a mask ratio from
  uniform(0.05, 0.95) for each batch, single tokens masked, one prompt, AdamW as in the paper, a constant learning rate.
- `trl`: `trl.SFTTrainer` on the same batches, with the same recipe.
- `ours`: `MaskedSFTTrainer` with the settings of `--config`, at a constant rate after the warm-up, since the number of epochs
  is not known beforehand.
- `ours + LEVER`, for each of `--levers`: the same with one setting changed.

Each arm is a process of its own, and they take turns: one epoch each, in the order of the arms and back, so that other work on
the machine affects all of them. `seconds` are processor seconds of training, `tokens` those of the rows without padding.
Neither includes the questions, which are the same for all, nor, for the first two, the drawing of masks, which is done before.
`--json` writes `ratios` of seconds and of tokens: how many times as much the others need as ours, the mean over the seeds. An
arm that has not reached the target after `--epochs` counts with what it has spent, and is then named in `at_least`. Exact match
and F1 at the end of each arm are reported, too.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import yaml
from measuring import at_least_one, environment, print_table, write_report
from ways import Material, Ours, Public, Trl

from kinject.errors import ConfigurationError, exit_on_user_error

RECIPES = Path(__file__).resolve().parent.parent
BASELINES = ("public", "trl")
OURS = "ours"
READINGS = ("paper", "exact_match", "f1")
LEVERS: dict[str, dict[str, Any]] = {
    "collapse_masks": {"collapse_masks": True},
    "large_ratios": {"mask_ratio": "stratified(0.5, 1.0)"},
    "large_ratios_early": {"mask_ratio": "linear(1.0, 0.2)"},
    "no_infilling": {"infill_share": 0.0},
    "all_weights": {"use_peft": False, "learning_rate": 2e-3},
}
_PAPER = {"lr_scheduler_type": "constant_with_warmup", "weight_decay": 0.1, "adam_beta1": 0.9, "adam_beta2": 0.95}
_LORA = {"lora_r": "r", "lora_alpha": "lora_alpha", "lora_target_modules": "target_modules"}


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description="Compare how long it takes to learn documents.")
    parser.add_argument("--model", default="nano-ar", help="model to begin with (default: nano-ar)")
    parser.add_argument("--documents", default="fictional:nano", help="what is learned (default: fictional:nano)")
    parser.add_argument("--size", type=at_least_one, help="people of a fictional world (default: 30)")
    parser.add_argument("--facts", help="which statements of --documents, such as 0-9,30-39 (default: all)")
    parser.add_argument("--config", metavar="FILE", help="settings of ours (default: recipes/MODEL/masked.yaml)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of training and of the world (default: 0)")
    parser.add_argument(
        "--levers", nargs="*", default=[], choices=list(LEVERS), help="further arms: ours with one setting changed"
    )
    parser.add_argument(
        "--arms", nargs="+", default=[*BASELINES, OURS], choices=[*BASELINES, OURS], help="default: all"
    )
    parser.add_argument("--target", type=float, default=0.8, help="macro mean of recall to reach (default: 0.8)")
    parser.add_argument("--epochs", type=at_least_one, default=240, help="the most epochs (default: 240)")
    parser.add_argument("--every", type=at_least_one, default=2, help="epochs between the questions (default: 2)")
    parser.add_argument("--learning_rate", type=float, help="of the paper's recipe (default: 2e-3, smollm2-135m: 1e-4)")
    parser.add_argument("--our_learning_rate", type=float, help="of ours (default: that of --config)")
    parser.add_argument("--quick", action="store_true", help="ask every four epochs only")
    parser.add_argument("--json", metavar="PATH", help="write ratios and details here")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    arguments = build_parser().parse_args(argv)
    if arguments.quick:
        arguments.every = 4
    with exit_on_user_error():
        if arguments.every < 1 or arguments.epochs < arguments.every:
            raise ConfigurationError(
                f"--every {arguments.every} with --epochs {arguments.epochs}: expected 1 or more, and no more than --epochs"
            )
        report = compare(arguments)
        show(report)
        write_report(arguments.json, report)


@dataclass
class Task:
    """The settings of one arm, which are sent to its process.

    Attributes:
        arm: "public", "trl", "ours" or "ours + LEVER".
        model, documents, size, facts, seed: The model, and the documents to learn.
        config: The settings of ours.
        options: Further settings of the paper's recipe: rate and warm-up.
        epochs: The most epochs.
        every: Epochs between the questions.
    """

    arm: str
    model: str
    documents: str
    size: int | None
    facts: str | None
    seed: int
    config: dict[str, Any]
    options: dict[str, Any]
    epochs: int
    every: int


# An arm learns one epoch whenever it is its turn.

Report = Mapping[str, Any]


@dataclass
class Meter:
    """Measures the cost of training so far, without what happens between epochs.

    Attributes:
        seconds: Processor seconds.
        steps: Optimizer steps.
    """

    steps_of_epoch: int
    after_epoch: Callable[[int], None]
    seconds: float = 0.0
    steps: int = 0

    def __post_init__(self) -> None:
        """Start the clock."""
        self._since = time.process_time()

    def start(self) -> None:
        """Start the clock anew; earlier time is not counted."""
        self._since = time.process_time()

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Enclose each step; after the last step of an epoch call `after_epoch`. Time between steps counts, too."""
        yield
        self.steps += 1
        if self.steps % self.steps_of_epoch == 0:
            self.seconds += time.process_time() - self._since
            self.after_epoch(self.steps // self.steps_of_epoch)
            self.start()


class Enough(Exception):
    """Ends an arm that was told to stop."""


def learn(task: Task, report: Callable[[Report], bool]) -> None:
    """Train the arm of ``task``; ``report`` gets its cost after every epoch, and after some its scores.

    ``report`` returns true when it is this arm's turn again, and false when the arm is to end.

    Raises:
        Enough: the arm was told to end.
    """
    from transformers import set_seed

    from kinject.data import load_knowledge
    from kinject.evaluation import answer_questions, score_answers
    from kinject.evaluation.measures import macro
    from kinject.models import load_model

    set_seed(task.seed)
    knowledge = load_knowledge(task.documents, size=task.size, seed=task.seed, facts=task.facts)
    texts, questions = [each.text for each in knowledge.documents], knowledge.questions
    loaded = load_model(task.model)
    tokens: list[int] = []  # of the rows of each epoch; ours counts its own
    batch_size = min(len(texts), int(task.config["per_device_train_batch_size"]))

    def build(attention: str) -> Any:
        built = copy.deepcopy(loaded.model)
        built.set_attn_implementation(attention)
        return built

    def model() -> Any:
        return way.model if isinstance(way, Public) else way.trainer.model

    def after_epoch(epoch: int) -> None:
        spent = sum(tokens[:epoch]) if tokens else int(way.trainer.state.num_input_tokens_seen)
        said: dict[str, Any] = {"epoch": epoch, "steps": meter.steps, "tokens": spent, "seconds": meter.seconds}
        if epoch % task.every == 0:
            limit = int(task.config.get("max_new_tokens", 32))
            answers = answer_questions(
                model(), loaded.tokenizer, [each.question for each in questions], max_new_tokens=limit, batch_size=128
            )
            scores = score_answers(questions, answers, resamples=1)
            said["scores"] = {
                direction: {reading: scores[direction][reading] for reading in READINGS}
                for direction in ("forward", "backward")
            }
            said["macro"] = {reading: macro(scores, reading) for reading in READINGS}
        if not report(said):
            raise Enough

    meter = Meter(len(texts) // batch_size, after_epoch)
    common: dict[str, Any] = {"build": build, "tokenizer": loaded.tokenizer, "texts": texts, "batch_size": batch_size}
    seeded = {"seed": task.seed, "dataloader_drop_last": True}  # steps of equal size, so that all arms take as many
    if task.arm in BASELINES:
        given = Material(**common, options={**_PAPER, **task.options, **seeded}, shuffled=False)
        rows, tokens = paper_rows(given, task.epochs)
        way: Any = (Public if task.arm == "public" else Trl)(given, rows, meter.watch)
    else:
        settings, adapter = settings_of_ours(task.config)
        settings |= {
            "per_device_train_batch_size": batch_size,
            "num_train_epochs": task.epochs,
            "include_num_input_tokens_seen": "non_padding",
            **seeded,
        }
        way = Ours(Material(**common, ours=settings, adapter=adapter), meter.watch)
    if report({"epoch": 0}):  # ready
        meter.start()
        way.train()


def paper_rows(given: Material, epochs: int) -> tuple[list[dict[str, list[int]]], list[int]]:
    """The samples of all steps by the paper's recipe, in their order, and the tokens of each epoch.

    The ratio is one a batch. Rows that fill no batch are left out, others in every epoch.
    """
    import torch

    from kinject.trainers.collator import DocumentCollator

    drawn = Material(given.build, given.tokenizer, given.texts, given.batch_size, ours={"recipe": "paper"})
    trainer = Ours(drawn).trainer
    collator: Any = trainer.data_collator
    assert isinstance(collator, DocumentCollator)
    data: Any = trainer.train_dataset
    rows: list[dict[str, list[int]]] = []
    tokens: list[int] = []
    for epoch in range(epochs):
        collator.epoch = epoch
        generator = torch.Generator().manual_seed(int(given.options["seed"]) * 100_003 + epoch)
        order = torch.randperm(len(data), generator=generator).tolist()
        before = len(rows)
        for start in range(0, len(order) - given.batch_size + 1, given.batch_size):
            batch = collator([data[index] for index in order[start : start + given.batch_size]])
            for ids, labels, seen in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
                count = int(seen.sum())
                rows.append({"input_ids": ids[:count].tolist(), "labels": labels[:count].tolist()})
        tokens.append(sum(len(row["input_ids"]) for row in rows[before:]))
    return rows, tokens


def settings_of_ours(config: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """The settings of `MaskedSFTConfig` in ``config``, and the adapter that it describes or None."""
    from peft import LoraConfig

    from kinject.trainers import MaskedSFTConfig

    own = {"output_dir", "num_train_epochs", "save_strategy", "logging_steps", "report_to", "lr_scheduler_kwargs"}
    names = {each.name for each in fields(MaskedSFTConfig)} - own
    settings = {name: value for name, value in config.items() if name in names}
    settings["lr_scheduler_type"] = "constant_with_warmup"
    adapter = None
    if config.get("use_peft"):
        lora: dict[str, Any] = {ours: config[name] for name, ours in _LORA.items() if name in config}
        adapter = LoraConfig(**lora, task_type="CAUSAL_LM")
    return settings, adapter


# Taking turns.


class Connection(Protocol):
    """One end of a pipe to an arm."""

    def send(self, obj: Any) -> None:
        """Tell the arm whether to go on."""

    def recv(self) -> Any:
        """Wait for the arm's next report and return it."""


def take_turns(arms: Mapping[str, Connection], target: float) -> dict[str, list[dict[str, Any]]]:
    """Let each arm that has not reached ``target`` learn one epoch in turns, every other round in reverse.

    Returns:
        The reports of each arm, in order. An arm ends at the target, or by reporting None.

    Raises:
        ConfigurationError: an arm failed.
    """
    reports: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
    going = list(arms)
    for name in going:
        _received(name, arms[name])  # ready
    forth = True
    while going:
        for name in going if forth else list(reversed(going)):
            arms[name].send(True)
            said = _received(name, arms[name])
            if said is not None:
                reports[name].append(said)
                macro = said.get("macro")
                if macro:
                    print(
                        f"{name}: epoch {said['epoch']}, {said['seconds']:.1f} s, recall {macro['paper']:.2f}",
                        flush=True,
                    )
                if macro and macro["paper"] >= target:
                    arms[name].send(False)
                    said = None
            if said is None:
                going = [each for each in going if each != name]
        forth = not forth
    return reports


def _received(name: str, arm: Connection) -> Any:
    try:
        return arm.recv()
    except EOFError as error:
        raise ConfigurationError(f"{name} ended before its turns were over; see what it printed above") from error


def serve(task: Task, connection: Any) -> None:
    """Run an arm in its own process: it trains when it is told to, and reports over ``connection``."""

    def report(said: Report) -> bool:
        connection.send(dict(said))
        return bool(connection.recv())

    with exit_on_user_error(), suppress(Enough):
        learn(task, report)
        connection.send(None)  # all epochs are over


def race(tasks: Sequence[Task], target: float) -> dict[str, list[dict[str, Any]]]:
    """All arms of one seed."""
    context = multiprocessing.get_context("spawn")
    connections, processes = {}, []
    for task in tasks:
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(task, theirs), daemon=True)
        process.start()
        theirs.close()  # so that the pipe ends with the process
        connections[task.arm] = ours
        processes.append(process)
    try:
        return take_turns(connections, target)
    finally:
        for connection in connections.values():
            connection.close()
        for process in processes:
            process.join(30)
            if process.is_alive():
                process.terminate()


# The comparison.


def tasks_of(arguments: argparse.Namespace, seed: int) -> list[Task]:
    """One task for each arm.

    Raises:
        ConfigurationError: there are no settings of ours for the model.
    """
    path = Path(
        arguments.config or RECIPES / ("nano" if arguments.model == "nano-ar" else arguments.model) / "masked.yaml"
    )
    if not path.is_file():
        raise ConfigurationError(f"{path} is missing: name the settings of ours with --config FILE")
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    if arguments.our_learning_rate:
        config["learning_rate"] = arguments.our_learning_rate
    rate = arguments.learning_rate or (2e-3 if arguments.model == "nano-ar" else 1e-4)
    fictional = arguments.documents.startswith("fictional:")
    common = {
        "model": arguments.model,
        "documents": arguments.documents,
        "size": (arguments.size or 30) if fictional else arguments.size,
        "facts": arguments.facts,
        "seed": seed,
        "options": {"learning_rate": rate, "warmup_steps": config.get("warmup_steps", 0)},
        "epochs": arguments.epochs,
        "every": arguments.every,
    }
    arms = {name: config for name in arguments.arms}
    arms |= {f"{OURS} + {lever}": {**config, **LEVERS[lever]} for lever in arguments.levers}
    return [Task(arm=arm, config=settings, **common) for arm, settings in arms.items()]


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run all arms on all seeds.

    Returns:
        The report that `--json` writes.
    """
    runs = []
    for seed in arguments.seeds:
        print(f"\nseed {seed}", flush=True)
        tasks = tasks_of(arguments, seed)
        reports = race(tasks, arguments.target)
        runs.append({"seed": seed, "arms": {arm: outcome(said, arguments.target) for arm, said in reports.items()}})
    return {
        **ratios(runs),
        "target": arguments.target,
        "runs": runs,
        "model": arguments.model,
        "documents": Path(arguments.documents).name,
        "facts": arguments.facts,
        "every": arguments.every,
        "learning_rate": {task.arm: task.options["learning_rate"] for task in tasks if task.arm in BASELINES}
        | {task.arm: task.config["learning_rate"] for task in tasks if task.arm not in BASELINES},
        **environment(),
    }


def outcome(reports: Sequence[dict[str, Any]], target: float) -> dict[str, Any]:
    """An arm's last report with scores, whether that reached ``target``, and all such reports as `history`."""
    asked = [each for each in reports if "macro" in each]
    last = asked[-1]
    return {**last, "reached": last["macro"]["paper"] >= target, "history": asked}


def ratios(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`ratios`: the cost of the other arms over ours, mean over the seeds; `at_least`: arms that did not reach the target."""
    found: dict[str, float] = {}
    at_least: list[str] = []
    arms = runs[0]["arms"]
    if OURS not in arms or not all(run["arms"][OURS]["reached"] for run in runs):
        return {"ratios": {}, "at_least": []}
    for arm in arms:
        if arm == OURS:
            continue
        short = arm.removeprefix(f"{OURS} + ")
        for quantity in ("seconds", "tokens"):
            name = f"{quantity}_of_{short}"
            found[name] = statistics.mean(run["arms"][arm][quantity] / run["arms"][OURS][quantity] for run in runs)
            if not all(run["arms"][arm]["reached"] for run in runs):
                at_least.append(name)
    return {"ratios": found, "at_least": at_least}


def show(report: Mapping[str, Any]) -> None:
    """Print ``report`` as a table: means over the seeds."""
    table = [["", "epochs", "tokens", "seconds", "recall", "exact match", "F1", "tokens of ours", "seconds of ours"]]
    runs = report["runs"]
    for arm in runs[0]["arms"]:
        each = [run["arms"][arm] for run in runs]
        more = "" if all(run["reached"] for run in each) else ">"
        cells = [f"{more}{statistics.mean(run['epoch'] for run in each):.0f}"]
        cells += [f"{more}{statistics.mean(run['tokens'] for run in each):,.0f}"]
        cells += [f"{more}{statistics.mean(run['seconds'] for run in each):.1f}"]
        cells += [f"{statistics.mean(run['macro'][reading] for run in each):.2f}" for reading in READINGS]
        short = arm.removeprefix(f"{OURS} + ")
        for quantity in ("tokens", "seconds"):
            ratio = report["ratios"].get(f"{quantity}_of_{short}", 1.0 if arm == OURS else None)
            cells.append("-" if ratio is None else f"{more}{ratio:.2f}x")
        table.append([arm, *cells])
    print_table(table)


if __name__ == "__main__":
    main()
