"""Forgetting as a number: perplexity that ignores padding, and the questions that were right before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest
import torch

from kinject.errors import KinjectError
from kinject.evaluation.retention import is_right, measure_retention, negative_log_likelihood
from kinject.evaluation.retention_texts import PARAGRAPHS, QUESTIONS

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

TEXTS = ["Bread is flour.", "x", "The Moon goes around the Earth once a month.", "Ünï"]


def test_the_embedded_set_is_sound() -> None:
    assert len(PARAGRAPHS) >= 25 and len(QUESTIONS) >= 60
    assert len(set(PARAGRAPHS)) == len(PARAGRAPHS)
    assert len({question for question, _ in QUESTIONS}) == len(QUESTIONS)
    for _, accepted in QUESTIONS:
        assert accepted and all(is_right(f"It is {each}.", accepted) for each in accepted)


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
    assert after["kept"] == 0.5 and after["answered"] == 0.5
    assert after["perplexity_ratio"] == pytest.approx(1.0)
    nothing = measure_retention(
        tiny_model, tiny_tokenizer, reference={**before, "right": []}, texts=TEXTS, questions=questions, ask=ask
    )
    assert nothing["kept"] == 1.0
    with pytest.raises(KinjectError, match="reference"):
        measure_retention(tiny_model, tiny_tokenizer, reference={"kept": 1}, texts=TEXTS, ask=ask)


def test_the_model_itself_is_asked(tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    measured = measure_retention(
        tiny_model, tiny_tokenizer, texts=TEXTS, questions=QUESTIONS[:3], max_new_tokens=2, batch_size=2
    )
    assert measured["answered"] == 0.0 and measured["right"] == []


def test_an_answer_is_right_by_whole_words() -> None:
    assert is_right("The capital of Italy is Rome.", ("rome",))
    assert not is_right("Romeo", ("rome",))
    assert is_right("There are twenty-four hours.", ("24", "twenty-four"))
    assert not is_right("", ("rome",))


def test_perplexity_of_a_diffusion_model_is_its_bound_with_fixed_noise(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    from kinject.evaluation.likelihood import answer_log_likelihood
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
