"""Projects only the supervised positions through the language-model head, on every device.

A masked sample is scored on about a third of its positions. trl's fused head skips the others on devices with Triton
only; gathering the hidden states behind the backbone saves their projection everywhere and exposes the loss of each
token to the metrics, without a second forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from kinject.templates import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class SupervisedPositions:
    """Forward hooks on a causal model that carries trl's fused head.

    Inside `scoring(targets)` the backbone returns only the hidden states of supervised positions, shape
    `(1, supervised, hidden)`; afterwards `log_probs` holds the log-probability of each, shape `(supervised,)`, or `None`
    under trl 1.14 (the last for Python 3.10), whose head reports sums only.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.log_probs: torch.Tensor | None = None
        self._supervised: torch.Tensor | None = None  # (batch, length - 1), bool
        model.base_model.register_forward_hook(self._gather)
        model.register_forward_hook(self._keep_log_probs)

    @contextmanager
    def scoring(self, targets: torch.Tensor) -> Iterator[torch.Tensor]:
        """Gather where ``targets`` (batch, length - 1) is not -100; yields the gathered targets (1, supervised)."""
        self._supervised = targets != IGNORED
        try:
            yield targets[self._supervised][None]
        finally:
            self._supervised = None

    def _gather(self, module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if self._supervised is not None:
            hidden = output.last_hidden_state[:, : self._supervised.size(1)]  # the last position predicts nothing
            output.last_hidden_state = hidden[self._supervised.to(hidden.device)][None]
        return output

    def _keep_log_probs(self, module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._supervised is not None:
            log_probs = getattr(output, "log_probs", None)
            self.log_probs = None if log_probs is None else log_probs.detach()[0]
