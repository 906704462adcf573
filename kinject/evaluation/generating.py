"""Answers of an AR model to many prompts, greedy or drawn. Knows nothing of text.

The prefix that all prompts share, such as a system prompt, is encoded once. When an answer has ended, its row is dropped and a
waiting prompt takes its place: prompts are encoded in batches, and their keys and values are appended to those of the other
rows, padded after the shared prefix. This is continuous batching (Orca, OSDI 2022), a few tokens at a time. A greedy answer
depends on its own prompt alone.
"""

from __future__ import annotations

import copy
import os
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

from kinject.compat import encode_beginning
from kinject.models.diffusion import writes_canvases
from kinject.models.weights import is_sharded
from kinject.sampling.decoding import row_seeds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import DynamicCache

# Tokens after which rows that have ended are dropped and others join; more on accelerators, where a call costs more than some
# tokens of rows that have ended.
_TOKENS_AT_ONCE, _ON_ACCELERATORS = 4, 16


@torch.no_grad()
def generate_answers(
    model: Any,
    prompts: Sequence[list[int]],
    *,
    end_ids: Sequence[int],
    pad_id: int,
    max_new_tokens: int,
    batch_size: int,
    temperature: float = 0.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[int]]:
    """The answer of ``model`` to every prompt, up to and without its first end id.

    Args:
        model: an AR model, or a DiffusionGemma, which is asked by its own `generate`, one prompt at a time, so that its draws
            depend on ``seed`` and the prompt alone.
        prompts: token ids, none empty.
        end_ids: tokens that end an answer.
        pad_id: token of padding, which is not attended to.
        max_new_tokens: length at which an answer is cut.
        batch_size: prompts that are encoded at once. It also bounds memory: at most as many tokens are kept as this many
            prompts take with answers of full length, so that more rows fit where answers are short.
        temperature: at which tokens are drawn; 0 takes the most probable.
        seed: of these draws; the state of torch's own generators is left as it was.
        progress: called as ``progress(answered, total)``.
    """
    if writes_canvases(model):
        return _written_canvases(model, prompts, end_ids, pad_id, max_new_tokens, seed, progress)
    writer = _Writer(model, prompts, end_ids, pad_id, max_new_tokens, batch_size, temperature)
    accelerators = [] if model.device.type == "cpu" else [model.device]
    kind = "cuda" if model.device.type == "cpu" else model.device.type
    with torch.random.fork_rng(accelerators, enabled=temperature > 0, device_type=kind):
        if temperature > 0:
            torch.manual_seed(seed)
        while writer.waiting or writer.rows.numbers:
            writer.write()
            if progress is not None:
                progress(len(writer.answers), len(prompts))
    return [writer.answers[number] for number in range(len(prompts))]


