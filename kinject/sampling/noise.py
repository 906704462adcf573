"""Random numbers that depend on the seed, the row, the step and the place, and on nothing else.

They are computed, not drawn from a stream (splitmix64 as a hash of the place), so that a row of a batch gets the numbers
that it would get alone, wherever padding moves it and whichever rows are beside it, and on any device.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import torch

_STEP, _POSITION, _TOKEN = -0x61C8864680B583EB, -0x3D4D51C2D82B14B1, 0x165667B19E3779F9  # odd, of well mixed bits


def row_seeds(seed: int, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """One int64 per row, (rows,), a pure function of ``seed`` and the row's token ids."""
    digests = (blake2b(repr((seed, list(row))).encode(), digest_size=8).digest() for row in rows)
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests], dtype=torch.int64)


def uniform(
    seeds: torch.Tensor, steps: torch.Tensor, positions: torch.Tensor, tokens: int | None = None
) -> torch.Tensor:
    """Numbers strictly between 0 and 1, in float64.

    Args:
        seeds: (rows,) from `row_seeds`.
        steps: (rows,) steps that the row has taken.
        positions: (rows, columns) of the column in the row itself, without padding.
        tokens: Size of the vocabulary; None for one number a position.

    Returns:
        (rows, columns), or (rows, columns, tokens).
    """
    key = _mix(seeds + steps * _STEP)[:, None]  # (rows, 1)
    key = _mix(key + (positions + 1) * _POSITION)  # (rows, columns)
    if tokens is not None:
        key = _mix(key[..., None] + torch.arange(1, tokens + 1, device=key.device) * _TOKEN)  # (rows, columns, tokens)
    return (_shift(key, 11).double() + 0.5) * 2.0**-53


def _shift(bits: torch.Tensor, places: int) -> torch.Tensor:
    """Shift int64 to the right as if it had no sign."""
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _mix(bits: torch.Tensor) -> torch.Tensor:
    """The output function of splitmix64 (Steele, Lea and Flood, 2014); products wrap around."""
    bits = (bits ^ _shift(bits, 30)) * -0x40A7B892E31B1A47
    bits = (bits ^ _shift(bits, 27)) * -0x6B2FB644ECCEEE15
    return bits ^ _shift(bits, 31)
