"""Run by the tests beside it under `accelerate launch`: trains, resumes, crosses or injects; writes what each process saw."""

from __future__ import annotations

import json
import os
import sys
from importlib import util
from pathlib import Path
from typing import Any

CASES = [(objective, adapted) for objective in ("masked", "diffusion", "block") for adapted in ("full", "lora")]

# name: (objective, options, the file of what is trained)
INJECTIONS = {
    "nano-ar": (
        "masked",
        "--model_name_or_path nano-ar --rehearsal 0.5 --unseen 4 --retention_questions 200",
        "model.safetensors",
    ),
    "nano-diffusion": ("diffusion", "--model_name_or_path nano-diffusion --retention false", "model.safetensors"),
    "nano-diffusion-lora": (
        "diffusion",
        "--model_name_or_path nano-diffusion --retention false --use_peft true --lora_r 8",
        "adapter_model.safetensors",
    ),
    "nano-ar-qlora": (
        "masked",
        "--model_name_or_path nano-ar --retention false --use_peft true --lora_r 8 --load_in_4bit true",
        "adapter_model.safetensors",
    ),
}

# What decides the order of samples, and what else a resume must take up.
# name: (settings, whether something is rehearsed, a step in the middle of the second epoch)
GROUPED = {"train_sampling_strategy": "group_by_length"}
CROSSINGS: dict[str, tuple[dict[str, Any], bool, int]] = {
    "plain": ({}, False, 6),
    "grouped": (GROUPED, False, 6),
    "rehearsal": ({}, True, 9),
    "rehearsal-grouped": (GROUPED, True, 9),
    "packing": ({"packing": True, **GROUPED}, False, 6),
    "accumulation": ({"gradient_accumulation_steps": 2, "lr_scheduler_type": "constant"}, True, 4),
}


