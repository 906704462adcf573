"""Batched decoding of masked diffusion models: answers after prompts, and tokens anywhere in a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from kinject.errors import ConfigurationError, DataError
from kinject.models.diffusion import diffusion_settings, text_config
from kinject.sampling.config import SamplingConfig
from kinject.sampling.decoding import Rows, batch_rows, decode
from kinject.sampling.remasking import row_seeds


@dataclass(frozen=True)
class Step:
    """What one step left behind in one row.

    Attributes:
        ids: The answer (of `sample`) or the row (of `infill`) after the step.
        committed: Places in ``ids`` that this step filled.
    """

    ids: list[int]
    committed: list[int]


@dataclass
class Sampled:
    """What was decoded.

    Attributes:
        ids: One answer or row each, in the order given.
        nfe: Forward evaluations that each row took part in.
        calls: How often the model was called, a batch at a time.
        history: The steps of each row; empty unless asked for.
    """

    ids: list[list[int]]
    nfe: list[int]
    calls: int = 0
    history: list[list[Step]] = field(default_factory=list)


@torch.no_grad()
def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    config: SamplingConfig | None = None,
    *,
    end_ids: Sequence[int] = (),
    batch_size: int = 32,
    history: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Sampled:
    """Answers after prompts. An answer is the same alone and in any batch.

    Prompts of similar length share a batch. The model is used in the mode it is in: call ``model.eval()`` first.

    Args:
        model: A masked diffusion model (`kinject.models.diffusion.is_diffusion`), or a PEFT wrapper of one.
        prompts: Token ids of each.
        config: How to decode; default `SamplingConfig.fast()`.
        end_ids: Tokens that end an answer.
        batch_size: Rows of a batch.
        history: Keep every step.
        progress: Called as ``progress(answered, total)`` after every batch.

    Returns:
        Answers of ``config.answer_length`` tokens, or up to and including the first end token with
        ``config.stop_at_end``.

    Raises:
        ConfigurationError: the model is causal, names no mask token, or has too few positions; or a bad ``batch_size``.
        DataError: an empty prompt, or one that holds the mask token.
    """
    config = config or SamplingConfig.fast()
    settings = diffusion_settings(model)
    given = [[int(index) for index in prompt] for prompt in prompts]
    _check_prompts(given, settings.mask_token_id)
    _check_positions(model, given, config.answer_length)
    seeds = row_seeds(config.seed, given)
    sampled = _nothing_yet(len(given), history)
    ends = set(end_ids) if config.stop_at_end else set()
    answered = 0
    for batch in _batches(range(len(given)), given, batch_size):
        rows = batch_rows(
            [given[row] + [settings.mask_token_id] * config.answer_length for row in batch],
            settings.mask_token_id,
            block_length=config.block,
            origins=[len(given[row]) for row in batch],
            seeds=seeds[batch],
            device=_device(model),
        )
        watch = _recorder(sampled, batch, [len(given[row]) for row in batch]) if history else None
        ids, taken, calls = decode(
            model, rows, config, settings, steps_per_block=config.steps_per_block, end_ids=end_ids, watch=watch
        )
        _add(sampled, batch, taken, calls)
        for row, decoded in zip(batch, ids, strict=True):
            sampled.ids[row] = _until_end(decoded[-config.answer_length :], ends)
        answered += len(batch)
        if progress is not None:
            progress(answered, len(given))
    return sampled


@torch.no_grad()
def infill(
    model: Any,
    rows: Sequence[Sequence[int]],
    config: SamplingConfig | None = None,
    *,
    batch_size: int = 32,
    history: bool = False,
) -> Sampled:
    """Fill the mask tokens of rows, wherever they stand; no other token is altered.

    Args:
        model: As for `sample`.
        rows: Token ids with masks among them. A row without masks comes back as it is.
        config: How to decode; default: one block, one token a step. Blocks are counted from the beginning of the row,
            and ``steps`` are those of a block where ``block_length`` is None. Rows do not end early, whatever
            ``stop_at_end`` says.
        batch_size: Rows of a batch.
        history: Keep every step.

    Returns:
        The rows, filled.

    Raises:
        ConfigurationError: as for `sample`.
        DataError: an empty row.
    """
    config = config or SamplingConfig()
    settings = diffusion_settings(model)
    given = [[int(index) for index in row] for row in rows]
    for number, row in enumerate(given):
        if not row:
            raise DataError(f"rows[{number}] is empty, expected token ids with masks to be filled")
    _check_positions(model, given, 0)
    seeds = row_seeds(config.seed, given)
    sampled = _nothing_yet(len(given), history)
    sampled.ids = given
    masked = [number for number, row in enumerate(given) if settings.mask_token_id in row]
    for batch in _batches(masked, given, batch_size):
        longest = max(len(given[number]) for number in batch)
        work = batch_rows(
            [given[number] for number in batch],
            settings.mask_token_id,
            block_length=config.block_length or longest,
            origins=[0] * len(batch),
            seeds=seeds[batch],
            device=_device(model),
        )
        ids, taken, calls = decode(
            model,
            work,
            config,
            settings,
            steps_per_block=longest if config.steps is None else config.steps_per_block,
            end_ids=(),
            watch=_recorder(sampled, batch, [0] * len(batch)) if history else None,
        )
        _add(sampled, batch, taken, calls)
        for number, decoded in zip(batch, ids, strict=True):
            sampled.ids[number] = decoded[len(decoded) - len(given[number]) :]
    return sampled


def _check_prompts(prompts: Sequence[Sequence[int]], mask_token_id: int) -> None:
    for number, prompt in enumerate(prompts):
        if not prompt:
            raise DataError(f"prompts[{number}] is empty, expected at least one token; begin with the BOS token")
        if mask_token_id in prompt:
            raise DataError(
                f"prompts[{number}] holds the mask token (id {mask_token_id}) at position "
                f"{list(prompt).index(mask_token_id)}; take it out, or fill it in with infill"
            )


def _check_positions(model: Any, rows: Sequence[Sequence[int]], answer_length: int) -> None:
    positions = getattr(text_config(model), "max_position_embeddings", None)
    for number, row in enumerate(rows):
        if positions is not None and len(row) + answer_length > positions:
            raise ConfigurationError(
                f"row {number} has {len(row)} tokens and answer_length is {answer_length}, but the model has "
                f"{positions} positions (max_position_embeddings); shorten one of them"
            )


def _batches(numbers: Sequence[int], rows: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """``numbers`` of rows in batches of similar length."""
    if batch_size < 1:
        raise ConfigurationError(f"batch_size is {batch_size}, expected at least 1")
    by_length = sorted(numbers, key=lambda number: len(rows[number]))
    for start in range(0, len(by_length), batch_size):
        yield by_length[start : start + batch_size]


def _nothing_yet(rows: int, history: bool) -> Sampled:
    return Sampled([[] for _ in range(rows)], [0] * rows, history=[[] for _ in range(rows)] if history else [])


def _add(sampled: Sampled, batch: Sequence[int], taken: Sequence[int], calls: int) -> None:
    """Count what ``batch`` took."""
    sampled.calls += calls
    for row, steps in zip(batch, taken, strict=True):
        sampled.nfe[row] += steps


def _until_end(answer: list[int], ends: set[int]) -> list[int]:
    """``answer`` up to and including its first end token."""
    stop = next((position for position, token in enumerate(answer) if token in ends), len(answer))
    return answer[: stop + 1]


def _recorder(sampled: Sampled, batch: Sequence[int], hidden: Sequence[int]) -> Callable[[Rows, torch.Tensor], None]:
    """Adds every step to the history, without the first ``hidden`` tokens of a row."""

    def record(rows: Rows, committed: torch.Tensor) -> None:
        starts = rows.first.tolist()
        for index, start, ids, new in zip(
            rows.index.tolist(), starts, rows.ids.tolist(), committed.tolist(), strict=True
        ):
            start += hidden[index]
            step = Step(ids[start:], [place for place, filled in enumerate(new[start:]) if filled])
            sampled.history[batch[index]].append(step)

    return record


def _device(model: Any) -> torch.device:
    return next(model.parameters()).device
