"""Weights that are sharded over processes: gathered for questions, and written back.

DeepSpeed's ZeRO-3 leaves every process a slice of each weight. A forward pass would gather them layer by layer, and an
answer takes one for every token; so all are gathered once, which needs room for the whole model, as trl does it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from torch import distributed, nn

if TYPE_CHECKING:
    import torch
    from transformers import Trainer

_gathered: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def whole_model(trainer: Trainer) -> AbstractContextManager[Any]:
    """The model of ``trainer`` with all its weights, as `whole_weights` gives it; before, in and after training."""
    return whole_weights(trainer.model, trainer.model_wrapped)


@contextmanager
def whole_weights(model: Any, wrapped: Any = None) -> Iterator[Any]:
    """``model``; in the block, every process holds all weights that ZeRO-3 has sharded.

    Every process has to enter and leave.

    Args:
        model: Whole or sharded.
        wrapped: DeepSpeed's engine around it, once there is one.
    """
    if not _by_zero3(model):
        yield model
        return
    import deepspeed
    from trl.models.utils import add_hooks, remove_hooks

    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        remove_hooks(wrapped)  # nothing to do without an engine
        _gathered.add(model)
        try:
            yield model
        finally:
            _gathered.discard(model)
            add_hooks(wrapped)


def is_sharded(model: nn.Module) -> bool:
    """Whether a forward pass of ``model`` needs other processes, for weights that this one does not hold."""
    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return False
    return is_fsdp(model) or (model not in _gathered and _by_zero3(model))


def is_fsdp(model: nn.Module) -> bool:
    """Whether FSDP, of either version, wraps ``model`` or a part of it."""
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    return any(isinstance(module, (FSDPModule, FullyShardedDataParallel)) for module in model.modules())


def load_weights(model: nn.Module, kept: nn.Module) -> None:
    """Copy the weights of ``kept`` into ``model``, a model of the same kind; every process has to call this.

    Args:
        model: Whole, or sharded by ZeRO-3 or FSDP.
        kept: Whole, or sharded by ZeRO-3 if ``model`` is.
    """
    if _by_zero3(model):
        for own, other in zip(model.parameters(), kept.parameters(), strict=True):
            with writable([own, other]):
                own.data.copy_(other.data)
        return
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    weights: Mapping[str, torch.Tensor] = kept.state_dict()
    set_model_state_dict(model, dict(weights), options=StateDictOptions(full_state_dict=True))


@contextmanager
def writable(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Gather ``parameters`` if ZeRO-3 has sharded them; what the main process makes of them goes to all."""
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parameters, modifier_rank=0):
        yield


def _by_zero3(model: nn.Module) -> bool:
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())
