"""Decodes one batch: its rows, how far each has come, and what the model predicts in the columns in work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from kinject.models.diffusion import DiffusionSettings
from kinject.sampling import remasking
from kinject.sampling.config import SamplingConfig

# What a masked diffusion model says of the columns in work.


@dataclass(frozen=True)
class Predictor:
    """Calls a model on rows.

    Attributes:
        model: A masked diffusion model.
        config: How to decode.
        settings: How to call the model.
        padded: Whether any row is padded; if none is, the model is called without an attention mask.
        edged: Whether the very first token of any row is to be filled.
    """

    model: Any
    config: SamplingConfig
    settings: DiffusionSettings
    padded: bool
    edged: bool

    @classmethod
    def of(cls, model: Any, rows: Rows, config: SamplingConfig, settings: DiffusionSettings) -> Predictor:
        """The predictor for a batch that begins as ``rows``."""
        edged = rows.answer & (rows.positions == 0)
        return cls(model, config, settings, not bool(rows.visible.all()), bool(edged.any()))

    def __call__(self, rows: Rows, columns: torch.Tensor) -> torch.Tensor:
        """Logits of ``columns``, (rows, columns, vocabulary), in float32 or more.

        Only those columns are projected to the vocabulary, unless in exact mode. With shifted logits a column is
        predicted by the one before it, except for a row's first token: it has none, and reads its own.
        """
        if not self.settings.shifted_logits:
            logits = self._call(rows, columns)
        elif not self.edged:
            logits = self._call(rows, columns - 1)
        else:
            both = self._call(rows, torch.cat([(columns - 1).clamp(min=0), columns]))
            before, itself = both.split(len(columns), dim=1)
            logits = itself.where((columns == rows.first[:, None])[..., None], before)
        if not self.config.exact:
            mask = torch.tensor([self.settings.mask_token_id], device=logits.device)
            logits = logits.index_fill(-1, mask, -torch.inf)
        return logits

    def _call(self, rows: Rows, columns: torch.Tensor) -> torch.Tensor:
        """Logits at ``columns``."""
        output = self.model(
            input_ids=rows.ids,  # (rows, width)
            attention_mask=rows.visible.long() if self.padded else None,
            position_ids=rows.positions if self.padded else None,
            use_cache=False,
            **({} if self.config.exact else {"logits_to_keep": columns}),
        )
        logits = output.logits[:, columns] if self.config.exact else output.logits
        return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()


# The rows of a batch in work: token ids, which are still masked, and how far each row has come.

NO_BLOCK = 2**62  # the block of what is not to be filled, and of a row that is filled


@dataclass
class Rows:
    """The rows in work.

    Attributes:
        index: (rows,) where the row stands in the batch as it began.
        ids: (rows, width) token ids, padded on the left.
        visible: (rows, width) no padding.
        answer: (rows, width) masks at the beginning.
        open: (rows, width) masks still.
        block_of: (rows, width) number of the block.
        seeds: (rows,) of the noise.
        block: (rows,) block in work.
        step: (rows,) steps taken in that block.
        masks: (rows,) masks of that block when work on it began.
        taken: (rows,) steps taken in all.
    """

    index: torch.Tensor
    ids: torch.Tensor
    visible: torch.Tensor
    answer: torch.Tensor
    open: torch.Tensor
    block_of: torch.Tensor
    seeds: torch.Tensor
    block: torch.Tensor
    step: torch.Tensor
    masks: torch.Tensor
    taken: torch.Tensor

    @property
    def positions(self) -> torch.Tensor:
        """(rows, width) place of each token in its own row."""
        return (self.visible.cumsum(dim=1) - 1).clamp(min=0)

    @property
    def first(self) -> torch.Tensor:
        """(rows,) column of the first token."""
        return self.visible.shape[1] - self.visible.sum(dim=1)

    @property
    def in_work(self) -> torch.Tensor:
        """(rows, width) masks that may be filled now."""
        return self.open & (self.block_of <= self.block[:, None])

    def enter(self, entering: torch.Tensor) -> None:
        """Let rows, (rows,) booleans, go on to their next block with masks."""
        ahead = self.open & (self.block_of > self.block[:, None])
        following = self.block_of.masked_fill(~ahead, NO_BLOCK).amin(dim=1)
        self.block = self.block.where(~entering, following)
        self.step = self.step.masked_fill(entering, 0)
        count = (self.open & (self.block_of == self.block[:, None])).sum(dim=1)
        self.masks = self.masks.where(~entering, count)

    def take(self, kept: torch.Tensor) -> Rows:
        """Only the rows at ``kept``."""
        return replace(self, **{item.name: getattr(self, item.name)[kept] for item in fields(self)})


def batch_rows(
    sequences: Sequence[Sequence[int]],
    mask_token_id: int,
    *,
    block_length: int,
    origins: Sequence[int],
    seeds: torch.Tensor,
    device: torch.device,
) -> Rows:
    """Rows out of token ids in which masks stand for what is to be filled.

    Args:
        sequences: Token ids of each row.
        mask_token_id: Stands for what is to be filled.
        block_length: Tokens of a block.
        origins: Position of each row at which its block 0 begins.
        seeds: (rows,) of the noise.
        device: Where the tensors go.
    """
    width = max(map(len, sequences))

    def padded(values: Sequence[Sequence[int]], padding: int) -> torch.Tensor:
        return torch.tensor([[padding] * (width - len(row)) + list(row) for row in values], device=device)

    ids = padded(sequences, 0)  # (rows, width); what padding reads as does not matter
    visible = padded([[1] * len(row) for row in sequences], 0).bool()
    masked = visible & (ids == mask_token_id)
    positions = (visible.cumsum(dim=1) - 1).clamp(min=0)
    blocks = (positions - torch.tensor(origins, device=device)[:, None]).div(block_length, rounding_mode="floor")
    zeros = torch.zeros(len(sequences), dtype=torch.int64, device=device)
    rows = Rows(
        index=torch.arange(len(sequences), device=device),
        ids=ids,
        visible=visible,
        answer=masked,
        open=masked.clone(),
        block_of=blocks.masked_fill(~masked, NO_BLOCK),
        seeds=seeds.to(device),
        block=zeros - NO_BLOCK,
        step=zeros,
        masks=zeros,
        taken=zeros,
    )
    rows.enter(torch.ones_like(zeros, dtype=torch.bool))
    return rows


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
    noise = None
    if config.temperature:
        noise = remasking.uniform(rows.seeds, rows.taken, positions, logits.shape[-1])
    tokens = remasking.choose_tokens(logits, config.temperature, noise)  # (rows, columns)
    probabilities = logits.softmax(dim=-1)
    certainty = probabilities.gather(-1, tokens[..., None])[..., 0]  # (rows, columns)
    eligible = rows.in_work[:, columns]
    ranking = certainty.masked_fill(~eligible, -torch.inf)
    budgets = rows.masks // steps_per_block + (rows.step < rows.masks % steps_per_block)  # (rows,)
    if config.exact:
        selected = remasking.select_as_published(ranking, budgets, rows.first)
    else:
        selected = remasking.select_best(ranking, budgets)
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
