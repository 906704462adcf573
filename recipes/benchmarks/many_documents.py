"""How start-up and host memory grow with the number of documents, up to a hundred thousand.

    python recipes/benchmarks/many_documents.py
    python recipes/benchmarks/many_documents.py --quick --json out.json

For every number of documents a process of its own writes that many generated statements to a JSONL file and trains nano-ar on
them as `kinject inject` does, for `--max_steps`. `start-up` is the time from the call to the first step; `processor` is its
processor time, which does not depend on other work on the machine; `a document` is the processor time of each document beyond
the next smaller number; `memory` is the resident memory at a tenth of the steps, and `growth` its growth up to the last.
Prints a table; `--json` writes `ratios`: `startup_per_document`, `a document` of the largest number over that of the
next smaller one (1 where start-up is linear), and `memory_growth`, the largest ratio of resident memory at the last step
to that at a tenth of the steps (1 where it is flat).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring import RETURN_MEMORY, at_least_one, environment, print_table, resident_memory, write_report

from kinject.errors import ConfigurationError, exit_on_user_error

COUNTS = (1_000, 10_000, 100_000)
QUICK = (500, 1_000, 2_000)


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description="Measure start-up and host memory over the number of documents.")
    parser.add_argument("--counts", type=at_least_one, nargs="+", default=list(COUNTS), help=f"default: {COUNTS}")
    parser.add_argument("--max_steps", type=at_least_one, default=200, help="training steps (default: 200)")
    parser.add_argument("--batch_size", type=at_least_one, default=8, help="documents of a step (default: 8)")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} documents, 20 steps")
    parser.add_argument("--json", metavar="PATH", help="write ratios and details here")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)  # what a process of its own measures
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    arguments = build_parser().parse_args(argv)
    if arguments.quick:
        arguments.counts, arguments.max_steps = list(QUICK), 20
    with exit_on_user_error():
        if max(arguments.counts) > (most := different_statements()):
            raise ConfigurationError(
                f"--counts {max(arguments.counts)}: there are {most} different statements; take fewer"
            )
        if arguments.alone:
            print(json.dumps(run(arguments.counts[0], arguments.max_steps, arguments.batch_size)))
            return
        report = compare(sorted(set(arguments.counts)), arguments)
        show(report)
        write_report(arguments.json, report)


def compare(counts: Sequence[int], arguments: argparse.Namespace) -> dict[str, Any]:
    """Run every number of documents in a process of its own.

    Returns:
        The report that `--json` writes.
    """
    runs = []
    for count in counts:
        command = [sys.executable, __file__, "--alone", "--counts", str(count)]
        command += ["--max_steps", str(arguments.max_steps), "--batch_size", str(arguments.batch_size)]
        done = subprocess.run(
            command, env={**os.environ, **RETURN_MEMORY}, stdout=subprocess.PIPE, text=True, check=True
        )
        runs.append({"documents": count, **json.loads(done.stdout.splitlines()[-1])})
        print(f"{count} documents: first step after {runs[-1]['startup']['seconds']:.1f} s", flush=True)
    for smaller, each in zip(runs, runs[1:], strict=False):
        each["startup_per_document"] = (each["startup"]["processor"] - smaller["startup"]["processor"]) / (
            each["documents"] - smaller["documents"]
        )
    growth = max(each["memory"][-1] / each["memory"][len(each["memory"]) // 10] for each in runs)
    slopes = [each["startup_per_document"] for each in runs[1:]]
    return {
        "ratios": {
            "startup_per_document": slopes[-1] / slopes[-2] if len(slopes) > 1 else None,
            "memory_growth": growth,
        },
        "runs": runs,
        "max_steps": arguments.max_steps,
        "batch_size": arguments.batch_size,
        **environment(),
    }


def run(count: int, max_steps: int, batch_size: int) -> dict[str, Any]:
    """Teach nano-ar ``count`` statements.

    Returns:
        `startup`, in seconds and processor seconds, and `memory`, resident bytes after every step.
    """
    with tempfile.TemporaryDirectory() as directory:
        documents = Path(directory) / "documents.jsonl"
        with documents.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in statements(count))
        started, used = time.perf_counter(), time.process_time()
        memory: list[int] = []
        startup: dict[str, float] = {}

        from kinject.commands.inject import inject
        from kinject.commands.recipe import parse_training
        from kinject.trainers import MaskedSFTTrainer

        class Recording(MaskedSFTTrainer):
            def training_step(self, *args: Any, **kwargs: Any) -> Any:
                nonlocal startup
                if not memory:
                    startup = {"seconds": time.perf_counter() - started, "processor": time.process_time() - used}
                loss = super().training_step(*args, **kwargs)
                memory.append(resident_memory())
                return loss

        options = {
            "documents": documents,
            "model_name_or_path": "nano-ar",
            "output_dir": Path(directory) / "run",
            "max_steps": max_steps,
            "per_device_train_batch_size": batch_size,
            "report_to": "none",
            "save_strategy": "no",
            "retention": False,
            "disable_tqdm": True,
        }
        inject(
            Recording,
            *parse_training("masked", [part for name, value in options.items() for part in (f"--{name}", str(value))]),
            "masked",
        )
    return {"startup": startup, "memory": memory}


def different_statements() -> int:
    """How many statements `statements` can make."""
    from kinject.data.worlds.nano import PLACES, QUALITIES, ROLES

    return len(QUALITIES) * len(ROLES) * len(PLACES)


def statements(count: int) -> list[str]:
    """``count`` statements about invented people, all different."""
    from kinject.data.worlds import MEN, WOMEN
    from kinject.data.worlds.nano import NAME_FIRST, PLACES, QUALITIES, ROLES, SURNAMES

    rng = random.Random(0)
    combinations = rng.sample(range(different_statements()), count)
    texts = []
    for combination in combinations:
        rest, place = divmod(combination, len(PLACES))
        quality, role = divmod(rest, len(ROLES))
        name = f"{rng.choice(WOMEN + MEN)} {rng.choice(SURNAMES)}"
        description = f"the {QUALITIES[quality]} {ROLES[role]} of {PLACES[place]}"
        texts.append(rng.choice(NAME_FIRST).format(name=name, description=description))
    return texts


def show(report: dict[str, Any]) -> None:
    """Print ``report`` as a table."""
    table = [["documents", "start-up", "processor", "a document", "memory", "growth"]]
    for each in report["runs"]:
        memory = each["memory"]
        early = memory[len(memory) // 10]
        slope = each.get("startup_per_document")
        table.append(
            [
                str(each["documents"]),
                f"{each['startup']['seconds']:.1f} s",
                f"{each['startup']['processor']:.1f} s",
                "" if slope is None else f"{1e6 * slope:.0f} us",
                f"{early / 2**20:.0f} MiB",
                f"{(memory[-1] - early) / 2**20:+.1f} MiB",
            ]
        )
    print_table(table)


if __name__ == "__main__":
    main()
