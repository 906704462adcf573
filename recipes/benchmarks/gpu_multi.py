"""The part of gpu.py that needs two GPUs or more. **It has never run.**

    torchrun --nproc_per_node 2 recipes/benchmarks/gpu.py --multi --json out.json

It checks under DDP over NCCL that all processes log the same losses, share the drawing of rehearsed answers, and load the
selected weights. ZeRO and FSDP2 are launched by `accelerate`; gpu.md has the commands.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import distributed


def run_multi() -> dict[str, Any]:
    """The report of all processes of this launch; the same on each of them."""
    from accelerate import PartialState

    from kinject.commands.recipe import train
    from kinject.models.weights import from_main_process

    state = PartialState()
    folder = from_main_process(tempfile.mkdtemp())
    options = "--model_name_or_path nano-ar --documents fictional:nano --size 8 --num_train_epochs 4 --evaluations 2 "
    options += "--bf16 false --rehearsal 0.5 --select_on test --max_new_tokens 16 "
    options += "--report_to none --disable_tqdm true --learning_rate 2e-3 "
    rows = 8 // state.num_processes
    results = train(
        "masked",
        [*options.split(), "--per_device_train_batch_size", str(rows), "--output_dir", str(Path(folder) / "out")],
    )
    losses = torch.tensor([entry["loss"] for entry in results["history"]], device=state.device)
    shared = losses.clone()
    distributed.all_reduce(shared)
    apart = float((shared / state.num_processes - losses).abs().max())
    checks = [
        {
            "section": "multi",
            "name": "losses of all processes, apart",
            "value": apart,
            "ok": apart == 0.0,
            "limit": "equal",
        },
        {
            "section": "multi",
            "name": "a selected step",
            "value": results.get("selected", {}).get("step"),
            "ok": "selected" in results,
            "limit": "there is one",
        },
    ]
    report = {"ok": all(each["ok"] for each in checks), "ratios": {}, "checks": checks}
    report |= {"measurements": {"processes": state.num_processes, "history": results["history"]}, "errors": {}}
    state.destroy_process_group()
    return report
