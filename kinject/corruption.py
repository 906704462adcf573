"""Mask ratios and token corruption: what a sample hides, as pure functions of (seed, epoch, sample).

Nothing here reads a global random state. Every draw comes from ``sample_generator(seed, epoch, sample, stream)``, so
the mask of a sample is the same on one process or four, with any batch size or worker count, and after a resume. Each
kind of draw has its own stream: changing the ratio law leaves the mask's random numbers, and the wording, as they were.

The laws generalize t ~ U(.05, .95) and the fixed ratios (Fig. 4) of masked fine-tuning (arXiv 2510.09885). Knows nothing of
tokenizers, documents or models.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import numpy as np

from kinject.errors import ConfigurationError

if TYPE_CHECKING:
    import torch  # imported where masks are drawn, so that a ratio on the command line is checked at once

MaskUnit = Literal["token", "word", "entity", "span", "mixed"]

MASK_STREAM = 0
RATIO_STREAM = 1
WORDING_STREAM = 2
REPLACEMENT_STREAM = 3
_STRATUM_STREAM = 4
PADDING_STREAM = 5
ORDER_STREAM = 6
INFILLING_STREAM = 7
_BLOCK_STREAM = 8

# frac(epoch * this) spreads any number of epochs over [0, 1) with the smallest possible gaps (the three-gap theorem).
GOLDEN_RATIO_CONJUGATE = (math.sqrt(5) - 1) / 2


def sample_generator(seed: int, epoch: int, sample: int, stream: int = MASK_STREAM) -> torch.Generator:
    """A CPU generator that is a pure function of its arguments; each is a non-negative integer below 2**64.

    Raises:
        ConfigurationError: an argument is negative or too large.
    """
    import torch

    words: list[int] = []
    for name, value in (("seed", seed), ("epoch", epoch), ("sample", sample), ("stream", stream)):
        if not 0 <= value < 2**64:
            raise ConfigurationError(f"{name} is {value}; it must be an integer from 0 to 2**64 - 1")
        # Two words each, always: SeedSequence would otherwise read (2**32, 0) and (0, 1) alike.
        words += [value & 0xFFFFFFFF, value >> 32]
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def block_seed(seed: int, sample: int) -> int:
    """The seed of the ratios of a sample's blocks, which a law then draws as if the blocks were samples."""
    import torch

    return int(torch.randint(2**62, (), generator=sample_generator(seed, 0, sample, _BLOCK_STREAM)))


def _unit_draw(generator: torch.Generator) -> float:
    import torch

    return float(torch.rand((), generator=generator, dtype=torch.float64))


