"""Turns prepared rows into noised batches for masked diffusion models.

As with the masked objective, the noise of a sample is a pure function of (seed, epoch, sample). The document and the end
of its turn may be hidden; what stands before them never is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kinject.corruption import MASK_STREAM, PADDING_STREAM, draw_mask
from kinject.templates import IGNORED
from kinject.trainers.collator import DocumentCollator, Masking, padded


@dataclass
class DiffusionCollator(DocumentCollator):
    """Collates rows as `DocumentCollator` does; `masking` says what is hidden.

    Args:
        eps: A token is hidden with probability p = (1 - eps) t + eps.
        end_padding_id: Fills rows up to the longest as tokens that are seen and may be hidden; `None` pads with what is
            neither.

    Returns a dict with `input_ids` (noised), `attention_mask`, `labels` (not shifted, -100 where nothing is hidden), each
    `(batch, length)`, `mask_ratio` (p) and `maskable` (the number of tokens that could have been hidden), each `(batch,)`.
    """

    eps: float = 0.0
    end_padding_id: int | None = None

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate ``rows``."""
        assert self.masking is not None
        ratios = [(1 - self.eps) * t + self.eps for t in self._ratios(rows)]
        frames = [self._frame(row) for row in rows]
        prompts = [[*frame.before, *frame.between] for frame in frames]
        answers = [[*row["document_ids"], *frame.after] for row, frame in zip(rows, frames, strict=True)]
        lengths = [len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)]
        length = self._padded_length(lengths)
        hidden = []
        for index, row in enumerate(rows):
            mask = self._hidden(row, ratios[index], len(answers[index]), self.masking)
            if self.end_padding_id is not None:
                ends = length - lengths[index]
                answers[index] += [self.end_padding_id] * ends
                mask += draw_mask(ends, ratios[index], self._generator(row, PADDING_STREAM)).tolist()
            hidden.append([False] * len(prompts[index]) + mask)
        clean = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
        input_ids = padded(clean, length, self.pad_token_id)
        is_hidden = padded(hidden, length, False).bool()
        return {
            "input_ids": input_ids.masked_fill(is_hidden, self.masking.mask_token_id),
            "attention_mask": padded([[1] * len(ids) for ids in clean], length, 0),
            "labels": input_ids.masked_fill(~is_hidden, IGNORED),
            "mask_ratio": torch.tensor(ratios),
            "maskable": torch.tensor([len(answer) for answer in answers]),
        }

    def _hidden(self, row: Mapping[str, Any], ratio: float, length: int, masking: Masking) -> list[bool]:
        words = row.get("word_ids")
        if words is not None:  # the end of the turn is a word of its own
            words = [*words, *range(words[-1] + 1, words[-1] + 1 + length - len(words))]
        return draw_mask(length, ratio, self._generator(row, MASK_STREAM), masking.unit, words).tolist()
