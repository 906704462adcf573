"""Short runs of every objective, and what of them a rebuilding must not change.

    python -m tests.invariants.trajectories OUT.json

Two such files, written on one machine before and after, are equal to the last bit. `trajectories.json` beside this file is
one; the test compares with it up to the rounding of another processor.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SHARED = (
    "--documents fictional:nano --size 4 --evaluations 1 --max_new_tokens 12 --num_train_epochs 3 "
    "--per_device_train_batch_size 3 --learning_rate 1e-3 --bf16 false --use_cpu true --gradient_checkpointing false "
    "--save_strategy no --logging_steps 1 --report_to none --disable_tqdm true --retention false"
)
LORA = "--use_peft true --lora_r 4 --lora_target_modules up_proj down_proj"
RUNS: dict[str, tuple[str, str]] = {
    "masked": ("masked", "--recipe paper"),
    "masked-rotating": (
        "masked",
        "--mask_ratio stratified(0.1,1.0) --mask_unit mixed --wordings rotating --infill_share 0.4 --infill_unit side",
    ),
    "masked-lora": ("masked", LORA),
    "masked-rehearsal": ("masked", "--rehearsal 0.5"),
    "masked-grouped": ("masked", "--train_sampling_strategy group_by_length --gradient_accumulation_steps 2"),
    "masked-frozen": ("masked", "--frozen_modules self_attn --select_on test"),
    "random_token": ("random_token", ""),
    "ar": ("ar", ""),
    "reverse": ("reverse", ""),
    "diffusion": ("diffusion", "--frame chat"),
    "diffusion-lora": ("diffusion", f"--end_padding true {LORA}"),
}


@contextmanager
def watched(seen: dict[str, Any]) -> Iterator[None]:
    """Note every logged number and a hash of every batch in ``seen``."""
    import torch
    from transformers import Trainer

    from kinject.trainers.collator import DocumentCollator

    log, collate, batches = Trainer.log, DocumentCollator.__call__, hashlib.sha256()

    def logging(self: Any, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        kept = {name: float(value) for name, value in logs.items() if not name.startswith("train_")}
        seen["logged"].append({name: value.hex() for name, value in sorted(kept.items())})
        log(self, logs, *args, **kwargs)

    def collating(self: Any, rows: Any) -> dict[str, Any]:
        batch = collate(self, rows)
        for name in sorted(batch.keys() - {"supervised"}):  # which says where the labels are
            value = batch[name]
            if isinstance(value, torch.Tensor) and not value.is_floating_point():
                batches.update(name.encode() + value.numpy().tobytes())
        seen["batches"] = batches.hexdigest()
        return batch

    Trainer.log, DocumentCollator.__call__ = logging, collating  # type: ignore[method-assign]
    try:
        yield
    finally:
        Trainer.log, DocumentCollator.__call__ = log, collate  # type: ignore[method-assign]


def record(name: str, folder: Path) -> dict[str, Any]:
    """Run ``name`` in ``folder``; what was logged, hashes of the batches and the weights, answers, and the files."""
    from kinject.commands.recipe import train

    objective, options = RUNS[name]
    model = "nano-diffusion" if objective == "diffusion" else "nano-ar"
    seen: dict[str, Any] = {"logged": []}
    with watched(seen):
        results = train(
            objective,
            [*SHARED.split(), "--model_name_or_path", model, *options.split(), "--output_dir", str(folder)],
        )
    weights = next(file for file in sorted(folder.glob("*model.safetensors")))
    seen["weights"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    seen["answers"] = [each["answer"] for each in results["answers"]]
    seen["after"] = {
        direction: {measure: scores[measure] for measure in ("paper", "exact_match", "f1", "n")}
        for direction, scores in results["after"].items()
        if direction in ("forward", "backward")
    }
    seen["files"] = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return seen


def main() -> None:
    import torch

    torch.set_num_threads(1)
    found = {}
    for name in RUNS:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = record(name, Path(folder) / name)
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
