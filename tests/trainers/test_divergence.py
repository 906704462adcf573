"""A run that diverges stops before its weights are lost, says why, and writes nothing that is no number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from kinject.errors import ConfigurationError, TrainingError
from kinject.evaluation.asking import answer_questions
from kinject.models import load_model
from kinject.trainers.checkpointing import last_whole_checkpoint

STEPS = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1, "gradient_accumulation_steps": 2}
LOSS = "the loss is not a finite number"
GRADIENTS = "the norm of the gradients is not a finite number"


def nan(loss: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return loss * float("nan")


def infinite(loss: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """An infinite loss, the gradients of which are as they were."""
    return loss + float("inf")


def nan_gradients(loss: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A loss as it was, whose gradient is 0 / 0."""
    return loss + (weight.flatten()[0] * 0).sqrt() * 0


def overflowing_norm(loss: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Gradients that are finite numbers, whose squares are not: clipping would make them all zero."""
    return loss + (weight.sum() - weight.sum().detach()) * 1e25


def diverge(trainer: Any, fault: Callable[..., torch.Tensor], micro_step: int) -> None:
    """Let the loss of one micro-step, counted from 0, have a fault."""
    compute_loss, taken = trainer.compute_loss, iter(range(10_000))

    def faulty(model: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = compute_loss(model, *args, **kwargs)
        return fault(loss, next(model.parameters())) if next(taken) == micro_step else loss

    trainer.compute_loss = faulty


@pytest.mark.parametrize(
    ("fault", "what", "micro_step", "max_grad_norm"),  # the first or the last micro-step of the third step
    [
        (nan, LOSS, 4, 1.0),
        (infinite, LOSS, 5, 1.0),
        (infinite, LOSS, 4, 0.0),
        (nan_gradients, GRADIENTS, 4, 1.0),
        (overflowing_norm, GRADIENTS, 5, 1.0),
        (overflowing_norm, GRADIENTS, 5, 0.0),
    ],
)
def test_the_first_step_that_is_no_number_ends_the_run_with_the_weights_before_it(
    make_trainer: Callable[..., Any], tmp_path: Path, fault: Any, what: str, micro_step: int, max_grad_norm: float
) -> None:
    trainer = make_trainer(**STEPS, per_device_train_batch_size=2, max_grad_norm=max_grad_norm)
    diverge(trainer, fault, micro_step)
    with pytest.raises(TrainingError, match=f"diverged after 2 of 4 steps: {what}") as raised:
        trainer.train()
    assert "learning rate that is too high (it is 0.01; try a tenth)" in str(raised.value)
    assert "The last good checkpoint is checkpoint-2." in str(raised.value)
    assert last_whole_checkpoint(tmp_path / "run") == str(tmp_path / "run" / "checkpoint-2")
    saved = load_file(tmp_path / "run" / "checkpoint-2" / "model.safetensors")
    for name, weight in trainer.model.state_dict().items():
        assert weight.isfinite().all()
        if name in saved:
            torch.testing.assert_close(weight, saved[name], rtol=0, atol=0)


def test_without_a_checkpoint_the_message_says_so_and_names_the_precision(make_trainer: Callable[..., Any]) -> None:
    trainer = make_trainer(bf16=True, max_grad_norm=0.0)
    diverge(trainer, nan, 0)
    with pytest.raises(TrainingError) as raised:
        trainer.train()
    for part in ("after 0 of 2 steps", "(--max_grad_norm 1)", "--bf16", "There is no checkpoint from before."):
        assert part in str(raised.value)


class Breaking(TrainerCallback):
    """Makes a weight infinite with the step of the optimizer, as an update that is too large does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step:
            next(iter(kwargs["model"].parameters())).data[0] = float("inf")


@pytest.mark.parametrize("step", [3, 4])
def test_weights_that_are_no_numbers_are_not_saved(make_trainer: Callable[..., Any], tmp_path: Path, step: int) -> None:
    trainer = make_trainer(**STEPS, per_device_train_batch_size=2)
    trainer.add_callback(Breaking(step))
    with pytest.raises(
        TrainingError, match=f"after {step} of 4 steps: the weights are not finite .*checkpoint-{step - 1}"
    ):
        trainer.train()
    assert not (tmp_path / "run" / f"checkpoint-{step}").exists()
    with pytest.raises(TrainingError, match="the weights are not finite numbers"):
        trainer.save_model(str(tmp_path / "final"))
    assert not (tmp_path / "final").exists()


def test_a_run_that_ends_with_lost_weights_does_not_end_well(make_trainer: Callable[..., Any], tmp_path: Path) -> None:
    trainer = make_trainer(max_steps=2)
    trainer.add_callback(Breaking(2))
    with pytest.raises(TrainingError, match="after 2 of 2 steps: the weights"):
        trainer.train()


def test_lost_weights_of_others_are_named_when_they_are_loaded(
    make_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    trainer = make_trainer()
    trainer.save_model(str(tmp_path / "kept"))
    assert answer_questions(*_pair(load_model(str(tmp_path / "kept"))), ["Who?"], max_new_tokens=1)
    trainer.model.model.layers[1].mlp.up_proj.weight.data[3, 5] = float("nan")
    trainer.model.save_pretrained(tmp_path / "kept")
    with pytest.raises(
        ConfigurationError,
        match=r"model 'kept': has weights that are not finite numbers .* 1 \(model.layers.1.mlp.up_proj",
    ):
        load_model(str(tmp_path / "kept"))


def _pair(loaded: Any) -> tuple[Any, Any]:
    return loaded.model, loaded.tokenizer
