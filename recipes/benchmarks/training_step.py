"""How fast and how large a step of masked fine-tuning is, against the public loop's way and trl's own SFTTrainer.

    python recipes/benchmarks/training_step.py                      # SmolLM2-135M, and a small model with LLaDA's vocabulary
    python recipes/benchmarks/training_step.py --quick --json out.json

Three ways train on the same rows, fictional documents in the demasking prompt with the masks of one epoch, in fp32, with
the same batch size and AdamW, in turns in one process:

- `public`: a plain loop as in the paper's code. Batches in random order, padded to the longest row; eager attention; logits
  at every position, in fp32.
- `trl`: `trl.SFTTrainer`, without gradient checkpointing, on the tokenized rows.
- `ours`: `MaskedSFTTrainer` with rows grouped by length, from the documents on. The rows of a step are taken in `--parts`
  whose gradients add up to those of the whole: the loss is divided by what the step scores, so parts change nothing but
  memory. What the step needs in one part is in the JSON as `memory_in_one_part`.

`tokens/s` counts the tokens of the rows, padding not included, over the median of the passes. `memory` is what a step needs
on top of weights and optimizer: the most that resident memory grows from its begin on, gradients included; each way runs
alone in a process for that. `max_loss_difference` is the largest between any two ways on any batch, from equal weights.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from measuring import RETURN_MEMORY, Peak, environment, medians, print_table, take_turns, write_report

from kinject.errors import ConfigurationError, exit_on_user_error

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from kinject.trainers import MaskedSFTTrainer

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
MEMORY_STEPS = 3  # the first is not looked at
Batch = dict[str, Any]
Watch = Callable[[], AbstractContextManager[None]]
"""Entered at the begin of every optimizer step, left at its end."""


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description="Compare a training step with the public loop's way and with trl.")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS, help="default: both")
    parser.add_argument("--documents", nargs="+", default=list(WORLDS), help=f"default: {' '.join(WORLDS)}")
    parser.add_argument("--rows", type=int, default=48, help="documents, spread over --documents (default: 48)")
    parser.add_argument("--batch_size", type=int, default=16, help="rows of a step (default: 16)")
    parser.add_argument("--parts", type=int, default=4, help="parts that ours takes a step in (default: 4)")
    parser.add_argument("--repetitions", type=int, default=3, help="passes over the rows, each way (default: 3)")
    parser.add_argument("--quick", action="store_true", help="8 rows, batches of 4 in 2 parts, one repetition")
    parser.add_argument("--json", metavar="PATH", help="write ratios and details here")
    parser.add_argument("--memory_of", choices=WAYS, help=argparse.SUPPRESS)  # what a process of its own measures
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    arguments = build_parser().parse_args(argv)
    if arguments.quick:
        arguments.rows, arguments.batch_size, arguments.parts, arguments.repetitions = 8, 4, 2, 1
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


@dataclass
class Material:
    """What all ways train on.

    Attributes:
        build: Makes the model, with the attention that is named.
        tokenizer: Its tokenizer.
        texts: The documents.
        batch_size: Rows of a step.
        parts: What ours divides them into.
    """

    build: Callable[[str], Any]
    tokenizer: PreTrainedTokenizerBase
    texts: list[str]
    batch_size: int
    parts: int = 1


def material(name: str, arguments: argparse.Namespace) -> Material:
    """The model called ``name``, and ``arguments.rows`` documents."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from kinject.data import load_knowledge
    from kinject.models import load_model

    worlds = [[each.text for each in load_knowledge(world).documents] for world in arguments.documents]
    texts = [text for row in zip(*worlds, strict=False) for text in row][: arguments.rows]
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


# The three ways. Each is built once; `train` then passes over all rows.


class Ours:
    """`MaskedSFTTrainer` with batches grouped by length."""

    def __init__(self, given: Material, watch: Watch = nullcontext) -> None:
        from datasets import Dataset

        from kinject.trainers import MaskedSFTConfig, MaskedSFTTrainer

        options = settings(given)
        options |= {
            "per_device_train_batch_size": given.batch_size // given.parts,
            "gradient_accumulation_steps": given.parts,
            "train_sampling_strategy": "group_by_length",
        }
        args = MaskedSFTConfig(**options)
        data = Dataset.from_dict({"text": given.texts})
        self.clock = clock(watch)
        self.trainer: MaskedSFTTrainer = MaskedSFTTrainer(
            given.build("sdpa"), args, train_dataset=data, processing_class=given.tokenizer, callbacks=[self.clock]
        )

    def rows(self) -> list[dict[str, list[int]]]:
        """The samples of the first epoch, without padding."""
        collated = [self.trainer.data_collator([row]) for row in self.trainer.train_dataset]  # type: ignore[union-attr]
        return [{name: batch[name][0].tolist() for name in ("input_ids", "labels")} for batch in collated]

    def train(self) -> float:
        """The seconds of a pass over all rows."""
        self.trainer.train()
        return self.clock.seconds

    def loss(self, indices: Sequence[int]) -> float:
        """The loss of these rows as one batch."""
        rows = [self.trainer.train_dataset[index] for index in indices]  # type: ignore[index]
        return loss_of(self.trainer, self.trainer.data_collator(rows))


