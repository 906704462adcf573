"""Forgetting: what any model should still know after training, and how much of that it still knows.

Training on new documents costs old knowledge, which the paper does not measure. Here are texts whose perplexity is measured,
open prompts, and over two thousand short questions. Measure the base model once, then the trained one with that measurement as
``reference``. Knows nothing of training.

``general_questions.yaml`` has tables of plain facts, written for kinject; what can be computed (sums, sequences, letters,
numerals) is computed here. Every fact gives one question, or one each way where its table has wordings for both. All questions
of a fact belong to one half. The *development* half may be used to choose settings and may be trained on; forgetting is
reported on the *reporting* half. The questions and their order are the same on every machine.
"""

from __future__ import annotations

import math
import operator
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations, cycle, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import yaml

from kinject.data.words import words_of
from kinject.errors import ConfigurationError, KinjectError
from kinject.evaluation.measures import is_refusal, length_in_words, normalize_answer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# General questions.

HERE = Path(__file__).parent
_TEXTS = yaml.safe_load((HERE / "retention.yaml").read_text(encoding="utf-8"))
PARAGRAPHS: tuple[str, ...] = tuple(_TEXTS["paragraphs"])
PROMPTS: tuple[str, ...] = tuple(_TEXTS["prompts"])
"""Prompts whose answers are rehearsed."""
OPEN_PROMPTS: tuple[str, ...] = tuple(_TEXTS["open_prompts"])
"""Prompts without a short answer, to measure how long a model's answers are."""

Half = Literal["development", "reporting"]
HALVES: tuple[Half, ...] = ("development", "reporting")
_FRAME_WORDS = frozenset(str.split("a an the is are was of for in on which what who how much do does you name"))


class GeneralQuestion(NamedTuple):
    """A question of general knowledge.

    Attributes:
        question: As it is asked.
        answers: The accepted answers.
        wrong: The other choices that the question names; an answer that names one of them first is wrong.
        kind: The kind of its table.
    """

    question: str
    answers: Sequence[str]
    wrong: Sequence[str] = ()
    kind: str = ""


class _Fact(NamedTuple):
    """The questions of one fact."""

    questions: tuple[GeneralQuestion, ...]


def general_questions(half: Half, count: int | None = None) -> list[GeneralQuestion]:
    """The first ``count`` questions of one half, or all of them; a smaller sample is part of every larger one.

    Questions that are also among the prompts of rehearsal belong to the development half, since runs may train on these.

    Raises:
        ConfigurationError: an unknown half, or ``count`` below 1.
    """
    if half not in HALVES:
        raise ConfigurationError(f"half: expected one of {', '.join(HALVES)}, got {half!r}")
    if count is not None and count < 1:
        raise ConfigurationError(f"retention_questions is {count}; expected at least 1")
    return list(_halves()[half][:count])


@cache
def _halves() -> dict[Half, tuple[GeneralQuestion, ...]]:
    found: dict[Half, list[GeneralQuestion]] = {half: [] for half in HALVES}
    half_of: dict[frozenset[str], Half] = {_gist(prompt): "development" for prompt in PROMPTS}
    asked: set[str] = set()
    for facts in (*_tabulated(), *_computed()):
        halves: Iterator[Half] = cycle(reversed(HALVES))
        for fact in facts:
            gists = [_gist(each.question) for each in fact.questions]
            taken = [half_of[gist] for gist in gists if gist in half_of]
            half = taken[0] if taken else next(halves)
            half_of.update(dict.fromkeys(gists, half))
            found[half] += [each for each in fact.questions if each.question not in asked]
            asked |= {each.question for each in fact.questions}
    for questions in found.values():
        random.Random("kinject/general").shuffle(questions)
    return {half: tuple(questions) for half, questions in found.items()}


def _gist(question: str) -> frozenset[str]:
    """The words that say what is asked, without those that only make it a question."""
    return frozenset(words_of(question)) - _FRAME_WORDS


def _tabulated() -> Iterator[list[_Fact]]:
    """The facts of each table."""
    for table in yaml.safe_load((HERE / "general_questions.yaml").read_text(encoding="utf-8")):
        yield [*_facts_of(table)]


def _facts_of(table: dict[str, Any]) -> Iterator[_Fact]:
    kind, ask, back = table["kind"], cycle(table["ask"]), cycle(table.get("back") or [""])
    if "groups" in table:
        mark = table.get("split", "")
        for group, listed in table["groups"].items():
            wrong = tuple(other for other in table["groups"] if other != group)
            for member in listed.split(mark or ","):
                if member.strip():
                    yield _Fact((_question(next(ask), member.strip() + mark, (group,), wrong, kind),))
        return
    for line in table["facts"].split(";"):
        left, right = (each.strip() for each in line.split(" = "))
        answers = tuple(each.strip() for each in right.split(" / "))
        there = _question(next(ask), left, answers, (), kind)
        wording = next(back)
        yield _Fact((there, _question(wording, answers[0], (left,), (), kind)) if wording else (there,))


