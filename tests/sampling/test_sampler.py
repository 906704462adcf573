"""Answers: the same alone and in any batch, ended early without a change, and for shifted logits as well."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kinject.errors import ConfigurationError, DataError
from kinject.sampling import Sampled, SamplingConfig, sample
from tests.sampling.models import MASK, Shifted, build_diffusion, random_prompts

ENDS = (1, 2, 7, 12, 24)
CONFIGS = {
    "fast": SamplingConfig.fast(24),
    "fast_unsure": SamplingConfig.fast(24, threshold=0.5),
    "one_block": SamplingConfig(12),
    "few_steps": SamplingConfig(12, steps=6, block_length=6),
    "to_the_end": SamplingConfig(12, block_length=6, stop_at_end=False),
    "noise": SamplingConfig.fast(16, temperature=1.0, threshold=0.6),
    "one_block_of_noise": SamplingConfig(12, temperature=0.7),
    "published": SamplingConfig.published(12, 6, 4),
}


@pytest.fixture(scope="module")
def model() -> Any:
    return build_diffusion()


@pytest.mark.parametrize("name", CONFIGS)
def test_an_answer_is_the_same_alone_and_in_any_batch(model: Any, name: str) -> None:
    prompts = random_prompts(40, seed=len(name))
    together = sample(model, prompts, CONFIGS[name], end_ids=ENDS, batch_size=16, history=True)
    backwards = sample(model, prompts[::-1], CONFIGS[name], end_ids=ENDS, batch_size=3)
    assert backwards.ids[::-1] == together.ids and backwards.nfe[::-1] == together.nfe
    for row in range(0, 40, 5):
        alone = sample(model, [prompts[row]], CONFIGS[name], end_ids=ENDS, history=True)
        assert alone.ids == [together.ids[row]]
        assert alone.nfe == [together.nfe[row]]
        assert alone.history == [together.history[row]]
    assert len({tuple(answer) for answer in together.ids}) > 20


def test_padding_is_hidden_whatever_it_reads_as(model: Any) -> None:
    """Longest beside shortest: without the mask or the positions, the short row's answer is another one."""
    prompts = [*random_prompts(6, shortest=1, longest=3), *random_prompts(6, shortest=40, longest=60)]
    config = SamplingConfig.fast(24)
    together = sample(model, prompts, config, batch_size=12)
    assert together.ids == [sample(model, [prompt], config).ids[0] for prompt in prompts]


def test_positions_are_counted_from_the_row_s_first_token(model: Any) -> None:
    """A model with absolute positions would see padding without them; this one, with rotary ones, would not tell."""
    given: list[dict[str, torch.Tensor]] = []
    hook = model.register_forward_pre_hook(lambda module, positional, named: given.append(named), with_kwargs=True)
    sample(model, [[5], [5, 6, 7]], SamplingConfig(2))
    hook.remove()
    assert given[0]["attention_mask"].tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert given[0]["position_ids"].tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]]


def test_noise_depends_on_the_seed(model: Any) -> None:
    prompts = random_prompts(5)
    answers = {seed: sample(model, prompts, SamplingConfig(12, temperature=1.0, seed=seed)).ids for seed in (0, 1)}
    assert answers[0] != answers[1]
    assert sample(model, prompts, SamplingConfig(12, temperature=1.0, seed=1)).ids == answers[1]


def reference(model: Any, prompt: list[int], config: SamplingConfig) -> list[int]:
    """One prompt; the logits of everything at every step; commits by threshold, at least one; no early stop."""
    ids = torch.tensor(prompt + [MASK] * config.answer_length)
    block = config.block
    for start in range(len(prompt), len(ids), block):
        while (ids[start : start + block] == MASK).any():
            with torch.no_grad():
                logits = model(input_ids=ids[None]).logits[0]
            logits[:, MASK] = -torch.inf
            probability, best = logits.softmax(-1).max(-1)
            probability = probability.where(ids == MASK, torch.tensor(-1.0))
            probability[start + block :] = -1.0
            taken = probability > (config.threshold or 2.0)
            taken[probability.argmax()] = True
            ids = best.where(taken, ids)
    return ids[len(prompt) :].tolist()


