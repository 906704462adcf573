"""Run by test_two_processes.py on one or two processes: trains, and prints the rows and losses each process saw."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset

from kinject.trainers import DiffusionSFTConfig, DiffusionSFTTrainer, MaskedSFTConfig, MaskedSFTTrainer
from tests.conftest import build_model, build_tokenizer
from tests.trainers.conftest import DOCUMENTS, SMALL


class _Recorder:
    """Keeps the rows that a process trains on."""

    rows: list[tuple[int, list[int]]] = []
    data_collator: Any

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        for ids, attention in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
            self.rows.append((self.data_collator.epoch, ids[attention.bool()].tolist()))
        return super().compute_loss(model, inputs, *args, **kwargs)  # type: ignore[misc]


class _Masked(_Recorder, MaskedSFTTrainer):
    pass


class _Diffusion(_Recorder, DiffusionSFTTrainer):
    pass


def main(folder: Path, batch_size: int, objective: str) -> None:
    tokenizer = build_tokenizer()
    settings = {**SMALL, "per_device_train_batch_size": batch_size, "num_train_epochs": 3, "learning_rate": 1e-3}
    data = Dataset.from_list([{"text": text} for text in DOCUMENTS])
    trainer: Any
    if objective == "diffusion":
        args = DiffusionSFTConfig(str(folder), to_diffusion=True, **settings)
        trainer = _Diffusion(build_model(tokenizer), args, train_dataset=data, processing_class=tokenizer)
    else:
        masked = MaskedSFTConfig(str(folder), **settings)
        trainer = _Masked(build_model(tokenizer), masked, train_dataset=data, processing_class=tokenizer)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    seen = {"world_size": trainer.args.world_size, "rows": trainer.rows, "losses": losses}
    (folder / f"seen-{trainer.args.process_index}.json").write_text(json.dumps(seen), encoding="utf-8")
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
