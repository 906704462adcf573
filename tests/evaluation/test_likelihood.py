"""The Monte-Carlo likelihood of an answer against the exact sum over all maskings."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch

from kinject.errors import ConfigurationError, DataError, KinjectError
from kinject.evaluation.asking import answer_log_likelihood, draw_maskings
from kinject.models.diffusion import to_diffusion
from tests.conftest import build_model, build_tokenizer

PROMPTS = [[5, 6, 7, 8], [], [9]]
ANSWERS = [[20, 21, 22], [30, 31], [40]]


def _model(shifted: bool = False) -> tuple[Any, int]:
    tokenizer = build_tokenizer()
    mask = int(tokenizer.convert_tokens_to_ids("<reserved_0>"))
    model = build_model(tokenizer)
    torch.nn.init.normal_(model.lm_head.weight, std=0.5)  # a random model says nearly the same of every token
    return to_diffusion(model, mask, shifted_logits=shifted), mask


def _exact(model: Any, mask: int, prompt: list[int], answer: list[int], shifted: bool) -> float:
    """The mean over k in 1..L and over all ways to hide k tokens of L / k times their log-probability."""
    total = 0.0
    for count in range(1, len(answer) + 1):
        choices = list(combinations(range(len(answer)), count))
        for hidden in choices:
            row = prompt + [mask if index in hidden else token for index, token in enumerate(answer)]
            with torch.no_grad():
                log_probs = model(input_ids=torch.tensor([row])).logits[0].log_softmax(-1)
            found = sum(float(log_probs[max(len(prompt) + index - shifted, 0), answer[index]]) for index in hidden)
            total += len(answer) / count * found / len(choices) / len(answer)
    return total


@pytest.mark.parametrize("shifted", [False, True])
def test_the_estimate_comes_to_the_exact_bound(shifted: bool) -> None:
    model, mask = _model(shifted)
    estimates = answer_log_likelihood(model, PROMPTS, ANSWERS, samples=3000)
    expected = [_exact(model, mask, *pair, shifted) for pair in zip(PROMPTS, ANSWERS, strict=True)]
    assert estimates == pytest.approx(expected, rel=0.01)
    assert estimates[2] == pytest.approx(expected[2], rel=1e-6)  # one token leaves nothing to draw


def test_an_answer_is_as_likely_alone_as_among_others_and_in_any_batch() -> None:
    model, _ = _model()
    together = answer_log_likelihood(model, PROMPTS, ANSWERS)
    for prompt, answer, expected in zip(PROMPTS, ANSWERS, together, strict=True):
        assert answer_log_likelihood(model, [prompt], [answer], batch_size=2) == pytest.approx([expected], rel=1e-6)


def test_the_estimate_is_repeatable_and_follows_the_seed() -> None:
    model, _ = _model()
    model.train()
    first = answer_log_likelihood(model, [[1]], [list(range(10, 30))], samples=4)
    assert answer_log_likelihood(model, [[1]], [list(range(10, 30))], samples=4) == first
    assert answer_log_likelihood(model, [[1]], [list(range(10, 30))], samples=4, seed=1) != first
    assert model.training


def test_hidden_tokens_are_uniform_and_their_numbers_spread_evenly() -> None:
    maskings = draw_maskings(8, 4000, seed=0)
    counts = maskings.sum(-1)
    assert [int((counts == k).sum()) for k in range(9)] == [0] + [500] * 8
    torch.testing.assert_close(
        maskings.double().mean(0), torch.full((8,), 4.5 / 8, dtype=torch.float64), atol=0.03, rtol=0
    )
    assert set(draw_maskings(8, 4, seed=3).sum(-1).tolist()) <= set(range(1, 9))


def test_what_has_no_likelihood_is_refused() -> None:
    model, mask = _model()
    with pytest.raises(DataError, match="answer 1 is empty"):
        answer_log_likelihood(model, [[1], [1]], [[2], []])
    for prompt, answer in (([mask], [2]), ([1], [2, mask])):
        with pytest.raises(DataError, match="answer 0 or its prompt holds the mask token"):
            answer_log_likelihood(model, [prompt], [answer])
    with pytest.raises(KinjectError, match="one prompt for each answer"):
        answer_log_likelihood(model, [], [[2]])
    with pytest.raises(KinjectError, match="samples: expected at least 1, got 0"):
        answer_log_likelihood(model, [[1]], [[2]], samples=0)
    with pytest.raises(ConfigurationError, match="the model is causal"):
        answer_log_likelihood(build_model(build_tokenizer()), [[1]], [[2]])
