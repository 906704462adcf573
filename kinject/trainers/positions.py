"""Encodes what all rows of a batch begin with once: the system prompt and the opening of the user's turn.

In a batch of short documents that is a quarter of all tokens. Keys and values of the beginning are repeated for the rows,
which attend to them as to their own; gradients of all rows add up in the one copy. The loss is that of the whole rows; where
the model has dropout, the rows share one draw of it in the beginning.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import trl.trainer.utils
from transformers import PreTrainedModel

from kinject.compat import encode_beginning
from kinject.models.weights import is_sharded

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, Trainer


# == Projects only the supervised positions through the language-model head, on every device.


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


WORTH_SHARING = 8  # tokens; for less a second forward costs more than it saves
# The second is its older name.
_CHECKPOINTING = (
    "is_activation_checkpointing"
    if hasattr(PreTrainedModel, "is_activation_checkpointing")
    else "is_gradient_checkpointing"
)


class SharedPrompts:
    """Takes the shared beginning of a padded batch out of its rows, where the model of ``trainer`` allows it.

    It does not under gradient checkpointing, which keeps no keys and values, nor compiled, sharded, or with an attention or
    a cache that this was not tried with; `take_out` then changes nothing.
    """

    def __init__(self, trainer: Trainer, model: Any) -> None:
        self._trainer, self._model = trainer, model
        args: Any = trainer.args
        attention = str(getattr(model.config, "_attn_implementation", ""))
        self._possible = (
            attention in ("sdpa", "eager")
            and not args.torch_compile
            and not trainer.is_deepspeed_enabled
            and not trainer.is_fsdp_enabled
            and not getattr(trainer, "aux_loss_enabled", False)  # routers count every token
            and not getattr(model, "_is_stateful", False)
        )

    def take_out(self, inputs: dict[str, Any], supervised: torch.Tensor) -> int:
        """Replace the beginning that all rows of ``inputs`` share by its keys and values, in place.

        Args:
            inputs: `input_ids` and `attention_mask`, `(batch, length)`, padded behind; `input_ids` gets shorter,
                `past_key_values` is added.
            supervised: The positions whose predictions are scored, in any order, `(supervised,)`.

        Returns:
            The number of tokens taken out.
        """
        input_ids = inputs["input_ids"]
        rows = len(input_ids)
        if not self._possible or getattr(self._model, _CHECKPOINTING) or is_sharded(self._model):
            return 0
        if rows == 1 or not len(supervised):
            return 0
        before = input_ids[:, : supervised.min()]
        same = (before == before[:1]).all(0)  # a flag for each position
        length = int(same.long().cumprod(0).sum())
        if length < WORTH_SHARING:
            return 0
        with self._trainer.accelerator.autocast():
            cache = encode_beginning(self._model.base_model, input_ids[:1, :length])
        if cache is None:
            self._possible = False
            return 0
        cache.batch_repeat_interleave(rows)
        inputs["input_ids"], inputs["past_key_values"] = input_ids[:, length:], cache
        return length