class Trl:
    """`trl.SFTTrainer` on tokenized rows."""

    def __init__(self, given: Material, rows: list[dict[str, list[int]]], watch: Watch = nullcontext) -> None:
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        self.clock = clock(watch)
        self._rows = rows
        self.trainer = SFTTrainer(
            given.build("sdpa"),
            SFTConfig(**settings(given), max_length=None),
            train_dataset=Dataset.from_list(rows),
            processing_class=given.tokenizer,
            callbacks=[self.clock],
        )

    def train(self) -> float:
        """As `Ours.train`."""
        self.trainer.train()
        return self.clock.seconds

    def loss(self, indices: Sequence[int]) -> float:
        """As `Ours.loss`."""
        return loss_of(self.trainer, self.trainer.data_collator([self._rows[index] for index in indices]))


class Public:
    """A plain loop, as the paper's code has it."""

    def __init__(self, given: Material, rows: list[dict[str, list[int]]], watch: Watch = nullcontext) -> None:
        import torch

        self._watch, self._rows, self._batch_size = watch, rows, given.batch_size
        self._pad = int(given.tokenizer.pad_token_id or 0)
        self.model = given.build("eager").train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=settings(given)["learning_rate"], fused=True)

    def _batch(self, indices: Sequence[int]) -> Batch:
        import torch

        from kinject.trainers.collator import padded

        rows = [self._rows[index] for index in indices]
        longest = max(len(row["input_ids"]) for row in rows)
        attended = [[1] * len(row["input_ids"]) for row in rows]
        return {
            "input_ids": padded([row["input_ids"] for row in rows], longest, self._pad),
            "attention_mask": padded(attended, longest, 0),
            "labels": torch.as_tensor(padded([row["labels"] for row in rows], longest, -100)),
        }

    def _loss(self, batch: Batch) -> torch.Tensor:
        import torch

        logits = self.model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
        ).logits
        shifted = logits.float()[:, :-1].reshape(-1, logits.shape[-1])  # (batch * (length - 1), vocabulary)
        return torch.nn.functional.cross_entropy(shifted, batch["labels"][:, 1:].reshape(-1), ignore_index=-100)

    def train(self) -> float:
        """As `Ours.train`."""
        import torch

        order = torch.randperm(len(self._rows), generator=torch.Generator().manual_seed(42)).tolist()
        started = time.perf_counter()
        for start in range(0, len(order), self._batch_size):
            with self._watch():
                self._loss(self._batch(order[start : start + self._batch_size])).backward()
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                self.optimizer.step()
                self.optimizer.zero_grad()
        return time.perf_counter() - started

    def loss(self, indices: Sequence[int]) -> float:
        """As `Ours.loss`."""
        import torch

        with torch.no_grad():
            return float(self._loss(self._batch(indices)))


def settings(given: Material) -> dict[str, Any]:
    """What both trainers are told."""
    return {
        "output_dir": tempfile.gettempdir(),
        "per_device_train_batch_size": given.batch_size,
        "num_train_epochs": 1,
        "learning_rate": 1e-5,
        "lr_scheduler_type": "constant",
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }


def clock(watch: Watch) -> Any:
    """A callback that keeps the seconds from the first step to the last, and enters ``watch`` for every step."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        seconds = 0.0

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.seconds = -time.perf_counter()

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            self.seconds += time.perf_counter()

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self._step = watch()
            self._step.__enter__()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self._step.__exit__(None, None, None)

    return Clock()


def loss_of(trainer: Any, batch: Batch) -> float:
    """The training loss that ``trainer`` gives ``batch``, without a step."""
    import torch

    trainer.model.train()
    with torch.no_grad():
        return float(trainer.compute_loss(trainer.model, dict(batch)))


def build(way: str, given: Material, watch: Watch = nullcontext) -> Any:
    """One way, ready to train."""
    ours = Ours(given, watch)
    if way == "ours":
        return ours
    rows = ours.rows()
    del ours
    return (Trl if way == "trl" else Public)(given, rows, watch)


def peak_of_a_step(arguments: argparse.Namespace) -> int:
    """Bytes that the largest step needs, after a first one that made the optimizer's state."""
    peak, steps = Peak(), itertools.count()
    watch: Watch = lambda: peak.watch() if next(steps) else nullcontext()  # noqa: E731
    build(arguments.memory_of, material(arguments.models[0], arguments), watch).train()
    return peak.bytes


def memory_alone(way: str, model: str, arguments: argparse.Namespace, parts: int) -> int:
    """`peak_of_a_step` in a process of its own."""
    command = [sys.executable, __file__, "--memory_of", way, "--models", model, "--documents", *arguments.documents]
    rows = min(arguments.rows, MEMORY_STEPS * arguments.batch_size)
    command += ["--rows", str(rows), "--batch_size", str(arguments.batch_size), "--parts", str(parts)]
    done = subprocess.run(command, env={**os.environ, **RETURN_MEMORY}, stdout=subprocess.PIPE, text=True, check=True)
    return int(json.loads(done.stdout.splitlines()[-1])["memory"])


def batches(count: int, size: int) -> Iterator[range]:
    """Row numbers, ``size`` at once."""
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
    """Losses from equal weights, then passes in turns."""
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
