"""The rows of a batch as they begin and go on, and what a model is asked about them: each against what it is by hand."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from kinject.models.diffusion import DiffusionSettings, attend_in_blocks
from kinject.sampling import SamplingConfig, sample
from kinject.sampling.decoding import NO_BLOCK, Decoded, Predictor, Rows, batch_rows, decode
from tests.sampling.models import build_diffusion

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


class Says:
    """A model that says by hand: for each row, at each column, a token and how sure it is of it."""

    def __init__(self, said: Callable[[list[int]], list[tuple[int, float]]]) -> None:
        self.said, self.sizes = said, list[int]()

    def __call__(self, input_ids: torch.Tensor, logits_to_keep: torch.Tensor, **given: Any) -> Any:
        self.sizes.append(len(input_ids))
        logits = torch.zeros(*input_ids.shape, 10)
        for row, ids in enumerate(input_ids.tolist()):
            for column, (token, sure) in enumerate(self.said(ids)):
                logits[row, column, token] = sure
        return SimpleNamespace(logits=logits[:, logits_to_keep])


def decoded(
    model: Says, *sequences: list[int], steps: int = 9, block: int = 9, ends: tuple[int, ...] = (), **config: Any
) -> tuple[Decoded, list[list[list[int]]]]:
    """The decoded batch, and for each step the columns committed in each row that was still in work."""
    rows = batch_rows(
        sequences,
        M,
        block_length=block,
        origins=[0] * len(sequences),
        seeds=torch.zeros(len(sequences), dtype=torch.int64),
        device=torch.device("cpu"),
    )
    history: list[list[list[int]]] = []

    def watch(rows: Rows, committed: torch.Tensor) -> None:
        history.append([row.nonzero()[:, 0].tolist() for row in committed])

    settings = DiffusionSettings(mask_token_id=M)
    done = decode(model, rows, SamplingConfig(**config), settings, steps_per_block=steps, end_ids=ends, watch=watch)
    return done, history


SURE = [(0, 0.0), (4, 3.0), (5, 5.0), (6, 1.0), (7, 4.0), (8, 2.0)]  # what is said at each column, and how surely


def test_the_surest_tokens_are_committed_and_more_of_them_in_the_first_steps() -> None:
    model = Says(lambda ids: SURE)
    done, history = decoded(model, [9, M, M, M, M, M], [9, M], steps=3)  # 5 masks in 3 steps; the other row is padded
    assert done.ids == [[9, 4, 5, 6, 7, 8], [0, 0, 0, 0, 9, 8]] and done.edits == [0, 0]
    assert history == [[[2, 4], [5]], [[1, 5]], [[3]]]
    assert (done.taken, done.calls, model.sizes) == ([3, 1], 3, [2, 1, 1])


def test_blocks_are_filled_one_after_the_other() -> None:
    done, history = decoded(Says(lambda ids: SURE), [9, M, M, M, M, M], block=2)
    assert done.ids == [[9, 4, 5, 6, 7, 8]] and history == [[[1]], [[2]], [[3]], [[4]], [[5]]]


def test_what_is_surer_than_the_threshold_is_committed_at_once_in_its_block() -> None:
    probable = [round(1 / (1 + 8 / math.exp(sure)), 2) for _, sure in SURE[1:]]  # beside eight others, never the mask
    assert probable == [0.72, 0.95, 0.25, 0.87, 0.48]
    done, history = decoded(Says(lambda ids: SURE), [9, M, M, M, M, M], threshold=0.8)
    assert done.taken == [4] and history == [[[2, 4]], [[1]], [[5]], [[3]]]
    done, history = decoded(Says(lambda ids: SURE), [9, M, M, M, M, M], threshold=0.4, block=3)
    assert done.taken == [3] and history == [[[1, 2]], [[4, 5]], [[3]]]
    # Not even what is certain is above 1.
    done, history = decoded(Says(lambda ids: [(0, 0.0), (4, 200.0), (5, 200.0)]), [9, M, M], threshold=1.0)
    assert history == [[[1]], [[2]]]


def test_a_row_ends_at_an_end_token_before_which_no_mask_is_left() -> None:
    given = [5, M, M, M, M, M]  # an end token of the prompt ends nothing
    done, history = decoded(Says(lambda ids: SURE), given, ends=(5, 9))
    assert history == [[[2]], [[4]], [[1]]] and done.ids == [[5, 4, 5, M, 7, M]]
    assert decoded(Says(lambda ids: SURE), given, ends=(5,), stop_at_end=False)[0].ids == [[5, 4, 5, 6, 7, 8]]
    assert decoded(Says(lambda ids: SURE), given)[0].taken == [5]


def reviser(ids: list[int]) -> list[tuple[int, float]]:
    """Says another token at column 1 once column 2 is read, at column 3 less surely; column 0 is always another."""
    read = ids[2] != M
    return [(1, 9.0), (6 if read else 5, 5.0 if read else 3.0), (7, 2.0), (8 if read else 4, 2.5)]


def test_a_token_is_replaced_where_another_is_surer_than_the_threshold_of_edits() -> None:
    given = [9, M, M, M]
    done, history = decoded(Says(reviser), given, edit_threshold=0.9)
    assert done.ids == [[9, 6, 7, 4]] and (done.edits, done.taken) == ([1], [5])
    assert history == [[[1]], [[3]], [[2]], [[1]], [[]]]
    # At the threshold nothing is replaced: the last step only finds that nothing is left to do.
    done, history = decoded(Says(reviser), given, edit_threshold=1.0)
    assert (done.ids, done.edits, done.taken) == ([[9, 5, 7, 4]], [0], [4])
    certain = Says(lambda ids: [(0, 0.0), (4 if ids[1] == M else 5, 200.0)])
    assert decoded(certain, [9, M], edit_threshold=1.0)[0].edits == [0]
    done, _ = decoded(Says(reviser), given, edit_threshold=0.1)
    assert (done.ids, done.edits, done.taken) == ([[9, 6, 7, 8]], [2], [5])
    # An end token counts once its block is finished, as it may be replaced until then.
    done, _ = decoded(Says(reviser), given, edit_threshold=0.9, ends=(5,))
    assert done.ids == [[9, 6, 7, 4]]
    done, _ = decoded(Says(reviser), [*given, M], edit_threshold=0.9, ends=(6,), block=4)
    assert done.ids == [[9, 6, 7, 4, M]] and done.taken == [5]


def test_a_block_that_is_never_settled_is_left_after_sixteen_steps() -> None:
    done, _ = decoded(Says(lambda ids: [(0, 0.0), (5 if ids[1] == 6 else 6, 5.0)]), [9, M], edit_threshold=0.5)
    assert (done.taken, done.edits, done.ids) == ([17], [16], [[9, 6]])


class Made(TorchFunctionMode):
    """Notes on which device the modules of decoding make tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.devices: dict[str, list[Any]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made_in = sys._getframe(1)
        if made_in.f_globals["__name__"].startswith("kinject.sampling.") and func in (torch.tensor, torch.arange):
            self.devices.setdefault(made_in.f_code.co_name, []).append((kwargs or {}).get("device"))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("blocks", [False, True])
def test_every_tensor_is_made_on_the_device_of_the_model(blocks: bool) -> None:
    model = build_diffusion()
    model.config.shifted_logits = True
    if blocks:
        attend_in_blocks(model, 2, "block")
    with Made() as made:
        sample(model, [[5], [6, 7, 8]], SamplingConfig(4, block_length=2), end_ids=[1])
    found = {name: set(devices) for name, devices in made.devices.items() if "row_seeds" not in name}
    assert len(found) > 5 and set().union(*found.values()) == {torch.device("cpu")}
