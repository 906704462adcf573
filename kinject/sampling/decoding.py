"""Decodes one batch: its rows and their state, the model's predictions for the current columns, and the loop over steps.

A step draws tokens and commits some of them, by functions of tensors alone. Knows nothing of prompts and answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from hashlib import blake2b
from typing import Any, ClassVar

import torch

from kinject.models.diffusion import DiffusionSettings, Tokens, block_mask
from kinject.sampling.config import SamplingConfig

# Predictions of the current columns: those with masks that may be filled now.


@dataclass(frozen=True)
class Predictor:
    """Calls a model on rows.

    Attributes:
        model: A masked diffusion model.
        config: How to decode.
        settings: How to call the model.
        padded: Whether any row is padded; if none is, the model is called without an attention mask.
        edged: Whether the first token of any row is to be filled.
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
        kind = CachedPredictor if rows.together else cls
        return kind(model, config, settings, not bool(rows.visible.all()), bool(edged.any()))

    def __call__(self, rows: Rows, columns: Sequence[int]) -> torch.Tensor:
        """Logits of ``columns``, (rows, columns, vocabulary), in float32 or more.

        Only those columns are projected to the vocabulary, unless in exact mode. With shifted logits a column is
        predicted by the one before it, except for a row's first token: it has none, and reads its own.
        """
        if not self.settings.shifted_logits:
            logits = self._call(rows, columns)
        elif not self.edged:
            logits = self._call(rows, [column - 1 for column in columns])
        else:
            both = self._call(rows, [*(max(column - 1, 0) for column in columns), *columns])
            before, itself = both.split(len(columns), dim=1)
            looked = torch.tensor(columns, device=both.device)
            logits = itself.where((looked == rows.first[:, None])[..., None], before)
        if not self.config.exact:
            mask = torch.tensor([self.settings.mask_token_id], device=logits.device)
            logits = logits.index_fill(-1, mask, -torch.inf)
        return logits

    def keep(self, kept: torch.Tensor) -> None:
        """Drop all rows but those at ``kept``."""

    def _call(self, rows: Rows, columns: Sequence[int]) -> torch.Tensor:
        """Logits at ``columns``."""
        looked = torch.tensor(columns, device=rows.ids.device)
        attention = rows.visible.long() if self.padded else None
        if self.settings.block_length is not None:
            in_work = rows.positions.masked_fill(~(rows.in_work | rows.written), -1).amax(
                dim=1, keepdim=True
            )  # (rows, 1)
            clean = rows.positions < in_work.div(self.settings.block_length, rounding_mode="floor") * (
                self.settings.block_length
            )
            attention = self._block_mask(Tokens(rows.positions, clean, rows.visible))
        output = self.model(
            input_ids=rows.ids,  # (rows, width)
            attention_mask=attention,
            position_ids=rows.positions if self.padded else None,
            use_cache=False,
            **({} if self.config.exact else {"logits_to_keep": looked}),
        )
        return _precise(output.logits[:, looked] if self.config.exact else output.logits)

    def _block_mask(self, tokens: Tokens, queries: int | None = None) -> torch.Tensor:
        """The attention mask of a block diffusion model for the last ``queries`` of ``tokens``, (rows, 1, queries, tokens)."""
        assert self.settings.block_length is not None
        return block_mask(
            self.model, tokens, self.settings.block_length, self.settings.clean_attention, queries=queries
        )


@dataclass
class _Stored:
    """What is cached of finished blocks.

    Attributes:
        cache: Keys and values of the first columns.
        columns: The number of these columns.
        before: (rows, 1, vocabulary) logits of the last of them, for models with shifted logits.
    """

    cache: Any = None
    columns: int = 0
    before: torch.Tensor | None = None


