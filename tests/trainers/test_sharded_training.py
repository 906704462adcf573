"""What DeepSpeed would change in silence, without DeepSpeed; whole runs under it are in tests/distributed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kinject.errors import ConfigurationError
from kinject.models.weights import flops_per_token, parameter_count
from kinject.trainers.checkpointing import needs_conversion, universal_folder
from tests.conftest import build_model, build_tokenizer


def test_mask_ratios_keep_their_precision(
    make_diffusion_trainer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_diffusion_trainer()
    batch = trainer.data_collator(list(trainer.train_dataset))
    plugin = SimpleNamespace(hf_ds_config=SimpleNamespace(dtype=lambda: torch.bfloat16))
    monkeypatch.setattr(trainer, "is_deepspeed_enabled", True)
    monkeypatch.setattr(
        trainer, "accelerator", SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin), num_processes=1)
    )
    rounded = trainer._prepare_input(batch)["mask_ratio"]
    assert rounded.dtype == torch.bfloat16  # what the library makes of it
    assert torch.equal(trainer._prepare_inputs(batch)["mask_ratio"], batch["mask_ratio"])


def test_sharded_weights_are_counted_whole() -> None:
    model = build_model(build_tokenizer())
    expected = parameter_count(model), flops_per_token(model)
    for weight in model.parameters():  # as ZeRO-3 leaves them between forward passes
        weight.ds_numel, weight.ds_shape = weight.numel(), weight.shape  # type: ignore[attr-defined]
        weight.data = torch.empty(0)
    assert sum(weight.numel() for weight in model.parameters()) == 0
    assert (parameter_count(model), flops_per_token(model)) == expected


def test_a_checkpoint_is_converted_for_another_number_of_processes_only(tmp_path: Path) -> None:
    assert not needs_conversion(tmp_path, 2)  # not of DeepSpeed
    (tmp_path / "latest").write_text("global_step3", encoding="utf-8")
    (tmp_path / "global_step3").mkdir()
    with pytest.raises(ConfigurationError, match="global_step3 holds no optimizer states"):
        needs_conversion(tmp_path, 2)
    for rank, prefix in enumerate(("", "bf16_")):
        (tmp_path / "global_step3" / f"{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").touch()
    assert [needs_conversion(tmp_path, processes) for processes in (1, 2, 4)] == [True, False, True]
    assert universal_folder(tmp_path) is None
    (tmp_path / "latest_universal").write_text("global_step3_universal", encoding="utf-8")
    assert universal_folder(tmp_path) == tmp_path / "global_step3_universal"
