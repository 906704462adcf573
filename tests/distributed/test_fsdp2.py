"""FSDP2 on gloo, by hand and through accelerate's own preparation, which a launch on a CPU leaves out; and what it is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.launching import CONFIGS, launch_environment
from tests.processes import run_two
from tests.trainers.conftest import make_trainer, needs_token_losses

__all__ = ["make_trainer"]


@needs_token_losses
def test_two_processes_shard_as_launched_and_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in launch_environment(CONFIGS / "fsdp2.yaml", monkeypatch).items():
        if name.startswith(("FSDP_", "ACCELERATE_USE_FSDP")):
            monkeypatch.setenv(name, value)
    printed = run_two("tests.distributed.fsdp2", str(tmp_path))
    assert all(f"process {rank} done" in printed[rank] for rank in range(2))


def test_gradients_are_reduced_in_fp32(make_trainer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(bf16=True)
    assert trainer._build_accelerator_args().get("fsdp_plugin") is None
    for name, value in launch_environment(CONFIGS / "fsdp2.yaml", monkeypatch).items():
        if name.startswith(("FSDP_", "ACCELERATE_USE_FSDP")):
            monkeypatch.setenv(name, value)
    plugin = trainer._build_accelerator_args()["fsdp_plugin"]
    plugin.set_mixed_precision("bf16")  # accelerate's own, for what is not said yet
    assert plugin.fsdp_version == 2 and plugin.state_dict_type is not None
    assert plugin.mixed_precision_policy.param_dtype == torch.bfloat16
    assert plugin.mixed_precision_policy.reduce_dtype == torch.float32
    assert plugin.mixed_precision_policy.output_dtype == torch.float32  # else the loss would be rounded to bf16