@dataclass(frozen=True)
class CachedPredictor(Predictor):
    """Calls a block diffusion model on the current block; the columns before it are in a cache, which stays valid.

    All rows work on the same columns. A finished block is cached by the call that begins the next one, so that it costs no call
    of its own; the first call encodes the prompt, too.
    """

    stored: _Stored = field(default_factory=_Stored)

    def keep(self, kept: torch.Tensor) -> None:
        """Drop all rows but those at ``kept``."""
        if self.stored.columns:
            self.stored.cache.batch_select_indices(kept)
        else:  # a cache without columns has a number of rows all the same, which `batch_select_indices` does not change
            self.stored.cache = None
        if self.stored.before is not None:
            self.stored.before = self.stored.before[kept]

    def _call(self, rows: Rows, columns: Sequence[int]) -> torch.Tensor:
        """Logits at ``columns``: those of the current block, or with shifted logits the ones before them."""
        from transformers import DynamicCache

        stored, length = self.stored, self.settings.block_length
        assert length is not None
        last = columns[-1] + int(self.settings.shifted_logits)
        first = last // length * length
        end, known = first + length, stored.columns
        if columns[0] >= known:
            stored.before = None
        inside = [column - known for column in columns if column >= known]
        if not inside:  # the stored logits predict all that is left
            assert stored.before is not None
            return stored.before
        if stored.cache is None:
            stored.cache = DynamicCache()
        clean = torch.arange(end, device=rows.ids.device).expand(len(rows.ids), -1) < first
        positions = rows.positions[:, :end]
        output = self.model(
            input_ids=rows.ids[:, known:end],  # (rows, not stored yet)
            attention_mask=self._block_mask(Tokens(positions, clean, rows.visible[:, :end]), end - known),
            position_ids=positions[:, known:],
            past_key_values=stored.cache,
            use_cache=True,
            logits_to_keep=torch.tensor(inside, device=rows.ids.device),
        )
        stored.cache.crop(-length)  # the current block is not finished yet
        logits = _precise(output.logits)
        if len(inside) < len(columns):
            assert stored.before is not None
            logits = torch.cat([stored.before, logits], dim=1)
        elif columns[0] < first:
            stored.before = logits[:, :1]
        stored.columns = first
        return logits


