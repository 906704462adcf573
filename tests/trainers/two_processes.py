"""Run by test_two_processes.py on one or two processes: trains, and prints the rows and losses each process saw."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset

from kinject.trainers import MaskedSFTConfig, MaskedSFTTrainer
from tests.conftest import build_model, build_tokenizer
from tests.trainers.conftest import DOCUMENTS, SMALL


class _Recorder(MaskedSFTTrainer):
    rows: list[tuple[int, list[int]]] = []

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        for ids, attention in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
            self.rows.append((self.data_collator.epoch, ids[attention.bool()].tolist()))
        return super().compute_loss(model, inputs, *args, **kwargs)


def main(folder: Path, batch_size: int) -> None:
    tokenizer = build_tokenizer()
    settings = {**SMALL, "per_device_train_batch_size": batch_size, "num_train_epochs": 3, "learning_rate": 1e-3}
    trainer = _Recorder(
        build_model(tokenizer),
        MaskedSFTConfig(str(folder), **settings),
        train_dataset=Dataset.from_list([{"text": text} for text in DOCUMENTS]),
        processing_class=tokenizer,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    seen = {"world_size": trainer.args.world_size, "rows": trainer.rows, "losses": losses}
    (folder / f"seen-{trainer.args.process_index}.json").write_text(json.dumps(seen), encoding="utf-8")
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
