"""Learning only in the space of small singular values, so that what a matrix does most of all stays as it is.

Orthogonal subspace fine-tuning (arXiv 2504.07097) keeps the largest singular values of every matrix W = U S Vᵀ with their
vectors, and learns in the orthogonal rest. Here the weights learn themselves and are projected back after every step of the
optimizer, which no moments or weight decay can get around: Uₖᵀ W and W Vₖ stay what they were, k the number of values kept. The
trained model has the form of the untrained one. Knows nothing of objectives, and nothing of sharded weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed
from torch import Tensor
from torch.nn import Parameter
from transformers import PreTrainedModel, TrainerCallback


class Kept(NamedTuple):
    """The largest singular values of a matrix with their vectors, in fp32.

    Attributes:
        left: (..., rows, k)
        values: (..., k)
        right: (..., k, columns)
    """

    left: Tensor
    values: Tensor
    right: Tensor


def matrices_of(model: PreTrainedModel) -> dict[str, Parameter]:
    """The trained matrices of ``model`` by name, without its embeddings; those of experts may stand in one tensor."""
    vocabulary = {id(each.weight) for each in (model.get_input_embeddings(), model.get_output_embeddings()) if each}
    return {
        name: weight
        for name, weight in model.named_parameters()
        if weight.requires_grad and weight.ndim in (2, 3) and id(weight) not in vocabulary
    }


def largest_of(weight: Tensor, share: float) -> Kept:
    """The largest ``share`` of the singular values of ``weight`` (..., rows, columns), at least one; same on all processes."""
    left, values, right = torch.linalg.svd(weight.detach().float(), full_matrices=False)
    rank = _rank(values.shape[-1], share)
    kept = Kept(left[..., :rank].contiguous(), values[..., :rank].contiguous(), right[..., :rank, :].contiguous())
    if torch.distributed.is_initialized():  # vectors may differ in their last bits, and weights would drift apart
        for each in kept:
            torch.distributed.broadcast(each, 0)
    return kept


def _rank(values: int, share: float) -> int:
    return max(1, int(values * share))


def kept_elements(weight: Tensor, share: float) -> int:
    """How many numbers in fp32 `largest_of` takes of ``weight``, which may have no values (device meta)."""
    rows, columns = weight.shape[-2:]
    return weight[..., 0, 0].numel() * _rank(min(rows, columns), share) * (rows + columns + 1)


def project(weight: Tensor, kept: Kept) -> Tensor:
    """The matrix nearest to ``weight`` on which ``kept`` acts as on the one that it was taken from, from both sides."""
    left, values, right = kept
    result = weight.float()
    result = result - left @ (left.mT @ result - values.unsqueeze(-1) * right)
    return (result - (result @ right.mT - left * values.unsqueeze(-2)) @ right).to(weight.dtype)


class PreservedSubspace(TrainerCallback):
    """Projects ``weights`` after every step of the optimizer.

    Args:
        weights: The matrices that are trained, by name, as they are before training, on the device where they learn.
        share: Of the singular values of each, how many stay, between 0 and 1.
    """

    def __init__(self, weights: Mapping[str, Parameter], share: float) -> None:
        self._kept = [(weight, largest_of(weight, share)) for weight in weights.values()]

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take back what the step changed of the kept values and vectors."""
        with torch.no_grad():
            for weight, kept in self._kept:
                weight.copy_(project(weight, kept))