def _precise(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()


# The state of the rows of a batch.

_REVISIONS = 16  # the most steps of a block after its last mask was filled (LLaDA2.1)
NO_BLOCK = 2**62  # block number of a token that is not to be filled, and of a row that is finished


@dataclass
class Rows:
    """The rows that are not finished, and how far each is decoded.

    Attributes:
        index: (rows,) number of the row in the batch at its beginning.
        ids: (rows, width) token ids, padded on the left.
        visible: (rows, width) whether it is a token and not padding.
        answer: (rows, width) whether it was a mask at the beginning.
        open: (rows, width) whether it is still a mask.
        block_of: (rows, width) number of its block.
        seeds: (rows,) seeds of the noise.
        block: (rows,) current block.
        step: (rows,) steps taken in that block.
        masks: (rows,) masks of that block when it became the current one.
        taken: (rows,) steps taken in all.
        revised: (rows,) steps taken in that block since its last mask was filled.
        edits: (rows,) tokens replaced in all.
        together: Whether all rows wait until each has filled its block (`RowsTogether`); else each goes on by itself.
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
    revised: torch.Tensor
    edits: torch.Tensor
    together: ClassVar[bool] = False

    @property
    def positions(self) -> torch.Tensor:
        """(rows, width) position of each token in its own row."""
        return (self.visible.cumsum(dim=1) - 1).clamp(min=0)

    @property
    def first(self) -> torch.Tensor:
        """(rows,) column of the first token."""
        return self.visible.shape[1] - self.visible.sum(dim=1)

    @property
    def in_work(self) -> torch.Tensor:
        """(rows, width) masks that may be filled now."""
        return self.open & (self.block_of <= self.block[:, None]) & self.working[:, None]

    @property
    def written(self) -> torch.Tensor:
        """(rows, width) tokens of the current block that are filled."""
        return self.answer & ~self.open & (self.block_of == self.block[:, None]) & self.working[:, None]

    @property
    def working(self) -> torch.Tensor:
        """(rows,) whether the row does not wait for others."""
        return self.block == self.block.amin() if self.together else torch.ones_like(self.block, dtype=torch.bool)

    def enter(self, entering: torch.Tensor) -> None:
        """Let the rows ``entering``, (rows,) booleans, go on to their next block with masks."""
        ahead = self.open & (self.block_of > self.block[:, None])
        following = self.block_of.masked_fill(~ahead, NO_BLOCK).amin(dim=1)
        self.block = self.block.where(~entering, following)
        self.step, self.revised = self.step.masked_fill(entering, 0), self.revised.masked_fill(entering, 0)
        count = (self.open & (self.block_of == self.block[:, None])).sum(dim=1)
        self.masks = self.masks.where(~entering, count)

    def take(self, kept: torch.Tensor) -> Rows:
        """Only the rows at ``kept``."""
        return replace(self, **{item.name: getattr(self, item.name)[kept] for item in fields(self)})


class RowsTogether(Rows):
    """Rows that all work on the same block, and wait for each other."""

    together = True


def batch_rows(
    sequences: Sequence[Sequence[int]],
    mask_token_id: int,
    *,
    block_length: int,
    origins: Sequence[int],
    seeds: torch.Tensor,
    device: torch.device,
    together: bool = False,
) -> Rows:
    """Rows from token ids, whose masks are to be filled.

    Args:
        sequences: Token ids of each row.
        mask_token_id: The id of a mask.
        block_length: Tokens of a block.
        origins: For each row the position at which its block 0 begins.
        seeds: (rows,) seeds of the noise.
        device: The device of the tensors.
        together: Whether rows work on the same block; blocks of the same number then stand in the same columns.
    """
    width = max(map(len, sequences))

    def padded(values: Sequence[Sequence[int]], padding: int) -> torch.Tensor:
        return torch.tensor([[padding] * (width - len(row)) + list(row) for row in values], device=device)

    ids = padded(sequences, 0)  # (rows, width); padding is not attended to, so any id will do
    visible = padded([[1] * len(row) for row in sequences], 0).bool()
    masked = visible & (ids == mask_token_id)
    positions = (visible.cumsum(dim=1) - 1).clamp(min=0)
    blocks = (positions - torch.tensor(origins, device=device)[:, None]).div(block_length, rounding_mode="floor")
    zeros = torch.zeros(len(sequences), dtype=torch.int64, device=device)
    rows = (RowsTogether if together else Rows)(
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
        revised=zeros,
        edits=zeros,
    )
    rows.enter(torch.ones_like(zeros, dtype=torch.bool))
    return rows


@dataclass
class Decoded:
    """A decoded batch.

    Attributes:
        ids: The ids of every row, with its padding.
        taken: The steps of every row.
        edits: The committed tokens of every row that were replaced.
        calls: The calls of the model.
    """

    ids: list[list[int]]
    taken: list[int]
    edits: list[int]
    calls: int


def decode(
    model: Any,
    rows: Rows,
    config: SamplingConfig,
    settings: DiffusionSettings,
    *,
    steps_per_block: int,
    end_ids: Sequence[int],
    watch: Callable[[Rows, torch.Tensor], None] | None = None,
) -> Decoded:
    """Fill the masks of ``rows``.

    Args:
        model: A masked diffusion model.
        rows: From `batch_rows`; changed in place.
        config: How to decode.
        settings: How to call the model.
        steps_per_block: Steps after which a block is committed as a whole.
        end_ids: Tokens that end an answer.
        watch: Called after every step with the rows and with the tokens just committed, (rows, width) booleans.
    """
    count, width = rows.ids.shape
    finished: dict[int, tuple[list[int], int, int]] = {}  # by the number of a row: its ids, steps and edits
    calls = 0
    ends = torch.tensor(list(end_ids), dtype=torch.int64, device=rows.ids.device)
    predict = Predictor.of(model, rows, config, settings)
    done = rows.block == NO_BLOCK
    while True:
        # The only wait for the device in a step: which rows are finished, and on which columns the others work.
        in_work = rows.in_work if config.edit_threshold is None else rows.in_work | rows.written
        columns_in_work = (in_work & ~done[:, None]).any(dim=0)
        flags = torch.cat([done, columns_in_work]).tolist()
        leaving = flags[: len(rows.index)]
        if any(leaving):
            index, ids, taken, edits = (each.tolist() for each in (rows.index, rows.ids, rows.taken, rows.edits))
            for row, leaves in enumerate(leaving):
                if leaves:
                    finished[index[row]] = ids[row], taken[row], edits[row]
            kept = [row for row, leaves in enumerate(leaving) if not leaves]
            if not kept:
                done_rows = [finished[row] for row in range(count)]
                return Decoded(
                    [ids for ids, _, _ in done_rows],
                    [taken for _, taken, _ in done_rows],
                    [edits for _, _, edits in done_rows],
                    calls,
                )
            staying = torch.tensor(kept, device=rows.ids.device)
            rows = rows.take(staying)
            predict.keep(staying)
        places = [column for column, used in enumerate(flags[len(leaving) :]) if used]
        block = rows.block
        committed = _step(predict, rows, range(width) if config.exact else places, steps_per_block)
        calls += 1
        if watch is not None:
            watch(rows, committed)
        if config.stop_at_end and end_ids:
            ended = _ended(rows, ends)
            if config.edit_threshold is not None:  # until its block is finished, an end token may be replaced
                ended &= rows.block != block
            rows.block = rows.block.masked_fill(ended, NO_BLOCK)
        done = rows.block == NO_BLOCK


def _step(predict: Predictor, rows: Rows, places: Sequence[int], steps_per_block: int) -> torch.Tensor:
    """Predict, commit tokens and advance the rows; returns the tokens committed, (rows, width) booleans."""
    columns = torch.tensor(places, device=rows.ids.device)
    config, positions, working = predict.config, rows.positions[:, columns], rows.working
    logits = predict(rows, places)  # (rows, columns, vocabulary)
    noise = None
    if config.temperature:
        noise = uniform(rows.seeds, rows.taken, positions, logits.shape[-1])
    tokens = choose_tokens(logits, config.temperature, noise)  # (rows, columns)
    probabilities = logits.softmax(dim=-1)
    certainty = probabilities.gather(-1, tokens[..., None])[..., 0]  # (rows, columns)
    eligible = rows.in_work[:, columns]
    ranking = certainty.masked_fill(~eligible, -torch.inf)
    budgets = rows.masks // steps_per_block + (rows.step < rows.masks % steps_per_block)  # (rows,)
    selected = select_as_published(ranking, budgets, rows.first) if config.exact else select_best(ranking, budgets)
    if config.threshold is not None:
        selected |= certainty > config.threshold
    selected &= eligible
    left = torch.ones_like(working)
    if config.edit_threshold is not None:
        other = tokens != rows.ids[:, columns]
        edited = rows.written[:, columns] & other & (certainty > config.edit_threshold)
        rows.edits = rows.edits + edited.sum(dim=1)
        selected |= edited
        rows.revised = rows.revised + (working & ~eligible.any(dim=1))
        left = ~selected.any(dim=1) | (rows.revised >= _REVISIONS)
    rows.ids[:, columns] = tokens.where(selected, rows.ids[:, columns])
    committed = torch.zeros_like(rows.open)
    committed[:, columns] = selected & (tokens != predict.settings.mask_token_id)
    rows.open &= ~committed
    rows.step, rows.taken = rows.step + working, rows.taken + working
    rows.enter(working & left & (~rows.in_work.any(dim=1) | (rows.step >= steps_per_block)))
    return committed


def _ended(rows: Rows, ends: torch.Tensor) -> torch.Tensor:
    """Whether each row holds an end token with no mask before it, (rows,)."""
    end = rows.answer & ~rows.open & torch.isin(rows.ids, ends)
    return (end & (rows.open.cumsum(dim=1) == 0)).any(dim=1)


# One step as functions of tensors: how tokens are drawn, and which of them are committed.
#
# Noise is random numbers that depend on the seed, the row, the step and the position, and on nothing else.

_STEP, _POSITION, _TOKEN = -0x61C8864680B583EB, -0x3D4D51C2D82B14B1, 0x165667B19E3779F9  # odd, of well mixed bits


def row_seeds(seed: int, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """One int64 per row, (rows,), a pure function of ``seed`` and the row's token ids."""
    digests = (blake2b(repr((seed, list(row))).encode(), digest_size=8).digest() for row in rows)
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests], dtype=torch.int64)


