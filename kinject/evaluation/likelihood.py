"""How likely a masked diffusion model holds an answer: a Monte-Carlo bound on its log-likelihood.

The likelihood itself is out of reach, as it would sum over all orders of filling in. LLaDA's estimate (arXiv 2502.09992,
equation 6) hides k tokens of the answer, with k uniform in 1..L, and weights their cross-entropy by L / k; its mean is
the log-likelihood of filling in one token at a time, averaged over orders, which never exceeds the true one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from kinject.corruption import sample_generator
from kinject.errors import DataError, KinjectError
from kinject.evaluation.asking import evaluating
from kinject.models.diffusion import diffusion_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kinject.models.diffusion import DiffusionSettings

_NOISE_STREAM = 16


def answer_log_likelihood(
    model: Any,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    samples: int = 128,
    batch_size: int = 32,
    seed: int = 0,
) -> list[float]:
    """A lower bound on the log-likelihood of each answer after its prompt, in nats.

    The k of an answer's samples are spread evenly over 1..L, which leaves the mean as it is and lowers the variance;
    samples that hide the same tokens are computed once. The estimate of an answer depends on nothing but the model, the
    prompt, the answer, ``samples`` and ``seed``; equally long answers meet the same noise, so they compare well.

    Args:
        model: A masked diffusion model, wrapped or not.
        prompts: (answers,) token ids before each answer; may be empty.
        answers: (answers,) token ids of each, at least one.
        samples: Maskings drawn for each answer; LLaDA takes 128.
        batch_size: Maskings in one forward pass.
        seed: Of the maskings.

    Raises:
        ConfigurationError: the model is causal or names no mask token.
        DataError: an empty answer, or a prompt or answer that holds the mask token.
        KinjectError: ``samples`` or ``batch_size`` below 1, or not as many prompts as answers.
    """
    for name, value in (("samples", samples), ("batch_size", batch_size)):
        if value < 1:
            raise KinjectError(f"{name}: expected at least 1, got {value}")
    if len(prompts) != len(answers):
        raise KinjectError(f"expected one prompt for each answer, got {len(prompts)} prompts, {len(answers)} answers")
    settings = diffusion_settings(model)
    for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        if not answer:
            raise DataError(f"answer {index} is empty; expected at least one token.")
        if settings.mask_token_id in (*prompt, *answer):
            raise DataError(
                f"answer {index} or its prompt holds the mask token (id {settings.mask_token_id}), which stands for "
                "what is hidden; remove it from the text."
            )
    with evaluating(model):
        return [
            _log_likelihood(model, settings, prompt, answer, draw_maskings(len(answer), samples, seed), batch_size)
            for prompt, answer in zip(prompts, answers, strict=True)
        ]


def draw_maskings(length: int, samples: int, seed: int) -> torch.Tensor:
    """Which of an answer's tokens each sample hides, `(samples, length)`, bool.

    Each row hides k tokens, every choice of k being equally likely, and k alone is uniform in 1..length.
    """
    generator = sample_generator(seed, 0, length, _NOISE_STREAM)
    offset = torch.rand((), generator=generator, dtype=torch.float64)
    strata = torch.frac(offset + torch.arange(samples, dtype=torch.float64) / samples)  # each uniform in [0, 1)
    counts = 1 + (strata * length).long().clamp(max=length - 1)  # (samples,)
    order = torch.rand((samples, length), generator=generator, dtype=torch.float64).argsort(-1).argsort(-1)
    return order < counts[:, None]


def _log_likelihood(
    model: Any,
    settings: DiffusionSettings,
    prompt: Sequence[int],
    answer: Sequence[int],
    maskings: torch.Tensor,  # (samples, length)
    batch_size: int,
) -> float:
    distinct, repeats = maskings.unique(dim=0, return_counts=True)
    ids = torch.tensor([*prompt, *answer])
    targets = ids[len(prompt) :].to(model.device)  # (length,)
    shift = 1 if settings.shifted_logits else 0
    read = (torch.arange(len(prompt), len(ids), device=model.device) - shift).clamp(min=0)  # (length,)
    total = 0.0
    for hidden, repeated in zip(distinct.split(batch_size), repeats.split(batch_size), strict=True):
        rows = ids.repeat(len(hidden), 1)  # (batch, prompt + length)
        rows[:, len(prompt) :].masked_fill_(hidden, settings.mask_token_id)
        rows = rows.to(model.device)
        logits = model(
            input_ids=rows, attention_mask=torch.ones_like(rows), logits_to_keep=read, use_cache=False
        ).logits.float()  # (batch, length, vocabulary)
        log_probs = logits.log_softmax(-1).gather(-1, targets.expand(len(hidden), -1)[..., None])[..., 0].cpu()
        weights = repeated * len(answer) / hidden.sum(-1)  # (batch,)
        total += float(((log_probs.double() * hidden).sum(-1) * weights).sum())
    return total / len(maskings)
