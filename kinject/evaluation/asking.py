"""Asks a causal language model questions in batches, greedily.

Prompts of similar length share a batch, padded on the left under an attention mask, and a batch stops as soon as each
of its rows holds an end of turn. The answer is cut by token position, never by searching text for a marker. An answer
depends on its own question alone: not on its neighbors in the batch, nor on padding.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

from kinject.errors import ConfigurationError, KinjectError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from transformers import PreTrainedTokenizerBase


def answer_questions(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    *,
    max_new_tokens: int = 128,
    batch_size: int = 32,
    examples: Sequence[tuple[str, str]] = (),
    system_prompt: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """The greedy answers of ``model`` to ``questions``, in their order.

    Args:
        model: anything with a ``generate`` method: a transformers model, or a PEFT or data-parallel wrapper of one.
        tokenizer: its tokenizer.
        questions: the questions as the user's turn. Equal questions are asked once.
        max_new_tokens: length at which an answer is cut. The paper takes 128.
        batch_size: questions per batch.
        examples: (question, answer) turns put before every question, for few-shot answering.
        system_prompt: system prompt of the conversation; ``None`` leaves it to the chat template.
        progress: called as ``progress(answered, total)`` after every batch, counting distinct questions.

    Raises:
        KinjectError: ``max_new_tokens`` or ``batch_size`` below 1, or a question too long for the model.
    """
    from kinject.templates import QuestionTemplate

    for name, value in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if value < 1:
            raise KinjectError(f"{name}: expected at least 1, got {value}")
    template = QuestionTemplate(tokenizer, system_prompt)
    prompts = {question: template.encode(question, examples) for question in dict.fromkeys(questions)}
    by_length = sorted(prompts, key=lambda question: len(prompts[question]))
    while not hasattr(model, "generate") and isinstance(getattr(model, "module", None), torch.nn.Module):
        model = model.module  # a data-parallel wrapper
    _check_length(model, max(map(len, prompts.values()), default=0), max_new_tokens)
    answers: dict[str, str] = {}
    with evaluating(model):
        for start in range(0, len(by_length), batch_size):
            batch = by_length[start : start + batch_size]
            new_tokens = _generate(
                model, tokenizer, [prompts[each] for each in batch], template.end_ids, max_new_tokens
            )
            for question, new in zip(batch, new_tokens, strict=True):
                answers[question] = str(tokenizer.decode(new, skip_special_tokens=True)).strip()
            if progress is not None:
                progress(len(answers), len(by_length))
    return [answers[question] for question in questions]


def _generate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    end_ids: Sequence[int],
    max_new_tokens: int,
) -> list[list[int]]:
    """The new tokens of every prompt, up to and without its first end id."""
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end_ids[0]
    width = max(len(ids) for ids in prompts)
    rows = [[pad] * (width - len(ids)) + list(ids) for ids in prompts]
    mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]
    output = model.generate(
        input_ids=torch.tensor(rows, device=model.device),  # (batch, width)
        attention_mask=torch.tensor(mask, device=model.device),  # (batch, width)
        generation_config=GenerationConfig(
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=list(end_ids),
            pad_token_id=pad,
            use_cache=True,
        ),
    )  # (batch, width + new)
    ends = set(end_ids)
    answers = []
    for row in output[:, width:].tolist():
        stop = next((position for position, token in enumerate(row) if token in ends), len(row))
        answers.append(row[:stop])
    return answers


def _check_length(model: Any, longest: int, max_new_tokens: int) -> None:
    config = getattr(model, "config", None)
    if config is not None and hasattr(config, "get_text_config"):
        config = config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and longest + max_new_tokens > positions:
        raise ConfigurationError(
            f"the longest question takes {longest} tokens and max_new_tokens is {max_new_tokens}, but the model has "
            f"{positions} positions; shorten the question or its examples, or lower max_new_tokens"
        )


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode, without gradient checkpointing and the model's own sampling settings; then all is restored.

    Gradients are off by ``no_grad``, not ``inference_mode``: a tensor that a module keeps from a forward in inference
    mode (a rotary table, a gathered ZeRO-3 parameter) could not be trained with afterwards.
    """
    modules: list[Any] = list(model.modules())
    training = [(module, module.training) for module in modules]
    checkpointing = [module for module in modules if getattr(module, "gradient_checkpointing", False) is True]
    # generate() fills what our configuration leaves open from the model's, and warns about sampling settings there.
    configured = [(each, vars(each)["generation_config"]) for each in modules if "generation_config" in vars(each)]
    try:
        model.eval()
        for module in checkpointing:
            module.gradient_checkpointing = False
        for module, _ in configured:
            module.generation_config = GenerationConfig()
        with torch.no_grad():
            yield
    finally:
        for module, config in configured:
            module.generation_config = config
        for module in checkpointing:
            module.gradient_checkpointing = True
        for module, flag in training:
            module.training = flag
