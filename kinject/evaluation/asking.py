"""Asks a language model questions in batches, estimates how likely it holds an answer, and lets it write questions.

AR models answer greedily by default, masked diffusion models by `kinject.sampling`. An answer is cut by token position, never
by searching text for a marker. Unless an AR model draws it at random, it depends on its own question alone: neither on the
other questions in the batch nor on padding. Knows nothing of scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig

from kinject.corruption import sample_generator
from kinject.data.made_questions import LONGEST_REPLY, Written, checked_questions
from kinject.errors import ConfigurationError, DataError, KinjectError
from kinject.evaluation.generating import generate_answers, until_end
from kinject.models.diffusion import Tokens, block_mask, diffusion_settings, is_diffusion, refuse_canvases, text_config
from kinject.models.weights import in_step
from kinject.prompts.encoding import added_special_ids
from kinject.prompts.templates import ANSWER, IGNORED, DocumentTemplate, QuestionTemplate, assemble
from kinject.sampling import SamplingConfig, sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from transformers import PreTrainedTokenizerBase

    from kinject.data import Document
    from kinject.data.made_questions import Answering
    from kinject.models import LoadedModel
    from kinject.models.diffusion import DiffusionSettings
    from kinject.sampling import Sampled, Step


def answer_questions(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    *,
    max_new_tokens: int = 128,
    batch_size: int | None = None,
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
        batch_size: questions per batch; default: that of `questions_at_once`. An AR model answers more at once, in no more
            memory, where answers are shorter than ``max_new_tokens``.
        examples: (question, answer) turns put before every question, for few-shot answering.
        system_prompt: system prompt of the conversation; ``None`` leaves it to the chat template.
        sampling: how a masked diffusion model is decoded; default ``SamplingConfig.fast(max_new_tokens)``.
        temperature: at which an AR model draws tokens; 0 takes the most probable one.
        seed: of these draws, which also depend on the other questions.
        progress: called as ``progress(answered, total)`` after each batch, counting distinct questions.
        watch: called as ``watch(question, steps)`` with the steps in which a masked diffusion model unmasked each answer.

    Raises:
        KinjectError: ``max_new_tokens`` or ``batch_size`` below 1, ``temperature`` below 0, a question too long for the
            model, ``sampling`` or ``watch`` with an AR model, or ``temperature`` with a diffusion model.
    """
    while not hasattr(model, "generate") and isinstance(getattr(model, "module", None), torch.nn.Module):
        model = model.module  # a data-parallel wrapper
    if batch_size is None:
        batch_size = questions_at_once(model.device, is_diffusion(model))
    _check_asking(model, max_new_tokens, batch_size, temperature, sampling, watch)
    template = QuestionTemplate(tokenizer, system_prompt)
    asked = list(questions) if temperature else list(dict.fromkeys(questions))
    prompts = [template.encode(question, examples) for question in asked]
    with evaluating(model):
        if is_diffusion(model):
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
        else:
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
    answers = [str(tokenizer.decode(new[:max_new_tokens], skip_special_tokens=True)).strip() for new in written]
    if temperature:
        return answers
    answer_to = dict(zip(asked, answers, strict=True))
    return [answer_to[question] for question in questions]


def _check_asking(
    model: Any,
    max_new_tokens: int,
    batch_size: int,
    temperature: float,
    sampling: SamplingConfig | None,
    watch: Callable[[str, Sequence[Step]], None] | None,
) -> None:
    """Refuse settings of `answer_questions` that cannot be, or that ``model`` has no use for."""
    for name, value in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if value < 1:
            raise KinjectError(f"{name}: expected at least 1, got {value}")
    if temperature < 0:
        raise KinjectError(f"temperature: expected 0 or more, got {temperature}")
    if temperature or sampling is not None or watch is not None:
        refuse_canvases(model, "draw by a temperature, sampling settings or a watcher of kinject's")
    if is_diffusion(model) and temperature:
        raise ConfigurationError(
            "temperature is for autoregressive models, and this one is a masked diffusion model; set that of sampling"
        )
    if not is_diffusion(model) and (sampling is not None or watch is not None):
        raise ConfigurationError(
            f"{'watch' if sampling is None else 'sampling'} is for masked diffusion models, and this one is "
            "autoregressive: it writes from left to right; leave it out"
        )


