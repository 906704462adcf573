"""One step of decoding as tensor functions: how tokens are drawn, and which of them are committed. Knows nothing of models."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import torch

# Noise: random numbers that depend on the seed, the row, the step and the position, and on nothing else.

_STEP, _POSITION, _TOKEN = -0x61C8864680B583EB, -0x3D4D51C2D82B14B1, 0x165667B19E3779F9  # odd, of well mixed bits


def row_seeds(seed: int, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """One int64 per row, (rows,), a pure function of ``seed`` and the row's token ids."""
    digests = (blake2b(repr((seed, list(row))).encode(), digest_size=8).digest() for row in rows)
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests], dtype=torch.int64)


def uniform(seeds: torch.Tensor, steps: torch.Tensor, positions: torch.Tensor, tokens: int) -> torch.Tensor:
    """Numbers strictly between 0 and 1, in float64.

    Args:
        seeds: (rows,) from `row_seeds`.
        steps: (rows,) steps that the row has taken.
        positions: (rows, columns) position of each column in its row, padding not counted.
        tokens: Size of the vocabulary.

    Returns:
        (rows, columns, tokens).
    """
    key = _mix(seeds + steps * _STEP)[:, None]  # (rows, 1)
    key = _mix(key + (positions + 1) * _POSITION)  # (rows, columns)
    key = _mix(key[..., None] + torch.arange(1, tokens + 1, device=key.device) * _TOKEN)  # (rows, columns, tokens)
    return (_shift(key, 11).double() + 0.5) * 2.0**-53


def _shift(bits: torch.Tensor, places: int) -> torch.Tensor:
    """Shift int64 to the right as an unsigned number."""
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _mix(bits: torch.Tensor) -> torch.Tensor:
    """The output function of splitmix64 (Steele, Lea and Flood, 2014); products wrap around."""
    bits = (bits ^ _shift(bits, 30)) * -0x40A7B892E31B1A47
    bits = (bits ^ _shift(bits, 27)) * -0x6B2FB644ECCEEE15
    return bits ^ _shift(bits, 31)


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


def select_best(scores: torch.Tensor, budgets: torch.Tensor) -> torch.Tensor:
    """Which of ``scores`` (rows, columns) are the ``budgets`` (rows,) highest of their row, as booleans; ties go left."""
    order = scores.argsort(dim=1, descending=True, stable=True)  # (rows, columns)
    within = torch.arange(scores.shape[1], device=scores.device) < budgets[:, None]
    return torch.zeros_like(within).scatter_(1, order, within)


def select_as_published(scores: torch.Tensor, budgets: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """The same as `select_best`, with ties as ``torch.topk(row, budget)`` breaks them on each row without its padding.

    Which of equal scores `torch.topk` takes depends on its algorithm and on the length of its input. Therefore rows with a tie
    at the end of their budget, and only these, are selected one by one.

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
