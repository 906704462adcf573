"""Singular values that stay as they are while the rest of every matrix learns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import TrainerCallback

from kinject.errors import ConfigurationError
from kinject.models.names import require_whole_weights
from kinject.trainers.subspace import largest_of, matrices_of, project


@pytest.mark.parametrize("shape", [(8, 8), (12, 6), (6, 12), (3, 12, 6)])  # the last: three experts in one tensor
def test_a_projected_matrix_acts_on_what_is_kept_as_before_and_takes_all_else_of_the_change(
    shape: tuple[int, ...],
) -> None:
    torch.manual_seed(0)
    before, change = torch.randn(shape), torch.randn(shape)
    kept = largest_of(before, 0.5)
    rank = min(shape[-2:]) // 2
    assert kept.left.shape[-1] == kept.values.shape[-1] == kept.right.shape[-2] == rank
    after = project(before + change, kept)
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(kept.left.mT @ after, kept.left.mT @ before, **close)
    torch.testing.assert_close(after @ kept.right.mT, before @ kept.right.mT, **close)
    rows = torch.eye(shape[-2]) - kept.left @ kept.left.mT
    columns = torch.eye(shape[-1]) - kept.right.mT @ kept.right
    torch.testing.assert_close(after, before + rows @ change @ columns, **close)
    torch.testing.assert_close(project(after, kept), after, **close)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_changes_no_kept_value_and_nothing_but_matrices(
    make_trainer: Callable[..., Any], checkpointing: bool
) -> None:
    trainer = make_trainer(preserved_rank=0.5, gradient_checkpointing=checkpointing, weight_decay=0.1)
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    matrices = matrices_of(trainer.model)
    assert len(matrices) == 7 * trainer.model.config.num_hidden_layers  # of attention and MLP
    trainer.train()
    for name, weight in trainer.model.named_parameters():
        assert torch.equal(weight, before[name]) == (name not in matrices), name
    for name, weight in matrices.items():
        left, values, right = largest_of(before[name], 0.5)
        kept = left @ (values.unsqueeze(-1) * right)
        torch.testing.assert_close(left @ (left.mT @ weight), kept, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(weight @ right.mT @ right, kept, rtol=1e-4, atol=1e-5)


def test_a_resumed_run_keeps_the_values_of_the_untrained_model(
    make_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    settings = {"preserved_rank": 0.3, "save_strategy": "steps", "save_steps": 3, "num_train_epochs": 4}
    whole = make_trainer(output_dir=str(tmp_path / "whole"), **settings)
    whole.train()

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step == 3

    part = make_trainer(output_dir=str(tmp_path / "part"), **settings)
    part.add_callback(Stop())
    part.train()
    resumed = make_trainer(output_dir=str(tmp_path / "part"), **settings)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == whole.state.global_step == 8
    for first, second in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(first, second)


def test_frozen_modules_may_be_named_beside_it(make_trainer: Callable[..., Any]) -> None:
    model = make_trainer(preserved_rank=0.5, frozen_modules=["attention"]).model
    learning = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert learning and all(".mlp." in name for name in learning)


def test_what_it_cannot_go_with_is_refused(make_trainer: Callable[..., Any]) -> None:
    lora = {"peft_config": LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")}
    with pytest.raises(ConfigurationError, match="an adapter is trained here.*--use_peft"):
        make_trainer(preserved_rank=0.5, trainer=lora)
    with pytest.raises(ConfigurationError, match="DeepSpeed and FSDP"):
        require_whole_weights(adapter=False, sharded=True)
    for share in (-0.1, 1.0, 50):
        with pytest.raises(ConfigurationError, match=r"preserved_rank is .*expected a share"):
            make_trainer(preserved_rank=share)