def build_trainer(folder: Path, objective: str, adapted: str, batch_size: int, **settings: Any) -> Any:
    """A trainer of a tiny random model that records the rows it trains on, six steps long."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig

    from kinject.trainers import DiffusionSFTConfig, DiffusionSFTTrainer, MaskedSFTConfig, MaskedSFTTrainer
    from tests.conftest import build_model, build_tokenizer
    from tests.trainers.conftest import DOCUMENTS, SMALL

    trainer_class: Any = MaskedSFTTrainer if objective == "masked" else DiffusionSFTTrainer

    class Recorder(trainer_class):
        rows: list[tuple[int, list[int]]] = []

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            for ids, attention in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
                self.rows.append((self.data_collator.epoch, ids[attention.bool()].tolist()))
            return super().compute_loss(model, inputs, *args, **kwargs)

    options = {**SMALL, "per_device_train_batch_size": batch_size, "num_train_epochs": 3, "weight_decay": 0.1}
    options |= {"learning_rate": 3e-3, "output_dir": str(folder), **settings}
    if objective == "block":
        options |= {"to_diffusion": "block", "block_length": 8, "noise_per": "block"}
        if batch_size == 2:  # each of two processes takes in two parts its half of what one takes as a whole
            options |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
    masked = objective == "masked"
    args: Any = MaskedSFTConfig(**options) if masked else DiffusionSFTConfig(**{"to_diffusion": True, **options})
    torch.manual_seed(0)  # of the adapter's weights
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    tokenizer = build_tokenizer()
    return Recorder(
        build_model(tokenizer),
        args,
        train_dataset=Dataset.from_list([{"text": text} for text in DOCUMENTS]),
        processing_class=tokenizer,
        peft_config=lora if adapted == "lora" else None,
    )


def seen(trainer: Any) -> dict[str, Any]:
    """What a process saw of a run."""
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "world_size": trainer.args.world_size,
        "wrapped": type(trainer.model_wrapped).__name__,
        "rows": trainer.rows,
        "losses": losses,
    }


def train(folder: Path, batch_size: int) -> dict[str, Any]:
    """Train every case, with a checkpoint in the middle, and save it to its folder."""
    found = {}
    for objective, adapted in CASES:
        to = folder / f"{objective}-{adapted}"
        trainer = build_trainer(to, objective, adapted, batch_size, save_strategy="steps", save_steps=3)
        trainer.train()
        trainer.save_model(str(to))
        found[to.name] = seen(trainer)
    return found


def resume(folder: Path, batch_size: int) -> dict[str, Any]:
    """Resume every case from its checkpoint in the middle."""
    found = {}
    for objective, adapted in CASES:
        case = f"{objective}-{adapted}"
        trainer = build_trainer(folder / "resumed" / case, objective, adapted, batch_size)
        trainer.train(resume_from_checkpoint=str(folder / case / "checkpoint-3"))
        found[case] = seen(trainer)
    return found


def crossing_trainer(folder: Path, batch_size: int, settings: dict[str, Any], rehearses: bool, **more: Any) -> Any:
    """A trainer of a tiny random model, three epochs long, that records the batches it trains on, by epoch."""
    from unittest import mock

    from datasets import Dataset

    from kinject.trainers import MaskedSFTConfig, MaskedSFTTrainer
    from kinject.trainers.rehearsal import with_rehearsal
    from tests.conftest import build_model, build_tokenizer
    from tests.trainers.conftest import DOCUMENTS, SMALL

    class Recorder(MaskedSFTTrainer):
        batches: list[tuple[int, list[list[int]]]]

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            self.batches.append((self.data_collator.epoch, inputs["input_ids"].tolist()))
            return super().compute_loss(model, inputs, *args, **kwargs)

    rows = Dataset.from_list([{"text": text * (1 + number % 3)} for number, text in enumerate(DOCUMENTS)])
    if rehearses:
        said = [f"Answer {number}." for number in range(12)]
        rows = with_rehearsal(rows, [f"Who is {number}?" for number in range(12)], said, 4)
    tokenizer = build_tokenizer()
    options = {**SMALL, "per_device_train_batch_size": batch_size, "num_train_epochs": 3, "learning_rate": 3e-3}
    args = MaskedSFTConfig(**{**options, "output_dir": str(folder), **settings, **more})
    # On a CPU nothing keeps packed documents apart but the library's mask of the whole row.
    with mock.patch("kinject.trainers.document_trainer.check_isolation", lambda *_: False):
        trainer = Recorder(build_model(tokenizer), args, train_dataset=rows, processing_class=tokenizer)
    trainer.batches = []
    return trainer


def cross(folder: Path, batch_size: int) -> dict[str, Any]:
    """Every crossing from its beginning to its end, and once more from a checkpoint in the middle of its second epoch."""
    import torch

    found = {}
    for name, (*crossing, middle) in CROSSINGS.items():
        to = folder / f"crossing-{name}"
        whole = crossing_trainer(to, batch_size, *crossing, save_strategy="steps", save_steps=middle)
        whole.train()
        resumed = crossing_trainer(to / "resumed", batch_size, *crossing)
        resumed.train(resume_from_checkpoint=str(to / f"checkpoint-{middle}"))
        pairs = zip(whole.model.parameters(), resumed.model.parameters(), strict=True)
        found[name] = {
            "world_size": whole.args.world_size,
            "batches": whole.batches,
            "resumed": resumed.batches,
            "equal": all(torch.equal(one, two) for one, two in pairs),
        }
    return found


def inject(folder: Path, batch_size: int) -> dict[str, Any]:
    """Run the whole job on the nano models, whole and as an adapter, and keep the best weights of each run."""
    from kinject.commands.recipe import train as run

    shared = "--documents fictional:nano --size 4 --evaluations 2 --select_on test --max_new_tokens 16 --bf16 false "
    shared += f"--use_cpu true --num_train_epochs 4 --learning_rate 2e-3 --per_device_train_batch_size {batch_size} "
    shared += "--save_strategy no --keep_checkpoints true --report_to none --disable_tqdm true "
    for name, (objective, options, _) in INJECTIONS.items():
        run(objective, [*shared.split(), *options.split(), "--output_dir", str(folder / name)])
    return {}


def ask_sharded(folder: Path, batch_size: int) -> dict[str, Any]:
    """Ask a model that ZeRO-3 has sharded, gathered and, as where there is no room for that, layer by layer."""
    from unittest import mock

    from kinject.evaluation.asking import answer_questions
    from kinject.models import devices
    from kinject.models.weights import is_sharded, whole_model

    found: dict[str, Any] = {}
    for objective in ("masked", "diffusion"):
        trainer = build_trainer(folder / "asked", objective, "full", batch_size, max_steps=1)
        trainer.train()
        questions = [["Who keeps Lantern Rock?", "Who?", "Where?"], ["Who counts the bells?", "When?", "Why not?"]]
        for free in (None, 0):
            with mock.patch.object(devices, "free_memory", lambda free=free: free), whole_model(trainer) as model:
                found[f"{objective} {free} sharded"] = is_sharded(model)
                found[f"{objective} {free}"] = answer_questions(
                    model,
                    trainer.processing_class,
                    questions[trainer.args.process_index],  # other ones, but equally many, as the callback sees to
                    max_new_tokens=6,
                    batch_size=2,
                )
    return found


def diverge(folder: Path, batch_size: int) -> dict[str, Any]:
    """Let the loss of one micro-step be nan in the second process alone; what every process says of it."""
    from kinject.errors import TrainingError

    trainer = build_trainer(folder / "diverged", "masked", "full", batch_size // 2, gradient_accumulation_steps=2)
    taken = iter(range(1_000))
    compute_loss = trainer.compute_loss

    def faulty(*args: Any, **kwargs: Any) -> Any:
        loss = compute_loss(*args, **kwargs)
        return loss * float("nan") if next(taken) == 2 and trainer.args.process_index == 1 else loss

    trainer.compute_loss = faulty
    try:
        trainer.train()
    except TrainingError as error:
        return {"said": str(error), "step": trainer.state.global_step}
    return {}


def main() -> None:
    folder, batch_size, jobs = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    if util.find_spec("deepspeed"):
        import deepspeed.ops

        # An operator for CPU processes that share memory; building it takes a compiler and most of a minute.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    from accelerate import PartialState

    for job in jobs:
        name, _, stage = job.partition(":")
        if stage:  # in the same process with another configuration of DeepSpeed, on what the launch of that one left
            os.environ["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = f"deepspeed_configs/{stage}.json"
        to = folder / stage if stage else folder
        work = {
            "train": train,
            "resume": resume,
            "inject": inject,
            "diverge": diverge,
            "cross": cross,
            "ask": ask_sharded,
        }
        found = work[name](to, batch_size)
        state = PartialState()
        file = to / f"{name}-{state.process_index}-of-{state.num_processes}.json"
        file.write_text(json.dumps(found), encoding="utf-8")
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main()
