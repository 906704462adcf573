"""Turns samples into batches, padded, packed or noised, and draws every mask as a pure function of (seed, epoch, sample).

Nothing here depends on the batch, the worker or the process (design invariant 1); only the *ratio* may be shared by a batch,
when asked for as in the paper. Knows nothing of tokenizers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

import torch

from kinject import compat
from kinject.corruption import (
    MASK_STREAM,
    PADDING_STREAM,
    REPLACEMENT_STREAM,
    WORDING_STREAM,
    block_seed,
    draw_mask,
    mask_tokens,
    once_a_run,
    random_tokens,
    sample_generator,
)
from kinject.errors import ConfigurationError
from kinject.models.diffusion import is_diffusion
from kinject.prompts.templates import IGNORED, Frame, assemble

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from kinject.corruption import MaskRatioLaw, MaskUnit
    from kinject.trainers.document_config import RatioScope
    from kinject.trainers.infilling import Gap, Infilling
    from kinject.trainers.masked_config import Corruption, LossScope


# Batches without padding: the documents of a batch in one row, each of which attends to itself alone.


def check_isolation(model: PreTrainedModel, device: torch.device) -> bool:
    """Refuse a model in which the documents of a row would see each other, or pay for each other.

    Returns:
        Whether its attention takes boundaries (FlashAttention) rather than position ids alone.

    Raises:
        ConfigurationError: the model is a masked diffusion model, carries a state from token to token, or has an attention
            implementation other than FlashAttention and, on accelerators, flex attention.
    """
    if is_diffusion(model):
        raise ConfigurationError(compat.packing_refusal(None))
    if compat.is_stateful(model):
        raise ConfigurationError(
            f"packing is not supported for {type(model).__name__}, whose layers carry a state from one document of a row "
            "into the next. Leave out --packing and --padding_free."
        )
    attention = compat.attention_implementation(model)
    if "flash" in attention:
        return True
    if attention == "flex_attention" and device.type != "cpu":
        return False
    raise ConfigurationError(compat.packing_refusal(attention))


def packed(
    samples: Sequence[tuple[Sequence[int], Sequence[int]]], with_boundaries: bool, pad: tuple[int, int] | None = None
) -> dict[str, Any]:
    """One row out of ``samples``.

    Args:
        samples: Token ids and labels (not shifted) of each document.
        with_boundaries: Whether to add what FlashAttention takes.
        pad: Token id, and the multiple to which it fills up the row, as one more document.

    Returns:
        `input_ids`, `position_ids` and `labels`, each `(1, total)`; -100 stands for the first label of every document, which
        nothing predicts. With boundaries also `cu_seq_lens_q`, `cu_seq_lens_k` `(documents + 1,)`, `max_length_q` and
        `max_length_k`.
    """
    documents = list(samples)
    if pad is not None:
        missing = -sum(len(ids) for ids, _ in documents) % pad[1]
        documents += [([pad[0]] * missing, [IGNORED] * missing)] if missing else []
    lengths = [len(ids) for ids, _ in documents]
    batch: dict[str, Any] = {
        "input_ids": torch.tensor([[index for ids, _ in documents for index in ids]]),
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "labels": torch.tensor([[label for _, labels in documents for label in (IGNORED, *labels[1:])]]),
    }
    if with_boundaries:
        boundaries = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        batch |= {"cu_seq_lens_q": boundaries, "cu_seq_lens_k": boundaries}
        batch |= {"max_length_q": max(lengths), "max_length_k": max(lengths)}
    return batch


def document_of_each(position_ids: torch.Tensor) -> torch.Tensor:
    """The number of the document that each token of a packed row `(1, total)` belongs to, `(total,)`."""
    return (position_ids[0] == 0).cumsum(0) - 1


Packing = Literal["none", "positions", "boundaries"]
_EVALUATION_SEED_OFFSET = 2**32  # evaluation rows are numbered from 0 too, and must not repeat the training masks


@dataclass(frozen=True)
class Masking:
    """What a masked objective hides in the prompt's copy of the document.

    Attributes:
        law: The mask ratio of a sample in an epoch.
        mask_token_id: Stands for a hidden token under `corruption="mask"`.
        candidate_ids: Ids that `corruption="random"` draws from, shape `(candidates,)`.
        corruption, unit, ratio_per, loss_on: As in `MaskedSFTConfig`.
        collapsed: Whether the copy shows one mask for each run of hidden tokens.
    """

    law: MaskRatioLaw
    mask_token_id: int
    candidate_ids: torch.Tensor
    corruption: Corruption = "mask"
    unit: MaskUnit = "token"
    ratio_per: RatioScope = "sample"
    loss_on: LossScope = "document"
    collapsed: bool = False


@dataclass
class DocumentCollator:
    """Collates rows `{document_ids, sample, fixed_masks[, word_ids][, gaps][, frames][, predictions]}`, padded or packed.

    `frames` are the token ids around plain documents, one entry a wording; a row with `frames` of its own (a question
    with its answer) uses those. Masked objectives pass `masking`, and `infilling` where some samples are of that kind.

    Returns a dict with `input_ids`, `attention_mask`, `labels` (not shifted, -100 where nothing is scored), each
    `(batch, length)`, or what `packed` returns; for masked objectives also `mask_ratio` `(batch,)`, NaN for a row that shows
    no copy and so has no mask; where `indexed` what `supervised` returns; and what `batch_predictions` returns.
    """

    frames: Sequence[Frame]
    pad_token_id: int
    seed: int
    masking: Masking | None = None
    infilling: Infilling | None = None
    pad_to_multiple_of: int | None = None
    # Whether training batches are packed, and if so, whether with boundaries; evaluation batches are always padded.
    packing: Packing = "none"
    num_epochs: float = 1.0
    # Whether a batch says where its targets are, and how much its rows share: on a device, finding out would wait for it. Not
    # for streamed data, whose batches accelerate cuts along their rows.
    indexed: bool = True
    # In shared memory, so that data loader workers that outlive an epoch see the new one.
    _epoch: torch.Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64).share_memory_())

    @property
    def epoch(self) -> int:
        """The epoch whose masks are drawn, counted from 0."""
        return int(self._epoch)

    @epoch.setter
    def epoch(self, value: int) -> None:
        self._epoch.fill_(value)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Collate ``rows``."""
        ratios = self._ratios(rows)
        samples = []
        for index, row in enumerate(rows):
            gap, ids = self._gap(row), row["document_ids"]
            if self.infilling is None or gap is None:
                frame = self._frame(row)
                samples.append(self._assemble(row, frame, ratios[index]))
                ratios[index] = ratios[index] if frame.has_copy else math.nan
            else:
                samples.append(self.infilling.assemble(ids, gap))
                ratios[index] = (gap.end - gap.start) / len(ids)
        if self.packing == "none" or rows[0]["fixed_masks"]:
            length = self._padded_length([len(input_ids) for input_ids, _ in samples])
            batch: dict[str, Any] = {
                "input_ids": padded([ids for ids, _ in samples], length, self.pad_token_id),
                "attention_mask": padded([[1] * len(ids) for ids, _ in samples], length, 0),
                "labels": padded([targets for _, targets in samples], length, IGNORED),
            }
        else:
            pad = (self.pad_token_id, self.pad_to_multiple_of) if self.pad_to_multiple_of else None
            batch = packed(samples, self.packing == "boundaries", pad)
        if self.masking is not None:
            batch["mask_ratio"] = torch.tensor(ratios)
        if self.indexed:
            batch |= supervised(batch["input_ids"], batch["labels"][:, 1:])
        labels = [targets for _, targets in samples]
        return batch | batch_predictions(rows, labels) | batch_weights(rows, labels)

    def _padded_length(self, lengths: Sequence[int]) -> int:
        multiple = self.pad_to_multiple_of or 1
        return -(-max(lengths) // multiple) * multiple

    def _seed_and_epoch(self, row: Mapping[str, Any]) -> tuple[int, int]:
        """What a row's draws depend on besides its number; evaluation rows meet the same masks every time."""
        return (self.seed + _EVALUATION_SEED_OFFSET, 0) if row["fixed_masks"] else (self.seed, self.epoch)

    def _generator(self, row: Mapping[str, Any], stream: int) -> torch.Generator:
        return sample_generator(*self._seed_and_epoch(row), row["sample"], stream)

    def _frame(self, row: Mapping[str, Any]) -> Frame:
        frames = [Frame(**frame) for frame in row["frames"]] if row.get("frames") else self.frames
        if len(frames) == 1:  # seeding a generator costs more than the rest of a row
            return frames[0]
        return frames[int(torch.randint(len(frames), (), generator=self._generator(row, WORDING_STREAM)))]

    def _gap(self, row: Mapping[str, Any]) -> Gap | None:
        if self.infilling is None or row.get("frames"):
            return None
        seed, epoch = self._seed_and_epoch(row)
        length = len(row["document_ids"])
        return self.infilling.gap(length, row.get("gaps"), seed, epoch, row["sample"], self.num_epochs)

    def _ratios(self, rows: Sequence[Mapping[str, Any]]) -> list[float]:
        if self.masking is not None and self.masking.ratio_per == "batch":
            return [self._ratio(rows[0])] * len(rows)  # the first sample's draw serves the whole batch
        return [self._ratio(row) for row in rows]

    def _ratio(self, row: Mapping[str, Any]) -> float:
        if self.masking is None:
            return 0.0
        if self.masking.corruption == "random":
            return 1.0  # the control replaces every document token
        seed, epoch = self._seed_and_epoch(row)
        return self.masking.law.ratio(seed, epoch, row["sample"], self.num_epochs)

    def _assemble(self, row: Mapping[str, Any], frame: Frame, ratio: float) -> tuple[list[int], list[int]]:
        ids = row["document_ids"]
        if self.masking is None or not frame.has_copy:
            assembled = assemble(frame, ids, None, None)
            return assembled.input_ids, assembled.labels
        mask = draw_mask(len(ids), ratio, self._generator(row, MASK_STREAM), self.masking.unit, row.get("word_ids"))
        noised = self._corrupt(torch.tensor(ids), mask, row)
        if self.masking.collapsed:
            noised = noised[once_a_run(mask)]
        loss_mask = mask.tolist() if self.masking.loss_on == "masked" else None
        assembled = assemble(frame, ids, noised.tolist(), loss_mask)
        return assembled.input_ids, assembled.labels

    def _corrupt(self, ids: torch.Tensor, mask: torch.Tensor, row: Mapping[str, Any]) -> torch.Tensor:
        assert self.masking is not None
        if self.masking.corruption == "mask":
            return mask_tokens(ids, mask, self.masking.mask_token_id)
        return random_tokens(ids, mask, self.masking.candidate_ids, self._generator(row, REPLACEMENT_STREAM))


def supervised(input_ids: torch.Tensor, targets: torch.Tensor) -> dict[str, Any]:
    """Where the targets of a batch are, and the length of the prefix that all its rows share, up to the first target.

    Args:
        input_ids: `(batch, length)`.
        targets: -100 where nothing is scored, `(batch, length - 1)`; of masked diffusion models `(batch, length)`.

    Returns:
        `supervised`, the row and the position of each target, `(2, targets)`, and `shared`, an `int`.
    """
    where = torch.stack((targets != IGNORED).nonzero(as_tuple=True))  # (2, targets)
    if len(input_ids) == 1 or not where.shape[1]:
        return {"supervised": where, "shared": 0}
    before = input_ids[:, : int(where[1].min())]
    return {"supervised": where, "shared": int((before == before[:1]).all(0).long().cumprod(0).sum())}


def padded(rows: Sequence[Sequence[float]], length: int, value: float) -> torch.Tensor:
    """``rows`` as one tensor `(batch, length)`, with ``value`` after each."""
    tensor = torch.full((len(rows), length), value)
    for index, row in enumerate(rows):
        tensor[index, : len(row)] = torch.tensor(row)
    return tensor


# Turns prepared rows into noised batches for masked diffusion models.


@dataclass(frozen=True)
class Noised:
    """A row of a masked diffusion model.

    Attributes:
        clean: Its token ids: prompt, what may be hidden, nothing after it.
        hidden: Which of them are hidden.
        ratio: The probability p of being hidden, of each token that may be; 0 of the prompt.
        maskable: How many may be hidden.
    """

    clean: list[int]
    hidden: list[bool]
    ratio: list[float]
    maskable: int

    @property
    def mean_ratio(self) -> float:
        """The mean of p over what may be hidden."""
        own = self.ratio[-self.maskable :]
        return own[0] if own.count(own[0]) == len(own) else sum(own) / len(own)

    def complement(self) -> Noised:
        """The same row with what was visible hidden, and the other way round."""
        start = len(self.clean) - self.maskable
        hidden = [position >= start and not flag for position, flag in enumerate(self.hidden)]
        return Noised(self.clean, hidden, [1 - p if p else 0.0 for p in self.ratio], self.maskable)


@dataclass
class DiffusionCollator(DocumentCollator):
    """Collates rows as `DocumentCollator` does; `masking` says what is hidden.

    Args:
        eps: A token is hidden with probability p = (1 - eps) t + eps.
        end_padding_id: Fills rows up to the longest as tokens that are seen and may be hidden; `None` pads with what is
            neither.
        complementary: Let each row be followed by one in which what it shows is hidden (Fast-dLLM v2, arXiv 2509.26328).

    Returns a dict with `input_ids` (noised), `attention_mask`, `labels` (not shifted, -100 where nothing is hidden), each
    `(batch, length)`, `mask_ratio` (p) and `maskable` (the number of tokens that could have been hidden), each `(batch,)`.
    """

    eps: float = 0.0
    end_padding_id: int | None = None
    complementary: bool = False

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate ``rows``."""
        noised = self._noised(rows)
        return self.lay_out(
            [each for row in noised for each in ((row, row.complement()) if self.complementary else (row,))]
        )

    def _noised(self, rows: Sequence[Mapping[str, Any]]) -> list[Noised]:
        ratios = [(1 - self.eps) * t + self.eps for t in self._ratios(rows)]
        frames = [self._frame(row) for row in rows]
        prompts = [[*frame.before, *frame.between] for frame in frames]
        answers = [[*row["document_ids"], *frame.after] for row, frame in zip(rows, frames, strict=True)]
        lengths = [len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)]
        noised = []
        for index, ends in enumerate(self._ends(lengths)):
            prompt, answer = prompts[index], answers[index]
            hidden, ratio = self._hide(rows[index], ratios[index], len(prompt), len(answer), ends)
            clean = [*prompt, *answer, *[self.end_padding_id or 0] * ends]
            noised.append(
                Noised(clean, [False] * len(prompt) + hidden, [0.0] * len(prompt) + ratio, len(answer) + ends)
            )
        return noised

    def _ends(self, lengths: Sequence[int]) -> list[int]:
        """By how many tokens for the end of a text each row is filled up."""
        if self.end_padding_id is None:
            return [0] * len(lengths)
        longest = self._padded_length(lengths)
        return [longest - length for length in lengths]

    def _hide(
        self, row: Mapping[str, Any], ratio: float, start: int, answer: int, ends: int
    ) -> tuple[list[bool], list[float]]:
        """Which of the tokens from ``start`` on are hidden, and with which probability each of them."""
        hidden = self._hidden(row, ratio, answer)
        if ends:
            hidden += draw_mask(ends, ratio, self._generator(row, PADDING_STREAM)).tolist()
        return hidden, [ratio] * (answer + ends)

    def lay_out(self, noised: Sequence[Noised]) -> dict[str, torch.Tensor]:
        """The batch of rows whose noise is drawn."""
        assert self.masking is not None
        length = self._padded_length([len(each.clean) for each in noised])
        input_ids = padded([each.clean for each in noised], length, self.pad_token_id)
        is_hidden = padded([each.hidden for each in noised], length, False).bool()
        return {
            "input_ids": input_ids.masked_fill(is_hidden, self.masking.mask_token_id),
            "attention_mask": padded([[1] * len(each.clean) for each in noised], length, 0),
            "labels": input_ids.masked_fill(~is_hidden, IGNORED),
            "mask_ratio": torch.tensor([each.mean_ratio for each in noised]),
            "maskable": torch.tensor([each.maskable for each in noised]),
            **({"supervised": torch.stack(is_hidden.nonzero(as_tuple=True))} if self.indexed else {}),
        }

    def _hidden(self, row: Mapping[str, Any], ratio: float, length: int) -> list[bool]:
        assert self.masking is not None
        words = self._words(row, length)
        return draw_mask(length, ratio, self._generator(row, MASK_STREAM), self.masking.unit, words).tolist()

    @staticmethod
    def _words(row: Mapping[str, Any], length: int) -> list[int] | None:
        words = row.get("word_ids")
        if words is not None:  # the end of the turn is a word of its own
            words = [*words, *range(words[-1] + 1, words[-1] + 1 + length - len(words))]
        return words


# Batches of block diffusion models: each row as its noisy blocks that carry loss, and the clean copy that those see.
#
# [N | C] of a row of L tokens takes 2 L. What no loss depends on is left out: noisy blocks in which nothing is hidden, and the
# clean copy from the last noisy block on. The loss stays the same.


@dataclass
class BlockCollator(DiffusionCollator):
    """Collates rows for a block diffusion model, each filled up to whole blocks with ends of text that may be hidden.

    Args:
        block_length: Tokens of a block, counted from the beginning of the row.
        noise_per: Whether a `row` or each `block` of it has its own probability of being hidden.
        shifted: Whether logits predict the next token: the first of a block is then predicted by the noisy block before it.
        to_longest: Fill all rows of a batch up to the longest.
        learn_next: Also have the clean copy, whole then, predict the next token.

    Returns what `DiffusionCollator` does, where columns are those of [N | C] and `labels` stand in N, and besides
    `position_ids`, `clean` (whether the column is of C) and `ratios` (p of the column, 1 where it has none), each
    `(batch, columns)`; with `learn_next` also `next_labels` `(batch, columns)`, at the column that predicts the token.
    """

    block_length: int = 1
    noise_per: str = "row"
    shifted: bool = False
    to_longest: bool = False
    learn_next: bool = False

    def _ends(self, lengths: Sequence[int]) -> list[int]:
        longest = max(lengths)
        return [self._whole(longest if self.to_longest else length) - length for length in lengths]

    def _whole(self, length: int) -> int:
        return -(-length // self.block_length) * self.block_length

    def _hide(
        self, row: Mapping[str, Any], ratio: float, start: int, answer: int, ends: int
    ) -> tuple[list[bool], list[float]]:
        if self.noise_per == "row":
            return super()._hide(row, ratio, start, answer, ends)
        assert self.masking is not None
        words, unit = self._words(row, answer), self.masking.unit
        generator, of_ends = self._generator(row, MASK_STREAM), self._generator(row, PADDING_STREAM)
        hidden: list[bool] = []
        ratios: list[float] = []
        for block in range(start // self.block_length, (start + answer + ends) // self.block_length):
            first = max(block * self.block_length - start, 0)
            last = (block + 1) * self.block_length - start
            p = (1 - self.eps) * self._block_ratio(row, block) + self.eps
            inside = min(last, answer) - first
            if inside > 0:
                own = None if words is None else words[first : first + inside]
                hidden += draw_mask(inside, p, generator, unit, own).tolist()
            hidden += draw_mask(last - max(first, answer), p, of_ends).tolist() if last > answer else []
            ratios += [p] * (last - first)
        return hidden, ratios

    def _block_ratio(self, row: Mapping[str, Any], block: int) -> float:
        assert self.masking is not None
        seed, epoch = self._seed_and_epoch(row)
        return self.masking.law.ratio(block_seed(seed, row["sample"]), epoch, block, self.num_epochs)

    def lay_out(self, noised: Sequence[Noised]) -> dict[str, torch.Tensor]:
        """The batch of rows whose noise is drawn, each as [N | C]; every row has whole blocks."""
        assert self.masking is not None
        columns = [self._columns(each) for each in noised]  # (places in N, places in C)
        width = self._padded_length([len(noisy) + len(clean) for noisy, clean in columns])
        ids, labels, ratios, following = [], [], [], []
        for each, (noisy, clean) in zip(noised, columns, strict=True):
            shown = [self.masking.mask_token_id if each.hidden[place] else each.clean[place] for place in noisy]
            ids.append([*shown, *(each.clean[place] for place in clean)])
            labels.append([each.clean[place] if each.hidden[place] else IGNORED for place in noisy])
            ratios.append([each.ratio[place] or 1.0 for place in noisy])
            start = len(each.clean) - each.maskable
            following.append(
                [IGNORED] * len(noisy)
                + [each.clean[place + 1] if start <= place + 1 < len(each.clean) else IGNORED for place in clean]
            )
        targets = padded(labels, width, IGNORED)
        return {
            "input_ids": padded(ids, width, self.pad_token_id),
            "position_ids": padded([[*noisy, *clean] for noisy, clean in columns], width, 0),
            "clean": padded([[False] * len(noisy) + [True] * len(clean) for noisy, clean in columns], width, 0).bool(),
            "attention_mask": padded([[1] * len(row) for row in ids], width, 0),
            "labels": targets,
            "ratios": padded(ratios, width, 1.0),
            "mask_ratio": torch.tensor([each.mean_ratio for each in noised]),
            "maskable": torch.tensor([each.maskable for each in noised]),
            **({"next_labels": padded(following, width, IGNORED)} if self.learn_next else {}),
            **({"supervised": torch.stack((targets != IGNORED).nonzero(as_tuple=True))} if self.indexed else {}),
        }

    def _columns(self, row: Noised) -> tuple[list[int], list[int]]:
        """The places of ``row`` that its noisy copy keeps, and those of its clean copy."""
        places = [place for place, hidden in enumerate(row.hidden) if hidden]
        read = [max(place - 1, 0) for place in places] if self.shifted else []
        blocks = sorted({place // self.block_length for place in (*places, *read)})
        blocks = blocks or [(len(row.clean) - 1) // self.block_length]  # nothing is hidden, and a batch cannot be empty
        noisy = [
            place for block in blocks for place in range(block * self.block_length, (block + 1) * self.block_length)
        ]
        return noisy, list(range(len(row.clean) if self.learn_next else blocks[-1] * self.block_length))


WEIGHTS = "loss_weights"
"""What a batch holds besides, in which every row counts alike; see `batch_weights`."""


def batch_weights(rows: Sequence[Mapping[str, Any]], labels: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """By how much the loss of each supervised token counts, `(supervised,)`: a row's weight is shared by its tokens.

    A short answer then weighs as much as a long document. Nothing where the rows have no weights.
    """
    if not any(row.get("weight") for row in rows):
        return {}
    counts = [sum(label != IGNORED for label in targets[1:]) for targets in labels]
    weights = [
        weight
        for row, count in zip(rows, counts, strict=True)
        for weight in [(row.get("weight") or 0.0) / count] * count
    ]
    return {WEIGHTS: torch.tensor(weights)}


EXACT = ("mask_ratio", "ratios", "predicted_log_probs", WEIGHTS)
"""What the loss is computed with, which DeepSpeed must not round to bf16."""

PREDICTED = ("rehearsed", "predicted_ids", "predicted_log_probs")
"""What a batch with rehearsed samples holds besides; see `batch_predictions`."""


def batch_predictions(rows: Sequence[Mapping[str, Any]], labels: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """The predictions of the samples of a batch, as tensors; nothing where no sample has any.

    Args:
        rows: Prepared rows; those that are rehearsed have `predictions`.
        labels: The labels of each, not shifted.

    Returns:
        `rehearsed` `(supervised,)`: which of the supervised tokens of the batch are; `predicted_ids` and
        `predicted_log_probs` of those, `(rehearsed, kept)`.
    """
    predictions = [row.get("predictions") for row in rows]
    if not any(predictions):
        return {}
    rehearsed = [
        [each is not None] * sum(label != IGNORED for label in targets[1:])
        for each, targets in zip(predictions, labels, strict=True)
    ]
    known = [each for each in predictions if each]
    return {
        "rehearsed": torch.tensor([flag for flags in rehearsed for flag in flags]),
        "predicted_ids": torch.tensor([ids for each in known for ids in each["ids"]]),
        "predicted_log_probs": torch.tensor([values for each in known for values in each["log_probs"]]),
    }
