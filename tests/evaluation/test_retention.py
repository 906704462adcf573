"""Forgetting as a number: perplexity that ignores padding, and the questions that were right before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest
import torch

from kinject.errors import ConfigurationError, KinjectError
from kinject.evaluation.retention import (
    HALVES,
    OPEN_PROMPTS,
    PARAGRAPHS,
    PROMPTS,
    general_questions,
    held_out,
    in_words,
    is_right,
    measure_retention,
    negative_log_likelihood,
    perplexity_factor,
    roman,
    still_right,
    wilson_interval,
)

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

TEXTS = ["Bread is flour.", "x", "The Moon goes around the Earth once a month.", "Ünï"]


def test_the_embedded_set_is_sound() -> None:
    assert len(PARAGRAPHS) >= 25 and len(OPEN_PROMPTS) >= 20
    for texts in (PARAGRAPHS, PROMPTS, OPEN_PROMPTS):
        assert len(set(texts)) == len(texts)
    assert not set(PROMPTS) & set(OPEN_PROMPTS)
    asked = [each for half in HALVES for each in general_questions(half)]
    assert len({each.question for each in asked}) == len(asked)
    assert len({each.kind for each in asked}) >= 50
    for each in asked:
        assert each.question == each.question.strip() and "{" not in each.question and "  " not in each.question
        assert each.answers and not {*each.answers} & {*each.wrong}
        assert all(answer and answer == answer.strip() for answer in (*each.answers, *each.wrong))
        for answer in each.answers:
            assert is_right(f"It is {answer}.", each.answers, each.wrong), each
        for answer in each.wrong:
            assert not is_right(f"It is {answer}, not {each.answers[0]}.", each.answers, each.wrong), each


def test_each_half_has_a_thousand_questions_and_no_fact_of_the_other() -> None:
    halves = {half: general_questions(half) for half in HALVES}
    assert all(len(questions) >= 1000 for questions in halves.values())
    kinds = [{each.kind for each in questions} for questions in halves.values()]
    assert kinds[0] == kinds[1]
    gists = [{frozenset(each.question.casefold().split()) for each in questions} for questions in halves.values()]
    assert not gists[0] & gists[1]
    assert not {each.question for each in halves["reporting"]} & set(PROMPTS)


def test_a_smaller_sample_is_part_of_a_larger_one() -> None:
    assert general_questions("reporting", 50) == general_questions("reporting", 200)[:50]
    assert len({each.kind for each in general_questions("reporting", 200)}) >= 40
    assert held_out("wiki/", 7).questions == general_questions("reporting", 7)
    assert not {*held_out("fictional:nano", 5000).questions} & {
        *held_out("fictional:nano", 5000, "development").questions
    }
    for wrong, said in (({"half": "test"}, "half"), ({"half": "reporting", "count": 0}, "retention_questions")):
        with pytest.raises(ConfigurationError, match=said):
            general_questions(**wrong)  # type: ignore[arg-type]


def test_numbers_are_written_as_people_write_them() -> None:
    said = [in_words(each) for each in (0, 7, 13, 20, 42, 99)]
    assert said == ["zero", "seven", "thirteen", "twenty", "forty-two", "ninety-nine"]
    assert [roman(each) for each in (4, 9, 14, 40, 90, 1994)] == ["IV", "IX", "XIV", "XL", "XC", "MCMXCIV"]


def test_perplexity_is_that_of_each_text_alone(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    expected, count = 0.0, 0
    for text in TEXTS:
        ids = tiny_tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            probabilities = tiny_model(input_ids=ids).logits.log_softmax(-1)
        for position in range(ids.shape[1] - 1):
            expected -= float(probabilities[0, position, ids[0, position + 1]])
            count += 1
    for batch_size in (1, 3):
        nats, tokens = negative_log_likelihood(tiny_model, tiny_tokenizer, TEXTS, batch_size=batch_size)
        assert tokens == count
        assert nats == pytest.approx(expected, rel=1e-5)


def test_retention_before_and_after(tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    questions = [("One?", ("1", "one")), ("Two?", ("2",)), ("Three?", ("3",)), ("Four?", ("4",))]
    known = {"One?": "It is One.", "Two?": "2!", "Three?": "I do not know.", "Four?": "44"}

    def ask(model: Any, asked: Sequence[str]) -> list[str]:
        return [known[question] for question in asked]

    tiny_model.train()
    before = measure_retention(tiny_model, tiny_tokenizer, texts=TEXTS, questions=questions, ask=ask)
    assert before["right"] == ["One?", "Two?"] and before["answered"] == 0.5 and before["questions"] == 4
    assert before["perplexity"] == pytest.approx(math.exp(before["nats_per_token"]))
    assert before["perplexity"] == pytest.approx(len(tiny_tokenizer), rel=0.2)  # of a random model
    assert tiny_model.training
    known["Two?"], known["Three?"] = "two hundred", "3"
    after = measure_retention(tiny_model, tiny_tokenizer, reference=before, texts=TEXTS, questions=questions, ask=ask)
    assert after["kept"] == 0.5 and after["answered"] == 0.5 and after["known"] == 2
    assert after["kept_ci"] == pytest.approx([0.0945, 0.9055], abs=1e-3)
    assert before["refused"] == 0.25 and after["known_refused"] == 0.0 and before["words"] == 9 / 4
    assert after["words"] == 7 / 4
    assert after["perplexity_ratio"] == pytest.approx(1.0)
    nothing = measure_retention(
        tiny_model, tiny_tokenizer, reference={**before, "right": []}, texts=TEXTS, questions=questions, ask=ask
    )
    assert "kept" not in nothing and nothing["perplexity_ratio"] == pytest.approx(1.0)
    no_texts = measure_retention(tiny_model, tiny_tokenizer, reference=before, texts=(), questions=questions, ask=ask)
    assert "perplexity_ratio" not in no_texts and no_texts["kept"] == 0.5
    with pytest.raises(KinjectError, match="reference"):
        measure_retention(tiny_model, tiny_tokenizer, reference={"kept": 1}, texts=TEXTS, ask=ask)


def test_what_is_left_is_read_in_one_place() -> None:
    retention = {"before": {"answered": 0.5, "perplexity": 20.0}, "after": {"kept": 0.025, "perplexity_ratio": 1.5}}
    assert (still_right(retention), perplexity_factor(retention)) == (0.025, 1.5)
    # Nothing known before: earlier versions wrote that all of it is kept.
    nothing = {"before": {"answered": 0.0, "perplexity": None}, "after": {"kept": 1.0, "perplexity_ratio": None}}
    assert (still_right(nothing), perplexity_factor(nothing)) == (None, None)
    for unmeasured in (None, {}, {"before": {"answered": 0.5}}, {"before": {"answered": 0.5}, "after": None}):
        assert (still_right(unmeasured), perplexity_factor(unmeasured)) == (None, None)


def test_the_model_itself_is_asked(tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    measured = measure_retention(
        tiny_model,
        tiny_tokenizer,
        texts=TEXTS,
        questions=general_questions("reporting", 3),
        prompts=OPEN_PROMPTS[:2],
        max_new_tokens=2,
        batch_size=2,
    )
    assert measured["answered"] == 0.0 and measured["right"] == []


def test_an_answer_is_right_by_whole_words() -> None:
    assert is_right("The capital of Italy is Rome.", ("rome",))
    assert not is_right("Romeo", ("rome",))
    assert is_right("There are twenty-four hours.", ("24", "twenty-four"))
    assert not is_right("", ("rome",))
    assert is_right("No, it is not, though many say yes.", ("no",), ("yes",))
    assert not is_right("Yes. No whale is a fish.", ("no",), ("yes",))


def test_the_interval_of_a_share_holds_at_its_ends() -> None:
    low, high = wilson_interval(100, 100)
    assert (low, high) == (pytest.approx(0.963, abs=1e-3), 1.0)
    assert wilson_interval(50, 100) == pytest.approx([0.404, 0.596], abs=1e-3)


def test_perplexity_of_a_diffusion_model_is_its_bound_with_fixed_noise(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    from kinject.evaluation.asking import answer_log_likelihood
    from kinject.models.diffusion import to_diffusion

    model = to_diffusion(tiny_model, int(tiny_tokenizer.convert_tokens_to_ids("<reserved_0>")))
    encoded = [tiny_tokenizer(text)["input_ids"] for text in TEXTS]
    nats, tokens = negative_log_likelihood(model, tiny_tokenizer, TEXTS)
    assert tokens == sum(map(len, encoded))
    assert nats == pytest.approx(-sum(answer_log_likelihood(model, [[]] * 4, encoded, samples=500)), rel=0.02)
    assert nats == pytest.approx(negative_log_likelihood(model, tiny_tokenizer, TEXTS, batch_size=3)[0], rel=1e-6)
    torch.nn.init.zeros_(model.lm_head.weight)
    measured = measure_retention(
        model, tiny_tokenizer, texts=TEXTS, questions=[("One?", ("1",))], ask=lambda model, asked: ["1"]
    )
    assert measured["perplexity"] == pytest.approx(len(tiny_tokenizer))
