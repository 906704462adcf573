"""Batched decoding of masked diffusion models: answers after prompts, and tokens anywhere in a row. Knows no tokenizers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from kinject.errors import ConfigurationError, DataError
from kinject.models.diffusion import DiffusionSettings, diffusion_settings, text_config
from kinject.sampling.config import SamplingConfig
from kinject.sampling.decoding import (
    Decoded,
    Predictor,
    Rows,
    batch_rows,
    choose_tokens,
    decode,
    row_seeds,
    select_best,
    uniform,
)


@dataclass(frozen=True)
class Step:
    """One row after one step.

    Attributes:
        ids: The answer (of `sample`) or the row (of `infill`) after the step.
        committed: Positions in ``ids`` that this step filled.
    """

    ids: list[int]
    committed: list[int]


@dataclass
class Sampled:
    """Decoded answers or rows, in the order given.

    Attributes:
        ids: Token ids of each.
        nfe: Number of forward evaluations of each (NFE).
        calls: Calls of the model, each for a batch.
        history: The steps of each; empty unless asked for.
        edits: The committed tokens of each that were replaced.
    """

    ids: list[list[int]]
    nfe: list[int]
    calls: int = 0
    history: list[list[Step]] = field(default_factory=list)
    edits: list[int] = field(default_factory=list)


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

    A block diffusion model is decoded in its own blocks instead of ``config.block_length``, with the keys and values of earlier
    blocks in a cache, unless `exact` is set. The block in which the prompt ends also holds the beginning of the answer.

    An answer of a model with tokens that expand and delete masks (DreamOn) begins as ``config.block_length`` masks, and grows
    up to ``config.answer_length`` tokens.

    Prompts of similar length share a batch. The model is used in the mode it is in: call ``model.eval()`` first.

    Args:
        model: A masked diffusion model (`kinject.models.diffusion.is_diffusion`), or a PEFT wrapper of one.
        prompts: Token ids of each.
        config: How to decode; default `SamplingConfig.fast()`.
        end_ids: Tokens that end an answer.
        batch_size: Rows of a batch.
        history: Whether to keep every step.
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
    _check_positions(model, given, config.answer_length, settings.block_length or 1)
    seeds = row_seeds(config.seed, given)
    sampled = _nothing_yet(len(given), history)
    ends = set(end_ids) if config.stop_at_end else set()
    answered = 0
    if settings.grows:
        begun = [prompt + [settings.mask_token_id] * config.block for prompt in given]
        for batch in _batches(range(len(given)), given, batch_size):
            _grow(model, begun, batch, config, settings, seeds, sampled, [len(each) for each in given], ends)
            answered += len(batch)
            if progress is not None:
                progress(answered, len(given))
        return sampled
    for batch in _batches(range(len(given)), given, batch_size):
        asked = [given[row] for row in batch]
        canvases = _canvases(asked, config.answer_length, settings)
        block, steps = config.block, config.steps_per_block
        if settings.block_length is not None:
            block = settings.block_length
            steps = block if config.steps is None else max(1, round(config.steps * block / config.answer_length))
        rows = batch_rows(
            canvases,
            settings.mask_token_id,
            block_length=block,
            origins=[
                len(prompt) if settings.block_length is None else len(prompt) // block * block for prompt in asked
            ],
            seeds=seeds[batch],
            device=_device(model),
            together=settings.block_length is not None and not config.exact,
        )
        shown = [(len(prompt), len(prompt) + config.answer_length) for prompt in asked]
        watch = _recorder(sampled, batch, shown) if history else None
        done = decode(model, rows, config, settings, steps_per_block=steps, end_ids=end_ids, watch=watch)
        _add(sampled, batch, done)
        for row, decoded, canvas, (start, end) in zip(batch, done.ids, canvases, shown, strict=True):
            sampled.ids[row] = _until_end(decoded[len(decoded) - len(canvas) :][start:end], ends)
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
            and ``steps`` are those of a block where ``block_length`` is None. ``stop_at_end`` has no effect. A block diffusion
            model fills its own blocks from left to right, and attends to nothing after the current one. A model with tokens
            that expand and delete masks (DreamOn) may turn the masks of a row into up to ``answer_length`` tokens, or as many
            as there were masks if these are more.
        batch_size: Rows of a batch.
        history: Whether to keep every step.

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
    if settings.grows:
        for batch in _batches(masked, given, batch_size):
            _grow(model, given, batch, config, settings, seeds, sampled, [0] * len(given), set())
        return sampled
    for batch in _batches(masked, given, batch_size):
        longest = max(len(given[number]) for number in batch)
        work = batch_rows(
            [given[number] for number in batch],
            settings.mask_token_id,
            block_length=settings.block_length or config.block_length or longest,
            origins=[0] * len(batch),
            seeds=seeds[batch],
            device=_device(model),
        )
        done = decode(
            model,
            work,
            config,
            settings,
            steps_per_block=longest if config.steps is None else config.steps_per_block,
            end_ids=(),
            watch=_recorder(sampled, batch, [(0, len(given[number])) for number in batch]) if history else None,
        )
        _add(sampled, batch, done)
        for number, decoded in zip(batch, done.ids, strict=True):
            sampled.ids[number] = decoded[len(decoded) - len(given[number]) :]
    return sampled


@dataclass
class _Growing:
    """A row in which the number of masks may change, and the limits of that.

    Attributes:
        ids: Token ids.
        seed: Of the noise.
        limit: The most token ids.
        budget: Expansions that are still allowed.
        taken: Steps taken.
    """

    ids: list[int]
    seed: torch.Tensor
    limit: int
    budget: int
    taken: int = 0

    @classmethod
    def of(cls, ids: Sequence[int], seed: torch.Tensor, mask: int, answer_length: int) -> _Growing:
        """A row that begins as ``ids``; its masks may become ``answer_length`` tokens, or more if it begins with more masks."""
        masks = list(ids).count(mask)
        longest = max(answer_length, masks)
        return cls(list(ids), seed, len(ids) - masks + longest, 2 * longest)

    @property
    def full(self) -> bool:
        """Whether no further mask may be expanded."""
        return self.budget == 0 or len(self.ids) >= self.limit

    def commit(self, chosen: dict[int, int], settings: DiffusionSettings) -> list[int]:
        """Take a step: write the tokens ``chosen`` by position, and return the positions at which they stand then."""
        self.taken += 1
        written: list[int] = []
        for place in sorted(chosen, reverse=True):  # from right to left, so that the positions still to come stay valid
            token, added = chosen[place], 0
            if token == settings.delete_token_id:
                del self.ids[place]
                added = -1
            elif token != settings.expand_token_id:
                self.ids[place] = token
            elif not self.full:
                self.ids.insert(place, settings.mask_token_id)
                self.budget, added = self.budget - 1, 1
            written = [each + added for each in written]
            if token not in (settings.delete_token_id, settings.expand_token_id):
                written.append(place)
        return sorted(written)

    def done(self, mask: int, start: int, ends: set[int]) -> bool:
        """Whether no mask is left, or none before an end token from ``start`` on."""
        stop = next((token for token in self.ids[start:] if token == mask or token in ends), None)
        return stop != mask if ends else mask not in self.ids


def _grow(
    model: Any,
    rows: Sequence[Sequence[int]],
    batch: Sequence[int],
    config: SamplingConfig,
    settings: DiffusionSettings,
    seeds: torch.Tensor,
    sampled: Sampled,
    starts: Sequence[int],
    ends: set[int],
) -> None:
    """Fill the masks of some ``rows`` by a model that expands and deletes masks (DreamOn's public `generate`).

    Every step changes the mask with the most probable prediction, and all with one above ``config.threshold``: it becomes a
    token, two masks, or nothing. A row may expand masks twice as often as its masks may become tokens.

    Args:
        model, config, settings: As for `sample`.
        rows: Token ids with masks, by number.
        batch: The numbers of the rows to fill.
        seeds: Seeds of the noise, by number.
        sampled: Receives the answers: of each row the ids from its start to its end.
        starts: Positions at which the answers begin, by number.
        ends: Tokens that end an answer.

    Raises:
        ConfigurationError: a setting that needs answers of a fixed length.
    """
    for name, value in (("exact", config.exact), ("steps", config.steps), ("edit_threshold", config.edit_threshold)):
        if value:
            raise ConfigurationError(
                f"{name} is {value}, and the answers of this model grow and shrink (expand_token_id, delete_token_id): every "
                "step writes the most probable token and all that the model is sure of. Leave it out."
            )
    mask = settings.mask_token_id
    working = {number: _Growing.of(rows[number], seeds[number], mask, config.answer_length) for number in batch}
    while working:
        changes = _changes(model, list(working.values()), config, settings)
        sampled.calls += 1
        for (number, row), chosen in zip(list(working.items()), changes, strict=True):
            start = starts[number]
            written = row.commit(chosen, settings)
            if sampled.history:
                sampled.history[number].append(Step(row.ids[start:], [place - start for place in written]))
            if row.done(mask, start, ends):
                sampled.ids[number], sampled.nfe[number] = _until_end(row.ids[start:], ends), row.taken
                del working[number]


def _changes(
    model: Any, growing: Sequence[_Growing], config: SamplingConfig, settings: DiffusionSettings
) -> list[dict[int, int]]:
    """What the next step of each row writes in place of which masks: the most certain token, and all above the threshold."""
    device = _device(model)
    seen = batch_rows(
        [row.ids for row in growing],
        settings.mask_token_id,
        block_length=max(len(row.ids) for row in growing),
        origins=[0] * len(growing),
        seeds=torch.stack([row.seed for row in growing]),
        device=device,
    )
    seen.taken = torch.tensor([row.taken for row in growing], device=device)
    columns = seen.open.any(dim=0).nonzero()[:, 0]
    logits = Predictor.of(model, seen, config, settings)(seen, columns.tolist())  # (rows, columns, vocabulary)
    if settings.expand_token_id is not None:
        full = torch.tensor([row.full for row in growing], device=device)
        logits[full, :, settings.expand_token_id] = -torch.inf
    places = seen.positions[:, columns]  # (rows, columns)
    noise = uniform(seen.seeds, seen.taken, places, logits.shape[-1]) if config.temperature else None
    tokens = choose_tokens(logits, config.temperature, noise)  # (rows, columns)
    certainty = logits.softmax(dim=-1).gather(-1, tokens[..., None])[..., 0]
    eligible = seen.open[:, columns]
    selected = select_best(certainty.masked_fill(~eligible, -torch.inf), torch.ones_like(seen.taken))
    if config.threshold is not None:
        selected |= certainty > config.threshold
    return [
        {place: token for place, token, take in zip(*row, strict=True) if take}
        for row in zip(places.tolist(), tokens.tolist(), (selected & eligible).tolist(), strict=True)
    ]


def _check_prompts(prompts: Sequence[Sequence[int]], mask_token_id: int) -> None:
    for number, prompt in enumerate(prompts):
        if not prompt:
            raise DataError(f"prompts[{number}] is empty, expected at least one token; begin with the BOS token")
        if mask_token_id in prompt:
            raise DataError(
                f"prompts[{number}] holds the mask token (id {mask_token_id}) at position "
                f"{list(prompt).index(mask_token_id)}; take it out, or fill it in with infill"
            )


def _check_positions(model: Any, rows: Sequence[Sequence[int]], answer_length: int, block_length: int = 1) -> None:
    positions = getattr(text_config(model), "max_position_embeddings", None)
    for number, row in enumerate(rows):
        if positions is not None and -(-(len(row) + answer_length) // block_length) * block_length > positions:
            raise ConfigurationError(
                f"row {number} has {len(row)} tokens and answer_length is {answer_length}, but the model has "
                f"{positions} positions (max_position_embeddings)"
                + (f", of which it fills blocks of {block_length}" if block_length > 1 else "")
                + "; shorten one of them"
            )


def _canvases(prompts: Sequence[list[int]], answer_length: int, settings: DiffusionSettings) -> list[list[int]]:
    """Prompts, each followed by the masks of its answer.

    The masks of a block diffusion model fill whole blocks, as in training. Further tokens follow where other rows have more
    blocks after the whole blocks of their prompts; nothing attends to these.
    """
    mask, block = settings.mask_token_id, settings.block_length
    if block is None:
        return [prompt + [mask] * answer_length for prompt in prompts]
    blocks = [-(-(len(prompt) % block + answer_length) // block) for prompt in prompts]
    canvases = []
    for prompt, own in zip(prompts, blocks, strict=True):
        written = prompt + [mask] * (own * block - len(prompt) % block)
        canvases.append(written + [0 if mask else 1] * ((max(blocks) - own) * block))
    return canvases


def _batches(numbers: Sequence[int], rows: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """The ``numbers`` in batches, so that rows of similar length share a batch."""
    if batch_size < 1:
        raise ConfigurationError(f"batch_size is {batch_size}, expected at least 1")
    by_length = sorted(numbers, key=lambda number: len(rows[number]))
    for start in range(0, len(by_length), batch_size):
        yield by_length[start : start + batch_size]


def _nothing_yet(rows: int, history: bool) -> Sampled:
    shown: list[list[Step]] = [[] for _ in range(rows)] if history else []
    return Sampled([[] for _ in range(rows)], [0] * rows, history=shown, edits=[0] * rows)


def _add(sampled: Sampled, batch: Sequence[int], done: Decoded) -> None:
    """Add the steps, calls and edits of a decoded ``batch``."""
    sampled.calls += done.calls
    for row, steps, edits in zip(batch, done.taken, done.edits, strict=True):
        sampled.nfe[row] += steps
        sampled.edits[row] += edits


def _until_end(answer: list[int], ends: set[int]) -> list[int]:
    """``answer`` up to and including its first end token."""
    stop = next((position for position, token in enumerate(answer) if token in ends), len(answer))
    return answer[: stop + 1]


def _recorder(
    sampled: Sampled, batch: Sequence[int], shown: Sequence[tuple[int, int]]
) -> Callable[[Rows, torch.Tensor], None]:
    """A function that adds every step to the history: of each row the tokens of the range ``shown``."""

    def record(rows: Rows, committed: torch.Tensor) -> None:
        starts = rows.first.tolist()
        for index, start, ids, new in zip(
            rows.index.tolist(), starts, rows.ids.tolist(), committed.tolist(), strict=True
        ):
            if rows.together and not any(new):  # the row waits for others
                continue
            places = slice(start + shown[index][0], start + shown[index][1])
            step = Step(ids[places], [place for place, filled in enumerate(new[places]) if filled])
            sampled.history[batch[index]].append(step)

    return record


def _device(model: Any) -> torch.device:
    return next(model.parameters()).device
