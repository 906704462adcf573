"""Settings that cannot be used are refused by name, with what was expected."""

from __future__ import annotations

from typing import Any

import pytest

from kinject.errors import ConfigurationError
from kinject.sampling import SamplingConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"answer_length": 0}, "answer_length is 0, expected at least 1"),
        ({"steps": 0}, "steps is 0, expected at least 1"),
        (
            {"answer_length": 30, "block_length": 4},
            "answer_length is 30, expected a multiple of block_length 4, such as 32",
        ),
        ({"answer_length": 32, "block_length": 8, "steps": 6}, "steps is 6, expected a multiple of the 4 blocks"),
        ({"answer_length": 32, "block_length": 8, "steps": 2}, "steps is 2, expected a multiple of the 4 blocks"),
        ({"temperature": -0.1}, "temperature is -0.1, expected a number from 0"),
        ({"temperature": float("nan")}, "temperature is nan, expected a number from 0"),
        ({"threshold": 0.0}, "threshold is 0.0, expected a probability"),
        ({"threshold": 90}, "threshold is 90, expected a probability"),
        ({"edit_threshold": 1.5}, "edit_threshold is 1.5, expected a probability from 0 to 1"),
        (
            {"edit_threshold": 0.9, "exact": True},
            "edit_threshold is 0.9, and the published algorithm never replaces a token",
        ),
        ({"seed": -1}, "seed is -1, expected an integer from 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        SamplingConfig(**settings)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("answer_length", [1, 2, 7, 30, 33, 127, 128])
@pytest.mark.parametrize("block_length", [1, 4, 5])
def test_the_fast_mode_takes_any_length(answer_length: int, block_length: int) -> None:
    config = SamplingConfig.fast(answer_length, block_length)
    assert answer_length <= config.answer_length < answer_length + block_length
    assert config.answer_length % block_length == 0


def test_the_named_modes_can_be_changed_but_not_past_the_checks() -> None:
    config = SamplingConfig.fast(64, threshold=None, steps=32)
    assert (config.threshold, config.steps, config.block_length) == (None, 32, 4)
    assert SamplingConfig.published(8, 8, 4, stop_at_end=True).stop_at_end
    with pytest.raises(ConfigurationError, match="block_length is 0"):
        SamplingConfig.fast(64, 0)
    with pytest.raises(ConfigurationError, match="answer_length is 0"):
        SamplingConfig.fast(0)
