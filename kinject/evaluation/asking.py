"""Asks a language model questions in batches: an AR model greedily, a masked diffusion model by `kinject.sampling`.

What all prompts begin with is encoded once. Prompts of similar length share a batch, padded before the rest under an
attention mask; rows that hold an end of turn leave it. The answer is cut by token position, never by searching text for a
marker. An answer depends on its own question alone: not on its neighbors in the batch, nor on padding.
"""

from __future__ import annotations

import copy
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

from kinject.encoding import added_special_ids
from kinject.errors import ConfigurationError, KinjectError
from kinject.evaluation.gathering import is_sharded
from kinject.evaluation.in_step import in_step
from kinject.models.diffusion import diffusion_settings, is_diffusion, text_config
from kinject.models.shared_beginning import encode_beginning
from kinject.sampling import SamplingConfig, sample
from kinject.templates import QuestionTemplate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from transformers import DynamicCache, PreTrainedTokenizerBase

    from kinject.sampling import Step

_TOKENS_BETWEEN_LEAVING = 4  # rows that have ended leave a batch so often


def answer_questions(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    *,
    max_new_tokens: int = 128,
    batch_size: int = 32,
    examples: Sequence[tuple[str, str]] = (),
    system_prompt: str | None = None,
    sampling: SamplingConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
    watch: Callable[[str, Sequence[Step]], None] | None = None,
) -> list[str]:
    """The answers of ``model`` to ``questions``, in their order.

    Args:
        model: a transformers model, AR (asked greedily) or masked diffusion, or a PEFT or data-parallel wrapper of one.
        tokenizer: its tokenizer.
        questions: the questions as the user's turn. Equal questions are asked once.
        max_new_tokens: length at which an answer is cut. The paper takes 128.
        batch_size: questions per batch.
        examples: (question, answer) turns put before every question, for few-shot answering.
        system_prompt: system prompt of the conversation; ``None`` leaves it to the chat template.
        sampling: how a masked diffusion model is decoded; default ``SamplingConfig.fast(max_new_tokens)``.
        progress: called as ``progress(answered, total)`` after every batch, counting distinct questions.
        watch: called as ``watch(question, steps)`` with how a masked diffusion model unmasked each answer.

    Raises:
        KinjectError: ``max_new_tokens`` or ``batch_size`` below 1, a question too long for the model, or ``sampling`` or
            ``watch`` with an AR model.
    """
    for name, value in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if value < 1:
            raise KinjectError(f"{name}: expected at least 1, got {value}")
    template = QuestionTemplate(tokenizer, system_prompt)
    prompts = {question: template.encode(question, examples) for question in dict.fromkeys(questions)}
    while not hasattr(model, "generate") and isinstance(getattr(model, "module", None), torch.nn.Module):
        model = model.module  # a data-parallel wrapper
    with evaluating(model):
        if is_diffusion(model):
            new_tokens = _sample(
                model,
                prompts,
                answer_ends(model, tokenizer, template),
                sampling or SamplingConfig.fast(max_new_tokens),
                batch_size,
                progress,
                watch,
            )
        elif sampling is None and watch is None:
            _check_length(model, max(map(len, prompts.values()), default=0), max_new_tokens)
            new_tokens = _generate(model, tokenizer, prompts, template.end_ids, max_new_tokens, batch_size, progress)
        else:
            raise ConfigurationError(
                f"{'watch' if sampling is None else 'sampling'} is for masked diffusion models, and this one is "
                "autoregressive: it writes from left to right, greedily; leave it out"
            )
    answers = {
        question: str(tokenizer.decode(new[:max_new_tokens], skip_special_tokens=True)).strip()
        for question, new in new_tokens.items()
    }
    return [answers[question] for question in questions]


def answer_ends(model: Any, tokenizer: PreTrainedTokenizerBase, template: QuestionTemplate) -> tuple[int, ...]:
    """Every id that ends an answer of a masked diffusion model, which fills the rest of its canvas with padding.

    LLaDA ends a turn with one token and pads with another; an answer may show either first.
    """
    config = text_config(model)
    eos = getattr(config, "eos_token_id", None)
    ends = eos if isinstance(eos, list) else [eos]
    # A pad that is no special token could also stand for itself.
    pads = {getattr(config, "pad_token_id", None), tokenizer.pad_token_id} & added_special_ids(tokenizer)
    mask = diffusion_settings(model).mask_token_id
    return tuple(dict.fromkeys(each for each in (*template.end_ids, *ends, *sorted(pads)) if each not in (None, mask)))


def _sample(
    model: Any,
    prompts: dict[str, list[int]],
    end_ids: Sequence[int],
    config: SamplingConfig,
    batch_size: int,
    progress: Callable[[int, int], None] | None,
    watch: Callable[[str, Sequence[Step]], None] | None,
) -> dict[str, list[int]]:
    """The answer of a masked diffusion model to every prompt, up to and without its first end id."""
    with in_step(model) as stepping:
        sampled = sample(
            stepping,
            list(prompts.values()),
            config,
            end_ids=end_ids,
            batch_size=batch_size,
            history=watch is not None,
            progress=progress,
        )
    if watch is not None:
        for question, steps in zip(prompts, sampled.history, strict=True):
            watch(question, steps)
    return {question: until_end(ids, end_ids) for question, ids in zip(prompts, sampled.ids, strict=True)}