def uniform(seeds: torch.Tensor, steps: torch.Tensor, positions: torch.Tensor, tokens: int) -> torch.Tensor:
    """Numbers strictly between 0 and 1, in float64.

    Args:
        seeds: (rows,) from `row_seeds`.
        steps: (rows,) steps that the row has taken.
        positions: (rows, columns) position of each column in its row, padding not counted.
        tokens: Size of the vocabulary.

    Returns:
        (rows, columns, tokens).
    """
    key = _mix(seeds + steps * _STEP)[:, None]  # (rows, 1)
    key = _mix(key + (positions + 1) * _POSITION)  # (rows, columns)
    key = _mix(key[..., None] + torch.arange(1, tokens + 1, device=key.device) * _TOKEN)  # (rows, columns, tokens)
    return (_shift(key, 11).double() + 0.5) * 2.0**-53


def _shift(bits: torch.Tensor, places: int) -> torch.Tensor:
    """Shift int64 to the right as an unsigned number."""
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _mix(bits: torch.Tensor) -> torch.Tensor:
    """The output function of splitmix64 (Steele, Lea and Flood, 2014); products wrap around."""
    bits = (bits ^ _shift(bits, 30)) * -0x40A7B892E31B1A47
    bits = (bits ^ _shift(bits, 27)) * -0x6B2FB644ECCEEE15
    return bits ^ _shift(bits, 31)


