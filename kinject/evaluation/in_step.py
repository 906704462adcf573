"""Keeps processes that share one sharded model in step while each decodes questions of its own.

With ZeRO-3 or FSDP every forward gathers weights from all processes. A diffusion model takes as many forwards as its
answers need, so a process that is finished has to go along with those that are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed

from kinject.evaluation.gathering import is_sharded


@contextmanager
def in_step(model: Any) -> Iterator[Any]:
    """``model`` for use in the block; if it is sharded, the block ends when it has ended in every process."""
    if not is_sharded(model):
        yield model
        return
    stepping = _InStep(model)
    yield stepping
    while stepping.anyone_calls(False):
        model(input_ids=torch.zeros((1, 1), dtype=torch.int64, device=stepping.device), use_cache=False)


class _InStep(torch.nn.Module):
    """Tells the other processes of each call."""

    def __init__(self, model: Any) -> None:
        """Wrap ``model``."""
        super().__init__()
        self.model, self.config = model, model.config
        self.device = next(model.parameters()).device

    def anyone_calls(self, calls: bool) -> bool:
        """Whether any process is about to call the model; ``calls`` says it of this one. Every process has to ask."""
        flag = torch.tensor(int(calls), device=self.device)
        distributed.all_reduce(flag)
        return bool(flag)

    def forward(self, **arguments: Any) -> Any:
        """Call the model, as every other process is going to."""
        self.anyone_calls(True)
        return self.model(**arguments)