def _check_ratio(law: str, field: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:  # also catches NaN
        raise ConfigurationError(
            f"mask ratio {law}: {field} is {value}, expected a number from 0 (hide nothing) to 1 (hide every token)"
        )


def _check_range(law: str, low: float, high: float) -> None:
    _check_ratio(law, "low", low)
    _check_ratio(law, "high", high)
    if low > high:
        raise ConfigurationError(
            f"mask ratio {law}: low is {low} and high is {high}, expected low <= high; write {law}({high}, {low})"
        )


class MaskRatioLaw(Protocol):
    """How large a part of a sample is hidden."""

    def ratio(self, seed: int, epoch: int, sample: int, num_epochs: float) -> float:
        """The mask ratio t in [0, 1] of ``sample`` in ``epoch`` (from 0) of ``num_epochs``."""
        ...


@dataclass(frozen=True)
class Uniform:
    """t ~ U(low, high), one independent draw per epoch and sample. The paper's law with (.05, .95)."""

    low: float
    high: float

    def __post_init__(self) -> None:
        """Check the field values."""
        _check_range("uniform", self.low, self.high)

    def ratio(self, seed: int, epoch: int, sample: int, num_epochs: float) -> float:
        """See `MaskRatioLaw.ratio`."""
        draw = _unit_draw(sample_generator(seed, epoch, sample, RATIO_STREAM))
        return self.low + (self.high - self.low) * draw


@dataclass(frozen=True)
class Fixed:
    """The same ratio for every sample (the paper's Fig. 4)."""

    value: float

    def __post_init__(self) -> None:
        """Check the field values."""
        _check_ratio("fixed", "value", self.value)

    def ratio(self, seed: int, epoch: int, sample: int, num_epochs: float) -> float:
        """See `MaskRatioLaw.ratio`."""
        return self.value


@dataclass(frozen=True)
class Linear:
    """A ratio that moves from ``start`` to ``end`` with epoch / num_epochs; falling is allowed."""

    start: float
    end: float

    def __post_init__(self) -> None:
        """Check the field values."""
        _check_ratio("linear", "start", self.start)
        _check_ratio("linear", "end", self.end)

    def ratio(self, seed: int, epoch: int, sample: int, num_epochs: float) -> float:
        """See `MaskRatioLaw.ratio`."""
        progress = min(1.0, epoch / num_epochs) if num_epochs > 0 else 1.0
        return self.start + (self.end - self.start) * progress


@dataclass(frozen=True)
class Stratified:
    """Over its epochs every sample meets evenly spread ratios, instead of one random ratio each time.

    t = low + (high - low) * frac(u + epoch * golden ratio conjugate), with u ~ U(0, 1) drawn once per (seed, sample).
    Each single ratio is still uniform, but the ratios of one sample repel each other: any n consecutive epochs leave no
    gap in the range larger than about 1.9 / n of it, where independent draws leave about log(n) / n.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        """Check the field values."""
        _check_range("stratified", self.low, self.high)

    def ratio(self, seed: int, epoch: int, sample: int, num_epochs: float) -> float:
        """See `MaskRatioLaw.ratio`."""
        offset = _unit_draw(sample_generator(seed, 0, sample, _STRATUM_STREAM))
        position = math.fmod(offset + epoch * GOLDEN_RATIO_CONJUGATE, 1.0)
        return self.low + (self.high - self.low) * position


_LAWS: dict[str, tuple[Callable[..., MaskRatioLaw], int]] = {
    "uniform": (Uniform, 2),
    "fixed": (Fixed, 1),
    "linear": (Linear, 2),
    "stratified": (Stratified, 2),
}
_RATIO_FORMS = "uniform(0.05, 0.95), fixed(0.5), linear(0.3, 0.9), stratified(0.05, 0.95) or a plain number such as 0.5"


def parse_mask_ratio(text: str) -> MaskRatioLaw:
    """The law that ``text`` names; a plain number means `Fixed`.

    Raises:
        ConfigurationError: ``text`` has none of the known forms, or a ratio is outside [0, 1].
    """
    call = re.fullmatch(r"\s*(\w+)\s*\(([^()]*)\)\s*", text)
    name, arguments = (call[1].lower(), call[2].split(",")) if call else ("fixed", [text])
    try:
        values = [float(argument) for argument in arguments]
    except ValueError:
        values = []
    if name not in _LAWS or len(values) != _LAWS[name][1]:
        raise ConfigurationError(f"mask ratio {text!r} is not understood; expected {_RATIO_FORMS}")
    return _LAWS[name][0](*values)


def draw_mask(
    length: int,
    ratio: float,
    generator: torch.Generator,
    unit: MaskUnit = "token",
    word_ids: Sequence[int] | None = None,
) -> torch.BoolTensor:
    """Which of ``length`` document tokens to hide; every token is hidden with probability exactly ``ratio``.

    Args:
        length: number of document tokens.
        ratio: mask ratio t in [0, 1]; 0 hides nothing and 1 everything, whatever the unit.
        generator: see `sample_generator`.
        unit: "token" hides tokens independently (the paper); "word" hides whole words; "entity" also whole entities (a
            name is never given away by a part of it); "span" hides one contiguous run
            that may wrap around the end of the document (so its ends are hidden as often as its middle); "mixed" is
            "token" or "span" with probability 1/2 each.
        word_ids: (length,) the word or entity of each token, for these units: tokens of equal id share their fate.

    Returns:
        (length,) bool, true where hidden.

    Raises:
        ConfigurationError: ratio outside [0, 1], unknown unit, or unit "word" or "entity" without one word id per token.
    """
    import torch

    _check_ratio("draw_mask", "ratio", ratio)
    if unit == "mixed":
        unit = "token" if _unit_draw(generator) < 0.5 else "span"
    if unit == "token":
        mask = torch.rand(length, generator=generator, dtype=torch.float64) < ratio
    elif unit in ("word", "entity"):
        mask = _word_mask(length, ratio, generator, word_ids)
    elif unit == "span":
        mask = _span_mask(length, ratio, generator)
    else:
        raise ConfigurationError(f"mask unit is {unit!r}, expected one of {', '.join(get_args(MaskUnit))}")
    return mask  # type: ignore[return-value]


def _word_mask(length: int, ratio: float, generator: torch.Generator, word_ids: Sequence[int] | None) -> torch.Tensor:
    import torch

    if word_ids is None or len(word_ids) != length:
        given = "none" if word_ids is None else str(len(word_ids))
        raise ConfigurationError(
            f"mask units 'word' and 'entity' need one word id per token: {length} expected, {given} given"
        )
    words, index = torch.unique(torch.as_tensor(word_ids), return_inverse=True)
    hidden = torch.rand(len(words), generator=generator, dtype=torch.float64) < ratio
    return hidden[index]


def _span_mask(length: int, ratio: float, generator: torch.Generator) -> torch.Tensor:
    import torch

    mask = torch.zeros(length, dtype=torch.bool)
    if length == 0:
        return mask
    # Stochastic rounding keeps the expected count at ratio * length exactly.
    exact = ratio * length
    count = min(length, math.floor(exact) + int(_unit_draw(generator) < exact - math.floor(exact)))
    start = int(torch.randint(length, (), generator=generator))
    mask[torch.arange(start, start + count) % length] = True
    return mask


def mask_tokens(ids: torch.Tensor, mask: torch.Tensor, mask_token_id: int) -> torch.LongTensor:
    """``ids`` (length,) with ``mask_token_id`` where ``mask`` (length,) is true. The input is left as it is."""
    return ids.masked_fill(mask, mask_token_id)  # type: ignore[return-value]


def once_a_run(mask: torch.Tensor) -> torch.BoolTensor:
    """Which positions `(length,)` stay where each run of hidden ones shows one mask: all but those behind a hidden one."""
    behind = mask.clone()
    behind[:1] = False
    behind[1:] &= mask[:-1]
    return ~behind  # type: ignore[return-value]


def random_tokens(
    ids: torch.Tensor, mask: torch.Tensor, candidate_ids: torch.Tensor | Sequence[int], generator: torch.Generator
) -> torch.LongTensor:
    """``ids`` (length,) with a uniform draw from ``candidate_ids`` where ``mask`` is true (the paper's Fig. 14).

    ``candidate_ids`` (candidates,) should hold no special ids. As many numbers are drawn as there are ids, so the
    replacement of one token does not depend on which others are hidden.

    Raises:
        ConfigurationError: ``candidate_ids`` is empty.
    """
    import torch

    candidates = torch.as_tensor(candidate_ids, dtype=ids.dtype)
    if len(candidates) == 0:
        raise ConfigurationError("random_tokens: candidate_ids is empty, expected the ids that may replace a token")
    drawn = candidates[torch.randint(len(candidates), ids.shape, generator=generator)]
    return torch.where(mask, drawn, ids)  # type: ignore[return-value]