def questions_at_once(device: torch.device, diffusion: bool) -> int:
    """The default number of questions in a batch: 256 for an AR model on an accelerator, else 32.

    There a token for 256 rows takes hardly longer than for one. A masked diffusion model needs more memory, since it computes
    all tokens of an answer at once, each over the whole vocabulary.
    """
    return 32 if device.type == "cpu" or diffusion else 256


def answer_ends(model: Any, tokenizer: PreTrainedTokenizerBase, template: QuestionTemplate) -> tuple[int, ...]:
    """Every id that ends an answer of a masked diffusion model, padding included, with which it fills the rest.

    LLaDA ends a turn with one token and pads with another, and either may come first.
    """
    config = text_config(model)
    eos = getattr(config, "eos_token_id", None)
    ends = eos if isinstance(eos, list) else [eos]
    # A padding token that is not special may also be part of an answer.
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
    """Put ``model`` in evaluation mode, without gradient checkpointing and its own sampling settings; restore it afterwards.

    Gradients are off by ``no_grad``, not ``inference_mode``, since a tensor that a module keeps from a forward pass in
    inference mode (a rotary table, a gathered ZeRO-3 parameter) could not be used in training afterwards.
    """
    modules: list[Any] = list(model.modules())
    training = [(module, module.training) for module in modules]
    checkpointing = [module for module in modules if getattr(module, "gradient_checkpointing", False) is True]
    # generate() completes our configuration from the model's, and warns about sampling settings in that. The one of a
    # DiffusionGemma is of another class and stays, since it says how its canvases are written.
    configured = [
        (each, vars(each)["generation_config"])
        for each in modules
        if type(vars(each).get("generation_config")) is GenerationConfig
    ]
    try:
        model.eval()
        for module in modules:
            # In evaluation mode on a CPU bitsandbytes repacks 4-bit weights, for good, into a form without gradients.
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


# How likely a masked diffusion model holds an answer: a Monte-Carlo bound on its log-likelihood.

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

    Each sample hides k of the answer's L tokens, k uniform in 1..L, and weights their log-probabilities by L / k (LLaDA, arXiv
    2502.09992, equation 6). Of a block diffusion model, which writes block after block, the bounds of the answer's blocks are
    added up, each given the text before it (BD3-LM, arXiv 2503.09573, equation 4); the rest of the last block stays hidden.

    The k of the samples are spread evenly over 1..L, which keeps the mean and lowers the variance; samples that hide the same
    tokens are computed once. The estimate depends only on the model, the prompt, the answer, ``samples`` and ``seed``; equally
    long answers get the same noise, so that they can be compared.

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
            sum(
                _log_likelihood(model, settings, before, part, draw_maskings(len(part), samples, seed), batch_size)
                for before, part in _written_at_once(prompt, answer, settings.block_length)
            )
            for prompt, answer in zip(prompts, answers, strict=True)
        ]


