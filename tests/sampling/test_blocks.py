"""Decoding of block diffusion models with a cache: against a plain decoder without one, alone and in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from kinject.errors import ConfigurationError
from kinject.models import attend_in_blocks
from kinject.sampling import SamplingConfig, infill, sample
from kinject.sampling.config import SamplingArguments
from tests.conftest import build_tokenizer
from tests.models.architectures import random_model
from tests.sampling.models import MASK, build_diffusion, random_prompts

BLOCK, LENGTH = 4, 14


def build(shifted: bool = False, clean: str = "block", **settings: Any) -> Any:
    model = build_diffusion(**settings)
    model.config.shifted_logits = shifted
    attend_in_blocks(model, BLOCK, clean)
    return model


def plain(
    model: Any, prompt: list[int], length: int, *, threshold: float | None, per_step: int = 1, ends: Sequence[int] = ()
) -> list[int]:
    """One answer, decoded without a cache, masks written out pair by pair."""
    shifted, causal = model.config.shifted_logits, model.config.clean_attention == "causal"
    row = list(prompt)
    while len(row) < len(prompt) + length:
        start = len(row) // BLOCK * BLOCK
        row += [MASK] * (start + BLOCK - len(row))
        while MASK in row[start:]:
            said = predictions(model, row, start, causal)
            if shifted:  # the first of a block by the last before it: of causal text, as the next token
                before = predictions(model, row[:start], start - BLOCK, causal=False)[-1:] if start else said[:1]
                if causal and start:
                    before = next_token(model, row[:start])
                said = torch.cat([before, said[:-1]])
            said[:, MASK] = -torch.inf
            best, chosen = said.softmax(-1).max(-1)
            masked = [place for place in range(BLOCK) if row[start + place] == MASK]
            ranked = sorted(masked, key=lambda place: -best[place].item())
            sure = [place for place in masked if threshold is not None and best[place] > threshold]
            for place in {*ranked[:per_step], *sure}:
                row[start + place] = int(chosen[place])
            answer = row[len(prompt) : len(prompt) + length]
            stop = next((place for place, token in enumerate(answer) if token in (MASK, *ends)), len(answer))
            if stop < len(answer) and answer[stop] in ends:
                return answer[: stop + 1]
    return row[len(prompt) : len(prompt) + length]


def next_token(model: Any, row: list[int]) -> torch.Tensor:
    mask = torch.zeros(1, 1, len(row), len(row)).masked_fill(torch.ones(len(row), len(row)).triu(1).bool(), -torch.inf)
    with torch.no_grad():
        return model(input_ids=torch.tensor([row]), attention_mask=mask, use_cache=False).logits[0, -1:].clone()


def predictions(model: Any, row: list[int], start: int, causal: bool) -> torch.Tensor:
    unseen = [
        [(k > q if causal and q < start else k // BLOCK > q // BLOCK) for k in range(len(row))] for q in range(len(row))
    ]
    mask = torch.zeros(1, 1, len(row), len(row)).masked_fill(torch.tensor(unseen), -torch.inf)
    with torch.no_grad():
        return model(input_ids=torch.tensor([row]), attention_mask=mask, use_cache=False).logits[0, start:].clone()


@pytest.mark.parametrize("threshold", [None, 0.3])
@pytest.mark.parametrize(("shifted", "clean"), [(False, "block"), (True, "block"), (False, "causal"), (True, "causal")])
def test_cached_batches_decode_what_a_plain_decoder_does(shifted: bool, clean: str, threshold: float | None) -> None:
    model = build(shifted, clean)
    prompts = random_prompts(9, longest=13)
    expected = [plain(model, prompt, LENGTH, threshold=threshold) for prompt in prompts]
    config = SamplingConfig(answer_length=LENGTH, threshold=threshold)
    together = sample(model, prompts, config, batch_size=9)
    assert together.ids == expected and len({tuple(ids) for ids in expected}) == 9
    alone = [sample(model, [prompt], config) for prompt in prompts]
    assert [each.ids[0] for each in alone] == expected
    assert together.nfe == [each.nfe[0] for each in alone]
    if threshold is None:
        assert together.nfe == [LENGTH + -(len(prompt) + LENGTH) % BLOCK for prompt in prompts]


def revised(
    model: Any, prompt: list[int], length: int, *, threshold: float, edit: float, ends: Sequence[int] = ()
) -> tuple[list[int], int, int]:
    """One answer as LLaDA2.1 writes it, with how many tokens were replaced and how many steps it took."""
    row, edits, steps = list(prompt), 0, 0
    while len(row) < len(prompt) + length:
        start = len(row) // BLOCK * BLOCK
        own = range(len(row) - start, BLOCK)
        row += [MASK] * len(own)
        after = 0
        while True:
            masked = [place for place in own if row[start + place] == MASK]
            after += not masked
            said = predictions(model, row, start, causal=False)
            said[:, MASK] = -torch.inf
            best, chosen = said.softmax(-1).max(-1)
            sure = [place for place in masked if best[place] > threshold]
            changes = {*sorted(masked, key=lambda place: -best[place].item())[:1], *sure}
            wrong = {
                place
                for place in own
                if place not in masked and chosen[place] != row[start + place] and best[place] > edit
            }
            for place in changes | wrong:
                row[start + place] = int(chosen[place])
            edits, steps = edits + len(wrong), steps + 1
            if not masked and (not wrong or after == 16):
                break
        answer = row[len(prompt) : len(prompt) + length]
        stop = next((place for place, token in enumerate(answer) if token in ends), len(answer))
        if stop < len(answer):
            return answer[: stop + 1], edits, steps
    return row[len(prompt) : len(prompt) + length], edits, steps


@pytest.mark.parametrize("edit", [0.0, 0.2, 0.6])
def test_tokens_of_the_block_in_work_are_replaced_as_by_a_plain_decoder(edit: float) -> None:
    model, prompts = build(), random_prompts(4, longest=13, seed=6)
    config = SamplingConfig(answer_length=LENGTH, threshold=0.3, edit_threshold=edit)
    whole = [revised(model, prompt, LENGTH, threshold=0.3, edit=edit) for prompt in prompts]
    ends = (whole[0][0][2], whole[3][0][6])
    ended = [revised(model, prompt, LENGTH, threshold=0.3, edit=edit, ends=ends) for prompt in prompts]
    for expected, given in ((whole, ()), (ended, ends)):
        found = sample(model, prompts, config, end_ids=given)
        assert list(zip(found.ids, found.edits, found.nfe, strict=True)) == expected
    alone = [sample(model, [prompt], config, end_ids=ends) for prompt in prompts]
    assert [(each.ids[0], each.edits[0], each.nfe[0]) for each in alone] == ended
    assert sum(found.edits) > 0 and ended != whole


@pytest.mark.parametrize("shifted", [False, True])
def test_replacing_needs_no_blocks_of_its_own_and_no_cache(shifted: bool) -> None:
    model, prompts = build_diffusion(), random_prompts(5, longest=9, seed=7)
    model.config.shifted_logits = shifted
    config = SamplingConfig(answer_length=12, block_length=4, threshold=0.3, edit_threshold=0.2)
    together = sample(model, prompts, config)
    alone = [sample(model, [prompt], config) for prompt in prompts]
    assert together.ids == [each.ids[0] for each in alone] and sum(together.edits) > 0
    assert together.edits == [each.edits[0] for each in alone]
    never = SamplingConfig(answer_length=12, block_length=4, threshold=0.3, edit_threshold=1.0)
    plainly = SamplingConfig(answer_length=12, block_length=4, threshold=0.3)
    assert sample(model, prompts, never).ids == sample(model, prompts, plainly).ids
    row = [*prompts[0], MASK, MASK, *prompts[1]]
    filled = infill(model, [row], SamplingConfig(edit_threshold=0.2)).ids[0]
    assert [each for each, was in zip(filled, row, strict=True) if was != MASK] == prompts[0] + prompts[1]


@pytest.mark.parametrize("shifted", [False, True])
def test_rows_leave_at_their_end_and_the_others_go_on_as_before(shifted: bool) -> None:
    model, prompts = build(shifted), random_prompts(12, longest=9, seed=3)
    whole = sample(model, prompts, SamplingConfig(answer_length=LENGTH, stop_at_end=False)).ids
    ends = [whole[0][3], whole[5][8]]
    expected = [plain(model, prompt, LENGTH, threshold=None, ends=ends) for prompt in prompts]
    found = sample(model, prompts, SamplingConfig(answer_length=LENGTH), end_ids=ends)
    assert found.ids == expected
    assert len({len(ids) for ids in expected}) > 2 and found.calls < sum(found.nfe)


@pytest.mark.parametrize("shifted", [False, True])
def test_rows_leave_in_the_first_block_before_anything_is_stored(shifted: bool) -> None:
    model, prompts = build(shifted), random_prompts(8, longest=6, seed=5)
    attend_in_blocks(model, 32, "block")
    config = SamplingConfig(answer_length=LENGTH)
    whole = sample(model, prompts, SamplingConfig(answer_length=LENGTH, stop_at_end=False)).ids
    ends = [whole[0][0], whole[3][1]]
    alone = [sample(model, [prompt], config, end_ids=ends).ids[0] for prompt in prompts]
    assert sample(model, prompts, config, end_ids=ends).ids == alone
    assert len({len(ids) for ids in alone}) > 2


@pytest.mark.parametrize("shifted", [False, True])
def test_the_cache_changes_nothing(shifted: bool) -> None:
    model, prompts = build(shifted), random_prompts(7, longest=10, seed=1)
    cached = sample(model, prompts, SamplingConfig(answer_length=LENGTH, stop_at_end=False))
    assert cached.ids == sample(model, prompts, SamplingConfig(answer_length=LENGTH, exact=True, stop_at_end=False)).ids


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_architectures_and_attentions_agree_with_the_plain_decoder(name: str, attention: str) -> None:
    model = random_model(name, build_tokenizer()).eval()
    model.set_attn_implementation(attention)
    from kinject.models import to_diffusion

    to_diffusion(model, MASK, shifted_logits=True, block_length=BLOCK)
    prompts = random_prompts(3, longest=7)
    expected = [plain(model, prompt, 9, threshold=None, per_step=2) for prompt in prompts]
    config = SamplingConfig(answer_length=8, block_length=4, steps=4)
    assert sample(model, prompts, config).ids == [ids[:8] for ids in expected]


def test_noise_depends_on_the_row_alone() -> None:
    model, prompts = build(), random_prompts(6, longest=11, seed=2)
    config = SamplingConfig(answer_length=LENGTH, temperature=1.0, seed=5)
    together = sample(model, prompts, config).ids
    assert together == [sample(model, [prompt], config).ids[0] for prompt in prompts]
    assert together != sample(model, prompts, SamplingConfig(answer_length=LENGTH, temperature=1.0, seed=6)).ids


def test_history_shows_every_step_of_a_row_and_no_waiting() -> None:
    model, prompts = build(), random_prompts(5, longest=6, seed=4)
    found = sample(model, prompts, SamplingConfig(answer_length=8, threshold=0.3), history=True)
    for ids, steps, taken in zip(found.ids, found.history, found.nfe, strict=True):
        assert steps[-1].ids == ids and len(steps) == taken
        places = [place for step in steps for place in step.committed]
        assert sorted(places) == list(range(8))


@pytest.mark.parametrize("shifted", [False, True])
def test_masks_amid_a_row_are_filled_block_by_block(shifted: bool) -> None:
    model = build(shifted)
    row = random_prompts(1, shortest=15, longest=15)[0]
    holes = [5, 6, 13]
    masked = [MASK if place in holes else token for place, token in enumerate(row)]
    found = infill(model, [masked, row[:4]]).ids
    assert found[1] == row[:4] and [each for place, each in enumerate(found[0]) if place not in holes] == [
        each for place, each in enumerate(row) if place not in holes
    ]
    # The last block is filled after all that stands before it, as an answer is.
    expected = plain(model, found[0][:13], 3, threshold=None)
    assert MASK not in found[0]
    later = infill(model, [found[0][:8] + [MASK] * 4]).ids[0][8:12]
    assert later == plain(model, found[0][:8], 4, threshold=None)
    assert len(expected) == 3


def test_prompts_that_leave_no_room_for_whole_blocks_are_refused() -> None:
    model = build(max_position_embeddings=18)
    assert len(sample(model, [[5, 6]], SamplingConfig(answer_length=14)).ids[0]) == 14
    with pytest.raises(ConfigurationError, match="18 positions .*of which it fills blocks of 4"):
        sample(model, [[5, 6, 7]], SamplingConfig(answer_length=14))


def test_other_blocks_than_the_models_own_are_refused() -> None:
    SamplingArguments(block_length=8).require_blocks_of(None)
    SamplingArguments(block_length=8).require_blocks_of(8)
    SamplingArguments().require_blocks_of(32)
    with pytest.raises(ConfigurationError, match="block_length is 8, and the model answers in blocks of 4"):
        SamplingArguments(block_length=8).require_blocks_of(4)
