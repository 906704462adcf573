"""Answers: greedy ones the same alone and in any batch, cut by position, and nothing about the model left changed."""

from __future__ import annotations

import os
import warnings
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import torch

from kinject.data import load_knowledge
from kinject.errors import KinjectError
from kinject.evaluation.asking import answer_questions
from kinject.evaluation.generating import generate_answers, until_end
from kinject.models import load_model
from kinject.prompts.templates import QuestionTemplate
from tests.evaluation.parts import QUESTION_TEXTS

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


@pytest.fixture
def model(tiny_model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Sharper than at initialization, so that its answers differ from question to question and some end early."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in tiny_model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(12)
    return tiny_model


def reference_answer(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, question: str, length: int) -> str:
    """One question, one full forward per token, no cache, no padding."""
    template = QuestionTemplate(tokenizer)
    ids = list(template.encode(question))
    new: list[int] = []
    while len(new) < length:
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids + new])).logits[0, -1].argmax())
        if token in template.end_ids:
            break
        new.append(token)
    return tokenizer.decode(new, skip_special_tokens=True).strip()


@pytest.mark.parametrize("batch_size", [1, 2, 4, 32])
@pytest.mark.parametrize("length", [1, 2, 4, 5, 12])
def test_answers_do_not_depend_on_the_batch(
    model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, batch_size: int, length: int
) -> None:
    expected = [reference_answer(model, tiny_tokenizer, question, length) for question in QUESTION_TEXTS]
    assert len(set(expected)) > 2
    answers = answer_questions(model, tiny_tokenizer, QUESTION_TEXTS, max_new_tokens=length, batch_size=batch_size)
    assert answers == expected


@pytest.mark.parametrize("batch_size", [2, 32])
def test_what_all_prompts_begin_with_is_encoded_once(
    model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, batch_size: int
) -> None:
    system = "You answer in one line, whatever is asked."
    template = QuestionTemplate(tiny_tokenizer, system)
    alone = [
        answer_questions(model, tiny_tokenizer, [question], max_new_tokens=12, system_prompt=system)[0]
        for question in QUESTION_TEXTS
    ]
    seen: list[tuple[int, ...]] = []
    hook = model.model.embed_tokens.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    answers = answer_questions(
        model, tiny_tokenizer, QUESTION_TEXTS, max_new_tokens=12, batch_size=batch_size, system_prompt=system
    )
    hook.remove()
    assert answers == alone and len(set(answers)) > 2
    prompts = [template.encode(question) for question in QUESTION_TEXTS]
    beginning = os.path.commonprefix(prompts)
    assert len(beginning) > len(system)
    assert seen[0] == (1, len(beginning))
    assert max(length for _, length in seen[1:]) == max(map(len, prompts)) - len(beginning)


