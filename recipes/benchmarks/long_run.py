"""Do host memory, open files and the time of a step grow in a long run?

    python recipes/benchmarks/long_run.py                       # 2,000 steps on nano-ar, questions every 50
    python recipes/benchmarks/long_run.py --quick --json out.json

Trains with a save and questions every 50 steps, and measures the process after every step. Prints a table of the four
quarters of the run; `--json` writes `ratios` of the last quarter to the second (the first still fills caches): `memory`
(resident set), `open_files`, and `step_seconds` (processor time, without questions and saves), each a ratio of medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinject.errors import ConfigurationError, exit_on_user_error

QUICK = 200  # steps


@dataclass(frozen=True)
class Sample:
    """The process after a step: resident bytes, open files, and the seconds of processor time that the step took."""

    memory: int
    open_files: int
    step_seconds: float


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description="Look at memory, open files and speed over a long run on nano-ar.")
    parser.add_argument("--steps", type=int, default=2_000, help="optimizer steps (default: 2000)")
    parser.add_argument(
        "--every", type=int, default=50, help="steps between questions, and between saves (default: 50)"
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} steps")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the ratios and quarters here")
    return parser


def watch(samples: list[Sample]) -> Any:
    """A trainer's callback that adds to ``samples`` after every step."""
    import psutil
    from transformers import TrainerCallback

    process = psutil.Process()

    class Watch(TrainerCallback):
        began = 0.0

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.began = time.process_time()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            seconds = time.process_time() - self.began
            samples.append(Sample(process.memory_info().rss, process.num_fds(), seconds))

    return Watch()


def train(steps: int, every: int, directory: str, people: int = 30) -> list[Sample]:
    """The process after each of ``steps`` steps of masked fine-tuning on ``people``, two steps an epoch."""
    from kinject import (
        MaskedSFTConfig,
        MaskedSFTTrainer,
        QuestionAnsweringCallback,
        load_knowledge,
        load_model,
    )

    knowledge, loaded = load_knowledge("fictional:nano", size=people), load_model("nano-ar")
    args = MaskedSFTConfig(
        directory,
        max_steps=steps,
        per_device_train_batch_size=people // 2,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=1,
        logging_steps=every,
        report_to="none",
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
    )
    samples: list[Sample] = []
    trainer = MaskedSFTTrainer(
        loaded.model,
        args,
        train_dataset=knowledge.to_dataset(),
        processing_class=loaded.tokenizer,
        callbacks=[watch(samples)],
    )
    questions = QuestionAnsweringCallback(knowledge.questions, loaded.tokenizer, every=every, max_new_tokens=16)
    questions.attach(trainer)
    trainer.train()
    return samples


def quarters(samples: Sequence[Sample]) -> list[dict[str, float]]:
    """The median of each figure in each quarter of the run, which has four steps or more."""
    size = len(samples) // 4
    parts = [samples[index * size : (index + 1) * size] for index in range(4)]
    figures: dict[str, Callable[[Sample], float]] = {
        "memory": lambda each: each.memory,
        "open_files": lambda each: each.open_files,
        "step_seconds": lambda each: each.step_seconds,
    }
    return [{name: statistics.median(map(figure, part)) for name, figure in figures.items()} for part in parts]


def main(argv: Sequence[str] | None = None) -> None:
    """Train, measure, and print."""
    arguments = build_parser().parse_args(argv)
    steps = QUICK if arguments.quick else arguments.steps
    with exit_on_user_error(), tempfile.TemporaryDirectory() as directory:
        if min(steps // 4, arguments.every) < 1:
            raise ConfigurationError(
                f"--steps {steps} --every {arguments.every}: expected 4 steps or more, since the quarters of the run are "
                "compared, and 1 or more between questions"
            )
        seen = quarters(train(steps, arguments.every, directory))
    ratios = {name: seen[3][name] / seen[1][name] for name in seen[0]}
    print(f"{'quarter':10}{'memory':>12}{'open files':>12}{'ms a step':>12}")
    for number, quarter in enumerate(seen, start=1):
        memory, files, seconds = quarter["memory"] / 1e6, quarter["open_files"], quarter["step_seconds"] * 1e3
        print(f"{number:<10}{memory:>9.1f} MB{files:>12.0f}{seconds:>12.1f}")
    print(f"{'4th / 2nd':10}{ratios['memory']:>12.3f}{ratios['open_files']:>12.3f}{ratios['step_seconds']:>12.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"ratios": ratios, "quarters": seen}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
