"""Short runs of every objective, and what of them a rebuilding must not change.

    python -m tests.invariants.trajectories OUT.json [NAME]

Two such files, written on one machine before and after, are equal to the last bit. `trajectories.json` beside this file is
one; the test compares with it up to the rounding of another processor.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

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
    "masked-resumed": ("masked", "--save_strategy steps --save_steps 3"),
}
TWO_PROCESSES = "masked-two-processes"  # of which the first records what it sees
_SETTINGS = {**RUNS, TWO_PROCESSES: RUNS["masked-rotating"]}
_KILLED_AT = {"masked-resumed": 4}  # steps; from its last checkpoint the run goes on


class Killed(BaseException):
    """The end of a run before its end."""


@contextmanager
def watched(seen: dict[str, Any], killed_at: int | None = None) -> Iterator[None]:
    """Note every logged number and a hash of every batch in ``seen``; end what is run after ``killed_at`` steps.

    Raises:
        Killed: so many steps were logged.
    """
    import torch
    from transformers import Trainer

    from kinject.trainers.collator import DocumentCollator

    log, collate, batches = Trainer.log, DocumentCollator.__call__, hashlib.sha256()

    def logging(self: Any, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        kept = {name: float(value) for name, value in logs.items() if not name.startswith("train_")}
        seen["logged"].append({name: value.hex() for name, value in sorted(kept.items())})
        log(self, logs, *args, **kwargs)
        if killed_at is not None and self.state.global_step >= killed_at:
            raise Killed

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

    objective, options = _SETTINGS[name]
    model = "nano-diffusion" if objective == "diffusion" else "nano-ar"
    shared = SHARED.replace("--save_strategy no ", "") if "--save_strategy" in options else SHARED
    words = [*shared.split(), "--model_name_or_path", model, *options.split(), "--output_dir", str(folder)]
    seen: dict[str, Any] = {"logged": []}
    if name in _KILLED_AT:
        with suppress(Killed), watched(seen, _KILLED_AT[name]):
            train(objective, words)
        words += ["--resume_from_checkpoint", "true"]
    with watched(seen):
        results = train(objective, words)
    if os.environ.get("RANK", "0") != "0":  # the first process of several writes the files, perhaps later than this
        return seen
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


def require_same(found: dict[str, Any], recorded: dict[str, Any]) -> None:
    """Fail unless ``found`` is the run that was ``recorded``, up to the rounding of another processor."""
    assert found["files"] == recorded["files"]
    assert found.get("batches") == recorded.get("batches")  # token ids, masks and labels of every batch
    assert [entry.keys() for entry in found["logged"]] == [entry.keys() for entry in recorded["logged"]]
    for found_entry, entry in zip(found["logged"], recorded["logged"], strict=True):
        for key, value in entry.items():
            expected = pytest.approx(float.fromhex(value), rel=5e-3, abs=5e-3)
            # Near a tie another processor may find another token, or answer, the likeliest.
            if key not in ("mean_token_accuracy", "forward", "backward"):
                assert float.fromhex(found_entry[key]) == expected, key


def main() -> None:
    """Record what is named, else everything; as one of several processes, in a folder that all of them see."""
    import torch

    torch.set_num_threads(1)
    output, *names = sys.argv[1:]
    rank = os.environ.get("RANK")
    found = {}
    for name in names or RUNS:
        with tempfile.TemporaryDirectory() as own:
            found[name] = record(name, (Path(own) if rank is None else Path(output).parent) / name)
    if rank in (None, "0"):
        Path(output).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
