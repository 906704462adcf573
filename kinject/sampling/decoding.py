"""Fills the masks of one batch, step by step; every row goes at its own pace and leaves when it is finished.

Rows are padded on the left, under an attention mask and with explicit positions, and nothing that happens to a row
depends on the others: not its block, its budget, its noise, nor when it stops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from kinject.models.diffusion import DiffusionSettings
from kinject.sampling import noise, scores
from kinject.sampling.config import SamplingConfig
from kinject.sampling.prediction import Predictor
from kinject.sampling.rows import NO_BLOCK, Rows


def decode(
    model: Any,
    rows: Rows,
    config: SamplingConfig,
    settings: DiffusionSettings,
    *,
    steps_per_block: int,
    end_ids: Sequence[int],
    watch: Callable[[Rows, torch.Tensor], None] | None = None,
) -> tuple[list[list[int]], list[int], int]:
    """Fill the masks of ``rows``.

    Args:
        model: A masked diffusion model.
        rows: From `batch_rows`; changed in place.
        config: How to decode.
        settings: How to call the model.
        steps_per_block: Steps after which all of a block is committed.
        end_ids: Tokens that end an answer.
        watch: Called after every step with the rows and where, (rows, width), they were just committed.

    Returns:
        The ids of every row with its padding, the steps it took, and how often the model was called.
    """
    count, width = rows.ids.shape
    finished: list[list[int]] = [[] for _ in range(count)]
    taken = [0] * count
    calls = 0
    ends = torch.tensor(list(end_ids), dtype=torch.int64, device=rows.ids.device)
    predict = Predictor.of(model, rows, config, settings)
    done = rows.block == NO_BLOCK
    while True:
        # The one wait for the device in a step: who is done, and which columns the others work on.
        columns_in_work = (rows.in_work & ~done[:, None]).any(dim=0)
        flags = torch.cat([done, columns_in_work]).tolist()
        leaving = flags[: len(rows.index)]
        if any(leaving):
            for row, index, ids, steps in zip(
                leaving, rows.index.tolist(), rows.ids.tolist(), rows.taken.tolist(), strict=True
            ):
                if row:
                    finished[index], taken[index] = ids, steps
            kept = [row for row, leaves in enumerate(leaving) if not leaves]
            if not kept:
                return finished, taken, calls
            rows = rows.take(torch.tensor(kept, device=rows.ids.device))
        places = [column for column, used in enumerate(flags[len(leaving) :]) if used]
        columns = torch.tensor(range(width) if config.exact else places, device=rows.ids.device)
        committed = _step(predict, rows, columns, steps_per_block)
        calls += 1
        if watch is not None:
            watch(rows, committed)
        done = rows.block == NO_BLOCK
        if config.stop_at_end and end_ids:
            done |= _ended(rows, ends)


def _step(predict: Predictor, rows: Rows, columns: torch.Tensor, steps_per_block: int) -> torch.Tensor:
    """Predict, commit and go on; returns where tokens were committed, (rows, width)."""
    config, positions = predict.config, rows.positions[:, columns]
    logits = predict(rows, columns)  # (rows, columns, vocabulary)
    token_noise = score_noise = None
    if config.temperature:
        token_noise = noise.uniform(rows.seeds, rows.taken, positions, logits.shape[-1])
    if config.remasking == "random":
        score_noise = noise.uniform(rows.seeds, rows.taken, positions)
    tokens = scores.choose_tokens(logits, config.temperature, token_noise)  # (rows, columns)
    probabilities = logits.softmax(dim=-1)
    certainty = probabilities.gather(-1, tokens[..., None])[..., 0]  # (rows, columns)
    eligible = rows.in_work[:, columns]
    ranking = scores.remasking_scores(probabilities, certainty, config.remasking, score_noise)
    ranking = ranking.masked_fill(~eligible, -torch.inf)
    budgets = rows.masks // steps_per_block + (rows.step < rows.masks % steps_per_block)  # (rows,)
    if config.exact:
        selected = scores.select_as_published(ranking, budgets, rows.first)
    else:
        selected = scores.select_best(ranking, budgets)
    if config.threshold is not None:
        selected |= certainty > config.threshold
    selected &= eligible
    rows.ids[:, columns] = tokens.where(selected, rows.ids[:, columns])
    committed = torch.zeros_like(rows.open)
    committed[:, columns] = selected & (tokens != predict.settings.mask_token_id)
    rows.open &= ~committed
    rows.step, rows.taken = rows.step + 1, rows.taken + 1
    rows.enter(~rows.in_work.any(dim=1) | (rows.step >= steps_per_block))
    return committed


def _ended(rows: Rows, ends: torch.Tensor) -> torch.Tensor:
    """Which rows, (rows,), hold an end token with no mask before it."""
    end = rows.answer & ~rows.open & torch.isin(rows.ids, ends)
    return (end & (rows.open.cumsum(dim=1) == 0)).any(dim=1)
