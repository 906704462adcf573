"""Batches of block diffusion models: each row as its noisy blocks that carry loss, and the clean copy that those see.

[N | C] of a row of L tokens takes 2 L. What no loss depends on is left out: noisy blocks in which nothing is hidden, and the
clean copy from the last noisy block on; the loss stays the same to the last bit of the sum. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kinject.corruption import MASK_STREAM, PADDING_STREAM, block_seed, draw_mask
from kinject.prompts.templates import IGNORED
from kinject.trainers.collator import DiffusionCollator, Noised, padded


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
