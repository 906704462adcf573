"""The little statistics that tables need: mean, deviation and interval over seeds, and the fit of a learning curve."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

# Two-sided 95 % quantiles of Student's t by degrees of freedom; beyond 30 by Cornish and Fisher's expansion.
_STUDENT_95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_NORMAL_95 = 1.959964


@dataclass(frozen=True)
class Spread:
    """A measure over seeds.

    Attributes:
        mean: Its mean.
        deviation: Standard deviation of a sample (n - 1); 0 for one seed.
        low, high: 95 % interval.
        n: Number of seeds.
    """

    mean: float
    deviation: float
    low: float
    high: float
    n: int


def spread(
    values: Sequence[float], interval: Sequence[float] | None = None, bounds: tuple[float, float] = (0.0, 1.0)
) -> Spread:
    """Mean, deviation and Student's 95 % interval of ``values``, one a seed.

    Args:
        values: At least one.
        interval: What stands in with a single seed, such as the bootstrap interval over its questions.
        bounds: The interval is cut there.
    """
    mean, n = statistics.fmean(values), len(values)
    if n == 1:
        low, high = interval or (mean, mean)
        return Spread(mean, 0.0, low, high, 1)
    deviation = statistics.stdev(values)
    half = student_95(n - 1) * deviation / math.sqrt(n)
    return Spread(mean, deviation, max(bounds[0], mean - half), min(bounds[1], mean + half), n)


def student_95(freedom: int) -> float:
    """The two-sided 95 % quantile of Student's t with ``freedom`` degrees of freedom (1 or more)."""
    if freedom <= len(_STUDENT_95):
        return _STUDENT_95[freedom - 1]
    z = _NORMAL_95
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


@dataclass(frozen=True)
class LearningCurve:
    """``accuracy = limit * (1 - exp(-rate * step))``, as the paper fits accuracy over steps (Table 7)."""

    limit: float
    rate: float
    error: float

    def at(self, step: float) -> float:
        """The fitted accuracy after ``step`` steps."""
        return self.limit * (1.0 - math.exp(-self.rate * step))


def fit_learning_curve(steps: Sequence[float], values: Sequence[float]) -> LearningCurve:
    """The least-squares fit of `LearningCurve`; ``error`` is the root of the mean squared residual.

    For a given rate the best limit has a closed form, so only the rate is searched: on a logarithmic grid, then ever
    more finely around the best.
    """
    if not steps or len(steps) != len(values):
        raise ValueError(f"{len(steps)} steps and {len(values)} values; expected as many, and at least one")
    low, high = math.log(1e-3 / max(steps)), math.log(1e2 / max(min(steps), 1e-9))
    best = _with_rate(math.exp(low), steps, values)
    for _ in range(12):
        width = (high - low) / 40
        found = min(
            (_with_rate(math.exp(low + index * width), steps, values) for index in range(41)),
            key=lambda each: each.error,
        )
        best = min(best, found, key=lambda each: each.error)
        center = math.log(best.rate)
        low, high = center - 2 * width, center + 2 * width
    return best


def _with_rate(rate: float, steps: Sequence[float], values: Sequence[float]) -> LearningCurve:
    shape = [1.0 - math.exp(-rate * step) for step in steps]
    norm = sum(each * each for each in shape)
    # An accuracy cannot pass 1; without the cut a curve that still rises is fitted by any straight line.
    limit = min(1.0, max(0.0, sum(a * b for a, b in zip(shape, values, strict=True)) / norm)) if norm else 0.0
    squares = [(limit * a - b) ** 2 for a, b in zip(shape, values, strict=True)]
    return LearningCurve(limit, rate, math.sqrt(sum(squares) / len(squares)))
