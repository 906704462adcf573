"""Time and memory of a step of masked fine-tuning, against the paper's public loop and trl's own SFTTrainer.

    python recipes/benchmarks/training_step.py                      # SmolLM2-135M, and a small model with LLaDA's vocabulary
    python recipes/benchmarks/training_step.py --quick --json out.json    # a step of SmolLM2-135M, as large as in full

Three ways train on the same rows, fictional documents in the demasking prompt with the masks of one epoch, in fp32, with
the same batch size and AdamW, in turns in one process:

- `public`: a plain loop as in the paper's code. Batches in random order, padded to the longest row; eager attention; logits
  at every position, in fp32.
- `trl`: `trl.SFTTrainer`, without gradient checkpointing, on the tokenized rows.
- `ours`: `MaskedSFTTrainer` with rows grouped by length, from the documents on. The rows of a step are taken in `--parts`
  whose gradients add up to those of the whole: the loss is divided by the tokens that the whole step scores, so parts change
  only the memory. The memory of the step in one part is in the JSON as `memory_in_one_part`.

`tokens/s` counts the tokens of the rows, padding not included, over the median of the passes. `memory` is the largest growth of
resident memory in a step, on top of weights and optimizer and with gradients; each way runs alone in a process for that.
`max_loss_difference` is the largest difference between any two ways on any batch, from equal weights.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

from measuring import RETURN_MEMORY, Peak, at_least_one, environment, medians, print_table, take_turns, write_report
from ways import Material, Ours, Public, Trl, Watch

from kinject.errors import ConfigurationError, exit_on_user_error

MODELS = ("smollm2-135m", "llada-vocabulary")
WAYS = ("public", "trl", "ours")
WORLDS = ("fictional:name_description", "fictional:biography")
LLADA_VOCABULARY = 126_464
SMALL: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
MEMORY_STEPS = 3  # the first one does not count
QUICK_MEMORY_STEPS = 2


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description="Compare a training step with the public loop's way and with trl.")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS, help="default: both")
    parser.add_argument("--documents", nargs="+", default=list(WORLDS), help=f"default: {' '.join(WORLDS)}")
    parser.add_argument(
        "--rows", type=at_least_one, default=48, help="documents, spread over --documents (default: 48)"
    )
    parser.add_argument("--batch_size", type=at_least_one, default=16, help="rows of a step (default: 16)")
    parser.add_argument(
        "--parts", type=at_least_one, default=4, help="parts into which ours divides a step (default: 4)"
    )
    parser.add_argument(
        "--repetitions", type=at_least_one, default=3, help="passes over the rows in each way (default: 3)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="one step of the full run's size, once, of the first model"
    )
    parser.add_argument("--memory_steps", type=at_least_one, default=MEMORY_STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--json", metavar="PATH", help="write ratios and details here")
    parser.add_argument("--memory_of", choices=WAYS, help=argparse.SUPPRESS)  # what a process of its own measures
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    arguments = build_parser().parse_args(argv)
    if arguments.quick:
        # The step keeps its size, since the gain grows with the rows of a batch.
        arguments.models, arguments.rows, arguments.repetitions = arguments.models[:1], arguments.batch_size, 1
        arguments.memory_steps = QUICK_MEMORY_STEPS
    with exit_on_user_error():
        if arguments.batch_size % arguments.parts:
            raise ConfigurationError(
                f"--batch_size {arguments.batch_size} does not divide into {arguments.parts} --parts; take a multiple of them"
            )
        if arguments.memory_of:
            print(json.dumps({"memory": peak_of_a_step(arguments)}))
            return
        report = compare(arguments)
        show(report)
        write_report(arguments.json, report)


def material(name: str, arguments: argparse.Namespace) -> Material:
    """The model called ``name``, and ``arguments.rows`` documents."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from kinject.data import load_knowledge
    from kinject.models import load_model

    worlds = [[each.text for each in load_knowledge(world).documents] for world in arguments.documents]
    texts = [text for row in zip(*worlds, strict=False) for text in row]
    texts = [texts[index % len(texts)] for index in range(arguments.rows)]
    loaded = load_model("smollm2-135m")
    model: Any = loaded.model
    if name == "llada-vocabulary":
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=LLADA_VOCABULARY, **SMALL))

    def build(attention: str) -> Any:
        built = copy.deepcopy(model)
        built.set_attn_implementation(attention)
        return built

    return Material(build, loaded.tokenizer, texts, arguments.batch_size, arguments.parts)


