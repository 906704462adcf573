"""What the untrained model predicts in its own answers, kept as the target of rehearsal.

A drawn answer tells one token of each prediction; learning the prediction itself (distillation, Hinton et al. 2015; against
forgetting, Li and Hoiem 2016) has the same gradient in the mean without the noise of the draw, and none at all while the
model still predicts what it did. Only the most probable tokens are kept of each prediction, so that neither a second model
nor whole vocabularies have to be at hand in training; the others count as one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from kinject.templates import ANSWER, IGNORED, DocumentTemplate, assemble

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

_KEPT = 64  # tokens of a prediction
_IMPOSSIBLE = -100.0
PREDICTED = ("rehearsed", "predicted_ids", "predicted_log_probs")
"""What a batch with rehearsed samples holds besides; see `batch_predictions`."""


@dataclass(frozen=True)
class Predictions:
    """Predictions of the tokens of an answer and of the end of its turn.

    Attributes:
        ids: The most probable tokens of each, `(answer + 1, kept)`, int32.
        log_probs: Their log-probabilities in nats, `(answer + 1, kept)`, float32.
    """

    ids: np.ndarray
    log_probs: np.ndarray


def predict(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    answers: Sequence[str],
    *,
    system_prompt: str | None = None,
    batch_size: int = 32,
) -> list[Predictions]:
    """What an autoregressive ``model`` predicts where it is to learn ``answers`` to ``prompts``.

    Raises:
        ConfigurationError: as `DocumentTemplate`.
    """
    from kinject.evaluation.asking import evaluating
    from kinject.trainers.collator import padded

    template = DocumentTemplate(tokenizer, (ANSWER,), system_prompt)
    samples = [
        assemble(template.row_frames(prompt)[0], template.encode(answer).ids, None)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    found: dict[int, Predictions] = {}
    order = sorted(range(len(samples)), key=lambda index: len(samples[index].input_ids))  # little padding
    with evaluating(model):
        for first in range(0, len(order), batch_size):
            places = order[first : first + batch_size]
            rows = [samples[place].input_ids for place in places]
            length = max(map(len, rows))
            ids = padded(rows, length, 0).to(model.device)  # (batch, length)
            attended = padded([[1] * len(row) for row in rows], length, 0).to(model.device)
            logits = model(input_ids=ids, attention_mask=attended, use_cache=False).logits
            for place, of_row in zip(places, logits, strict=True):
                scored = [index - 1 for index, label in enumerate(samples[place].labels) if label != IGNORED]
                log_probs, kept = of_row[scored].float().log_softmax(-1).topk(min(_KEPT, of_row.shape[-1]))
                # Of an impossible token, the product of its probability and its logarithm would be no number.
                log_probs = log_probs.clamp(min=_IMPOSSIBLE)
                found[place] = Predictions(kept.int().cpu().numpy(), log_probs.cpu().numpy())
    return [found[place] for place in range(len(samples))]


def batch_predictions(rows: Sequence[Mapping[str, Any]], labels: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """The predictions of the samples of a batch, as tensors; nothing where no sample has any.

    Args:
        rows: Prepared rows; those that are rehearsed have `predictions`.
        labels: The labels of each, not shifted.

    Returns:
        `rehearsed` `(supervised,)`: which of the supervised tokens of the batch are; `predicted_ids` and
        `predicted_log_probs` of those, `(rehearsed, kept)`.
    """
    predictions = [row.get("predictions") for row in rows]
    if not any(predictions):
        return {}
    rehearsed = [
        [each is not None] * sum(label != IGNORED for label in targets[1:])
        for each, targets in zip(predictions, labels, strict=True)
    ]
    known = [each for each in predictions if each]
    return {
        "rehearsed": torch.tensor([flag for flags in rehearsed for flag in flags]),
        "predicted_ids": torch.tensor([ids for each in known for ids in each["ids"]]),
        "predicted_log_probs": torch.tensor([values for each in known for values in each["log_probs"]]),
    }


def divergence(log_probs: torch.Tensor, predicted_ids: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    """KL(predicted || model) of each token, in nats, with all tokens that were not kept taken as one: `(tokens,)`.

    Args:
        log_probs: What the model says, `(tokens, vocabulary)`.
        predicted_ids: The tokens that were kept, `(tokens, kept)`.
        predicted: Their log-probabilities, `(tokens, kept)`.
    """
    said = log_probs.gather(-1, predicted_ids)  # (tokens, kept)
    kept = (predicted.exp() * (predicted - said)).sum(-1)
    rest, rest_said = (_rest(values) for values in (predicted, said))
    return kept + rest * (rest.log() - rest_said.log())


def _rest(log_probs: torch.Tensor) -> torch.Tensor:
    """The probability of all other tokens, `(tokens,)`; a little, where rounding leaves none."""
    return (1 - log_probs.exp().sum(-1)).clamp(min=1e-6)
