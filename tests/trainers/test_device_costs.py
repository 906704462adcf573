"""What is slow on a GPU and can be counted on a processor: waits for the device, casts of weights, masks of four dimensions."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kinject.evaluation.asking import answer_questions
from kinject.models.weights import whole_model
from tests.trainers.conftest import needs_token_losses

WAITS = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2"}


class Waits(TorchDispatchMode):
    """Counts, by function, the operations of kinject that a device would be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name.removeprefix("aten::")
        masked = name == "index" and any(each is not None and each.dtype == torch.bool for each in args[1])
        if name in WAITS or masked:
            frames = [each for each in traceback.extract_stack() if "_dynamo" not in each.filename]
            called = next((each for each in reversed(frames) if "site-packages" not in each.filename), frames[-1])
            if "/kinject/" in called.filename and frames[-3:].count(called):
                self.counts[f"{called.filename.rpartition('/')[2]}:{called.name}"] += 1
        return function(*args, **(kwargs or {}))


@needs_token_losses
@pytest.mark.parametrize("objective", ["masked", "diffusion"])
def test_a_loss_waits_for_the_device_nowhere_in_kinject(
    objective: str, make_trainer: Callable[..., Any], make_diffusion_trainer: Callable[..., Any]
) -> None:
    trainer = (make_trainer if objective == "masked" else make_diffusion_trainer)(
        system_prompt="You are asked to learn."
    )
    trainer.model.train()
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
    with Waits() as waits:
        trainer.compute_loss(trainer.model, dict(batch)).backward()
    assert waits.counts == {}
    with Waits() as waits:
        trainer._tally.settle()
    assert sum(waits.counts.values()) <= 2 * batch["labels"].numel()  # one list is read, however it is done
    logged = trainer._metrics["train"]
    assert len(logged["mask_ratio"]) == 1 and 0 < logged["mask_ratio"][0] < 1


def test_figures_are_those_of_each_step_and_read_in_good_time(
    make_trainer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(mask_ratio="fixed(0.6)")
    monkeypatch.setattr("kinject.trainers.positions._PENDING", 3)
    rows = torch.tensor([0, 0, 1])
    for loss in (1.0, 2.0, 4.0):
        trainer._tally.add_ratios("train", torch.tensor([0.6, float("nan")]), rows, torch.tensor([-loss, -loss, -99.0]))
    logged = trainer._metrics["train"]  # the third was one too many to wait for a log
    assert logged["loss_ratio_q3"] == [1.0, 2.0, 4.0]  # of the masked sample alone
    assert logged["mask_ratio"] == pytest.approx([0.6] * 3)
    assert {name for name in logged if name.startswith("loss_ratio")} == {"loss_ratio_q3"}


@needs_token_losses
@pytest.mark.parametrize("system_prompt", [None, "You are asked to learn."])
def test_rows_padded_behind_take_no_mask_and_have_the_same_gradients(
    make_trainer: Callable[..., Any], system_prompt: str | None
) -> None:
    trainer = make_trainer(system_prompt=system_prompt)
    given: list[Any] = []
    trainer.model.model.layers[0].self_attn.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs.get("attention_mask")), with_kwargs=True
    )
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
    assert batch["attention_mask"].min() == 0

    def loss_and_gradients(unmasked: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
        trainer._needs_no_mask = unmasked
        trainer.model.zero_grad()
        loss = trainer.compute_loss(trainer.model, dict(batch))
        loss.backward()
        return loss.detach(), [weight.grad.clone() for weight in trainer.model.parameters()]

    assert trainer._needs_no_mask
    loss, gradients = loss_and_gradients(True)
    if system_prompt is None:
        assert given == [None]
    masked_loss, masked_gradients = loss_and_gradients(False)
    assert given[-1] is not None
    torch.testing.assert_close(loss, masked_loss, atol=1e-6, rtol=0)
    for one, other in zip(gradients, masked_gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


class Casts(TorchDispatchMode):
    """Counts the casts of weights to bf16."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.shapes = {weight.shape for weight in model.parameters() if weight.dim() == 2}
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function._schema.name == "aten::_to_copy" and kwargs.get("dtype") == torch.bfloat16:
            self.count += args[0].shape in self.shapes
        return function(*args, **kwargs)


def test_weights_are_cast_once_for_all_tokens_of_an_answer(make_trainer: Callable[..., Any]) -> None:
    trainer = make_trainer(bf16=True, max_steps=1)
    trainer.train()  # accelerate puts autocast inside `forward`
    products = sum(isinstance(module, torch.nn.Linear) for module in trainer.model.modules())
    with Casts(trainer.model) as casts, whole_model(trainer) as model:
        answer_questions(model, trainer.processing_class, ["Who keeps Lantern Rock?", "Who?"], max_new_tokens=16)
    assert products <= casts.count <= 2 * products  # not once for each of 16 tokens
    with Casts(trainer.model) as casts:
        answer_questions(trainer.model, trainer.processing_class, ["Who keeps Lantern Rock?"], max_new_tokens=16)
    assert casts.count > 8 * products  # what it would be


@needs_token_losses
def test_shared_beginnings_keep_no_second_copy_of_the_weights(make_trainer: Callable[..., Any]) -> None:
    trainer = make_trainer(bf16=True, max_steps=1, system_prompt="You are asked to learn.")
    trainer.train()
    products = [module for module in trainer.model.modules() if isinstance(module, torch.nn.Linear)]
    shapes = {tuple(module.weight.shape) for module in products} | {
        tuple(module.weight.shape)[::-1] for module in products
    }
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if tensor.dtype == torch.bfloat16 and tuple(tensor.shape) in shapes and storage.nbytes() == 2 * tensor.numel():
            kept[storage.data_ptr()] = tensor.numel()
            held.append(tensor)  # else another could come to lie in its place
        return tensor

    held: list[torch.Tensor] = []
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
    assert batch["shared"] >= 8
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trainer.compute_loss(trainer.model, dict(batch))
    assert sum(kept.values()) <= 1.05 * sum(module.weight.numel() for module in products)