def _generate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: dict[str, list[int]],
    end_ids: Sequence[int],
    max_new_tokens: int,
    batch_size: int,
    progress: Callable[[int, int], None] | None,
) -> dict[str, list[int]]:
    """The greedy answer of an AR model to every prompt, up to and without its first end id."""
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end_ids[0]
    by_length = sorted(prompts, key=lambda question: len(prompts[question]))
    beginning, encoded = _encode_once(model, list(prompts.values()))
    config = GenerationConfig(do_sample=False, eos_token_id=list(end_ids), pad_token_id=pad, use_cache=True)
    answers: dict[str, list[int]] = {}
    for start in range(0, len(by_length), batch_size):
        batch = by_length[start : start + batch_size]
        width = max(len(prompts[question]) for question in batch)
        # Padding stands between what all begin with and the rest: (batch, width).
        gaps = [width - len(prompts[question]) for question in batch]
        rows = [
            [*beginning, *[pad] * gap, *prompts[question][len(beginning) :]]
            for gap, question in zip(gaps, batch, strict=True)
        ]
        mask = [[1] * len(beginning) + [0] * gap + [1] * (width - gap - len(beginning)) for gap in gaps]
        cache = None if encoded is None else _for_rows(encoded, len(batch))
        written = _continue(model, torch.tensor(rows), torch.tensor(mask), cache, config, max_new_tokens)
        answers |= dict(zip(batch, written, strict=True))
        if progress is not None:
            progress(len(answers), len(by_length))
    return answers


def _continue(
    model: Any,
    ids: torch.Tensor,
    mask: torch.Tensor,
    cache: DynamicCache | None,
    config: GenerationConfig,
    max_new_tokens: int,
) -> list[list[int]]:
    """What ``model`` writes after each row, up to and without the first end id.

    Args:
        model: an AR model.
        ids: prompts, `(batch, width)`.
        mask: 1 where they are attended to, `(batch, width)`.
        cache: keys and values of the first of them. If given, rows that have ended leave the batch every few tokens.
        config: how tokens are chosen, and the end ids.
        max_new_tokens: tokens after which a row ends in any case.
    """
    ids, mask = ids.to(model.device), mask.to(model.device)
    width, end_ids = ids.shape[1], config.eos_token_id
    continued: list[list[int]] = [[] for _ in ids]
    writing = list(range(len(ids)))  # the rows of the batch, by their number
    while writing:
        room = width + max_new_tokens - ids.shape[1]
        config.max_new_tokens = room if cache is None else min(_TOKENS_BETWEEN_LEAVING, room)
        options = {} if cache is None else {"past_key_values": cache}  # which generate() extends
        ids = model.generate(
            input_ids=ids, attention_mask=mask, generation_config=config, synced_gpus=is_sharded(model), **options
        )  # (rows, width + new)
        for number, row in zip(writing, ids[:, width:].tolist(), strict=True):
            continued[number] = until_end(row, end_ids)
        new = ids.shape[1] - width
        stay = [index for index, number in enumerate(writing) if len(continued[number]) == new < max_new_tokens]
        writing = [writing[index] for index in stay]
        if cache is not None and stay:
            kept = torch.tensor(stay, device=ids.device)
            cache.batch_select_indices(kept)
            ids, mask = ids[kept], mask[kept]
            mask = torch.cat([mask, mask.new_ones(len(stay), ids.shape[1] - mask.shape[1])], dim=1)
    return continued


def _encode_once(model: Any, prompts: Sequence[list[int]]) -> tuple[list[int], DynamicCache | None]:
    """The ids that all ``prompts`` begin with, such as a system prompt, and their keys and values.

    Nothing and `None` where there are none, where the model keeps anything else than keys and values of every token, or
    where its weights are sharded, so that all processes would have to do the same.
    """
    # Not the whole of any prompt, whose last token the answer begins with. (os.path's function compares any sequences.)
    beginning = list(os.path.commonprefix([prompt[:-1] for prompt in prompts]))
    if not beginning or is_sharded(model):
        return [], None
    cache = encode_beginning(model, torch.tensor([beginning], device=model.device))
    return ([], None) if cache is None else (beginning, cache)


def _for_rows(cache: DynamicCache, rows: int) -> DynamicCache:
    """A copy of ``cache`` for a batch of ``rows``."""
    copied = copy.deepcopy(cache)
    copied.batch_repeat_interleave(rows)
    return copied


def until_end(ids: Sequence[int], end_ids: Sequence[int]) -> list[int]:
    """``ids`` up to and without the first that ends an answer."""
    stop = next((position for position, token in enumerate(ids) if token in end_ids), len(ids))
    return list(ids[:stop])


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
        for module in modules:
            # In evaluation mode on a CPU bitsandbytes repacks 4-bit weights into what passes no gradient on, for good.
            if hasattr(getattr(module, "weight", None), "quant_state"):
                module.training = True
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
