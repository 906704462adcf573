"""The ways of training that the benchmarks compare: the paper's public loop, trl's trainer and ours.

Each is built once; `train` then passes over all rows.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from kinject.trainers import MaskedSFTTrainer

Batch = dict[str, Any]
Watch = Callable[[], AbstractContextManager[None]]
"""Entered at the beginning of every optimizer step, and left at its end."""


@dataclass
class Material:
    """Model, documents and settings of all ways.

    Attributes:
        build: Makes the model, with the given implementation of attention.
        tokenizer: Its tokenizer.
        texts: The documents.
        batch_size: Rows of a step.
        parts: Parts into which ours divides a step.
        options: Settings of all three ways: learning rate, warm-up, weight decay, betas.
        ours: Further settings of ours, fields of `MaskedSFTConfig`.
        adapter: The adapter that ours trains, if it does not train all weights.
        shuffled: Whether the other two draw the order of their rows at random, or take them as given.
    """

    build: Callable[[str], Any]
    tokenizer: PreTrainedTokenizerBase
    texts: list[str]
    batch_size: int
    parts: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    ours: Mapping[str, Any] = field(default_factory=dict)
    adapter: Any = None
    shuffled: bool = True


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
            **given.ours,
        }
        args = MaskedSFTConfig(**options)
        data = Dataset.from_dict({"text": given.texts})
        self.clock = clock(watch)
        self.trainer: MaskedSFTTrainer = MaskedSFTTrainer(
            given.build("sdpa"),
            args,
            train_dataset=data,
            processing_class=given.tokenizer,
            callbacks=[self.clock],
            peft_config=given.adapter,
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
            SFTConfig(
                **settings(given),
                max_length=None,
                train_sampling_strategy="random" if given.shuffled else "sequential",
            ),
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
        from transformers import get_constant_schedule_with_warmup

        self._watch, self._rows, self._batch_size, self._shuffled = watch, rows, given.batch_size, given.shuffled
        self._pad = int(given.tokenizer.pad_token_id or 0)
        self.model = given.build("eager").train()
        options = settings(given)
        decay, betas = (
            options.get("weight_decay", 0.0),
            (options.get("adam_beta1", 0.9), options.get("adam_beta2", 0.999)),
        )
        groups = [  # no norm and no bias decays
            {"params": [each for each in self.model.parameters() if each.dim() > 1], "weight_decay": decay},
            {"params": [each for each in self.model.parameters() if each.dim() <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=options["learning_rate"], betas=betas, fused=True)
        self._schedule = get_constant_schedule_with_warmup(self.optimizer, options.get("warmup_steps", 0))

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

        order = list(range(len(self._rows)))
        if self._shuffled:
            order = torch.randperm(len(self._rows), generator=torch.Generator().manual_seed(42)).tolist()
        started = time.perf_counter()
        for start in range(0, len(order), self._batch_size):
            with self._watch():
                self._loss(self._batch(order[start : start + self._batch_size])).backward()
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                self.optimizer.step()
                self._schedule.step()
                self.optimizer.zero_grad()
        return time.perf_counter() - started

    def loss(self, indices: Sequence[int]) -> float:
        """As `Ours.loss`."""
        import torch

        with torch.no_grad():
            return float(self._loss(self._batch(indices)))


def settings(given: Material) -> dict[str, Any]:
    """The settings of both trainers."""
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
        **given.options,
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
