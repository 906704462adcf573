"""Masked diffusion models are asked through the same door: the same contract, by the sampler instead of `generate`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kinject.errors import ConfigurationError, KinjectError
from kinject.evaluation.asking import answer_ends, answer_questions
from kinject.prompts.templates import QuestionTemplate
from kinject.sampling import SamplingConfig, Step, sample
from tests.conftest import build_model
from tests.evaluation.parts import MASK, QUESTION_TEXTS, TOKENIZER, build_diffusion
from tests.processes import run_two


@pytest.fixture
def model() -> Any:
    return build_diffusion()


def reference_answer(model: Any, question: str, config: SamplingConfig) -> str:
    """Asked alone through the sampler, cut at the first of the ends."""
    template = QuestionTemplate(TOKENIZER)
    ids = sample(model, [template.encode(question)], config, end_ids=template.end_ids).ids[0]
    ends = {*template.end_ids, TOKENIZER.pad_token_id}
    stop = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    return TOKENIZER.decode(ids[:stop], skip_special_tokens=True).strip()


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_answers_do_not_depend_on_the_batch(model: Any, batch_size: int) -> None:
    expected = [reference_answer(model, question, SamplingConfig.fast(12)) for question in QUESTION_TEXTS]
    assert len(set(expected)) > 2 and len({len(answer) for answer in expected}) > 1
    assert answer_questions(model, TOKENIZER, QUESTION_TEXTS, max_new_tokens=12, batch_size=batch_size) == expected


def test_a_named_sampling_is_used(model: Any) -> None:
    config = SamplingConfig.published(12, 6, 4)
    expected = [reference_answer(model, question, config) for question in QUESTION_TEXTS]
    assert answer_questions(model, TOKENIZER, QUESTION_TEXTS, sampling=config) == expected
    assert answer_questions(model, TOKENIZER, QUESTION_TEXTS, sampling=SamplingConfig.fast(12)) != expected


def test_answers_are_cut_at_max_new_tokens(model: Any) -> None:
    for length in (1, 6, 7):
        answers = answer_questions(model, TOKENIZER, QUESTION_TEXTS, max_new_tokens=length)
        assert all(len(TOKENIZER(answer)["input_ids"]) <= length for answer in answers if "�" not in answer)
    long = answer_questions(model, TOKENIZER, QUESTION_TEXTS, max_new_tokens=8)
    short = answer_questions(model, TOKENIZER, QUESTION_TEXTS, max_new_tokens=3, sampling=SamplingConfig.fast(8))
    assert short != long and all(a.startswith(b) for a, b in zip(long, short, strict=True) if "�" not in b)


def test_every_end_cuts_an_answer(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """LLaDA ends a turn with one token and pads with another; the text of neither may stay behind."""
    template = QuestionTemplate(TOKENIZER)
    model.config.eos_token_id, model.config.pad_token_id = [70, 71], TOKENIZER.pad_token_id
    ends = answer_ends(model, TOKENIZER, template)
    named = [TOKENIZER.convert_tokens_to_ids(name) for name in ("<|im_end|>", "<|endoftext|>", "<|pad|>")]
    assert sorted(ends) == sorted([*named, 70, 71])
    model.config.pad_token_id = 65  # an ordinary token: padding is hidden, but in an answer it stands for itself
    assert sorted(answer_ends(model, TOKENIZER, template)) == sorted(ends)
    model.config.eos_token_id = MASK
    assert sorted(answer_ends(model, TOKENIZER, template)) == sorted(named)
    model.config.eos_token_id = None

    spelled = TOKENIZER.encode("Paris", add_special_tokens=False)

    def forced(given: Any, prompts: Any, config: Any, *, end_ids: Any, **others: Any) -> Any:
        from kinject.sampling import Sampled

        return Sampled([[*spelled, end, *spelled] for end in named], [1] * 3)

    monkeypatch.setattr("kinject.evaluation.asking.sample", forced)
    assert answer_questions(model, TOKENIZER, ["a", "b", "c"]) == ["Paris"] * 3


def test_equal_questions_order_and_progress(model: Any) -> None:
    seen: list[tuple[int, int]] = []
    asked = [*QUESTION_TEXTS, *reversed(QUESTION_TEXTS)]
    twice = answer_questions(
        model, TOKENIZER, asked, max_new_tokens=6, batch_size=4, progress=lambda *counts: seen.append(counts)
    )
    assert twice[: len(QUESTION_TEXTS)] == twice[: len(QUESTION_TEXTS) - 1 : -1]
    assert seen == [(4, 6), (6, 6)]
    assert answer_questions(model, TOKENIZER, []) == []


def test_every_answer_can_be_watched(model: Any) -> None:
    seen: dict[str, list[Step]] = {}
    answer_questions(
        model,
        TOKENIZER,
        QUESTION_TEXTS,
        max_new_tokens=8,
        watch=lambda question, steps: seen.update({question: list(steps)}),
    )
    assert list(seen) == list(QUESTION_TEXTS)
    for steps in seen.values():
        masks = [step.ids.count(MASK) for step in steps]
        assert len(masks) > 1 and masks[-1] == 0 and masks == sorted(set(masks), reverse=True)


def test_wrapped_models_answer_and_adapters_are_not_bypassed(model: Any) -> None:
    from peft import LoraConfig, get_peft_model

    plain = answer_questions(model, TOKENIZER, QUESTION_TEXTS, max_new_tokens=8)
    assert answer_questions(torch.nn.DataParallel(model), TOKENIZER, QUESTION_TEXTS, max_new_tokens=8) == plain
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=True))
    assert answer_questions(adapted, TOKENIZER, QUESTION_TEXTS, max_new_tokens=8) == plain
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
    assert answer_questions(adapted, TOKENIZER, QUESTION_TEXTS, max_new_tokens=8) != plain
    with adapted.disable_adapter():
        assert answer_questions(adapted, TOKENIZER, QUESTION_TEXTS, max_new_tokens=8) == plain


def test_the_mode_is_restored_and_the_model_still_trains(model: Any) -> None:
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    answer_questions(model, TOKENIZER, QUESTION_TEXTS, max_new_tokens=4)
    assert model.training and model.is_gradient_checkpointing
    ids = torch.tensor([[1, 2, 3]])
    model(input_ids=ids, labels=ids).loss.backward()


def test_bad_arguments_name_themselves(model: Any) -> None:
    with pytest.raises(KinjectError, match="max_new_tokens"):
        answer_questions(model, TOKENIZER, ["q"], max_new_tokens=0)
    with pytest.raises(KinjectError, match="batch_size"):
        answer_questions(model, TOKENIZER, ["q"], batch_size=0)
    with pytest.raises(KinjectError, match="1024 positions"):
        answer_questions(model, TOKENIZER, ["q" * 1000], max_new_tokens=100)
    with pytest.raises(ConfigurationError, match="temperature is for autoregressive models"):
        answer_questions(model, TOKENIZER, ["q"], temperature=1.0)
    causal = build_model(TOKENIZER)
    with pytest.raises(ConfigurationError, match="sampling is for masked diffusion models"):
        answer_questions(causal, TOKENIZER, ["q"], sampling=SamplingConfig.fast())
    with pytest.raises(ConfigurationError, match="watch is for masked diffusion models"):
        answer_questions(causal, TOKENIZER, ["q"], watch=lambda question, steps: None)


def test_processes_that_share_a_sharded_model_wait_for_each_other() -> None:
    """One process answers one question, the other five; without staying in step the shorter one would leave early."""
    printed = run_two("tests.evaluation.sharded_asking")
    assert all(f"process {rank} done" in printed[rank] for rank in range(2))
