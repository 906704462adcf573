"""What makes a run faster and must not change it: `torch.compile`, kernels, worker processes, a head in tiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import trl.kernels.chunked_logprob

from kinject.errors import ConfigurationError
from tests.conftest import build_model, build_tokenizer
from tests.trainers.conftest import needs_token_losses


def _losses(trainer: Any) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("maker", ["make_trainer", "make_diffusion_trainer"])
def test_compiled_losses_are_those_of_eager_training(maker: str, request: pytest.FixtureRequest) -> None:
    make: Callable[..., Any] = request.getfixturevalue(maker)
    # This backend traces forward and backward as any other does, and runs the graph without a C++ compiler.
    compiled = _losses(make(num_train_epochs=2, torch_compile=True, torch_compile_backend="aot_eager"))
    torch._dynamo.reset()
    assert compiled == pytest.approx(_losses(make(num_train_epochs=2)), abs=1e-5)
    assert len(compiled) == 4


def test_liger_kernels_are_refused_on_the_processor(make_trainer: Callable[..., Any]) -> None:
    with pytest.raises(ConfigurationError, match="use_liger_kernel needs a GPU.*this run is on the CPU"):
        make_trainer(use_liger_kernel=True)


def test_workers_are_started_beside_a_gpu_only(make_trainer: Callable[..., Any]) -> None:
    args = make_trainer().args
    assert (args.dataloader_num_workers, args.dataloader_persistent_workers) == (0, False)
    assert make_trainer(dataloader_num_workers=2).args.dataloader_num_workers == 2


@needs_token_losses
def test_the_head_never_holds_the_logits_of_all_supervised_positions(make_trainer: Callable[..., Any]) -> None:
    vocabulary = 4 * 32_768  # LLaDA's takes four tiles too
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    model.resize_token_embeddings(vocabulary)
    trainer = make_trainer(trainer={"model": model, "processing_class": tokenizer}, per_device_train_batch_size=8)
    batch = next(iter(trainer.get_train_dataloader()))
    supervised = int((batch["labels"][:, 1:] != -100).sum())
    sizes: list[int] = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.dim() == 2 and result.shape[0] == supervised:
                sizes.append(result.shape[1])
            return result

    with Sizes():
        loss = trainer.compute_loss(model.train(), batch)
        loss.backward()
    assert max(sizes) == vocabulary // 4
    assert trl.kernels.chunked_logprob.TOKEN_CHUNK_SIZE <= 4096  # and of so many positions at once
