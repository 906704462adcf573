"""Tokens, scores and selections, each against a plain computation."""

from __future__ import annotations

import torch

from kinject.sampling.decoding import (
    choose_tokens,
    row_seeds,
    select_as_published,
    select_best,
    uniform,
)


def test_selection_equals_a_loop_over_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    for levels in (3, 1000):  # many ties, few ties
        ranking = torch.randint(0, levels, (200, 12), generator=generator) / levels
        budgets = torch.randint(0, 13, (200,), generator=generator)
        selected = select_best(ranking, budgets)
        for row, budget, found in zip(ranking.tolist(), budgets.tolist(), selected.tolist(), strict=True):
            best = sorted(range(12), key=lambda place, row=row: (-row[place], place))[:budget]
            assert [place for place, taken in enumerate(found) if taken] == sorted(best)


def test_published_selection_equals_topk_of_each_row_without_padding() -> None:
    generator = torch.Generator().manual_seed(1)
    shapes = torch.randint(0, 10, (300, 2), generator=generator)
    differ = 0
    ranking = torch.randint(0, 4, (300, 40), generator=generator).float()
    ranking[:, :15] = -torch.inf  # padding and prompt
    first, budgets = shapes[:, 0], shapes[:, 1]
    selected = select_as_published(ranking, budgets, first)
    for row in range(300):
        start = int(first[row])
        expected = torch.zeros(40, dtype=torch.bool)
        expected[start + torch.topk(ranking[row, start:], int(budgets[row])).indices] = True
        assert torch.equal(selected[row], expected)
    differ = (selected != select_best(ranking, budgets)).any(dim=1).sum()
    assert differ > 50  # else the ties did not matter


def test_zero_temperature_is_greedy_and_noise_draws_from_the_softmax() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    assert choose_tokens(logits[None, None], 0.0, None).item() == 0
    count = 40_000
    numbers = uniform(row_seeds(0, [[1]]), torch.tensor([0]), torch.arange(count)[None], 4)
    for temperature in (0.5, 1.0, 2.0):
        drawn = choose_tokens(logits.expand(1, count, 4), temperature, numbers)
        found = torch.bincount(drawn[0], minlength=4) / count
        assert torch.allclose(found, (logits / temperature).softmax(-1), atol=0.01)


def test_noise_equals_the_published_formula_and_does_not_overflow() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 500, 30, generator=generator) * 5
    numbers = torch.rand(1, 500, 30, generator=generator, dtype=torch.float64)
    published = (logits.double().exp() / (-numbers.log()) ** 0.7).argmax(-1)
    assert torch.equal(choose_tokens(logits, 0.7, numbers), published)
    assert choose_tokens(torch.tensor([[[900.0, 2000.0]]]), 1.0, numbers[:, :1, :2]).item() == 1


def test_tokens_without_numbers_or_temperature_are_the_most_probable() -> None:
    logits = torch.tensor([[[0.0, 1.0, 0.9], [3.0, 2.0, 1.0]]])  # (rows, columns, vocabulary)
    numbers = torch.tensor([[[0.999, 0.001, 0.001]] * 2], dtype=torch.float64)
    assert choose_tokens(logits, 1.0, None).tolist() == choose_tokens(logits, 0.0, numbers).tolist() == [[1, 0]]
    assert choose_tokens(logits, 1.0, numbers).tolist() == [[0, 0]]


def test_selection_stays_on_its_device() -> None:
    ranking, budgets = torch.empty(2, 3, device="meta"), torch.empty(2, dtype=torch.int64, device="meta")
    assert select_best(ranking, budgets).device.type == "meta"


def test_published_selection_takes_finite_scores_to_the_end_of_the_budget() -> None:
    ranking = torch.tensor([[-torch.inf, 1.0, 1.0, 1.0], [-torch.inf, 3.0, 2.0, 1.0], [-torch.inf] * 4])
    selected = select_as_published(ranking, torch.tensor([0, 2, 2]), torch.tensor([1, 1, 0]))
    assert selected[:2].tolist() == [[False] * 4, [False, True, True, False]] and selected[2].sum() == 2
