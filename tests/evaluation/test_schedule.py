"""The steps at which questions are asked: log-spaced, deterministic, ending with the last."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kinject.evaluation.callback import log_spaced_steps, question_steps


@given(st.integers(1, 100_000), st.integers(0, 40), st.integers(1, 5_000))
def test_steps_rise_to_the_last(max_steps: int, evaluations: int, first: int) -> None:
    steps = log_spaced_steps(max_steps, evaluations, first)
    assert steps == sorted(set(steps))
    assert len(steps) == min(evaluations, max_steps - min(first, max_steps) + 1)
    if steps:
        assert steps[-1] == max_steps
        assert steps[0] >= min(first, max_steps)


def test_spacing_is_even_on_a_logarithmic_axis() -> None:
    assert log_spaced_steps(100, 3) == [1, 10, 100]
    assert log_spaced_steps(128, 8) == [1, 2, 4, 8, 16, 32, 64, 128]
    assert log_spaced_steps(8, 8) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert log_spaced_steps(5, 1) == [5]


def test_first_question_comes_after_the_first_epoch() -> None:
    assert question_steps(max_steps=1000, epochs=100, evaluations=3) == [10, 100, 1000]
    assert question_steps(max_steps=60, epochs=60, evaluations=4) == [1, 4, 15, 60]


def test_a_single_long_epoch_is_followed_from_early_on() -> None:
    assert question_steps(max_steps=12_800, epochs=1, evaluations=8) == [100, 200, 400, 800, 1600, 3200, 6400, 12_800]
    assert question_steps(max_steps=3, epochs=1, evaluations=8) == [1, 2, 3]
    assert question_steps(max_steps=10, epochs=1, evaluations=0) == []


def test_questions_are_asked_in_even_steps_if_so_wanted() -> None:
    assert question_steps(max_steps=10, epochs=5, evaluations=2, every=4) == [4, 8, 10]
    assert question_steps(max_steps=8, epochs=5, evaluations=0, every=4) == [4, 8]
    assert question_steps(max_steps=3, epochs=1, evaluations=1, every=50) == [3]
