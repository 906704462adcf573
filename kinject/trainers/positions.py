"""Runs the head on supervised positions only, encodes a shared prefix once, and logs the scores of the targets.

A masked sample is scored on about a third of its positions. trl's fused head skips the others on devices with Triton only.
Gathering the hidden states between backbone and head skips them on every device, and gives the metrics the loss of each token
without a second forward pass. Knows nothing of objectives.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from kinject import compat
from kinject.models.weights import is_sharded

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer


class SupervisedPositions:
    """Forward hooks on a language model that carries trl's fused head.

    Inside `at(rows, positions)` the backbone returns only the hidden states of these positions, shape
    `(1, supervised, hidden)`; afterwards `log_probs` holds the log-probability of each, shape `(supervised,)`, or `None`
    under trl 1.14 (the last for Python 3.10), whose head reports sums only.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.log_probs: torch.Tensor | None = None
        self._positions: tuple[torch.Tensor, torch.Tensor] | None = None
        self._padded_behind = False
        model.base_model.register_forward_pre_hook(self._unmask, with_kwargs=True)
        model.base_model.register_forward_hook(self._gather)
        model.register_forward_hook(self._keep_log_probs)

    @contextmanager
    def at(self, rows: torch.Tensor, positions: torch.Tensor, padded_behind: bool = False) -> Iterator[None]:
        """Gather the hidden states at ``positions`` of ``rows``, each `(supervised,)`.

        Args:
            rows, positions: The row, and the position in it, of each supervised token.
            padded_behind: Whether attention is causal and rows are padded on the right. No target then attends to padding, so
                the backbone gets no attention mask; it would make one of four dimensions, which rules FlashAttention out.
        """
        self._positions, self._padded_behind = (rows, positions), padded_behind
        try:
            yield
        finally:
            self._positions, self._padded_behind = None, False

    def _unmask(self, module: torch.nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        if self._padded_behind:
            given = {name: value for name, value in given.items() if name != "attention_mask"}
        return args, given

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
    """How a model scores supervised tokens; each field has the shape `(supervised,)`.

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
    if compat.has_fused_head():
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


class SharedPrompts:
    """Encodes the prefix that all rows of a padded batch share once instead of in every row, where the model allows it.

    `take_out` changes nothing under gradient checkpointing, which keeps no keys and values, in compiled or sharded models, and
    with an attention or a cache that this was not tested with.
    """

    def __init__(self, trainer: Trainer, model: Any) -> None:
        self._trainer, self._model = trainer, model
        args: Any = trainer.args
        attention = compat.attention_implementation(model)
        self._possible = (
            attention in ("sdpa", "eager")
            and not args.torch_compile
            and not trainer.is_deepspeed_enabled
            and not trainer.is_fsdp_enabled
            and not compat.counts_router_tokens(trainer)
            and not compat.is_stateful(model)
        )

    def take_out(self, inputs: dict[str, Any], length: int) -> int:
        """Replace the prefix that all rows of ``inputs`` share by its keys and values, in place.

        Args:
            inputs: `input_ids` and `attention_mask`, `(batch, length)`, padded on the right; `input_ids` gets shorter,
                `past_key_values` is added.
            length: Tokens of that prefix, as the collator counts them.

        Returns:
            The number of tokens taken out.
        """
        input_ids = inputs["input_ids"]
        rows = len(input_ids)
        if not self._possible or compat.checkpoints_activations(self._model) or is_sharded(self._model):
            return 0
        if length < WORTH_SHARING:
            return 0
        cache = compat.encode_beginning(self._model.base_model, input_ids[:1, :length])
        if cache is None:
            self._possible = False
            return 0
        cache.batch_repeat_interleave(rows)
        inputs["input_ids"], inputs["past_key_values"] = input_ids[:, length:], cache
        return length


_PENDING = 256  # steps after which figures are read even if no log is due, so that they do not pile up on the device


class Tally:
    """Collects the figures of the steps of ``trainer`` on the device, until a log is due.

    Reading a number waits for the device, and summing it over processes takes a collective. Both happen once a log instead of
    several times a step. Every process has to add and settle equally often.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._ratios: dict[str, list[torch.Tensor]] = {"train": [], "eval": []}  # (10,) each
        self._scores: dict[str, list[torch.Tensor]] = {"train": [], "eval": []}  # (4,) each

    def add_scores(self, mode: str, scores: TokenScores, tokens: torch.Tensor) -> None:
        """Add the entropy and accuracy of the supervised tokens, and the number of all ``tokens`` of the step."""
        counted = (scores.entropy.sum(), scores.correct.sum(), torch.tensor(len(scores.correct)), tokens)
        sums = torch.stack([count.to(tokens.device, torch.float32, non_blocking=True) for count in counted])
        self._add(self._scores, mode, sums)

    def add_ratios(
        self,
        mode: str,
        mask_ratio: torch.Tensor,
        rows: torch.Tensor,
        log_probs: torch.Tensor | None,
        of_tokens: torch.Tensor | None = None,
    ) -> None:
        """Add the mean mask ratio, and the mean loss of each quarter of the ratio range [0, 1], over the masked samples.

        Nothing is logged of a step in which no process has such a sample; rehearsed answers have no ratio, for example.

        Args:
            mode: `train` or `eval`.
            mask_ratio: The ratio of each sample, `(batch,)`; NaN where there is no mask.
            rows: The sample of each supervised token, `(supervised,)`.
            log_probs: Their log-probabilities, if known.
            of_tokens: The ratio of each supervised token, `(supervised,)`. Default: that of its sample.
        """
        sums = torch.zeros(10, device=mask_ratio.device)
        masked = ~mask_ratio.isnan()  # (batch,)
        ratios = mask_ratio.nan_to_num(0.0)
        if log_probs is not None:
            counted = masked[rows].float()  # (supervised,)
            quartile = ((ratios[rows] if of_tokens is None else of_tokens) * 4).long().clamp(max=3)
            losses = -log_probs.detach().float().to(mask_ratio.device)
            sums[:4].index_add_(0, quartile, losses * counted)
            sums[4:8].index_add_(0, quartile, counted)
        sums[8], sums[9] = ratios.sum(), masked.sum()
        self._add(self._ratios, mode, sums)

    def _add(self, pending: dict[str, list[torch.Tensor]], mode: str, sums: torch.Tensor) -> None:
        pending[mode].append(sums)
        if len(pending[mode]) >= _PENDING:
            self.settle()

    def settle(self) -> None:
        """Read what was added since the last call, and give trl's log the figures of each step."""
        for mode in ("train", "eval"):
            for entropy, correct, supervised, seen in self._read(self._scores[mode]):
                compat.add_metric(self._trainer, mode, "entropy", entropy / max(supervised, 1))
                compat.add_metric(self._trainer, mode, "mean_token_accuracy", correct / max(supervised, 1))
                compat.add_tokens(self._trainer, mode, int(seen))
            for sums in self._read(self._ratios[mode], means=True):
                if sums[9] > 0:
                    compat.add_metric(self._trainer, mode, "mask_ratio", sums[8])
                for index in range(4):
                    if sums[4 + index] > 0:
                        compat.add_metric(self._trainer, mode, f"loss_ratio_q{index + 1}", sums[index])

    def _read(self, pending: list[torch.Tensor], means: bool = False) -> list[list[float]]:
        """The figures of each step, summed over all processes; with ``means`` ratios and losses divided by their numbers."""
        if not pending:
            return []
        sums = self._trainer.accelerator.reduce(torch.stack(pending), reduction="sum")  # (steps, figures)
        pending.clear()
        if means:
            numbers = sums[:, [4, 5, 6, 7, 9]].clamp(min=1)
            sums = torch.cat(
                [sums[:, :4] / numbers[:, :4], sums[:, 4:8], sums[:, 8:9] / numbers[:, 4:], sums[:, 9:]], 1
            )
        read: list[list[float]] = sums.tolist()
        return read
