"""The cost of a step of masked fine-tuning over document length, batch size and vocabulary, against the paper's public loop.

    python recipes/benchmarks/scaling.py
    python recipes/benchmarks/scaling.py --quick --json out.json

A small random Llama (4 layers, hidden size 256) trains on nano statements that are joined up to the wanted length; one quantity
varies, the others stay at their defaults. Both ways are in `ways.py`. `tokens/s` counts the tokens of the rows without padding;
`memory` is the largest growth of resident memory in a step. Prints a table; `--json` writes `points`, and as `ratios` for each
of `length`, `batch` and `vocabulary` tokens/s and memory of ours relative to the public loop at the largest value.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

from measuring import RETURN_MEMORY, Peak, at_least_one, environment, medians, print_table, take_turns, write_report
from training_step import LLADA_VOCABULARY, SMALL
from ways import Material, Ours, Public

from kinject.errors import exit_on_user_error

AXES: dict[str, tuple[int, ...]] = {
    "length": (32, 128, 512),
    "batch": (4, 16, 64),
    "vocabulary": (8_192, 32_768, LLADA_VOCABULARY),
}
QUICK: dict[str, tuple[int, ...]] = {"length": (32, 128), "batch": (4, 8), "vocabulary": (8_192, 32_768)}
DEFAULTS = {"length": 64, "batch": 8, "vocabulary": 32_768}


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description="Measure a training step over length, batch size and vocabulary.")
    parser.add_argument("--steps", type=at_least_one, default=4, help="steps of a pass (default: 4)")
    parser.add_argument("--repetitions", type=at_least_one, default=3, help="passes of each way (default: 3)")
    parser.add_argument("--quick", action="store_true", help="two values of each quantity, one pass of two steps")
    parser.add_argument("--json", metavar="PATH", help="write all points here")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    arguments = build_parser().parse_args(argv)
    if arguments.quick:
        arguments.steps, arguments.repetitions = 2, 1
    with exit_on_user_error():
        report = measure(QUICK if arguments.quick else AXES, arguments.steps, arguments.repetitions)
        show(report)
        write_report(arguments.json, report)


def measure(axes: dict[str, tuple[int, ...]], steps: int, repetitions: int) -> dict[str, Any]:
    """Vary one quantity after the other.

    Returns:
        The report that `--json` writes.
    """
    points = []
    for axis, values in axes.items():
        for value in values:
            print(f"\n{axis} {value}", flush=True)
            points.append({"axis": axis, "value": value, **point({**DEFAULTS, axis: value}, steps, repetitions)})
    ratios: dict[str, float] = {}
    for axis, values in axes.items():
        last = next(each for each in points if each["axis"] == axis and each["value"] == values[-1])
        for quantity in ("tokens_per_second", "memory"):
            ratios[f"{axis}_{quantity}"] = last[quantity]["ours"] / last[quantity]["public"]
    return {"ratios": ratios, "points": points, "defaults": DEFAULTS, "steps": steps, **environment()}


def point(shape: dict[str, int], steps: int, repetitions: int) -> dict[str, Any]:
    """Tokens per second and memory of both ways at one shape."""
    given = material(shape, steps)
    peaks = {"public": Peak(), "ours": Peak()}
    watching: dict[str, Callable[[], Any]] = dict.fromkeys(peaks, nullcontext)
    ours = Ours(given, lambda: watching["ours"]())
    rows = ours.rows()
    ways: dict[str, Any] = {"public": Public(given, rows, lambda: watching["public"]()), "ours": ours}
    for name, way in ways.items():
        way.train()  # warm up
        watching[name] = peaks[name].watch
        way.train()
        watching[name] = nullcontext
    seconds = medians(take_turns({name: way.train for name, way in ways.items()}, repetitions))
    tokens = sum(len(row["input_ids"]) for row in rows)
    return {
        "tokens_of_a_row": tokens / len(rows),
        "tokens_per_second": {name: tokens / each for name, each in seconds.items()},
        "memory": {name: peak.bytes for name, peak in peaks.items()},
    }


def material(shape: dict[str, int], steps: int) -> Material:
    """Documents of ``shape["length"]`` tokens, give or take a half, for ``steps`` batches, and a model for them."""
    import copy
    import random

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from kinject.data import load_knowledge
    from kinject.models import load_model

    tokenizer = load_model("nano-ar").tokenizer
    statements = [each.text for each in load_knowledge("fictional:nano", size=40).documents]
    rng = random.Random(0)
    texts = []
    for _ in range(steps * shape["batch"]):
        wanted = rng.uniform(0.5, 1.5) * shape["length"]
        text = rng.choice(statements)
        while len(tokenizer(text)["input_ids"]) < wanted:
            text += " " + rng.choice(statements)
        texts.append(text)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=shape["vocabulary"], **SMALL))

    def build(attention: str) -> Any:
        built = copy.deepcopy(model)
        built.set_attn_implementation(attention)
        return built

    return Material(build, tokenizer, texts, shape["batch"])


def show(report: dict[str, Any]) -> None:
    """Print ``report`` as a table."""
    table = [["", "tokens a row", "tokens/s public", "ours", "ratio", "memory public", "ours", "ratio"]]
    for each in report["points"]:
        cells = [f"{each['axis']} {each['value']}", f"{each['tokens_of_a_row']:.0f}"]
        for quantity, unit in (("tokens_per_second", 1), ("memory", 2**20)):
            public, ours = (each[quantity][way] / unit for way in ("public", "ours"))
            suffix = "" if unit == 1 else " MiB"
            cells += [f"{public:.0f}{suffix}", f"{ours:.0f}{suffix}", f"{ours / public:.2f}x"]
        table.append(cells)
    print_table(table)


if __name__ == "__main__":
    if RETURN_MEMORY.items() - os.environ.items():  # glibc reads it when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **RETURN_MEMORY})
    main()
