"""The rows of a batch as they begin and go on, and what a model is asked about them: each against what it is by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kinject.models.diffusion import DiffusionSettings
from kinject.sampling import SamplingConfig
from kinject.sampling.decoding import NO_BLOCK, Predictor, Rows, batch_rows

M, N = 3, NO_BLOCK


def rows_of(device: str = "cpu") -> Rows:
    """A whole row, whose masks are in three blocks, and one that is padded, whose block 0 begins at its second token."""
    return batch_rows(
        [[9, M, M, 8, M, M], [M, 7, M]],
        M,
        block_length=2,
        origins=[0, 1],
        seeds=torch.tensor([11, 12]),
        device=torch.device(device),
    )


def test_rows_begin_with_their_first_block_of_masks() -> None:
    rows = rows_of()
    expected = {
        "index": [0, 1],
        "ids": [[9, M, M, 8, M, M], [0, 0, 0, M, 7, M]],
        "visible": [[True] * 6, [False] * 3 + [True] * 3],
        "answer": [[False, True, True, False, True, True], [False, False, False, True, False, True]],
        "open": [[False, True, True, False, True, True], [False, False, False, True, False, True]],
        "block_of": [[N, 0, 1, N, 2, 2], [N, N, N, -1, N, 0]],
        "seeds": [11, 12],
        "block": [0, -1],
        "step": [0, 0],
        "masks": [1, 1],
        "taken": [0, 0],
        "revised": [0, 0],
        "edits": [0, 0],
    }
    assert {name: value.tolist() for name, value in vars(rows).items()} == expected
    booleans = {"visible", "answer", "open"}
    assert {name for name, value in vars(rows).items() if value.dtype == torch.bool} == booleans
    assert {value.dtype for name, value in vars(rows).items() if name not in booleans} == {torch.int64}
    assert rows.positions.tolist() == [[0, 1, 2, 3, 4, 5], [0, 0, 0, 0, 1, 2]] and rows.first.tolist() == [0, 3]
    assert rows.in_work.tolist() == [
        [False, True, False, False, False, False],
        [False, False, False, True, False, False],
    ]
    rows.open[0, 1] = False  # a copy: what was to be answered stays known
    assert rows.answer[0, 1]


def test_rows_are_on_the_device_they_are_asked_for() -> None:
    assert {value.device.type for value in vars(rows_of("meta")).values()} == {"meta"}


def test_a_row_goes_on_to_its_next_block_and_ends_after_the_last() -> None:
    rows = rows_of()
    rows.step = torch.tensor([1, 1])
    rows.open[:, :4] = False
    rows.enter(torch.tensor([True, False]))  # over block 1, whose mask was filled before its turn
    assert (rows.block.tolist(), rows.step.tolist(), rows.masks.tolist()) == ([2, -1], [0, 1], [2, 1])
    rows.open[0] = False
    rows.enter(torch.tensor([True, True]))
    assert (rows.block.tolist(), rows.step.tolist(), rows.masks.tolist()) == ([N, 0], [0, 0], [0, 1])


def test_taking_rows_takes_all_of_them() -> None:
    rows = rows_of()
    taken = rows.take(torch.tensor([1]))
    assert {name: value.tolist() for name, value in vars(taken).items()} == {
        name: value[1:].tolist() for name, value in vars(rows).items()
    }


class Told:
    """A model whose logits tell row, column and token apart, and say what was read there; keeps what it was given."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        self.dtype, self.given = dtype, dict[str, Any]()

    def __call__(self, input_ids: torch.Tensor, **given: Any) -> Any:
        self.given = {"input_ids": input_ids, **given}
        count, width = input_ids.shape
        with torch.device(input_ids.device):
            column = torch.arange(width)[:, None] + torch.arange(5) / 8
            logits = column + 16 * input_ids[..., None] + 1024 * torch.arange(count)[:, None, None]
            kept = given.get("logits_to_keep", torch.arange(width))
        return SimpleNamespace(logits=logits[:, kept].to(self.dtype))


def logit(row: int, column: int, read: int) -> list[float]:
    """What `Told` says at ``column`` of ``row``, where it reads ``read``; the mask token is never predicted."""
    return [1024 * row + 16 * read + column + token / 8 if token != M else float("-inf") for token in range(5)]


def predicted(rows: Rows, model: Any, columns: list[int], shifted: bool = False, **config: Any) -> torch.Tensor:
    settings = DiffusionSettings(mask_token_id=M, shifted_logits=shifted)
    return Predictor.of(model, rows, SamplingConfig(**config), settings)(rows, torch.tensor(columns))


def test_columns_are_read_where_they_stand() -> None:
    rows, model = rows_of(), Told()
    found = predicted(rows, model, [1, 5])
    assert found.tolist() == [[logit(0, 1, M), logit(0, 5, M)], [logit(1, 1, 0), logit(1, 5, M)]]
    assert model.given["use_cache"] is False and model.given["logits_to_keep"].tolist() == [1, 5]
    assert torch.equal(model.given["input_ids"], rows.ids)
    assert model.given["attention_mask"].tolist() == [[1] * 6, [0] * 3 + [1] * 3]
    assert torch.equal(model.given["position_ids"], rows.positions)


def test_rows_without_padding_need_no_attention_mask() -> None:
    model = Told()
    predicted(rows_of().take(torch.tensor([0])), model, [1])
    assert model.given["attention_mask"] is None and model.given["position_ids"] is None


def test_shifted_logits_are_read_one_column_before_but_for_the_first_token() -> None:
    rows, model = rows_of(), Told()
    found = predicted(rows, model, [0, 3, 5], shifted=True)
    assert model.given["logits_to_keep"].tolist() == [0, 2, 4, 0, 3, 5]
    assert found[0].tolist() == [logit(0, 0, 9), logit(0, 2, M), logit(0, 4, M)]
    assert found[1].tolist() == [logit(1, 0, 0), logit(1, 3, M), logit(1, 4, 7)]  # column 3 is its first token
    found = predicted(rows.take(torch.tensor([0])), model, [1, 5], shifted=True)  # its first token is not to be filled
    assert model.given["logits_to_keep"].tolist() == [0, 4]
    assert found[0].tolist() == [logit(0, 0, 9), logit(0, 4, M)]


def test_the_exact_mode_projects_all_columns_and_lets_the_mask_be_predicted() -> None:
    model = Told()
    found = predicted(rows_of(), model, [1, 5], exact=True)
    assert "logits_to_keep" not in model.given
    assert found[0].tolist() == [[16 * M + column + token / 8 for token in range(5)] for column in (1, 5)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_logits_are_at_least_float32(dtype: torch.dtype) -> None:
    found = predicted(rows_of(), Told(dtype), [1])
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_logits_stay_on_their_device() -> None:
    settings = DiffusionSettings(mask_token_id=M, shifted_logits=False)
    predict = Predictor(Told(), SamplingConfig(), settings, padded=True, edged=False)
    assert predict(rows_of("meta"), torch.tensor([1], device="meta")).shape == (2, 1, 5)
