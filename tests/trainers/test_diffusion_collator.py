"""Noised batches against what they are by hand, row by row."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kinject.corruption import MASK_STREAM, PADDING_STREAM, Fixed, Uniform, block_seed, draw_mask, sample_generator
from kinject.prompts.templates import Frame
from kinject.trainers.collator import Masking
from kinject.trainers.diffusion_trainer import BlockCollator, DiffusionCollator, Noised

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


def test_a_complementary_row_hides_what_the_row_before_it_shows() -> None:
    batch = collator(complementary=True, eps=0.2, end_padding_id=END)(ROWS)
    assert batch["mask_ratio"].tolist() == pytest.approx([0.6, 0.4] * 2) and batch["maskable"].tolist() == [7, 7] * 2
    for first, row in ((0, ROWS[0]), (2, ROWS[1])):
        answer = [*row["document_ids"], 9, *[END] * (6 - len(row["document_ids"]))]
        one, other = (batch["labels"][first + view, 3:] != -100 for view in (0, 1))
        assert torch.equal(one, ~other) and bool(one.any()) and bool(other.any())
        for view, hidden in ((0, one), (1, other)):
            assert batch["input_ids"][first + view, :3].tolist() == [1, 2, 3]
            assert (batch["labels"][first + view, :3] == -100).all()
            shown = [MASK if hide else token for token, hide in zip(answer, hidden.tolist(), strict=True)]
            assert batch["input_ids"][first + view, 3:].tolist() == shown


def test_the_ratio_of_a_row_is_the_mean_over_what_may_be_hidden() -> None:
    row = Noised([1, 2, 3, 4], [False, True, False, True], [0.0, 0.5, 0.25, 0.0], 3)
    assert row.mean_ratio == 0.25
    other = row.complement()
    assert (other.clean, other.hidden, other.maskable) == (row.clean, [False, False, True, False], 3)
    assert other.ratio == [0.0, 0.5, 0.75, 0.0]
    equal = Noised([1, 2, 3, 4], [False] * 4, [0.0, 0.1, 0.1, 0.1], 3)
    assert equal.mean_ratio == 0.1  # to the last bit, where a mean of three would be off


def test_targets_are_named_only_where_they_are_asked_for() -> None:
    batch = collator()(ROWS)
    assert batch["supervised"].T.tolist() == (batch["labels"] != -100).nonzero().tolist()
    assert "supervised" not in collator(indexed=False)(ROWS)


# Blocks of four: the rows of ten and six tokens take three and two.

BLOCK = 4


def blocks(law: Any = HALF, unit: Any = "token", **settings: Any) -> BlockCollator:
    masking = Masking(law=law, mask_token_id=MASK, candidate_ids=torch.empty(0, dtype=torch.long), unit=unit)
    made = BlockCollator([FRAME], PAD, 5, masking, end_padding_id=END, block_length=BLOCK, **settings)
    made.epoch = 2
    return made


def whole(row: dict[str, Any], length: int) -> list[int]:
    ids = [1, 2, 3, *row["document_ids"], 9]
    return [*ids, *[END] * (length - len(ids))]


def columns_by_hand(
    clean: list[int], hidden: list[bool], ratio: list[float], shifted: bool = False, learn_next: bool = False
) -> dict[str, list[Any]]:
    """One row of [N | C], block by block."""
    read = [hidden[place] or (shifted and any(hidden[place + 1 : place + 2])) for place in range(len(clean))]
    starts = [start for start in range(0, len(clean), BLOCK) if any(read[start : start + BLOCK])]
    starts = starts or [len(clean) - BLOCK]
    noisy = [start + offset for start in starts for offset in range(BLOCK)]
    behind = list(range(len(clean) if learn_next else starts[-1]))
    found = {
        "input_ids": [MASK if hidden[place] else clean[place] for place in noisy] + [clean[place] for place in behind],
        "position_ids": noisy + behind,
        "clean": [False] * len(noisy) + [True] * len(behind),
        "attention_mask": [1] * (len(noisy) + len(behind)),
        "labels": [clean[place] if hidden[place] else -100 for place in noisy] + [-100] * len(behind),
        "ratios": [ratio[place] if place >= 3 else 1.0 for place in noisy] + [1.0] * len(behind),
    }
    if learn_next:  # the first token of the answer is predicted by the last of the prompt
        found["next_labels"] = [-100] * (len(noisy) + 2) + clean[3:] + [-100]
    return found


FILL = {"input_ids": PAD, "position_ids": 0, "clean": False, "attention_mask": 0, "ratios": 1.0}


def check(batch: dict[str, torch.Tensor], expected: list[dict[str, list[Any]]], multiple: int = 1) -> None:
    width = -(-max(len(row["input_ids"]) for row in expected) // multiple) * multiple
    assert set(batch) == {*expected[0], "supervised", "mask_ratio", "maskable"}
    for name in expected[0]:
        rows = [[*row[name], *[FILL.get(name, -100)] * (width - len(row[name]))] for row in expected]
        torch.testing.assert_close(batch[name], torch.tensor(rows), atol=0, rtol=0)
    assert batch["supervised"].T.tolist() == (batch["labels"] != -100).nonzero().tolist()


def of_row(row: dict[str, Any], ends: int, ratio: float) -> list[bool]:
    own, filling = (sample_generator(5, 2, row["sample"], stream) for stream in (MASK_STREAM, PADDING_STREAM))
    answer = draw_mask(len(row["document_ids"]) + 1, ratio, own).tolist()
    return [False] * 3 + answer + draw_mask(ends, ratio, filling).tolist()


@pytest.mark.parametrize(
    "settings", [{}, {"shifted": True}, {"learn_next": True}, {"shifted": True, "learn_next": True}]
)
@pytest.mark.parametrize("ratio", [0.0, 0.15, 0.6])
def test_rows_of_blocks_hold_the_noisy_blocks_and_the_clean_text_before_them(
    ratio: float, settings: dict[str, Any]
) -> None:
    batch = blocks(Fixed(ratio), pad_to_multiple_of=5, **settings)(ROWS)
    expected = [
        columns_by_hand(whole(row, length), of_row(row, ends, ratio), [ratio] * length, **settings)
        for row, length, ends in ((ROWS[0], 12, 2), (ROWS[1], 8, 2))
    ]
    if ratio == 0.0:  # nothing is hidden, so no column has a probability
        for row in expected:
            row["ratios"] = [1.0] * len(row["ratios"])
    check(batch, expected, 5)
    assert batch["maskable"].tolist() == [9, 5]
    assert batch["mask_ratio"].tolist() == pytest.approx([ratio, ratio])


def test_the_blocks_of_a_batch_are_filled_up_to_the_longest_where_that_is_asked_for() -> None:
    batch = blocks(Fixed(0.6), to_longest=True)(ROWS)
    check(
        batch,
        [
            columns_by_hand(whole(row, 12), of_row(row, ends, 0.6), [0.6] * 12)
            for row, ends in ((ROWS[0], 2), (ROWS[1], 6))
        ],
    )
    assert batch["maskable"].tolist() == [9, 9]


@pytest.mark.parametrize("unit", ["token", "word"])
def test_each_block_draws_its_own_ratio_and_hides_its_own_tokens(unit: Any) -> None:
    law, eps = Uniform(0.3, 0.9), 0.2
    words = {4: [0, 0, 1, 1, 1, 2, 3], 5: [0, 1, 2]}
    expected, means = [], []
    for row, length in ((ROWS[0], 12), (ROWS[1], 8)):
        own, filling = (sample_generator(5, 2, row["sample"], stream) for stream in (MASK_STREAM, PADDING_STREAM))
        hidden, ratios = [False] * 3, [0.0] * 3
        for block in range(length // BLOCK):
            p = 0.8 * law.ratio(block_seed(5, row["sample"]), 2, block, 1.0) + eps
            answer = range(max(block * BLOCK, 3), min((block + 1) * BLOCK, 3 + len(words[row["sample"]])))
            if answer:
                inside = [words[row["sample"]][place - 3] for place in answer]
                hidden += draw_mask(len(answer), p, own, unit, inside).tolist()
            ends = (block + 1) * BLOCK - len(hidden)
            hidden += draw_mask(ends, p, filling).tolist() if ends else []
            ratios += [p] * (len(hidden) - len(ratios))
        expected.append(columns_by_hand(whole(row, length), hidden, ratios))
        means.append(sum(ratios) / (length - 3))
    batch = blocks(law, unit, noise_per="block", eps=eps)(ROWS)
    check(batch, expected)
    assert batch["mask_ratio"].tolist() == pytest.approx(means) and len(set(means)) == 2


def test_a_block_of_ends_alone_is_hidden_by_their_own_numbers() -> None:
    # Filled up to the longest, the short row has a third block in which no token of its answer stands.
    rows = [{name: value for name, value in row.items() if name != "word_ids"} for row in ROWS]
    batch = blocks(Fixed(0.5), noise_per="block", to_longest=True)(rows)
    own, filling = (sample_generator(5, 2, 5, stream) for stream in (MASK_STREAM, PADDING_STREAM))
    hidden = [False] * 3 + draw_mask(1, 0.5, own).tolist() + draw_mask(2, 0.5, own).tolist()
    hidden += draw_mask(2, 0.5, filling).tolist() + draw_mask(4, 0.5, filling).tolist()
    expected = columns_by_hand(whole(ROWS[1], 12), hidden, [0.5] * 12)
    width = len(expected["labels"])
    assert batch["labels"][1, :width].tolist() == expected["labels"]
    assert batch["position_ids"][1, :width].tolist() == expected["position_ids"]
