"""What the options for asking a diffusion model say to the sampler."""

from __future__ import annotations

import pytest

from kinject.commands.evaluate import MeasurementArguments
from kinject.commands.inject import InjectionArguments
from kinject.errors import ConfigurationError
from kinject.sampling import SamplingConfig
from kinject.sampling.config import SamplingArguments


def test_published_takes_one_step_a_token_unless_told_otherwise() -> None:
    assert SamplingArguments("published").sampling_config(64) == SamplingConfig.published(64, 64, 4)
    given = SamplingArguments("published", sampling_steps=32, block_length=8)
    assert given.sampling_config(64) == SamplingConfig.published(64, 32, 8)


def test_fast_is_the_default_and_rounds_the_answer_up_to_whole_blocks() -> None:
    for arguments in (InjectionArguments(), MeasurementArguments(), SamplingArguments()):
        assert arguments.sampling_config(30) == SamplingConfig.fast(30, 4)
    assert SamplingArguments().sampling_config(30).answer_length == 32
    assert SamplingArguments(edit_threshold=0.9).sampling_config(8) == SamplingConfig.fast(8, 4, edit_threshold=0.9)


def test_what_cannot_be_sampled_is_named() -> None:
    with pytest.raises(ConfigurationError, match="sampling is 'slow'; expected one of fast, published"):
        InjectionArguments(sampling="slow")
    with pytest.raises(ConfigurationError, match="--max_new_tokens 30,.* expected a multiple of block_length 4"):
        SamplingArguments("published").sampling_config(30)
    with pytest.raises(ConfigurationError, match="edit_threshold is 0.9, and the published"):
        SamplingArguments("published", edit_threshold=0.9).sampling_config(8)
    with pytest.raises(ConfigurationError, match="steps is 3"):
        SamplingArguments("published", sampling_steps=3).sampling_config(8)
