"""Projects only the supervised positions through the language-model head, on every device.

A masked sample is scored on about a third of its positions. trl's fused head skips the others on devices with Triton
only; gathering the hidden states behind the backbone saves their projection everywhere and exposes the loss of each
token to the metrics, without a second forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import trl.trainer.utils

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class SupervisedPositions:
    """Forward hooks on a language model that carries trl's fused head.

    Inside `at(rows, positions)` the backbone returns only the hidden states of these positions, shape
    `(1, supervised, hidden)`; afterwards `log_probs` holds the log-probability of each, shape `(supervised,)`, or `None`
    under trl 1.14 (the last for Python 3.10), whose head reports sums only.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.log_probs: torch.Tensor | None = None
        self._positions: tuple[torch.Tensor, torch.Tensor] | None = None
        model.base_model.register_forward_hook(self._gather)
        model.register_forward_hook(self._keep_log_probs)

    @contextmanager
    def at(self, rows: torch.Tensor, positions: torch.Tensor) -> Iterator[None]:
        """Gather the hidden states at ``positions`` of ``rows``, each `(supervised,)`."""
        self._positions = rows, positions
        try:
            yield
        finally:
            self._positions = None

    def _gather(self, module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if self._positions is not None:
            hidden = output.last_hidden_state  # (batch, length, hidden)
            rows, positions = (index.to(hidden.device) for index in self._positions)
            output.last_hidden_state = hidden[rows, positions][None]
        return output

    def _keep_log_probs(self, module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._positions is not None:
            log_probs = getattr(output, "log_probs", None)
            self.log_probs = None if log_probs is None else log_probs.detach()[0]


@dataclass(frozen=True)
class TokenScores:
    """What a model says of supervised tokens; each field has the shape `(supervised,)`.

    Attributes:
        log_probs: Log-probability of the target, with gradient.
        entropy: Entropy of the prediction, in nats.
        correct: Whether the target is the most likely token.
    """

    log_probs: torch.Tensor
    entropy: torch.Tensor
    correct: torch.Tensor


def token_scores(model: torch.nn.Module, inputs: dict[str, Any], targets: torch.Tensor) -> TokenScores:
    """Score ``targets`` (supervised,), inside `SupervisedPositions.at`; in tiles where trl has a fused head."""
    if hasattr(trl.trainer.utils, "add_fused_lm_head"):
        outputs = model(**inputs, shift_labels=targets[None], fused_lm_head=True)
        return TokenScores(outputs.log_probs[0], outputs.entropy[0].detach(), outputs.is_top1[0])
    return scores_of(model(**inputs).logits[0].float().log_softmax(-1), targets)


def scores_of(all_log_probs: torch.Tensor, targets: torch.Tensor) -> TokenScores:
    """The scores of ``targets`` (supervised,) under ``all_log_probs`` (supervised, vocabulary)."""
    log_probs = all_log_probs.gather(-1, targets.to(all_log_probs.device)[:, None])[:, 0]
    with torch.no_grad():
        entropy = -(all_log_probs.exp() * all_log_probs).sum(-1)
        correct = all_log_probs.argmax(-1) == targets.to(all_log_probs.device)
    return TokenScores(log_probs, entropy, correct)
