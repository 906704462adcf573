"""Noised batches against what they are by hand, row by row."""

from __future__ import annotations

from typing import Any

import torch

from kinject.corruption import MASK_STREAM, PADDING_STREAM, Fixed, Uniform, draw_mask, sample_generator
from kinject.prompts.templates import Frame
from kinject.trainers.collator import Masking
from kinject.trainers.diffusion_trainer import DiffusionCollator

PAD, MASK, END = 0, 99, 7
HALF = Fixed(0.5)
FRAME = Frame(before=(1, 2), between=(3,), after=(9,), has_copy=False)
ROWS: list[dict[str, Any]] = [
    {"document_ids": [11, 12, 13, 14, 15, 16], "sample": 4, "fixed_masks": False, "word_ids": [0, 0, 1, 1, 1, 2]},
    {"document_ids": [21, 22], "sample": 5, "fixed_masks": False, "word_ids": [0, 1]},
]


def collator(law: Any = HALF, unit: Any = "token", **settings: Any) -> DiffusionCollator:
    masking = Masking(law=law, mask_token_id=MASK, candidate_ids=torch.empty(0, dtype=torch.long), unit=unit)
    made = DiffusionCollator(frames=[FRAME], pad_token_id=PAD, seed=5, masking=masking, **settings)
    made.epoch = 2
    return made


def by_hand(hidden: list[list[bool]], fills: list[list[int]], length: int) -> dict[str, list[Any]]:
    """The batch of `ROWS`, of whose answers and filling that is hidden."""
    batch: dict[str, list[Any]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for row, mask, fill in zip(ROWS, hidden, fills, strict=True):
        answer = [*row["document_ids"], 9, *fill]
        rest = length - 3 - len(answer)
        noised = [MASK if hide else index for index, hide in zip(answer, mask, strict=True)]
        scored = [index if hide else -100 for index, hide in zip(answer, mask, strict=True)]
        batch["input_ids"].append([1, 2, 3, *noised, *[PAD] * rest])
        batch["labels"].append([-100, -100, -100, *scored, *[-100] * rest])
        batch["attention_mask"].append([1] * (length - rest) + [0] * rest)
    return batch


def test_answers_are_hidden_and_what_stands_before_them_is_not() -> None:
    batch = collator(eps=0.2)(ROWS)
    ratio = 0.8 * 0.5 + 0.2
    hidden = [
        draw_mask(len(row["document_ids"]) + 1, ratio, sample_generator(5, 2, row["sample"], MASK_STREAM)).tolist()
        for row in ROWS
    ]
    for name, values in by_hand(hidden, [[], []], 10).items():
        assert batch[name].tolist() == values and batch[name].dtype == torch.int64
    assert torch.equal(batch["mask_ratio"], torch.tensor([ratio, ratio]))
    assert batch["maskable"].tolist() == [7, 3]
    assert set(batch) == {"input_ids", "attention_mask", "labels", "supervised", "mask_ratio", "maskable"}


def test_every_row_has_its_own_ratio_and_its_own_mask() -> None:
    law = Uniform(0.1, 0.9)
    batch = collator(law, eps=0.1)(ROWS)
    ratios = torch.tensor([law.ratio(5, 2, row["sample"], 1.0) for row in ROWS], dtype=torch.float64)
    assert torch.allclose(batch["mask_ratio"].double(), 0.9 * ratios + 0.1)
    assert torch.allclose(collator(law)(ROWS)["mask_ratio"].double(), ratios)


def test_rows_are_filled_with_ends_that_are_seen_and_may_be_hidden() -> None:
    batch = collator(Fixed(0.6), end_padding_id=END, pad_to_multiple_of=8)(ROWS)
    fills = [[END] * 6, [END] * 10]
    hidden = []
    for row, fill in zip(ROWS, fills, strict=True):
        own, filling = (sample_generator(5, 2, row["sample"], stream) for stream in (MASK_STREAM, PADDING_STREAM))
        answer = draw_mask(len(row["document_ids"]) + 1, 0.6, own).tolist()
        hidden.append([*answer, *draw_mask(len(fill), 0.6, filling).tolist()])
    for name, values in by_hand(hidden, fills, 16).items():
        assert batch[name].tolist() == values
    assert batch["maskable"].tolist() == [13, 13]


def test_the_end_of_a_turn_is_a_word_of_its_own() -> None:
    batch = collator(unit="word")(ROWS)
    words = [[0, 0, 1, 1, 1, 2, 3], [0, 1, 2]]
    hidden = [
        draw_mask(len(ids), 0.5, sample_generator(5, 2, row["sample"], MASK_STREAM), "word", ids).tolist()
        for row, ids in zip(ROWS, words, strict=True)
    ]
    for name, values in by_hand(hidden, [[], []], 10).items():
        assert batch[name].tolist() == values


def test_the_end_of_a_turn_of_several_tokens_is_several_words() -> None:
    long = collator(unit="word")
    long.frames = [Frame(before=(1, 2), between=(3,), after=(9, 8), has_copy=False)]
    batch = long(ROWS[:1])
    words = [0, 0, 1, 1, 1, 2, 3, 4]
    expected = draw_mask(8, 0.5, sample_generator(5, 2, 4, MASK_STREAM), "word", words)
    assert torch.equal(batch["labels"][0, 3:] != -100, expected)
