"""Asks a language model questions in batches: an AR model as a rule greedily, a masked diffusion model by `kinject.sampling`.

The answer is cut by token position, never by searching text for a marker. Unless it is drawn by an AR model, it depends on
its own question alone: not on its neighbors in the batch, nor on padding.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

from kinject.encoding import added_special_ids
from kinject.errors import ConfigurationError, KinjectError
from kinject.evaluation.generating import generate_answers, until_end
from kinject.evaluation.in_step import in_step
from kinject.models.diffusion import diffusion_settings, is_diffusion, text_config
from kinject.sampling import SamplingConfig, sample
from kinject.templates import QuestionTemplate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from transformers import PreTrainedTokenizerBase

    from kinject.sampling import Sampled, Step


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
    temperature: float = 0.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    watch: Callable[[str, Sequence[Step]], None] | None = None,
) -> list[str]:
    """The answers of ``model`` to ``questions``, in their order.

    Args:
        model: a transformers model, AR or masked diffusion, or a PEFT or data-parallel wrapper of one.
        tokenizer: its tokenizer.
        questions: the questions as the user's turn. Equal questions are asked once, unless answers are drawn.
        max_new_tokens: length at which an answer is cut. The paper takes 128.
        batch_size: questions per batch. An AR model takes up more where answers stay short of ``max_new_tokens``, in no
            more memory.
        examples: (question, answer) turns put before every question, for few-shot answering.
        system_prompt: system prompt of the conversation; ``None`` leaves it to the chat template.
        sampling: how a masked diffusion model is decoded; default ``SamplingConfig.fast(max_new_tokens)``.
        temperature: at which the tokens of an AR model are drawn; 0 takes the most probable.
        seed: of these draws, which also depend on what is asked beside a question.
        progress: called as ``progress(answered, total)`` on the way, counting distinct questions.
        watch: called as ``watch(question, steps)`` with how a masked diffusion model unmasked each answer.

    Raises:
        KinjectError: ``max_new_tokens`` or ``batch_size`` below 1, ``temperature`` below 0, a question too long for the
            model, ``sampling`` or ``watch`` with an AR model, or ``temperature`` with a diffusion model.
    """
    for name, value in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if value < 1:
            raise KinjectError(f"{name}: expected at least 1, got {value}")
    if temperature < 0:
        raise KinjectError(f"temperature: expected 0 or more, got {temperature}")
    template = QuestionTemplate(tokenizer, system_prompt)
    asked = list(questions) if temperature else list(dict.fromkeys(questions))
    prompts = [template.encode(question, examples) for question in asked]
    while not hasattr(model, "generate") and isinstance(getattr(model, "module", None), torch.nn.Module):
        model = model.module  # a data-parallel wrapper
    with evaluating(model):
        if is_diffusion(model):
            if temperature:
                raise ConfigurationError(
                    "temperature is for autoregressive models, and this one is a masked diffusion model; set that of sampling"
                )
            sampled = _sample(
                model,
                prompts,
                answer_ends(model, tokenizer, template),
                sampling or SamplingConfig.fast(max_new_tokens),
                batch_size,
                progress,
                history=watch is not None,
            )
            if watch is not None:
                for question, steps in zip(asked, sampled.history, strict=True):
                    watch(question, steps)
            written = sampled.ids
        elif sampling is None and watch is None:
            _check_length(model, max(map(len, prompts), default=0), max_new_tokens)
            written = generate_answers(
                model,
                prompts,
                end_ids=template.end_ids,
                pad_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else template.end_ids[0],
                max_new_tokens=max_new_tokens,
                batch_size=batch_size,
                temperature=temperature,
                seed=seed,
                progress=progress,
            )
        else:
            raise ConfigurationError(
                f"{'watch' if sampling is None else 'sampling'} is for masked diffusion models, and this one is "
                "autoregressive: it writes from left to right; leave it out"
            )
    answers = [str(tokenizer.decode(new[:max_new_tokens], skip_special_tokens=True)).strip() for new in written]
    if temperature:
        return answers
    answer_to = dict(zip(asked, answers, strict=True))
    return [answer_to[question] for question in questions]


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
    prompts: Sequence[list[int]],
    end_ids: Sequence[int],
    config: SamplingConfig,
    batch_size: int,
    progress: Callable[[int, int], None] | None,
    history: bool,
) -> Sampled:
    """The answer of a masked diffusion model to every prompt, up to and without its first end id."""
    with in_step(model) as stepping:
        sampled = sample(
            stepping,
            prompts,
            config,
            end_ids=end_ids,
            batch_size=batch_size,
            history=history,
            progress=progress,
        )
    sampled.ids = [until_end(ids, end_ids) for ids in sampled.ids]
    return sampled


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