def build(way: str, given: Material, watch: Watch = nullcontext) -> Any:
    """One way, ready to train."""
    ours = Ours(given, watch)
    if way == "ours":
        return ours
    rows = ours.rows()
    del ours
    return (Trl if way == "trl" else Public)(given, rows, watch)


def peak_of_a_step(arguments: argparse.Namespace) -> int:
    """Bytes that the largest step needs, after a first one that created the optimizer's states."""
    peak, steps = Peak(), itertools.count()
    watch: Watch = lambda: peak.watch() if next(steps) else nullcontext()  # noqa: E731
    build(arguments.memory_of, material(arguments.models[0], arguments), watch).train()
    return peak.bytes


def memory_alone(way: str, model: str, arguments: argparse.Namespace, parts: int) -> int:
    """`peak_of_a_step` in a process of its own."""
    command = [sys.executable, __file__, "--memory_of", way, "--models", model, "--documents", *arguments.documents]
    rows = (
        arguments.memory_steps * arguments.batch_size
    )  # also where fewer are timed, since the first step does not count
    command += ["--rows", str(rows), "--batch_size", str(arguments.batch_size), "--parts", str(parts)]
    done = subprocess.run(command, env={**os.environ, **RETURN_MEMORY}, stdout=subprocess.PIPE, text=True, check=True)
    return int(json.loads(done.stdout.splitlines()[-1])["memory"])


def batches(count: int, size: int) -> Iterator[range]:
    """Row numbers in batches of ``size``."""
    return (range(start, min(start + size, count)) for start in range(0, count, size))


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run all ways on all models.

    Returns:
        The report that `--json` writes.
    """
    models = {}
    for name in arguments.models:
        print(f"\n{name}", flush=True)
        memory = {way: memory_alone(way, name, arguments, arguments.parts) for way in WAYS}
        models[name] = compare_on(material(name, arguments), memory, arguments.repetitions)
        if not arguments.quick:
            models[name]["memory_in_one_part"] = memory_alone("ours", name, arguments, 1)
    worst: dict[str, Callable[..., float]] = {
        "tokens_per_second_vs_public_loop": min,
        "memory_vs_public_loop": max,
        "tokens_per_second_vs_trl": min,
        "max_loss_difference": max,
    }
    return {
        "ratios": {ratio: pick(each["ratios"][ratio] for each in models.values()) for ratio, pick in worst.items()},
        "models": models,
        "documents": arguments.documents,
        "rows": arguments.rows,
        "batch_size": arguments.batch_size,
        "parts": arguments.parts,
        "repetitions": arguments.repetitions,
        **environment(),
    }


def compare_on(given: Material, memory: dict[str, int], repetitions: int) -> dict[str, Any]:
    """Compare the losses from equal weights, then time passes in turns."""
    ours = Ours(given)
    rows = ours.rows()
    ways: dict[str, Any] = {"public": Public(given, rows), "trl": Trl(given, rows), "ours": ours}
    losses = [[way.loss(indices) for way in ways.values()] for indices in batches(len(rows), given.batch_size)]
    for way in ways.values():  # warm up
        way.train()
    seconds = take_turns({name: way.train for name, way in ways.items()}, repetitions)
    tokens = sum(len(row["input_ids"]) for row in rows)
    speed = {name: tokens / value for name, value in medians(seconds).items()}
    return {
        "ratios": {
            "tokens_per_second_vs_public_loop": speed["ours"] / speed["public"],
            "memory_vs_public_loop": memory["ours"] / memory["public"],
            "tokens_per_second_vs_trl": speed["ours"] / speed["trl"],
            "max_loss_difference": max(max(each) - min(each) for each in losses),
        },
        "tokens_per_second": speed,
        "memory": memory,
        "seconds": seconds,
        "tokens": tokens,
        "scored_tokens": sum(label != -100 for row in rows for label in row["labels"]),
        "loss": sum(each[-1] for each in losses) / len(losses),
    }


def show(report: dict[str, Any]) -> None:
    """Print ``report`` as a table."""
    table = [["", "tokens/s", "vs public", "vs trl", "memory", "vs public", "loss difference"]]
    for name, each in report["models"].items():
        speed, memory = each["tokens_per_second"], each["memory"]
        for way in WAYS:
            cells = [f"{speed[way]:.0f}", f"{speed[way] / speed['public']:.2f}x", f"{speed[way] / speed['trl']:.2f}x"]
            cells += [f"{memory[way] / 2**20:.0f} MiB", f"{memory[way] / memory['public']:.2f}x"]
            table.append([f"{name} {way}", *cells, f"{each['ratios']['max_loss_difference']:.1e}"])
    print_table(table)


if __name__ == "__main__":
    main()
