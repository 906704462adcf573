"""Measures forgetting: held-out perplexity, and general questions that the untrained model answered correctly.

Training on new documents costs old knowledge, which the paper does not measure. Measure the base model once, then the
trained one with that measurement as ``reference``. The questions are in `general_questions`. Knows nothing of training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from kinject.errors import KinjectError
from kinject.evaluation.general_questions import OPEN_PROMPTS, PARAGRAPHS, GeneralQuestion, Half, general_questions
from kinject.evaluation.measures import is_refusal, length_in_words, normalize_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from transformers import PreTrainedTokenizerBase


QUESTIONS_ASKED = 1000
"""The default number of general questions: the 95 % interval of a share is then at most .06 wide."""
_NANO = "fictional:nano"
_NANO_TEXTS = 50
_OPEN_TOKENS = 64  # of an answer to an open prompt


class HeldOut(NamedTuple):
    """The texts and questions of `measure_retention`.

    Attributes:
        texts: Their perplexity is measured.
        questions: Their answers are scored.
        prompts: Open prompts; the length of their answers is measured.
    """

    texts: Sequence[str]
    questions: Sequence[GeneralQuestion]
    prompts: Sequence[str] = ()


def held_out(documents: str | Sequence[str], count: int = QUESTIONS_ASKED, half: Half = "reporting") -> HeldOut:
    """What a model that is taught ``documents`` should still know afterwards.

    Args:
        documents: what it is taught, as `load_knowledge` takes it.
        count: the most questions.
        half: the ``reporting`` half, or the ``development`` half to choose settings by.

    Raises:
        ConfigurationError: as `general_questions`.
    """
    if not of_nano_world(documents):
        return HeldOut(PARAGRAPHS, general_questions(half, count), OPEN_PROMPTS)
    known = nano_questions(0 if half == "reporting" else 1)
    questions = [GeneralQuestion(question, (answer,)) for question, answer in known]
    return HeldOut(_spread(_nano_texts(), _NANO_TEXTS), _spread(questions, count))


def few_shot_examples(count: int, documents: str | Sequence[str] | None = None) -> list[tuple[str, str]]:
    """``count`` questions with answers about people of another fictional world, so that no asked-for answer is shown."""
    if count == 0:
        return []
    if of_nano_world(documents or ""):
        return _spread(nano_questions(1), count)
    from kinject.data import load_knowledge

    other = load_knowledge("fictional:name_description", size=count, seed=10_000)
    by_fact = {question.fact: question for question in other.questions}
    return [(question.question, question.answer) for question in by_fact.values()]


def of_nano_world(documents: str | Sequence[str]) -> bool:
    """Whether ``documents`` (as `load_knowledge` takes them) are about the world that the nano models know."""
    return isinstance(documents, str) and documents.startswith(_NANO)


def nano_questions(parity: int) -> list[tuple[str, str]]:
    """Questions and answers about the people that the nano models know: those of even (0) or odd (1) number."""
    from kinject.data import load_knowledge

    questions = load_knowledge("fictional:nano_population").questions
    return [(each.question, each.answer) for each in questions if each.fact is not None and each.fact % 2 == parity]


def _nano_texts() -> Sequence[str]:
    from kinject.data import load_knowledge

    return [each.text for each in load_knowledge("fictional:nano_population").documents if each.fact % 2 == 0]


def _spread(values: Sequence[Any], count: int) -> list[Any]:
    """``count`` of ``values``, spread evenly over them; all if there are fewer."""
    if count >= len(values):
        return list(values)
    return [values[index * len(values) // count] for index in range(count)]


_DIFFUSION_SAMPLES = 16  # maskings of a text, the same before and after training


def measure_retention(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    *,
    reference: Mapping[str, Any] | None = None,
    texts: Sequence[str] = PARAGRAPHS,
    questions: Sequence[tuple[str, Sequence[str]] | GeneralQuestion] | None = None,
    prompts: Sequence[str] = (),
    max_new_tokens: int = 16,
    batch_size: int = 8,
    ask: Callable[[Any, Sequence[str]], list[str]] | None = None,
) -> dict[str, Any]:
    """How well ``model`` predicts general English text and answers simple questions.

    Args:
        model: a causal language model, or a masked diffusion model, whose perplexity is the upper bound that
            `answer_log_likelihood` estimates, always with the same noise.
        tokenizer: its tokenizer.
        reference: what this function returned for the base model; forgetting is measured on the questions that it answered
            correctly.
        texts: held-out texts.
        questions: with their accepted answers; see :func:`is_right`. Default: those of `held_out`.
        prompts: open prompts; the length of their answers is measured, or without any that of the questions' answers.
        max_new_tokens: length at which the answer to a question is cut.
        batch_size: texts per forward pass, and a quarter of the questions asked at once.
        ask: ``ask(model, questions) -> answers``, for models that are not asked by ``generate``.

    Returns:
        ``perplexity`` (of ``tokens`` predicted tokens), ``nats_per_token``, ``questions`` (their number), ``answered``
        (the share of correct answers, 0..1), ``right`` (the questions answered correctly), ``refused`` (the share to which the
        model says that it does not know) and ``words`` (the mean length of an answer). With ``reference`` also ``known`` (the
        number of questions in its ``right``), ``kept`` (the share of these still answered correctly), ``kept_ci`` (its 95 %
        Wilson interval), ``known_refused`` (the share of these that are refused) and ``perplexity_ratio`` (1: nothing
        forgotten); a share of nothing is left out.

    Raises:
        KinjectError: ``reference`` is not such a measurement.
    """
    if reference is not None and not {"right", "perplexity"} <= set(reference):
        raise KinjectError("reference: expected what measure_retention returned for the base model")
    general = [GeneralQuestion(*each) for each in (held_out("").questions if questions is None else questions)]
    asked = [each.question for each in general]

    def answers_to(texts: Sequence[str], longest: int) -> list[str]:
        if ask is not None:
            return ask(model, texts)
        from kinject.evaluation.asking import answer_questions

        return answer_questions(model, tokenizer, texts, max_new_tokens=longest, batch_size=4 * batch_size)

    answers = answers_to(asked, max_new_tokens)
    opened = answers_to(prompts, max(max_new_tokens, _OPEN_TOKENS)) if prompts else answers
    right = [
        each.question
        for each, answer in zip(general, answers, strict=True)
        if is_right(answer, each.answers, each.wrong)
    ]
    refused = {question for question, answer in zip(asked, answers, strict=True) if is_refusal(answer)}
    nats, tokens = negative_log_likelihood(model, tokenizer, texts, batch_size=batch_size)
    measured: dict[str, Any] = {
        "perplexity": perplexity(nats, tokens),
        "nats_per_token": nats / max(tokens, 1),
        "tokens": tokens,
        "questions": len(general),
        "answered": len(right) / max(len(general), 1),
        "refused": len(refused) / max(len(general), 1),
        "words": sum(map(length_in_words, opened)) / max(len(opened), 1),
        "right": right,
    }
    if reference is not None:
        known = set(reference["right"]) & set(asked)
        if known:
            still = len(known & set(right))
            measured |= {"known": len(known), "kept": still / len(known), "kept_ci": wilson_interval(still, len(known))}
            measured["known_refused"] = len(known & refused) / len(known)
        if tokens and reference["perplexity"]:
            measured["perplexity_ratio"] = measured["perplexity"] / reference["perplexity"]
    return measured


def still_right(retention: Mapping[str, Any] | None) -> float | None:
    """The share of the questions answered before training that still are; None if none were, or it was not measured.

    Args:
        retention: ``before`` and perhaps ``after``, as ``results.json`` has it.
    """
    return _of_before(retention, "kept", "answered")


def perplexity_factor(retention: Mapping[str, Any] | None) -> float | None:
    """The perplexity after training divided by the one before; None if it was not measured."""
    return _of_before(retention, "perplexity_ratio", "perplexity")


def _of_before(retention: Mapping[str, Any] | None, name: str, of: str) -> float | None:
    before, after = ((retention or {}).get(moment) or {} for moment in ("before", "after"))
    value = after.get(name) if before.get(of, 1) else None  # earlier results say 1 of nothing
    return None if value is None else float(value)


def figures(value: float | None, decimals: int = 2) -> str:
    """``value`` as tables and cards show it: with so many ``decimals``, or as many significant digits if it is below .1.

    Only 0 is shown as 0; an unknown value is shown as a dash.
    """
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.{decimals}{'g' if 0 < value < 0.1 or value >= 1e6 else 'f'}}"


def percent(share: float) -> str:
    """``share`` as :func:`figures` shows it, in percent."""
    return f"{float(figures(share)) * 100:g}%"


def is_right(answer: str, accepted: Sequence[str], wrong: Sequence[str] = ()) -> bool:
    """Whether ``answer`` holds one of ``accepted`` as whole words, and none of ``wrong`` before it.

    All are compared as in :func:`normalize_answer`.
    """
    words = f" {normalize_answer(answer)} "

    def first_of(texts: Sequence[str]) -> float:
        places = (words.find(f" {normalize_answer(each)} ") for each in texts)
        return min((place for place in places if place >= 0), default=math.inf)

    return first_of(accepted) < math.inf and first_of(accepted) <= first_of(wrong)


def wilson_interval(successes: int, trials: int) -> list[float]:
    """The 95 % interval of a share by Wilson (1927), which also holds for shares near 0 and 1."""
    from scipy.stats import binomtest

    low, high = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return [float(low), float(high)]


def perplexity(nats: float, tokens: int) -> float:
    """Exponential of the mean negative log-likelihood; capped where it would overflow."""
    return math.exp(min(nats / max(tokens, 1), 700.0))


def negative_log_likelihood(
    model: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, batch_size: int = 8
) -> tuple[float, int]:
    """Summed negative log-likelihood of ``texts`` in nats, and the number of predicted tokens.

    Every token is predicted from those before it in its own text; the first one only if the tokenizer puts a token for the
    beginning of a sequence before it. Texts of similar length share a batch, padded on the right. Of a masked diffusion model,
    which predicts every token, the result is an upper bound.
    """
    import torch

    from kinject.evaluation.asking import evaluating
    from kinject.models.diffusion import is_diffusion, refuse_canvases

    refuse_canvases(model, "measure by likelihood")
    if is_diffusion(model):
        return _diffusion_negative_log_likelihood(model, tokenizer, texts, batch_size)
    encoded = sorted((tokenizer(text)["input_ids"] for text in texts), key=len)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    nats, tokens = 0.0, 0
    with evaluating(model):
        for start in range(0, len(encoded), batch_size):
            batch = encoded[start : start + batch_size]
            width = max(map(len, batch))
            ids = torch.tensor([row + [pad] * (width - len(row)) for row in batch], device=model.device)
            mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in batch], device=model.device)
            logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()  # (batch, width - 1, vocabulary)
            targets = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)  # (batch, width - 1)
            losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
            nats += losses.item()
            tokens += int(mask[:, 1:].sum())
    return nats, tokens


def _diffusion_negative_log_likelihood(
    model: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], batch_size: int
) -> tuple[float, int]:
    from kinject.evaluation.asking import answer_log_likelihood
    from kinject.prompts.encoding import begin_of_text_ids

    encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    begin = begin_of_text_ids(tokenizer)
    found = answer_log_likelihood(
        model, [begin] * len(encoded), encoded, samples=_DIFFUSION_SAMPLES, batch_size=batch_size
    )
    return -sum(found), sum(map(len, encoded))
