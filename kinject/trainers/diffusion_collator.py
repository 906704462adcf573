"""Turns prepared rows into noised batches for masked diffusion models, with the noise of a row in one place.

A masked diffusion model learns a row whose hidden tokens show the mask token. A block diffusion model learns it as [N | C]: the
noisy copy N, and the clean copy C that the blocks of N attend to. That takes 2 L positions for a row of L tokens, so what no
loss depends on is left out: blocks of N in which nothing is hidden, and C from the last block of N on. The loss stays the same.

As in `DocumentCollator`, noise is a pure function of (seed, epoch, sample). Knows nothing of tokenizers and of losses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kinject.corruption import MASK_STREAM, PADDING_STREAM, block_seed, draw_mask
from kinject.prompts.templates import IGNORED
from kinject.trainers.collator import DocumentCollator, padded


@dataclass(frozen=True)
class Noised:
    """A row whose noise is drawn: a prompt, then tokens that may be hidden, `length` in all.

    Attributes:
        clean: Its token ids, `(length,)`.
        hidden: Which of them are hidden, `(length,)`.
        ratio: The probability p with which each is hidden, `(length,)`; 0 for the prompt.
        maskable: How many may be hidden: all after the prompt.
    """

    clean: list[int]
    hidden: list[bool]
    ratio: list[float]
    maskable: int

    @property
    def mean_ratio(self) -> float:
        """The mean of p over the tokens that may be hidden."""
        own = self.ratio[-self.maskable :]
        return own[0] if own.count(own[0]) == len(own) else sum(own) / len(own)

    def complement(self) -> Noised:
        """The same row with what was visible hidden, and the other way round."""
        start = len(self.clean) - self.maskable
        hidden = [position >= start and not flag for position, flag in enumerate(self.hidden)]
        return Noised(self.clean, hidden, [1 - p if p else 0.0 for p in self.ratio], self.maskable)


@dataclass
class DiffusionCollator(DocumentCollator):
    """Collates the rows that `DocumentCollator` takes; `masking` says how noise is drawn.

    Args:
        eps: A token is hidden with probability p = (1 - eps) t + eps (LLaDA, arXiv 2502.09992, section 2).
        end_padding_id: Fills rows up to the longest with this token, which is attended to and may be hidden; None pads with
            tokens that are neither.
        complementary: Put after each row the same row with the other tokens hidden (Fast-dLLM v2, arXiv 2509.26328).

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
        """The number of end-of-text tokens that each row, of these ``lengths``, is filled up with."""
        if self.end_padding_id is None:
            return [0] * len(lengths)
        longest = self._padded_length(lengths)
        return [longest - length for length in lengths]

    def _hide(
        self, row: Mapping[str, Any], ratio: float, start: int, answer: int, ends: int
    ) -> tuple[list[bool], list[float]]:
        """Which tokens after a prompt of ``start`` are hidden, and with which probability each: ``answer``, then ``ends``."""
        assert self.masking is not None
        words, unit = self._words(row, answer), self.masking.unit
        hidden = draw_mask(answer, ratio, self._generator(row, MASK_STREAM), unit, words).tolist()
        if ends:
            hidden += draw_mask(ends, ratio, self._generator(row, PADDING_STREAM)).tolist()
        return hidden, [ratio] * (answer + ends)

    def lay_out(self, noised: Sequence[Noised]) -> dict[str, torch.Tensor]:
        """The batch of rows whose noise is drawn; see the class for its entries."""
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

    @staticmethod
    def _words(row: Mapping[str, Any], length: int) -> list[int] | None:
        """The word of each of the ``length`` tokens of an answer, where they are hidden by words."""
        words = row.get("word_ids")
        if words is not None:  # each token of the end of the turn is a word of its own
            words = [*words, *range(words[-1] + 1, words[-1] + 1 + length - len(words))]
        return words


@dataclass
class BlockCollator(DiffusionCollator):
    """Collates rows for a block diffusion model, each filled up to whole blocks with ends of text that may be hidden.

    Args:
        block_length: Tokens of a block, counted from the beginning of the row.
        noise_per: `row`: one probability of being hidden for the whole row; `block`: one for each block.
        shifted: Whether logits predict the next token, so that the first token of a block is predicted in the block before.
        to_longest: Fill all rows of a batch up to the longest.
        learn_next: Keep the whole clean copy, and let it predict the next token, too.

    Returns what `DiffusionCollator` returns, with the columns of [N | C] for positions and all `labels` in N. Besides:
    `position_ids`, `clean` (whether the column belongs to C) and `ratios` (p of the column; 1 in C and in padding), each
    `(batch, columns)`; with `learn_next` also `next_labels` `(batch, columns)`, each at the column that predicts it.
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
        """The batch of rows whose noise is drawn, each of whole blocks and laid out as [N | C]."""
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
        """The positions of ``row`` that the noisy copy N keeps, and those that the clean copy C keeps."""
        places = [place for place, hidden in enumerate(row.hidden) if hidden]
        read = [max(place - 1, 0) for place in places] if self.shifted else []
        blocks = sorted({place // self.block_length for place in (*places, *read)})
        blocks = blocks or [(len(row.clean) - 1) // self.block_length]  # nothing is hidden, and a batch cannot be empty
        noisy = [
            place for block in blocks for place in range(block * self.block_length, (block + 1) * self.block_length)
        ]
        return noisy, list(range(len(row.clean) if self.learn_next else blocks[-1] * self.block_length))
