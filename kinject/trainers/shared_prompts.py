"""Encodes what all rows of a batch begin with once: the system prompt and the opening of the user's turn.

In a batch of short documents that is a quarter of all tokens. Keys and values of the beginning are repeated for the rows,
which attend to them as to their own; gradients of all rows add up in the one copy. The loss is that of the whole rows; where
the model has dropout, the rows share one draw of it in the beginning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from kinject.evaluation.gathering import is_sharded
from kinject.models.shared_beginning import encode_beginning

if TYPE_CHECKING:
    import torch
    from transformers import Trainer

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
