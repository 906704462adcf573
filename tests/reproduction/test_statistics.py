"""Spreads and fits against figures worked out by hand."""

from __future__ import annotations

import math

import pytest

from kinject.reproduction.findings import fit_learning_curve, spread, student_95


def test_spread_over_three_seeds_is_the_textbook_interval() -> None:
    found = spread([0.4, 0.5, 0.6])
    assert (found.mean, found.n) == (pytest.approx(0.5), 3)
    assert found.deviation == pytest.approx(0.1)  # sqrt((.01 + 0 + .01) / 2)
    assert found.high - found.mean == pytest.approx(4.302653 * 0.1 / math.sqrt(3))
    assert found.mean - found.low == pytest.approx(found.high - found.mean)


def test_interval_stays_within_what_a_share_can_be() -> None:
    found = spread([0.9, 1.0])  # half the width is 12.706 * .0707 / sqrt(2) = .635
    assert found.high == 1.0 and found.low == pytest.approx(0.95 - 0.6353, abs=1e-4)


def test_one_seed_takes_the_interval_over_its_questions() -> None:
    assert spread([0.7], [0.6, 0.8]) == spread([0.7], (0.6, 0.8))
    found = spread([0.7], [0.6, 0.8])
    assert (found.low, found.high, found.deviation) == (0.6, 0.8, 0.0)
    assert spread([0.7]).low == spread([0.7]).high == 0.7


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.70620), (2, 4.30265), (30, 2.04227), (31, 2.03951), (100, 1.98397)]
)
def test_students_quantiles(freedom: int, expected: float) -> None:
    assert student_95(freedom) == pytest.approx(expected, abs=1e-5)


def test_the_fit_finds_the_curve_that_made_the_points() -> None:
    steps = [5, 10, 20, 40, 80, 160]
    fit = fit_learning_curve(steps, [0.8 * (1 - math.exp(-0.03 * step)) for step in steps])
    assert fit.limit == pytest.approx(0.8, abs=1e-3) and fit.rate == pytest.approx(0.03, rel=1e-3)
    assert fit.error < 1e-4 and fit.at(0) == 0.0


def test_the_fit_of_a_model_that_learns_nothing_is_zero() -> None:
    fit = fit_learning_curve([1, 10, 100], [0.0, 0.0, 0.0])
    assert fit.limit == 0.0 and fit.error == 0.0


def test_the_fit_needs_as_many_values_as_steps() -> None:
    with pytest.raises(ValueError, match="2 steps and 1 values"):
        fit_learning_curve([1, 2], [0.5])