def _question(wording: str, cue: str, answers: tuple[str, ...], wrong: tuple[str, ...], kind: str) -> GeneralQuestion:
    text = wording.replace("{}", cue)
    return GeneralQuestion(text[0].upper() + text[1:], answers, wrong, kind)


# What can be computed.

_ONES = str.split(
    """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
    nineteen"""
)
_TENS = str.split("twenty thirty forty fifty sixty seventy eighty ninety")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_WORDS = str.split(
    """table house river music garden window bread cloud stone paper train flower winter yellow orange island kitchen village
    number letter doctor mother friend school summer water bridge horse pencil market"""
)
_BY_SIZE = ("an ant", "a mouse", "a cat", "a dog", "a sheep", "a horse", "a rhinoceros", "an elephant", "a whale")


def in_words(number: int) -> str:
    """A whole number from 0 to 99 in English words."""
    if number < len(_ONES):
        return _ONES[number]
    tens, ones = divmod(number, 10)
    return _TENS[tens - 2] + (f"-{_ONES[ones]}" if ones else "")


def roman(number: int) -> str:
    """A whole number from 1 on as a Roman numeral."""
    written = ""
    for value, sign in (
        *((1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL")),
        *((10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")),
    ):
        times, number = divmod(number, value)
        written += sign * times
    return written


def _computed() -> Iterator[list[_Fact]]:
    """Facts that need no table, each kind by itself."""

    def facts(kind: str, asked: Iterable[tuple[str, Sequence[str], Sequence[str]]]) -> list[_Fact]:
        return [
            _Fact((GeneralQuestion(question, tuple(answers), tuple(wrong), kind),))
            for question, answers, wrong in asked
        ]

    def number(value: int) -> list[str]:
        return [str(value), *([in_words(value)] if value < 100 else [])]

    operands = [(a, b) for a in (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20) for b in range(1, 10)]
    sums: tuple[tuple[str, str, list[tuple[int, int]], Callable[[int, int], int]], ...] = (
        ("sum", "plus", operands[::2], operator.add),
        ("difference", "minus", [(a, b) for a, b in operands[1::2] if a > b], operator.sub),
        ("product", "times", [(a, b) for a, b in operands[::3] if a <= 12], operator.mul),
        ("quotient", "divided by", [(a * b, b) for a, b in operands[::4] if b > 1], operator.floordiv),
    )
    for kind, word, pairs, value in sums:
        ask = cycle(("What is {} {} {}?", "How much is {} {} {}?"))
        yield facts(kind, ((next(ask).format(a, word, b), number(value(a, b)), ()) for a, b in pairs))
    yield facts("half", ((f"What is half of {2 * each}?", number(each), ()) for each in (*range(1, 16), 20, 25, 50)))
    yield facts("double", ((f"What is twice {each}?", number(2 * each), ()) for each in (*range(3, 16), 20, 25, 40)))
    yield facts(
        "sequence",
        (
            (
                f"Which number comes next: {', '.join(map(str, range(start, start + 4 * step, step)))}?",
                number(start + 4 * step),
                (),
            )
            for step in (1, 2, 3, 5, 10)
            for start in (1, 2, 3, 4, 5, 10)
        ),
    )
    yield facts("after", ((f"Which number comes after {each}?", number(each + 1), ()) for each in range(4, 84, 4)))
    compared = [(each, each * 7 % 50 + 51 if each % 2 else each * 3 % 9 + 1) for each in range(12, 42)]
    yield facts(
        "larger", ((f"Which is larger, {a} or {b}?", number(max(a, b)), number(min(a, b))) for a, b in compared)
    )
    yield facts(
        "smaller",
        ((f"Which is smaller, {b + 5} or {a}?", number(min(a, b + 5)), number(max(a, b + 5))) for a, b in compared),
    )
    yield facts("digits", ((f"Write {in_words(each)} in digits.", [str(each)], ()) for each in range(11, 99, 4)))
    yield facts("in_words", ((f"Write the number {each} in words.", [in_words(each)], ()) for each in range(2, 90, 5)))
    numerals = (*range(1, 13), 14, 15, 19, 20, 30, 50, 100, 500)
    yield facts("roman", ((f"What number is the Roman numeral {roman(each)}?", number(each), ()) for each in numerals))
    yield facts("next_letter", ((f"Which letter comes after {a}?", [b], ()) for a, b in pairwise(_LETTERS)))
    yield facts("letter_before", ((f"Which letter comes before {b}?", [a], ()) for a, b in [*pairwise(_LETTERS)][1::2]))
    for kind, place in (("first", 0), ("last", -1)):
        yield facts(
            f"{kind}_letter",
            ((f'What is the {kind} letter of the word "{each}"?', [each[place]], ()) for each in _WORDS),
        )
    sizes: list[tuple[str, Sequence[str], Sequence[str]]] = []
    for small, big in combinations(_BY_SIZE, 2):
        shown = (small, big) if len(sizes) % 4 < 2 else (big, small)
        sizes.append((f"Which animal is bigger, {shown[0]} or {shown[1]}?", [big.split()[1]], [small.split()[1]]))
    yield facts("size", sizes)


# What is measured.

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
