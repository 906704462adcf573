"""Batches of documents against what they are by hand: ids, labels, ratios, and where their targets stand."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kinject.corruption import (
    MASK_STREAM,
    REPLACEMENT_STREAM,
    WORDING_STREAM,
    Fixed,
    Linear,
    Uniform,
    draw_mask,
    random_tokens,
    sample_generator,
)
from kinject.errors import ConfigurationError
from kinject.prompts.templates import Frame
from kinject.trainers.collator import (
    DocumentCollator,
    Masking,
    batch_predictions,
    batch_weights,
    check_isolation,
    document_of_each,
    packed,
    padded,
    supervised,
)
from kinject.trainers.infilling import Infilling

PAD, MASK, SEED, EPOCH = 0, 99, 5, 2
COPY = Frame(before=(1, 2), between=(3,), after=(9,), has_copy=True)
PLAIN = Frame(before=(1,), between=(), after=(9,), has_copy=False)
ROWS: list[dict[str, Any]] = [
    {"document_ids": [11, 12, 13, 14, 15, 16], "sample": 4, "fixed_masks": False, "word_ids": [0, 0, 1, 1, 1, 2]},
    {"document_ids": [21, 22], "sample": 5, "fixed_masks": False, "word_ids": [0, 1]},
]
MASKING = Masking(law=Fixed(0.5), mask_token_id=MASK, candidate_ids=torch.tensor([30, 31, 32]))


def collator(masking: Masking | None = MASKING, frames: Any = (COPY,), **settings: Any) -> DocumentCollator:
    made = DocumentCollator(frames=list(frames), pad_token_id=PAD, seed=SEED, masking=masking, **settings)
    made.epoch = EPOCH
    return made


def hidden(row: dict[str, Any], ratio: float, unit: Any = "token", seed: int = SEED, epoch: int = EPOCH) -> list[bool]:
    generator = sample_generator(seed, epoch, row["sample"], MASK_STREAM)
    return draw_mask(len(row["document_ids"]), ratio, generator, unit, row["word_ids"]).tolist()


def shown(row: dict[str, Any], mask: list[bool]) -> list[int]:
    return [MASK if hide else index for index, hide in zip(row["document_ids"], mask, strict=True)]


def filled(ids: list[int], length: int, value: int) -> list[int]:
    return [*ids, *[value] * (length - len(ids))]


def test_a_row_shows_its_document_masked_and_asks_for_all_of_it() -> None:
    batch = collator()(ROWS)
    masks = [hidden(row, 0.5) for row in ROWS]
    ids = [[1, 2, *shown(row, mask), 3, *row["document_ids"], 9] for row, mask in zip(ROWS, masks, strict=True)]
    prompts = [2 + 6 + 1, 2 + 2 + 1]
    labels = [[*[-100] * prompt, *row["document_ids"], 9] for row, prompt in zip(ROWS, prompts, strict=True)]
    assert batch["input_ids"].tolist() == [filled(each, 16, PAD) for each in ids]
    assert batch["labels"].tolist() == [filled(each, 16, -100) for each in labels]
    assert batch["attention_mask"].tolist() == [[1] * 16, filled([1] * 8, 16, 0)]
    assert batch["mask_ratio"].tolist() == [0.5, 0.5]
    assert batch["supervised"].tolist() == [[0] * 7 + [1] * 3, [*range(8, 15), 4, 5, 6]]
    # Both rows begin with 1 and 2; the first target is predicted at position 4.
    both = [first == second for first, second in zip(ids[0], ids[1][:4], strict=False)]
    assert batch["shared"] == (both.index(False) if False in both else 4)
    assert set(batch) == {"input_ids", "attention_mask", "labels", "mask_ratio", "supervised", "shared"}
    assert {batch[name].dtype for name in ("input_ids", "attention_mask", "labels")} == {torch.int64}


def test_rows_are_padded_to_a_multiple_and_need_not_say_where_their_targets_are() -> None:
    batch = collator(pad_to_multiple_of=10, indexed=False)(ROWS)
    assert batch["input_ids"].shape == (2, 20) and set(batch) == {"input_ids", "attention_mask", "labels", "mask_ratio"}
    assert collator(pad_to_multiple_of=8)(ROWS)["input_ids"].shape == (2, 16)


def test_only_what_is_hidden_is_scored_where_the_loss_is_on_masked_tokens() -> None:
    batch = collator(replace(MASKING, loss_on="masked"))(ROWS)
    for row, labels, start in zip(ROWS, batch["labels"].tolist(), (9, 5), strict=True):
        scored = [i if hide else -100 for i, hide in zip(row["document_ids"], hidden(row, 0.5), strict=True)]
        assert labels == filled([*[-100] * start, *scored], 16, -100)


def test_units_and_laws_are_those_of_the_masking() -> None:
    law = Linear(0.2, 0.8)
    batch = collator(replace(MASKING, law=law, unit="word"), num_epochs=8.0)(ROWS)
    ratio = 0.2 + 0.6 * EPOCH / 8
    assert batch["mask_ratio"].tolist() == pytest.approx([ratio, ratio])
    assert batch["input_ids"][0, 2:8].tolist() == shown(ROWS[0], hidden(ROWS[0], ratio, "word"))


def test_a_batch_takes_the_ratio_of_its_first_row_where_ratios_are_drawn_per_batch() -> None:
    law = Uniform(0.1, 0.9)
    own = [law.ratio(SEED, EPOCH, row["sample"], 1.0) for row in ROWS]
    assert collator(replace(MASKING, law=law))(ROWS)["mask_ratio"].tolist() == pytest.approx(own)
    together = collator(replace(MASKING, law=law, ratio_per="batch"))
    assert together(ROWS)["mask_ratio"].tolist() == pytest.approx([own[0]] * 2)
    assert together(ROWS[::-1])["mask_ratio"].tolist() == pytest.approx([own[1]] * 2)


def test_evaluation_rows_have_masks_of_their_own_whatever_the_epoch() -> None:
    row = {**ROWS[0], "fixed_masks": True}
    made = collator()
    expected = shown(row, hidden(row, 0.5, seed=SEED + 2**32, epoch=0))
    for epoch in (0, 3):
        made.epoch = epoch
        assert made.epoch == epoch and made([row])["input_ids"][0, 2:8].tolist() == expected
    assert expected != shown(row, hidden(row, 0.5, epoch=0))


def test_one_mask_a_run_where_masks_are_collapsed() -> None:
    batch = collator(replace(MASKING, collapsed=True, law=Fixed(1.0)))(ROWS[:1])
    assert batch["input_ids"].tolist() == [[1, 2, MASK, 3, *ROWS[0]["document_ids"], 9]]


def test_random_replacements_hide_the_whole_copy() -> None:
    batch = collator(replace(MASKING, corruption="random"))(ROWS)
    assert batch["mask_ratio"].tolist() == [1.0, 1.0]
    ids = torch.tensor(ROWS[0]["document_ids"])
    drawn = random_tokens(ids, ids > 0, MASKING.candidate_ids, sample_generator(SEED, EPOCH, 4, REPLACEMENT_STREAM))
    assert batch["input_ids"][0, 2:8].tolist() == drawn.tolist()


@pytest.mark.parametrize("count", [2, 20])
def test_the_wording_is_drawn_for_each_row_and_epoch(count: int) -> None:
    frames = [replace(COPY, before=(number, 2)) for number in range(40, 40 + count)]
    made = collator(frames=frames)
    for epoch in range(4):
        made.epoch = epoch
        drawn = [
            torch.randint(count, (), generator=sample_generator(SEED, epoch, row["sample"], WORDING_STREAM))
            for row in ROWS
        ]
        assert made(ROWS)["input_ids"][:, 0].tolist() == [40 + int(each) for each in drawn]


def test_rows_with_frames_of_their_own_show_no_copy_and_have_no_ratio() -> None:
    own = {"before": (7, 7), "between": (), "after": (8,), "has_copy": False}
    batch = collator()([{**ROWS[1], "frames": [own]}, ROWS[1]])
    assert batch["input_ids"][0].tolist() == filled([7, 7, 21, 22, 8], 8, PAD)
    assert batch["labels"][0].tolist() == filled([-100, -100, 21, 22, 8], 8, -100)
    assert math.isnan(batch["mask_ratio"][0]) and batch["mask_ratio"][1] == 0.5


def test_other_objectives_learn_plain_documents() -> None:
    batch = collator(None, frames=[PLAIN])(ROWS)
    assert batch["input_ids"].tolist() == [[1, 11, 12, 13, 14, 15, 16, 9], filled([1, 21, 22, 9], 8, PAD)]
    assert batch["labels"].tolist() == [[-100, 11, 12, 13, 14, 15, 16, 9], filled([-100, 21, 22, 9], 8, -100)]
    assert "mask_ratio" not in batch


def test_infilling_samples_ask_for_a_gap_and_have_its_share_as_their_ratio() -> None:
    infilling = Infilling(replace(COPY, before=(6,)), 1.0, "entity", Fixed(0.5), mask_token_id=MASK)
    rows = [{**ROWS[0], "gaps": [[1, 3]]}, {**ROWS[1], "gaps": []}]
    batch = collator(infilling=infilling)(rows)
    assert batch["input_ids"][0].tolist() == [6, 11, MASK, MASK, 14, 15, 16, 3, 12, 13, 9]
    assert batch["labels"][0].tolist() == [*[-100] * 8, 12, 13, 9]
    assert batch["mask_ratio"].tolist() == pytest.approx([2 / 6, 0.5])
    assert batch["input_ids"][1, :2].tolist() == [1, 2]  # without a gap it is learned whole
    asked = {**rows[0], "frames": [{"before": (7,), "between": (), "after": (8,), "has_copy": False}]}
    assert collator(infilling=infilling)([asked])["input_ids"].tolist() == [[7, *range(11, 17), 8]]


def test_spans_are_drawn_by_seed_epoch_and_sample() -> None:
    infilling = Infilling(COPY, 1.0, "span", Linear(0.1, 1.0), mask_token_id=MASK)
    made = collator(infilling=infilling, num_epochs=4.0)
    for epoch in range(4):
        made.epoch = epoch
        gap = infilling.gap(6, None, SEED, epoch, 4, 4.0)
        assert gap is not None
        ids, labels = infilling.assemble(ROWS[0]["document_ids"], gap)
        batch = made(ROWS[:1])
        assert batch["input_ids"].tolist() == [ids] and batch["labels"].tolist() == [labels]
    fixed = infilling.gap(6, None, SEED + 2**32, 0, 4, 4.0)
    assert fixed is not None
    evaluated = made([{**ROWS[0], "fixed_masks": True}])
    assert evaluated["input_ids"].tolist() == [infilling.assemble(ROWS[0]["document_ids"], fixed)[0]]


@pytest.mark.parametrize("packing", ["positions", "boundaries"])
def test_training_batches_are_packed_and_others_padded(packing: Any) -> None:
    made = collator(None, frames=[PLAIN], packing=packing)
    batch = made(ROWS)
    assert batch["input_ids"].tolist() == [[1, 11, 12, 13, 14, 15, 16, 9, 1, 21, 22, 9]]
    assert batch["position_ids"].tolist() == [[*range(8), *range(4)]]
    assert batch["labels"].tolist() == [[-100, 11, 12, 13, 14, 15, 16, 9, -100, 21, 22, 9]]
    assert document_of_each(batch["position_ids"]).tolist() == [0] * 8 + [1] * 4
    boundaries = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")
    if packing == "boundaries":
        assert [batch[name] if isinstance(batch[name], int) else batch[name].tolist() for name in boundaries] == [
            [0, 8, 12], [0, 8, 12], 8, 8,
        ]  # fmt: skip
        assert batch["cu_seq_lens_q"].dtype == torch.int32
    else:
        assert not set(boundaries) & set(batch)
    assert made(ROWS[1:])["position_ids"].tolist() == [[0, 1, 2, 3]]
    assert made([{**row, "fixed_masks": True} for row in ROWS])["input_ids"].shape == (2, 8)
    wide = collator(None, frames=[PLAIN], packing=packing, pad_to_multiple_of=8)(ROWS)
    assert wide["input_ids"][0, 12:].tolist() == [PAD] * 4 and wide["position_ids"][0, 12:].tolist() == [0, 1, 2, 3]


def test_a_packed_row_is_filled_up_unless_it_is_whole_multiples_long() -> None:
    batch = packed([([5, 6], [5, 6]), ([7, 8], [7, 8])], with_boundaries=True, pad=(0, 4))
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8]] and batch["cu_seq_lens_q"].tolist() == [0, 2, 4]
    assert batch["labels"].tolist() == [[-100, 6, -100, 8]]  # nothing predicts the first token of a document
    batch = packed([([5, 6, 7], [5, 6, 7]), ([8, 9], [8, 9])], with_boundaries=True, pad=(0, 4))
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 0, 0, 0]] and batch["cu_seq_lens_q"].tolist() == [0, 3, 5, 8]


def test_targets_and_what_stands_before_the_first_of_them_in_all_rows() -> None:
    ids = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, 9, 5], [1, 2, 3, 4, 6]])
    targets = torch.full((3, 4), -100)
    targets[0, 3] = targets[1, 3] = 7
    targets[2, 2] = 8
    found = supervised(ids, targets)
    assert found["supervised"].tolist() == [[0, 1, 2], [3, 3, 2]] and found["shared"] == 2
    targets[2, 2] = -100
    assert supervised(ids, targets)["shared"] == 3  # of the three tokens before the first target all are shared
    ids[1, 0] = 5  # what follows a difference is not shared, even where it is equal
    assert supervised(ids, targets)["shared"] == 0
    assert supervised(ids[:1], targets[:1])["shared"] == 0  # one row shares nothing
    nothing = supervised(ids, torch.full((3, 4), -100))
    assert nothing["supervised"].shape == (2, 0) and nothing["shared"] == 0


def test_padding_stands_on_the_right_and_keeps_the_kind_of_number() -> None:
    assert padded([[1, 2], [3]], 3, 7).tolist() == [[1, 2, 7], [3, 7, 7]]
    assert padded([[0.5], []], 1, 1.0).tolist() == [[0.5], [1.0]]
    assert padded([[1]], 2, 0).dtype == torch.int64 and padded([[1.0]], 2, 1.0).dtype == torch.float32


def test_weights_are_shared_by_the_tokens_of_a_row() -> None:
    labels = [[-100, 5, 6, 7, 8], [4, -100, -100, -100, 9], [-100, 5, -100, -100, -100]]  # nothing predicts the first
    weights = batch_weights([{"weight": 2.0}, {"weight": 1.0}, {"weight": None}], labels)
    assert {name: each.tolist() for name, each in weights.items()} == {"loss_weights": [0.5] * 4 + [1.0, 0.0]}
    assert batch_weights([{}, {"weight": None}], labels[:2]) == {}
    made = collator(None, frames=[PLAIN])([{**ROWS[0], "weight": 1.0}, {**ROWS[1], "weight": 3.0}])
    assert made["loss_weights"].tolist() == pytest.approx([1 / 7] * 7 + [1.0] * 3)


def test_predictions_stand_at_the_supervised_tokens_of_their_rows() -> None:
    said = {"ids": [[5, 6], [7, 8]], "log_probs": [[-0.5, -1.5], [-0.25, -2.0]]}
    labels = [[1, 2, -100, 3], [4, 5, 6, -100], [1, 9, -100, -100]]
    batch = batch_predictions([{}, {"predictions": said}, {"predictions": None}], labels)
    assert {name: each.tolist() for name, each in batch.items()} == {
        "rehearsed": [False, False, True, True, False],
        "predicted_ids": said["ids"],
        "predicted_log_probs": said["log_probs"],
    }
    assert batch_predictions([{}, {"predictions": None}], labels[:2]) == {}
    made = collator(None, frames=[PLAIN])([ROWS[0], {**ROWS[1], "predictions": said}])
    assert made["rehearsed"].tolist() == [False] * 7 + [True] * 3


def model_with(attention: str, stateful: bool = False) -> Any:
    text = SimpleNamespace(_attn_implementation=attention)
    return SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: text), _is_stateful=stateful)


def test_documents_of_a_packed_row_are_kept_apart_by_boundaries_positions_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kinject.trainers.collator.is_diffusion", lambda model: False)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for device in (cpu, gpu):
        assert check_isolation(model_with("flash_attention_2"), device) is True
        for attention in ("sdpa", "eager"):
            with pytest.raises(ConfigurationError, match=f"^packing .*with {attention} attention"):
                check_isolation(model_with(attention), device)
        with pytest.raises(
            ConfigurationError, match="^packing is not supported for SimpleNamespace, .* --padding_free.$"
        ):
            check_isolation(model_with("flash_attention_2", stateful=True), device)
    assert check_isolation(model_with("flex_attention"), gpu) is False
    with pytest.raises(ConfigurationError, match="flex_attention has no backward pass on the CPU"):
        check_isolation(model_with("flex_attention"), cpu)
    monkeypatch.setattr("kinject.trainers.collator.is_diffusion", lambda model: True)
    with pytest.raises(ConfigurationError, match="^packing is not supported for masked diffusion models"):
        check_isolation(model_with("flash_attention_2"), cpu)
