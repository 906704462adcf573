"""The exact mode against a plain reading of LLaDA's published sampler (arXiv 2502.09992 and its public `generate`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kinject.sampling import SamplingConfig, decoding, sample
from tests.sampling.models import MASK, Coarse, build_diffusion, random_prompts


@torch.no_grad()
def published(model: Any, prompt: list[int], answer_length: int, steps: int, block_length: int) -> list[int]:
    """One prompt, no padding: masks behind it; per block an equal number of steps, each a forward of everything."""
    sequence = torch.tensor(prompt + [MASK] * answer_length)
    blocks = answer_length // block_length
    for block in range(blocks):
        end = len(prompt) + (block + 1) * block_length
        masks = int((sequence[end - block_length : end] == MASK).sum())
        whole, remainder = divmod(masks, steps // blocks)
        for step in range(steps // blocks):
            logits = model(input_ids=sequence[None]).logits[0]  # (length, vocabulary)
            best = logits.argmax(dim=-1)
            confidence = logits.softmax(dim=-1)[torch.arange(len(sequence)), best]
            confidence[end:] = -torch.inf
            confidence[sequence != MASK] = -torch.inf
            places = torch.topk(confidence, whole + (step < remainder)).indices
            sequence[places] = best[places]
    return sequence[len(prompt) :].tolist()


def check(model: Any, prompts: list[list[int]], *shape: int, batch_size: int) -> list[list[int]]:
    expected = [published(model, prompt, *shape) for prompt in prompts]
    found = sample(model, prompts, SamplingConfig.published(*shape), end_ids=[1], batch_size=batch_size)
    assert found.ids == expected
    assert len({tuple(answer) for answer in expected}) > len(prompts) // 3
    return expected


MODELS: dict[str, Callable[[], Any]] = {
    "plain": build_diffusion,
    "says_mask": lambda: build_diffusion(says_mask=True),
    "ties": lambda: Coarse(build_diffusion(), 12.0),
    "says_mask_with_ties": lambda: Coarse(build_diffusion(says_mask=True), 12.0),
    "few_tokens": lambda: Coarse(build_diffusion(vocab_size=9, seed=3, sharpness=20.0), 24.0),
}
# Answer length, steps, block length: one token a step, several, uneven budgets, one block, blocks of one, idle steps.
SHAPES = [
    (16, 16, 4),
    (16, 8, 4),
    (24, 16, 12),
    (20, 6, 10),
    (13, 13, 13),
    (15, 4, 15),
    (6, 6, 1),
    (8, 16, 4),
    (40, 40, 4),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_exact_mode_equals_the_published_algorithm(name: str, shape: tuple[int, int, int]) -> None:
    model = MODELS[name]()
    vocab_size = model.config.vocab_size
    prompts = random_prompts(8, vocab_size=vocab_size, seed=sum(shape))
    check(model, prompts, *shape, batch_size=1)


@pytest.mark.parametrize("name", MODELS)
def test_batches_equal_the_published_algorithm_row_by_row(name: str) -> None:
    """Ties too: padding changes what `torch.topk` would be given, and so which of equal scores it would take."""
    model = MODELS[name]()
    prompts = random_prompts(24, vocab_size=model.config.vocab_size, seed=5)
    check(model, prompts, 16, 8, 8, batch_size=7)


@pytest.mark.parametrize("name", ["ties", "says_mask_with_ties", "few_tokens"])
def test_the_models_with_ties_tell_tie_rules_apart(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS[name]()
    prompts = random_prompts(24, vocab_size=model.config.vocab_size, seed=5)
    config = SamplingConfig.published(16, 8, 8)
    expected = sample(model, prompts, config).ids
    leftmost = decoding.select_best
    monkeypatch.setattr(decoding, "select_as_published", lambda ranking, budgets, first: leftmost(ranking, budgets))
    assert sum(a != b for a, b in zip(expected, sample(model, prompts, config).ids, strict=True)) >= 3


def test_the_defaults_are_those_of_the_paper() -> None:
    config = SamplingConfig.published()
    assert (config.answer_length, config.steps, config.block_length) == (128, 128, 4)
    sampled = sample(build_diffusion(), [[5, 6]], config, end_ids=[1])
    assert sampled.nfe == [128] and len(sampled.ids[0]) == 128


def test_stopping_at_the_end_changes_nothing_before_it() -> None:
    model = build_diffusion()
    prompts = random_prompts(30, seed=3)
    whole = sample(model, prompts, SamplingConfig.published(32, 32, 4)).ids
    ends = [token for token, _ in sorted(count_tokens(whole).items(), key=lambda item: -item[1])[3:5]]
    stopped = sample(model, prompts, SamplingConfig.published(32, 32, 4, stop_at_end=True), end_ids=ends)
    for answer, found in zip(whole, stopped.ids, strict=True):
        stop = next((place for place, token in enumerate(answer) if token in ends), len(answer))
        assert found == answer[: stop + 1]
    assert sum(len(answer) < 32 for answer in stopped.ids) > 10
    assert sum(stopped.nfe) < 0.8 * 32 * len(prompts)


def count_tokens(answers: list[list[int]]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for token in sum(answers, []):
        counts[token] = counts.get(token, 0) + 1
    return counts