def _written_canvases(
    model: Any,
    prompts: Sequence[list[int]],
    end_ids: Sequence[int],
    pad_id: int,
    max_new_tokens: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> list[list[int]]:
    """The same as `generate_answers`, by the `generate` of a DiffusionGemma, which writes whole canvases."""
    answers = []
    accelerators = [] if model.device.type == "cpu" else [model.device]
    for prompt, drawn in zip(prompts, row_seeds(seed, prompts).tolist(), strict=True):
        with torch.random.fork_rng(accelerators):
            torch.manual_seed(drawn)
            output = model.generate(
                input_ids=torch.tensor([prompt], device=model.device),
                max_new_tokens=max_new_tokens,
                eos_token_id=list(end_ids),
                pad_token_id=pad_id,
            )
        written = getattr(output, "sequences", output)[0, len(prompt) :].tolist()
        answers.append(until_end(written, end_ids)[:max_new_tokens])
        if progress is not None:
            progress(len(answers), len(prompts))
    return answers


def until_end(ids: Sequence[int], end_ids: Sequence[int]) -> list[int]:
    """``ids`` up to and without the first that ends an answer."""
    stop = next((position for position, token in enumerate(ids) if token in end_ids), len(ids))
    return list(ids[:stop])


@dataclass
class _Rows:
    """Rows that are being written.

    Attributes:
        numbers: The number of the prompt that each row continues.
        ids: The shared prefix, padding, and the rest of each row, `(rows, width)`.
        mask: 0 where there is padding, else 1, `(rows, width)`.
        cache: Keys and values of all but the last token; None before there are any, or if the model has another kind of cache.
    """

    numbers: list[int]
    ids: torch.Tensor
    mask: torch.Tensor
    cache: DynamicCache | None

    @property
    def width(self) -> int:
        """Tokens of a row, padding included."""
        return int(self.ids.shape[1])

    def keep(self, indices: Sequence[int]) -> None:
        """Drop all other rows."""
        kept = torch.tensor(indices, device=self.ids.device, dtype=torch.long)
        self.numbers = [self.numbers[index] for index in indices]
        self.ids, self.mask = self.ids[kept], self.mask[kept]
        if self.cache is not None and indices:
            self.cache.batch_select_indices(kept)

    def pad(self, start: int, width: int, pad_id: int) -> None:
        """Bring the rows to ``width`` by adding or removing padding from ``start`` on; only padding may be removed."""
        by = width - self.width
        self.ids = _stretched(self.ids, start, by, 1, pad_id)
        self.mask = _stretched(self.mask, start, by, 1, 0)
        for layer in _layers(self.cache):
            layer.keys, layer.values = (_stretched(each, start, by, 2) for each in (layer.keys, layer.values))

    def join(self, others: _Rows) -> None:
        """Append ``others``, of the same width."""
        self.numbers += others.numbers
        self.ids, self.mask = torch.cat([self.ids, others.ids]), torch.cat([self.mask, others.mask])
        for layer, other in zip(_layers(self.cache), _layers(others.cache), strict=True):
            layer.keys, layer.values = torch.cat([layer.keys, other.keys]), torch.cat([layer.values, other.values])


class _Writer:
    """Writes all answers, a few tokens at a time.

    Attributes:
        waiting: Numbers of the prompts that have no row yet, short ones first.
        rows: The prompts whose answers are being written.
        answers: The finished answers, by the number of their prompt.
    """

    def __init__(
        self,
        model: Any,
        prompts: Sequence[list[int]],
        end_ids: Sequence[int],
        pad_id: int,
        max_new_tokens: int,
        batch_size: int,
        temperature: float,
    ) -> None:
        self._model, self._prompts = model, prompts
        self._pad_id, self._max_new_tokens, self._batch_size = pad_id, max_new_tokens, batch_size
        drawing = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
        self._config = GenerationConfig(
            **{"do_sample": False, **drawing}, eos_token_id=list(end_ids), pad_token_id=pad_id, use_cache=True
        )
        self._beginning, self._encoded = _encode_once(model, prompts)
        self._most_tokens = batch_size * (max(map(len, prompts), default=0) + max_new_tokens)
        self._longest_answer = 0
        self.waiting = deque(sorted(range(len(prompts)), key=lambda number: len(prompts[number])))
        self._written: dict[int, list[int]] = {}
        self.answers: dict[int, list[int]] = {}
        self.rows = self._new_rows([])

    def write(self) -> None:
        """Start waiting prompts where there is room, write some tokens, and drop the rows that have ended."""
        if self._encoded is None:  # without a cache that can be cut and joined, whole batches are written
            self.rows = self._new_rows(self._take(min(self._batch_size, len(self.waiting))))
            self._generate(self.rows, self._max_new_tokens)
        else:
            room = self._room()
            if room and (not self.rows.numbers or 2 * room >= self._batch_size or room == len(self.waiting)):
                self._join(self._new_rows(self._take(room)))
            else:
                self._put_back()
                self._generate(self.rows, self._at_once())
        self._let_go()

    def _written_at_most(self) -> int:
        """Tokens of the longest answer so far among the current rows; at least 1, as encoding a prompt gives the first."""
        return max((len(self._written[number]) for number in self.rows.numbers), default=1)

    def _at_once(self) -> int:
        """Tokens that are written before rows are dropped or started."""
        at_once = _TOKENS_AT_ONCE if self._model.device.type == "cpu" else _ON_ACCELERATORS
        return min(at_once, self._max_new_tokens - self._written_at_most())

    def _room(self) -> int:
        """How many waiting prompts can be started at once: a batch at most, and no more than there is memory for.

        Answers are expected to get as long as the longest so far, and before any has ended, of full length.
        """
        expected = max(self._longest_answer, self._written_at_most()) if self.answers else self._max_new_tokens
        grown = self.rows.width + self._at_once()
        for count in range(min(self._batch_size, len(self.waiting)), 0, -1):
            width = max(grown, len(self._prompts[self.waiting[count - 1]]) + expected)
            if (len(self.rows.numbers) + count) * width <= self._most_tokens:
                return count
        return 0

    def _put_back(self) -> None:
        """Let the last rows wait again if the rows, longer than expected, no longer fit into memory together."""
        fit = self._most_tokens // (self.rows.width + self._at_once())
        if len(self.rows.numbers) > fit:
            self.waiting.extendleft(reversed(self.rows.numbers[fit:]))
            self.rows.keep(range(fit))

    def _take(self, count: int) -> list[int]:
        """The numbers of the next ``count`` waiting prompts, which then no longer wait."""
        return [self.waiting.popleft() for _ in range(count)]

    def _new_rows(self, numbers: list[int]) -> _Rows:
        """Rows of these prompts, with the keys and values of the shared prefix."""
        start = len(self._beginning)
        width = max((len(self._prompts[number]) for number in numbers), default=start)
        gaps = [width - len(self._prompts[number]) for number in numbers]
        ids = [
            [*self._beginning, *[self._pad_id] * gap, *self._prompts[number][start:]]
            for gap, number in zip(gaps, numbers, strict=True)
        ]
        mask = [[1] * start + [0] * gap + [1] * (width - gap - start) for gap in gaps]
        cache = copy.deepcopy(self._encoded) if numbers else None
        if cache is not None:
            cache.batch_repeat_interleave(len(numbers))
        self._written |= {number: [] for number in numbers}
        ids_there, mask_there = (
            torch.tensor(each, dtype=torch.long).view(len(numbers), width).to(self._model.device)
            for each in (ids, mask)
        )
        return _Rows(numbers, ids_there, mask_there, cache)

    def _join(self, rows: _Rows) -> None:
        """Append new ``rows`` to the others, after encoding their prompts, which also writes their first token."""
        self._generate(rows, 1)
        if not self.rows.numbers:
            self.rows = rows
            return
        width = max(self.rows.width, rows.width)
        for each in (self.rows, rows):
            each.pad(len(self._beginning), width, self._pad_id)
        self.rows.join(rows)

    def _generate(self, rows: _Rows, count: int) -> None:
        """Write at most ``count`` tokens in all ``rows``."""
        self._config.max_new_tokens = count
        options = {} if rows.cache is None else {"past_key_values": rows.cache}  # which generate() extends
        before = rows.width
        rows.ids = self._model.generate(
            input_ids=rows.ids,
            attention_mask=rows.mask,
            generation_config=self._config,
            synced_gpus=is_sharded(self._model),
            **options,
        )  # (rows, width + new)
        rows.mask = torch.cat([rows.mask, rows.mask.new_ones(len(rows.numbers), rows.width - before)], dim=1)
        for number, new in zip(rows.numbers, rows.ids[:, before:].tolist(), strict=True):
            self._written[number] += new

    def _let_go(self) -> None:
        """Move the answers that have ended from `rows` to `answers`."""
        stay = []
        for index, number in enumerate(self.rows.numbers):
            answer = until_end(self._written[number], self._config.eos_token_id)
            if len(answer) == len(self._written[number]) < self._max_new_tokens:
                stay.append(index)
            else:
                self.answers[number] = answer
                self._longest_answer = max(self._longest_answer, len(answer))
        if len(stay) == len(self.rows.numbers):
            return
        if not stay:
            self.rows = self._new_rows([])
            return
        self.rows.keep(stay)
        start = len(self._beginning)
        padded = int((self.rows.mask[:, start:].any(0)).int().argmax())  # columns in which all have padding
        self.rows.pad(start, self.rows.width - padded, self._pad_id)


def _encode_once(model: Any, prompts: Sequence[list[int]]) -> tuple[list[int], DynamicCache | None]:
    """The ids of the prefix that all ``prompts`` share, and its keys and values.

    An empty list and None where there is no such prefix, where the model caches anything but keys and values of every token,
    or where its weights are sharded, since all processes would then have to make the same calls.
    """
    # Without the last token of every prompt, which predicts the first of the answer. (commonprefix compares any sequences.)
    beginning = list(os.path.commonprefix([prompt[:-1] for prompt in prompts]))
    if not beginning or is_sharded(model):
        return [], None
    cache = encode_beginning(model, torch.tensor([beginning], device=model.device))
    return ([], None) if cache is None else (beginning, cache)


def _layers(cache: DynamicCache | None) -> list[Any]:
    """The layers of ``cache``, which have `keys` and `values`, each `(rows, heads, tokens, size)`."""
    return [] if cache is None else list(cache.layers)


def _stretched(tensor: torch.Tensor, start: int, by: int, dim: int, value: int = 0) -> torch.Tensor:
    """``tensor`` with ``by`` more entries of ``value`` from ``start`` on; with fewer where ``by`` is negative."""
    if not by:
        return tensor
    head, tail = tensor.split([start, tensor.shape[dim] - start], dim)
    if by < 0:
        return torch.cat([head, tail.narrow(dim, -by, tail.shape[dim] + by)], dim)
    shape = list(tensor.shape)
    shape[dim] = by
    return torch.cat([head, tensor.new_full(shape, value), tail], dim)