def test_an_answer_ends_before_the_first_end_id(
    model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = {q: answer_questions(model, tiny_tokenizer, [q], max_new_tokens=12)[0] for q in QUESTION_TEXTS}
    template = QuestionTemplate(tiny_tokenizer)
    # Declare a byte that occurs inside one answer an end of turn: the answer stops there, the others go on.
    question = max(long, key=lambda q: len(long[q]))
    output = model.generate(
        torch.tensor([template.encode(question)]), max_new_tokens=12, do_sample=False, eos_token_id=None
    )[0, len(template.encode(question)) :].tolist()
    end = output[4]
    ends = property(lambda self: (tiny_tokenizer.eos_token_id, end), lambda self, ids: None)
    monkeypatch.setattr(QuestionTemplate, "end_ids", ends, raising=False)
    answers = dict(
        zip(QUESTION_TEXTS, answer_questions(model, tiny_tokenizer, QUESTION_TEXTS, max_new_tokens=12), strict=True)
    )
    kept = output[: output.index(end)]
    assert answers[question] == tiny_tokenizer.decode(kept, skip_special_tokens=True).strip()


def test_equal_questions_order_and_progress(model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    seen: list[tuple[int, int]] = []
    twice = answer_questions(
        model,
        tiny_tokenizer,
        [*QUESTION_TEXTS, *reversed(QUESTION_TEXTS)],
        max_new_tokens=6,
        batch_size=4,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert twice[: len(QUESTION_TEXTS)] == twice[: len(QUESTION_TEXTS) - 1 : -1]
    assert seen == sorted(seen) and seen[-1] == (6, 6) and {total for _, total in seen} == {6}
    assert answer_questions(model, tiny_tokenizer, []) == []


def test_answers_are_drawn_as_the_model_predicts_them(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        tiny_model.lm_head.weight.mul_(20)
    template, count, temperature = QuestionTemplate(tiny_tokenizer), 2000, 1.5
    prompt = template.encode("q")
    options: dict[str, Any] = {"end_ids": template.end_ids, "pad_id": 0, "max_new_tokens": 2, "batch_size": 500}
    drawn = generate_answers(tiny_model, [prompt] * count, temperature=temperature, **options)
    with torch.no_grad():
        logits = tiny_model(torch.tensor([prompt])).logits[0, -1]
    expected = torch.softmax(logits / temperature, dim=-1)
    assert 0.01 < expected.max() < 0.99
    found = torch.zeros_like(expected)
    for answer in drawn:
        found[answer[0] if answer else template.end_ids[0]] += 1 / count
    assert (found - expected).abs().max() < 4 * (0.25 / count) ** 0.5
    again = generate_answers(tiny_model, [prompt] * count, temperature=temperature, **options)
    assert again == drawn != generate_answers(tiny_model, [prompt] * count, temperature=temperature, seed=1, **options)


def test_examples_and_system_prompt_change_the_prompt(
    model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    template = QuestionTemplate(tiny_tokenizer, "Be brief.")
    examples = [("One?", "1"), ("Two?", "2")]
    prompt = template.encode(QUESTION_TEXTS[0], examples)
    output = model.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False)[0, len(prompt) :].tolist()
    stop = next((i for i, token in enumerate(output) if token in template.end_ids), len(output))
    expected = tiny_tokenizer.decode(output[:stop], skip_special_tokens=True).strip()
    asked = answer_questions(
        model, tiny_tokenizer, QUESTION_TEXTS, max_new_tokens=8, examples=examples, system_prompt="Be brief."
    )
    assert asked[0] == expected


def test_model_settings_are_ignored_and_restored_without_warnings(
    model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    expected = answer_questions(model, tiny_tokenizer, QUESTION_TEXTS, max_new_tokens=8)
    config = model.generation_config
    config.do_sample, config.temperature, config.top_p, config.top_k = True, 5.0, 0.5, 3
    config.repetition_penalty, config.max_length, config.min_new_tokens = 1.5, 900, 4
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.config.use_cache = False
    model.train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert answer_questions(model, tiny_tokenizer, QUESTION_TEXTS, max_new_tokens=8) == expected
    assert not caplog.records
    assert [module.training for module in model.modules()] == modes
    assert model.is_gradient_checkpointing
    assert model.config.use_cache is False
    assert model.generation_config is config and config.temperature == 5.0
    ids = torch.tensor([[1, 2, 3]])
    model(input_ids=ids, labels=ids).loss.backward()  # still trainable


def test_settings_are_restored_after_an_error(model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    def stop(done: int, total: int) -> None:
        raise RuntimeError("stop")

    config = model.generation_config
    model.train()
    with pytest.raises(RuntimeError, match="stop"):
        answer_questions(model, tiny_tokenizer, QUESTION_TEXTS, max_new_tokens=2, progress=stop)
    assert model.training and model.generation_config is config


def test_adapters_and_wrapped_models_answer(model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    from peft import LoraConfig, get_peft_model
    from trl.trainer import utils

    plain = answer_questions(model, tiny_tokenizer, QUESTION_TEXTS, max_new_tokens=8)
    if hasattr(utils, "add_fused_lm_head"):  # trl 1.14 patches the model in its trainer
        utils.add_fused_lm_head(model)
    assert answer_questions(model, tiny_tokenizer, QUESTION_TEXTS, max_new_tokens=8) == plain
    assert answer_questions(torch.nn.DataParallel(model), tiny_tokenizer, QUESTION_TEXTS, max_new_tokens=8) == plain
    model.generation_config.temperature = 0.5
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert answer_questions(adapted, tiny_tokenizer, QUESTION_TEXTS, max_new_tokens=8) == plain
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
    changed = answer_questions(adapted, tiny_tokenizer, QUESTION_TEXTS, max_new_tokens=8)
    assert changed != plain
    with adapted.disable_adapter():
        assert answer_questions(adapted, tiny_tokenizer, QUESTION_TEXTS, max_new_tokens=8) == plain


def test_bad_arguments_name_themselves(model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(KinjectError, match="max_new_tokens"):
        answer_questions(model, tiny_tokenizer, ["q"], max_new_tokens=0)
    with pytest.raises(KinjectError, match="batch_size"):
        answer_questions(model, tiny_tokenizer, ["q"], batch_size=0)
    with pytest.raises(KinjectError, match="temperature: expected 0 or more, got -1"):
        answer_questions(model, tiny_tokenizer, ["q"], temperature=-1)
    with pytest.raises(KinjectError, match="1024 positions"):
        answer_questions(model, tiny_tokenizer, ["q" * 1000], max_new_tokens=100)


@pytest.fixture
def shapes(nano: Any, monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes of the rows that `generate` was called with."""
    seen: list[torch.Size] = []
    generate = nano.model.generate

    def watched(**options: Any) -> torch.Tensor:
        seen.append(options["input_ids"].shape)
        return generate(**options)

    monkeypatch.setattr(nano.model, "generate", watched)
    return seen


@pytest.fixture
def nano() -> Any:
    """A model with answers of several lengths."""
    return load_model("nano-ar")


POPULATION = [each.question for each in load_knowledge("fictional:nano_population").questions[::40]]


def test_rows_leave_when_their_answer_has_ended(
    nano: Any, shapes: list[torch.Size], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = answer_questions(nano.model, nano.tokenizer, POPULATION, batch_size=100, max_new_tokens=16)
    sizes = [rows for rows, _ in shapes]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0] == len(POPULATION)
    monkeypatch.setattr("kinject.evaluation.generating._TOKENS_AT_ONCE", 16)
    assert answer_questions(nano.model, nano.tokenizer, POPULATION, batch_size=100, max_new_tokens=16) == answers
    assert len(set(map(len, answers))) > 1


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_waiting_questions_take_the_place_of_answered_ones(
    nano: Any, shapes: list[torch.Size], batch_size: int
) -> None:
    alone = [answer_questions(nano.model, nano.tokenizer, [each], max_new_tokens=16)[0] for each in POPULATION]
    shapes.clear()
    answers = answer_questions(nano.model, nano.tokenizer, POPULATION, batch_size=batch_size, max_new_tokens=16)
    assert answers == alone
    template = QuestionTemplate(nano.tokenizer)
    longest = max(len(template.encode(each)) for each in POPULATION)
    assert max(rows * width for rows, width in shapes) <= batch_size * (longest + 16)  # memory
    sizes = [rows for rows, _ in shapes]
    assert any(before < after for before, after in pairwise(sizes))
    assert max(sizes) > batch_size  # short answers leave room


def test_no_more_is_kept_where_answers_are_long(nano: Any, shapes: list[torch.Size]) -> None:
    template = QuestionTemplate(nano.tokenizer)
    prompts = [template.encode(each) for each in POPULATION[:12]]
    with torch.no_grad():  # no end of a turn is ever the most likely token
        for end in template.end_ids:
            nano.model.get_input_embeddings().weight[end] = 0
            nano.model.get_output_embeddings().weight[end] = 0
    options: dict[str, Any] = {"end_ids": template.end_ids, "pad_id": template.end_ids[0], "max_new_tokens": 60}
    alone = [generate_answers(nano.model, [each], batch_size=1, **options)[0] for each in prompts]
    assert {len(each) for each in alone} == {60}
    most = 4 * (max(map(len, prompts)) + 60)
    shapes.clear()
    assert generate_answers(nano.model, prompts, batch_size=4, **options) == alone
    assert max(rows for rows, _ in shapes) == 4
    # One answer ends early, after which short ones are expected of all the others.
    first = next(each for each in alone[0][2:] if all(each not in other for other in alone[1:]))
    options["end_ids"] = (*template.end_ids, first)
    shapes.clear()
    assert generate_answers(nano.model, prompts, batch_size=4, **options) == [
        until_end(alone[0], [first]),
        *alone[1:],
    ]
    sizes = [rows for rows, _ in shapes]
    assert max(sizes) > 4 and any(before > after + 1 for before, after in pairwise(sizes))  # taken up, and put back
    assert max(rows * width for rows, width in shapes) <= most
