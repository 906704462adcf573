"""Masks anywhere in a row are filled, and nothing else is touched."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kinject.errors import ConfigurationError, DataError
from kinject.sampling import SamplingConfig, infill, sample
from tests.sampling.models import MASK, Shifted, build_diffusion, random_prompts


@pytest.fixture(scope="module")
def model() -> Any:
    return build_diffusion()


def masked_rows(count: int, seed: int = 0) -> list[list[int]]:
    """Random rows, a random part of each hidden; the first token of some, and all but the last of one.

    Were all of it hidden, every position would see the same, and rounding would say which comes first.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = random_prompts(count, shortest=2, longest=20, seed=seed)
    hidden = [[bool(torch.rand((), generator=generator) < 0.4) for _ in row] for row in rows]
    hidden[0][0], hidden[1] = True, [True] * (len(rows[1]) - 1) + [False]
    return [
        [MASK if hide else token for token, hide in zip(row, hides, strict=True)]
        for row, hides in zip(rows, hidden, strict=True)
    ]


def reference(model: Any, row: list[int], block_length: int | None) -> list[int]:
    """One token a step, the most probable of the first block with masks."""
    ids = torch.tensor(row)
    while (ids == MASK).any():
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0]
        logits[:, MASK] = -torch.inf
        probability, best = logits.softmax(-1).max(-1)
        masks = (ids == MASK).nonzero()[:, 0]
        block = masks[masks // (block_length or len(row)) == masks[0] // (block_length or len(row))]
        place = block[probability[block].argmax()]
        ids[place] = best[place]
    return ids.tolist()


@pytest.mark.parametrize("block_length", [None, 4])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_rows_are_filled_as_by_a_plain_loop(model: Any, block_length: int | None, batch_size: int) -> None:
    rows = masked_rows(15)
    filled = infill(model, rows, SamplingConfig(block_length=block_length), batch_size=batch_size, history=True)
    assert filled.ids == [reference(model, row, block_length) for row in rows]
    for before, after, nfe, steps in zip(rows, filled.ids, filled.nfe, filled.history, strict=True):
        assert all(old in (MASK, new) for old, new in zip(before, after, strict=True)) and MASK not in after
        assert nfe == before.count(MASK) == len(steps)
        assert [step.ids for step in steps[-1:]] == [after][: len(steps)]


def test_any_setting_fills_rows_alike_alone_and_together(model: Any) -> None:
    rows = masked_rows(15, seed=1)
    config = SamplingConfig(steps=3, temperature=0.8, threshold=0.9)
    together = infill(model, rows, config)
    assert together.ids == [infill(model, [row], config).ids[0] for row in rows]
    assert all(MASK not in row for row in together.ids)
    assert max(together.nfe) == 3


def test_a_masked_tail_is_an_answer(model: Any) -> None:
    prompts = random_prompts(6)
    answers = sample(model, prompts, SamplingConfig(8)).ids
    filled = infill(model, [prompt + [MASK] * 8 for prompt in prompts], SamplingConfig(8))
    assert [row[-8:] for row in filled.ids] == answers


def test_with_shifted_logits_the_first_token_reads_its_own(model: Any) -> None:
    shifted = Shifted(model)
    rows = masked_rows(8, seed=3)
    with torch.no_grad():
        said = model(input_ids=torch.tensor([rows[0]])).logits[0].index_fill(1, torch.tensor([MASK]), -torch.inf)
    assert said[0].argmax() != said[1].argmax()
    config = SamplingConfig(block_length=1)
    filled = infill(shifted, rows, config, batch_size=4)
    assert filled.ids[0][0] == int(said[1].argmax())  # this model says at 0 what the other says at 1
    inner = [row if row[0] != MASK else [5, *row[1:]] for row in rows]
    assert infill(shifted, inner, config, batch_size=4).ids == infill(model, inner, config).ids


def test_rows_without_masks_and_empty_rows(model: Any) -> None:
    kept = infill(model, [[5, 6], [MASK, 5]])
    assert kept.ids[0] == [5, 6] and kept.nfe == [0, 1] and kept.ids[1][1] == 5
    with pytest.raises(DataError, match=r"rows\[1\] is empty"):
        infill(model, [[5], []])
    with pytest.raises(ConfigurationError, match="512 positions"):
        infill(model, [[MASK] * 513])
