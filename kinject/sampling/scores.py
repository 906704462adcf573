"""One step of decoding as tensor functions: logits to tokens, tokens to scores, scores to what is committed."""

from __future__ import annotations

import torch

from kinject.sampling.config import Remasking


def guide(conditional: torch.Tensor, unconditional: torch.Tensor, guidance: float) -> torch.Tensor:
    """Classifier-free guidance of logits, (..., vocabulary): away from what the model says without the prompt."""
    return unconditional + (guidance + 1) * (conditional - unconditional)


def choose_tokens(logits: torch.Tensor, temperature: float, uniform: torch.Tensor | None) -> torch.Tensor:
    """The token of every position: the most probable, or one drawn from softmax(logits / temperature).

    Gumbel's trick in float64, since lower precision skews it (arXiv 2409.02908). LLaDA takes the argmax of
    exp(logits) / (-log u) ** temperature; this is its logarithm, which does not overflow.

    Args:
        logits: (rows, columns, vocabulary).
        temperature: 0 draws nothing.
        uniform: u of the same shape in (0, 1), float64; used where ``temperature`` is not 0.

    Returns:
        (rows, columns) token ids.
    """
    if temperature == 0 or uniform is None:
        return logits.argmax(dim=-1)
    return (logits.double() - temperature * torch.log(-torch.log(uniform))).argmax(dim=-1)


def remasking_scores(
    probabilities: torch.Tensor, chosen: torch.Tensor, remasking: Remasking, uniform: torch.Tensor | None
) -> torch.Tensor:
    """How early each position is committed: the higher, the earlier.

    Args:
        probabilities: (rows, columns, vocabulary), of float32 or more: in bf16 unequal positions would tie.
        chosen: (rows, columns) probability of the token that would be committed.
        remasking: "low_confidence": that probability; "entropy": minus the entropy; "top_margin": by how much the best
            token's probability exceeds the second's; "random": ``uniform``.
        uniform: (rows, columns) in (0, 1); used by "random" only.

    Returns:
        (rows, columns).
    """
    if remasking == "random":
        assert uniform is not None
        return uniform
    if remasking == "entropy":
        return torch.special.entr(probabilities).sum(dim=-1).neg()
    if remasking == "top_margin":
        best, second = probabilities.topk(2, dim=-1).values.unbind(dim=-1)
        return best - second
    return chosen


def select_best(scores: torch.Tensor, budgets: torch.Tensor) -> torch.Tensor:
    """Where the ``budgets`` (rows,) highest of ``scores`` (rows, columns) stand, as booleans; ties to the left."""
    order = scores.argsort(dim=1, descending=True, stable=True)  # (rows, columns)
    within = torch.arange(scores.shape[1], device=scores.device) < budgets[:, None]
    return torch.zeros_like(within).scatter_(1, order, within)


def select_as_published(scores: torch.Tensor, budgets: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """As `select_best`, with ties as ``torch.topk(row, budget)`` breaks them on each row without its padding.

    Which of equal scores `torch.topk` takes is a matter of its algorithm and of the length of what it is given. Only
    rows with a tie at the end of the budget are therefore done one by one.

    Args:
        scores: (rows, columns), -inf where nothing may be committed.
        budgets: (rows,).
        first: (rows,) column of the row's first token.
    """
    selected = select_best(scores, budgets)
    worst_in = scores.masked_fill(~selected, torch.inf).amin(dim=1)
    best_out = scores.masked_fill(selected, -torch.inf).amax(dim=1)
    tied = (worst_in == best_out) & worst_in.isfinite()
    for row in tied.nonzero()[:, 0].tolist():
        start = int(first[row])
        best = scores[row, start:].topk(int(budgets[row])).indices
        selected[row] = False
        selected[row, start + best] = True
    return selected