def choose_tokens(logits: torch.Tensor, temperature: float, uniform: torch.Tensor | None) -> torch.Tensor:
    """The token of every position: the most probable, or one drawn from softmax(logits / temperature).

    Gumbel's trick in float64, since lower precision skews it (arXiv 2409.02908). LLaDA takes the argmax of
    exp(logits) / (-log u) ** temperature; this is its logarithm, which does not overflow.

    Args:
        logits: (rows, columns, vocabulary).
        temperature: 0 draws nothing.
        uniform: u of the same shape in (0, 1), float64; used where ``temperature`` is not 0.

    Returns:
        (rows, columns) token ids.
    """
    if temperature == 0 or uniform is None:
        return logits.argmax(dim=-1)
    return (logits.double() - temperature * torch.log(-torch.log(uniform))).argmax(dim=-1)


def select_best(scores: torch.Tensor, budgets: torch.Tensor) -> torch.Tensor:
    """Which of ``scores`` (rows, columns) are the ``budgets`` (rows,) highest of their row, as booleans; ties go left."""
    order = scores.argsort(dim=1, descending=True, stable=True)  # (rows, columns)
    within = torch.arange(scores.shape[1], device=scores.device) < budgets[:, None]
    return torch.zeros_like(within).scatter_(1, order, within)


def select_as_published(scores: torch.Tensor, budgets: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """The same as `select_best`, with ties as ``torch.topk(row, budget)`` breaks them on each row without its padding.

    Which of equal scores `torch.topk` takes depends on its algorithm and on the length of its input. Therefore rows with a tie
    at the end of their budget, and only these, are selected one by one.

    Args:
        scores: (rows, columns), -inf where nothing may be committed.
        budgets: (rows,).
        first: (rows,) column of the row's first token.
    """
    selected = select_best(scores, budgets)
    worst_in = scores.masked_fill(~selected, torch.inf).amin(dim=1)
    best_out = scores.masked_fill(selected, -torch.inf).amax(dim=1)
    tied = (worst_in == best_out) & worst_in.isfinite()
    for row in tied.nonzero()[:, 0].tolist():
        start = int(first[row])
        best = scores[row, start:].topk(int(budgets[row])).indices
        selected[row] = False
        selected[row, start + best] = True
    return selected