def _written_at_once(
    prompt: Sequence[int], answer: Sequence[int], block_length: int | None
) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    """``answer`` cut at the blocks of a model, or whole without blocks: each part with all the ids before it."""
    whole, start = [*prompt, *answer], len(prompt)
    while start < len(whole):
        end = len(whole) if block_length is None else min(len(whole), (start // block_length + 1) * block_length)
        yield whole[:start], whole[start:end]
        start = end


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
    attention = None
    if settings.block_length is not None:
        start = (len(ids) - 1) // settings.block_length * settings.block_length
        ids = torch.cat([ids, torch.full((start + settings.block_length - len(ids),), settings.mask_token_id)])
        positions = torch.arange(len(ids), device=model.device)[None]
        tokens = Tokens(positions, positions < start, torch.ones_like(positions, dtype=torch.bool))
        attention = block_mask(model, tokens, settings.block_length, settings.clean_attention)
    total = 0.0
    for hidden, repeated in zip(distinct.split(batch_size), repeats.split(batch_size), strict=True):
        rows = ids.repeat(len(hidden), 1)  # (batch, prompt + length)
        rows[:, len(prompt) : len(prompt) + len(answer)].masked_fill_(hidden, settings.mask_token_id)
        rows = rows.to(model.device)
        logits = model(
            input_ids=rows,
            attention_mask=torch.ones_like(rows) if attention is None else attention.expand(len(rows), -1, -1, -1),
            logits_to_keep=read,
            use_cache=False,
        ).logits.float()  # (batch, length, vocabulary)
        log_probs = logits.log_softmax(-1).gather(-1, targets.expand(len(hidden), -1)[..., None])[..., 0].cpu()
        weights = repeated * len(answer) / hidden.sum(-1)  # (batch,)
        total += float(((log_probs.double() * hidden).sum(-1) * weights).sum())
    return total / len(maskings)


_KEPT = 64  # most probable tokens that are kept of a prediction
_IMPOSSIBLE = -100.0  # least log-probability that is kept


@dataclass(frozen=True)
class Predictions:
    """A model's predictions at the tokens of an answer and at the end of its turn.

    Attributes:
        ids: The most probable tokens of each, `(answer + 1, kept)`, int32.
        log_probs: Their log-probabilities in nats, `(answer + 1, kept)`, float32.
    """

    ids: np.ndarray
    log_probs: np.ndarray


def predict(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    answers: Sequence[str],
    *,
    system_prompt: str | None = None,
    batch_size: int = 32,
) -> list[Predictions]:
    """The predictions of an autoregressive ``model`` at the tokens of ``answers`` to ``prompts``.

    Raises:
        ConfigurationError: as `DocumentTemplate`.
    """
    template = DocumentTemplate(tokenizer, (ANSWER,), system_prompt)
    samples = [
        assemble(template.row_frames(prompt)[0], template.encode(answer).ids, None)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    found: dict[int, Predictions] = {}
    order = sorted(range(len(samples)), key=lambda index: len(samples[index].input_ids))  # for little padding
    with evaluating(model):
        for first in range(0, len(order), batch_size):
            places = order[first : first + batch_size]
            rows = [torch.tensor(samples[place].input_ids) for place in places]
            ids = pad_sequence(rows, batch_first=True).to(model.device)  # (batch, length)
            attended = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).to(model.device)
            logits = model(input_ids=ids, attention_mask=attended, use_cache=False).logits
            for place, of_row in zip(places, logits, strict=True):
                scored = [index - 1 for index, label in enumerate(samples[place].labels) if label != IGNORED]
                log_probs, kept = of_row[scored].float().log_softmax(-1).topk(min(_KEPT, of_row.shape[-1]))
                # The product of probability and log-probability of an impossible token would be nan.
                log_probs = log_probs.clamp(min=_IMPOSSIBLE)
                found[place] = Predictions(kept.int().cpu().numpy(), log_probs.cpu().numpy())
    return [found[place] for place in range(len(samples))]


# A model writes questions about documents, and a model checks them by reading the answers out of the documents.


def written_questions(
    documents: Sequence[Document], writer: str, base: str | None, count: int | None = None
) -> Written:
    """Questions about ``documents`` that the model ``writer`` writes and ``base`` can answer with the document in its prompt.

    Args:
        documents: What is asked about.
        writer: A model as `load` takes it.
        base: The model that has to answer; default: the writer itself.
        count: The most questions to return; default: all that pass.

    Raises:
        ConfigurationError: a model cannot be loaded.
    """
    from kinject.models.loading import load

    reader = load(base or writer)
    writes = by_model(reader if base in (None, writer) else load(writer))
    return checked_questions(documents, writes, by_model(reader, longest=64), count)


def by_model(loaded: LoadedModel, longest: int = LONGEST_REPLY) -> Answering:
    """A loaded model as a writer or reader, whose replies take at most ``longest`` tokens."""

    def answer(prompts: Sequence[str]) -> list[str]:
        if not prompts:
            return []
        return answer_questions(loaded.model, loaded.tokenizer, prompts, max_new_tokens=longest, batch_size=8)

    return answer
