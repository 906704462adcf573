"""The computed random numbers: uniform, unrelated, and dependent on nothing but what they are given."""

from __future__ import annotations

import torch

from kinject.sampling.decoding import row_seeds, uniform


def test_the_numbers_are_pinned() -> None:
    """A change here changes every sampled answer."""
    seeds = row_seeds(1, [[5, 6], [7]])
    assert seeds.dtype == torch.int64 and seeds.tolist() == [-7955749438935486955, 8095528660052929701]
    steps, positions = torch.tensor([3, 9]), torch.tensor([[0, 4], [8, 1]])
    assert uniform(seeds, steps, positions[:, :1], 2).tolist() == [
        [[0.9165812502729944, 0.3583952965606167]],
        [[0.2643605092836317, 0.49388506901574364]],
    ]
    elsewhere = [each.to("meta") for each in (seeds, steps, positions)]
    assert uniform(*elsewhere, 2).device.type == "meta"


def test_numbers_are_uniform_and_unrelated() -> None:
    seeds = row_seeds(0, [[1], [2], [3], [4]])
    drawn = torch.stack(
        [uniform(seeds, torch.full((4,), step), torch.arange(20).repeat(4, 1), 60) for step in range(20)], dim=1
    )  # (row, step, position, token)
    assert drawn.dtype == torch.float64 and drawn.min() > 0 and drawn.max() < 1
    assert len(drawn.unique()) == drawn.numel()
    count = torch.histc(drawn, bins=50, min=0, max=1)
    expected = drawn.numel() / 50
    assert ((count - expected) ** 2 / expected).sum() < 90  # chi-square, 49 degrees of freedom, p < .0003
    for dim in range(4):  # neighbors along every axis
        near = torch.stack([drawn.movedim(dim, 0)[:-1].flatten(), drawn.movedim(dim, 0)[1:].flatten()])
        assert abs(float(torch.corrcoef(near)[0, 1])) < 0.02


def test_numbers_depend_on_seed_row_step_position_and_token_alone() -> None:
    rows = [[5, 6], [7]]
    seeds, steps = row_seeds(1, rows), torch.tensor([3, 9])
    positions = torch.tensor([[0, 4, 2], [8, 8, 1]])
    together = uniform(seeds, steps, positions, 7)
    alone = uniform(row_seeds(1, rows[1:]), steps[1:], positions[1:, 1:2], 7)
    assert torch.equal(together[1:, 1:2], alone)
    assert torch.equal(together[1, 0], together[1, 1])
    assert not torch.equal(row_seeds(1, rows), row_seeds(2, rows))
    assert not torch.equal(uniform(seeds, steps, positions, 1), uniform(seeds, steps + 1, positions, 1))