@pytest.mark.parametrize("threshold", [None, 0.3, 0.7])
@pytest.mark.parametrize("block_length", [1, 4, 16])
def test_threshold_commits_equal_a_plain_loop(block_length: int, threshold: float | None) -> None:
    model = build_diffusion(says_mask=True)  # which must not be taken
    prompts = random_prompts(10, seed=block_length)
    config = SamplingConfig(16, block_length=block_length, threshold=threshold)
    sampled = sample(model, prompts, config)
    assert sampled.ids == [reference(model, prompt, config) for prompt in prompts]
    if threshold is None:
        assert sampled.nfe == [16] * 10
    elif block_length > 1:
        assert max(sampled.nfe) < 16 and len(set(sampled.nfe)) > 1


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_rows_that_end_leave_and_change_nothing(model: Any, threshold: float | None) -> None:
    prompts = random_prompts(30, seed=8)
    settings: dict[str, Any] = {"block_length": 4, "threshold": threshold}
    whole = sample(model, prompts, SamplingConfig(24, stop_at_end=False, **settings), end_ids=ENDS)
    sizes: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda module, positional, named: sizes.append(len(named["input_ids"])), with_kwargs=True
    )
    stopped = sample(model, prompts, SamplingConfig(24, **settings), end_ids=ENDS)
    hook.remove()
    for answer, found in zip(whole.ids, stopped.ids, strict=True):
        stop = next((place for place, token in enumerate(answer) if token in ENDS), len(answer))
        assert found == answer[: stop + 1]
    assert sum(stopped.nfe) < 0.7 * sum(whole.nfe)
    assert stopped.calls == len(sizes) == max(stopped.nfe)
    assert sizes == sorted(sizes, reverse=True) and sum(sizes) == sum(stopped.nfe)  # no row is evaluated for nothing


def test_steps_are_divided_with_the_remainder_first(model: Any) -> None:
    (steps,) = sample(model, [[5, 6]], SamplingConfig(14, steps=4), history=True).history
    assert [len(step.committed) for step in steps] == [4, 4, 3, 3]


@pytest.mark.parametrize("config", [SamplingConfig.fast(16), SamplingConfig.published(16, 8, 8)], ids=["fast", "exact"])
def test_shifted_logits_are_read_one_place_before(model: Any, config: SamplingConfig) -> None:
    prompts = random_prompts(12, seed=6)
    assert sample(Shifted(model), prompts, config, batch_size=5).ids == sample(model, prompts, config, batch_size=5).ids


def test_only_the_block_in_work_is_projected(model: Any) -> None:
    widths: list[int] = []
    hook = model.lm_head.register_forward_pre_hook(lambda module, given: widths.append(given[0].shape[1]))
    sample(model, random_prompts(6), SamplingConfig(16, block_length=4))
    hook.remove()
    assert widths and max(widths) == 4


def test_history_holds_every_step(model: Any) -> None:
    prompts = random_prompts(8, seed=9)
    sampled = sample(model, prompts, SamplingConfig.fast(16, threshold=0.5), end_ids=ENDS, batch_size=3, history=True)
    for answer, steps, nfe in zip(sampled.ids, sampled.history, sampled.nfe, strict=True):
        assert len(steps) == nfe
        before = [MASK] * 16
        for step in steps:
            assert step.committed == [place for place in range(16) if step.ids[place] != before[place]]
            assert all(before[place] == MASK for place in step.committed) and step.committed
            before = step.ids
        assert before[: len(answer)] == answer
    assert sample(model, prompts, SamplingConfig.fast(16)).history == []


def test_progress_and_no_prompts(model: Any) -> None:
    seen: list[tuple[int, int]] = []
    sample(model, random_prompts(5), SamplingConfig(2), batch_size=2, progress=lambda *counts: seen.append(counts))
    assert seen == [(2, 5), (4, 5), (5, 5)]
    assert sample(model, []) == Sampled([], [])


def test_half_precision_scores_do_not_tie() -> None:
    model = build_diffusion(sharpness=3.0).to(torch.bfloat16)
    dtypes: list[torch.dtype] = []
    softmax = torch.Tensor.softmax

    def spy(logits: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        if logits.shape[-1] == 61:
            dtypes.append(logits.dtype)
        return softmax(logits, *given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "softmax", spy)
        sample(model, [[5, 6]], SamplingConfig(4))
    assert dtypes == [torch.float32] * 4


def test_an_adapter_is_not_bypassed() -> None:
    from peft import LoraConfig, get_peft_model

    prompts = random_prompts(8)
    model = build_diffusion()
    plain = sample(model, prompts, SamplingConfig.fast(8)).ids
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"])).eval()
    assert sample(adapted, prompts, SamplingConfig.fast(8)).ids == plain
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
    assert sample(adapted, prompts, SamplingConfig.fast(8)).ids != plain


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([[5], []], r"prompts\[1\] is empty"),
        ([[5], [5, 6, MASK, 7]], rf"prompts\[1\] holds the mask token \(id {MASK}\) at position 2"),
    ],
)
def test_bad_prompts_are_named(model: Any, prompts: list[list[int]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        sample(model, prompts, SamplingConfig.fast(8))


def test_models_that_cannot_be_decoded_are_refused(model: Any) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {
        "vocab_size": 8,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
    }
    causal = LlamaForCausalLM(LlamaConfig(**sizes))
    with pytest.raises(ConfigurationError, match="causal"):
        sample(causal, [[5]])
    causal.config.is_causal = False
    with pytest.raises(ConfigurationError, match="mask_token_id"):
        sample(causal, [[5]])
    with pytest.raises(ConfigurationError, match="row 1 has 9 tokens and answer_length is 504, but the model has 512"):
        sample(model, [[5], [5] * 9], SamplingConfig(504))
    with pytest.raises(ConfigurationError, match="batch_size is 0"):
        sample(model, [[5]], batch_size=0)
