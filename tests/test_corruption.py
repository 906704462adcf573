"""Mask ratios, masks and replacements: exact probabilities, bounds, and nothing but their arguments behind them."""

from __future__ import annotations

import itertools
import random
import re
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kinject.corruption import (
    MASK_STREAM,
    RATIO_STREAM,
    Fixed,
    Linear,
    MaskUnit,
    Stratified,
    Uniform,
    block_seed,
    draw_mask,
    mask_tokens,
    once_a_run,
    parse_mask_ratio,
    random_tokens,
    sample_generator,
)
from kinject.errors import ConfigurationError

UNITS = ("token", "word", "span", "mixed")
indices = st.integers(0, 2**40)


def words_of(length: int) -> list[int]:
    return [i // 3 for i in range(length)]


# Generators


@given(indices, indices, indices, st.integers(0, 5))
@settings(deadline=None)
def test_a_generator_depends_on_its_arguments_alone(seed: int, epoch: int, sample: int, stream: int) -> None:
    torch.manual_seed(random.randrange(2**31))
    first = torch.rand(4, generator=sample_generator(seed, epoch, sample, stream))
    torch.rand(3)
    second = torch.rand(4, generator=sample_generator(seed, epoch, sample, stream))
    assert torch.equal(first, second)


def test_no_two_arguments_share_their_numbers() -> None:
    # 2**32 in one place and 1 in the next are the same words to a naive seed sequence.
    values = (0, 1, 2, 2**32, 2**32 + 1)
    drawn = [
        tuple(torch.rand(3, generator=sample_generator(*arguments)).tolist())
        for arguments in itertools.product(values, repeat=4)
    ]
    assert len(set(drawn)) == len(drawn)


def test_the_numbers_are_pinned() -> None:
    """A change here changes every published run."""
    mask = draw_mask(16, 0.5, sample_generator(1, 2, 3))
    assert "".join(str(int(hidden)) for hidden in mask) == "0100100000110000"
    assert Uniform(0, 1).ratio(1, 2, 3, 10) == pytest.approx(0.8919117208054158, abs=1e-12)
    assert Uniform(0.05, 0.95).ratio(1, 2, 3, 10) == pytest.approx(0.8527205487248742, abs=1e-12)
    assert Stratified(0.05, 0.95).ratio(1, 2, 3, 10) == pytest.approx(0.663762809766096, abs=1e-12)
    replaced = random_tokens(torch.arange(8), torch.ones(8).bool(), range(100, 110), sample_generator(1, 2, 3, 3))  # type: ignore[arg-type]
    assert replaced.tolist() == [101, 102, 100, 103, 102, 106, 107, 104]


@pytest.mark.parametrize(
    ("unit", "sample", "pinned"),
    [
        ("word", 3, "0001110000001110"),
        ("entity", 3, "0001110000001110"),
        ("span", 3, "1111000000001111"),
        ("mixed", 3, "0000011111111000"),  # a span
        ("mixed", 4, "1100100100100100"),  # tokens
    ],
)
def test_the_masks_of_every_unit_are_pinned(unit: MaskUnit, sample: int, pinned: str) -> None:
    """A change here changes every published run."""
    mask = draw_mask(16, 0.5, sample_generator(1, 2, sample), unit, words_of(16))
    assert "".join(str(int(hidden)) for hidden in mask) == pinned


def test_what_is_drawn_has_to_be_below_the_ratio() -> None:
    drawn = torch.rand(16, generator=sample_generator(1, 2, 3), dtype=torch.float64)
    ratio = float(drawn[5])  # hides all below it, not itself
    for unit in ("token", "word"):
        mask = draw_mask(16, ratio, sample_generator(1, 2, 3), unit, range(16))
        assert torch.equal(mask, drawn < ratio) and not mask[5]
    first = float(torch.rand((), generator=sample_generator(1, 2, 3), dtype=torch.float64))
    assert not draw_mask(1, first, sample_generator(1, 2, 3), "span").any()


def test_the_seed_of_the_blocks_of_a_sample_is_pinned_and_its_own() -> None:
    """A change here changes every published run of a block diffusion model."""
    assert block_seed(1, 3) == 3254351841064807362
    seeds = [block_seed(seed, sample) for seed in range(20) for sample in range(20)]
    assert len(set(seeds)) == 400 and all(0 <= seed < 2**62 for seed in seeds)
    assert max(seeds) > 2**61 > min(seeds)


@pytest.mark.parametrize("arguments", [(-1, 0, 0), (0, -1, 0), (0, 0, 2**64)])
def test_generator_arguments_out_of_range_are_named(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigurationError, match=r"(seed|epoch|sample) is .*integer from 0"):
        sample_generator(*arguments)


# Ratio laws


@given(indices, st.integers(0, 10**6), indices, st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None)
def test_every_law_stays_within_its_bounds(seed: int, epoch: int, sample: int, a: float, b: float) -> None:
    low, high = sorted((a, b))
    for law in (Uniform(low, high), Stratified(low, high), Linear(low, high), Linear(high, low)):
        assert low - 1e-12 <= law.ratio(seed, epoch, sample, 100) <= high + 1e-12
    assert Fixed(a).ratio(seed, epoch, sample, 100) == a


def test_uniform_ratios_are_spread_over_epochs_and_samples() -> None:
    law = Uniform(0.05, 0.95)
    for ratios in (
        [law.ratio(0, epoch, 7, 1) for epoch in range(2000)],
        [law.ratio(0, 7, sample, 1) for sample in range(2000)],
    ):
        ordered = torch.tensor(sorted(ratios))
        expected = torch.linspace(0.05, 0.95, len(ratios))
        assert (ordered - expected).abs().max() < 0.045  # Kolmogorov-Smirnov, p = 1e-4


def test_linear_moves_over_training_and_stops_at_its_end() -> None:
    law = Linear(0.2, 0.8)
    assert [law.ratio(0, epoch, 0, 4) for epoch in range(6)] == pytest.approx([0.2, 0.35, 0.5, 0.65, 0.8, 0.8])
    assert Linear(0.8, 0.2).ratio(0, 2, 0, 4) == pytest.approx(0.5)
    assert law.ratio(0, 0, 0, 0) == pytest.approx(0.8)
    assert [law.ratio(0, 0, 0, epochs) for epochs in (0.5, 1)] == pytest.approx([0.2, 0.2])


def _discrepancy(points: list[float]) -> float:
    """Star discrepancy: the largest gap between the share of points below x and x."""
    n = len(points)
    return max(max((i + 1) / n - x, x - i / n) for i, x in enumerate(sorted(points)))


def _largest_gap(points: list[float]) -> float:
    ordered = [0.0, *sorted(points), 1.0]
    return max(b - a for a, b in itertools.pairwise(ordered))


@given(st.integers(0, 1000), indices, st.integers(0, 10**5), st.sampled_from([5, 10, 30, 100]))
@settings(deadline=None)
def test_stratified_ratios_leave_no_gap_in_any_run_of_epochs(seed: int, sample: int, first: int, n: int) -> None:
    law = Stratified(0, 1)
    points = [law.ratio(seed, first + epoch, sample, 1) for epoch in range(n)]
    assert _largest_gap(points) <= 1.9 / n
    assert _discrepancy(points) <= 3 / n


def test_stratified_ratios_are_far_more_even_than_uniform_ones() -> None:
    def mean_discrepancy(law: Uniform | Stratified) -> float:
        runs = [[law.ratio(0, epoch, sample, 1) for epoch in range(60)] for sample in range(30)]
        return sum(map(_discrepancy, runs)) / len(runs)

    assert mean_discrepancy(Stratified(0, 1)) < 0.4 * mean_discrepancy(Uniform(0, 1))


def test_stratified_ratios_of_one_epoch_are_spread_over_samples() -> None:
    assert _discrepancy([Stratified(0, 1).ratio(0, 3, sample, 1) for sample in range(2000)]) < 0.05


def test_the_mask_does_not_depend_on_the_ratio_law() -> None:
    """A larger ratio hides a superset: the same numbers stand behind the mask whatever law gave the ratio."""
    small, large = (draw_mask(50, ratio, sample_generator(0, 1, 2, MASK_STREAM)) for ratio in (0.3, 0.6))
    assert bool((small <= large).all())
    ratio_draws = torch.rand(50, generator=sample_generator(0, 1, 2, RATIO_STREAM), dtype=torch.float64)
    assert not torch.equal(ratio_draws < 0.3, small)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Uniform(-0.1, 0.5), "uniform: low is -0.1"),
        (lambda: Uniform(0.1, 1.5), "uniform: high is 1.5"),
        (lambda: Uniform(0.9, 0.1), r"low is 0.9 and high is 0.1.*write uniform\(0.1, 0.9\)"),
        (lambda: Stratified(0.9, 0.1), r"write stratified\(0.1, 0.9\)"),
        (lambda: Fixed(float("nan")), "fixed: value is nan"),
        (lambda: Linear(0.5, 2), "linear: end is 2"),
        (lambda: Linear(-1, 0.5), "linear: start is -1"),
        (
            lambda: draw_mask(3, 1.1, sample_generator(0, 0, 0)),
            "^mask ratio draw_mask: ratio is 1.1, expected a number from",
        ),
    ],
)
def test_ratios_out_of_range_are_named(build: object, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "law"),
    [
        ("uniform(0.05, 0.95)", Uniform(0.05, 0.95)),
        (" Uniform ( .05,.95 ) ", Uniform(0.05, 0.95)),
        ("fixed(0.5)", Fixed(0.5)),
        ("0.5", Fixed(0.5)),
        ("1", Fixed(1.0)),
        ("linear(0.9, 0.3)", Linear(0.9, 0.3)),
        ("stratified(0.05, 0.95)", Stratified(0.05, 0.95)),
    ],
)
def test_mask_ratio_texts(text: str, law: object) -> None:
    assert parse_mask_ratio(text) == law


@pytest.mark.parametrize(
    "text", ["", "uniform", "uniform(0.5)", "fixed(0.1, 0.2)", "normal(0, 1)", "half", "uniform(a, b)"]
)
def test_a_mask_ratio_that_is_not_understood_lists_the_forms(text: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"not understood; expected uniform\(.*fixed\(.*linear\(.*stratified\("
    ):
        parse_mask_ratio(text)


def test_a_parsed_ratio_out_of_range_is_named() -> None:
    with pytest.raises(ConfigurationError, match="fixed: value is 1.5"):
        parse_mask_ratio("1.5")


# Masks


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("length", [0, 1, 2, 17])
def test_ratio_zero_hides_nothing_and_one_everything(unit: str, length: int) -> None:
    for sample in range(20):
        none = draw_mask(length, 0.0, sample_generator(0, 0, sample), unit, words_of(length))  # type: ignore[arg-type]
        everything = draw_mask(length, 1.0, sample_generator(0, 0, sample), unit, words_of(length))  # type: ignore[arg-type]
        assert none.shape == everything.shape == (length,)
        assert none.dtype == everything.dtype == torch.bool
        assert not none.any() and bool(everything.all())


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("ratio", [0.13, 0.5, 0.9])
def test_every_token_is_hidden_with_exactly_the_ratio(unit: str, ratio: float) -> None:
    draws, length = 1500, 7
    generator = sample_generator(0, 0, 0)
    count = torch.zeros(length)
    for _ in range(draws):
        count += draw_mask(length, ratio, generator, unit, words_of(length))  # type: ignore[arg-type]
    spread = 4.5 * (ratio * (1 - ratio) / draws) ** 0.5
    assert ((count / draws - ratio).abs() < spread).all()


@given(st.integers(1, 60), st.floats(0, 1), indices)
@settings(deadline=None)
def test_a_span_is_one_circular_run_of_nearly_ratio_times_length(length: int, ratio: float, sample: int) -> None:
    mask = draw_mask(length, ratio, sample_generator(0, 0, sample), "span")
    assert abs(int(mask.sum()) - ratio * length) < 1
    changes = int((mask != mask.roll(1)).sum())
    assert changes in (0, 2)


@given(st.lists(st.integers(0, 5), max_size=30), st.floats(0, 1), indices)
@settings(deadline=None)
def test_the_tokens_of_a_word_share_their_fate(word_ids: list[int], ratio: float, sample: int) -> None:
    mask = draw_mask(len(word_ids), ratio, sample_generator(0, 0, sample), "word", word_ids)
    fates: dict[int, set[bool]] = {}
    for word, hidden in zip(word_ids, mask.tolist(), strict=True):
        fates.setdefault(word, set()).add(hidden)
    assert all(len(fate) == 1 for fate in fates.values())


def test_mixed_draws_both_kinds() -> None:
    runs = []
    for sample in range(200):
        mask = draw_mask(60, 0.5, sample_generator(0, 0, sample), "mixed")
        runs.append(int((mask != mask.roll(1)).sum()) // 2)
    assert 60 < runs.count(1) < 140


@pytest.mark.parametrize("unit", ["word", "entity"])
def test_units_of_words_need_word_ids(unit: Literal["word", "entity"]) -> None:
    for word_ids, given_ids in ((None, "none"), ([0, 1], "2")):
        with pytest.raises(
            ConfigurationError, match=f"^mask units .* one word id per token: 3 expected, {given_ids} given$"
        ):
            draw_mask(3, 0.5, sample_generator(0, 0, 0), unit, word_ids)


def test_an_unknown_unit_lists_the_units() -> None:
    with pytest.raises(
        ConfigurationError, match="^mask unit is 'sentence', expected one of token, word, entity, span, mixed$"
    ):
        draw_mask(3, 0.5, sample_generator(0, 0, 0), "sentence")  # type: ignore[arg-type]


# Replacements


@given(st.lists(st.integers(0, 99), max_size=40), indices)
@settings(deadline=None)
def test_only_hidden_tokens_change_and_the_input_never(ids: list[int], sample: int) -> None:
    given_ids = torch.tensor(ids, dtype=torch.long)
    mask = draw_mask(len(ids), 0.5, sample_generator(0, 0, sample))
    generator = sample_generator(0, 0, sample, 3)
    masked = mask_tokens(given_ids, mask, 500)
    replaced = random_tokens(given_ids, mask, [200, 201, 202], generator)
    assert given_ids.tolist() == ids
    assert masked.tolist() == [500 if hidden else index for index, hidden in zip(ids, mask.tolist(), strict=True)]
    assert torch.equal(replaced[~mask], given_ids[~mask])
    assert set(replaced[mask].tolist()) <= {200, 201, 202}
    short = random_tokens(given_ids.to(torch.int32), mask, [200, 201, 202], generator)
    assert short.dtype == torch.int32  # as what they replace


@given(st.lists(st.booleans(), max_size=40))
@settings(deadline=None)
def test_of_each_run_of_hidden_tokens_one_stays_and_all_that_is_visible(hidden: list[bool]) -> None:
    text = "".join("_" if each else "x" for each in hidden)
    shown = once_a_run(torch.tensor(hidden, dtype=torch.bool)).tolist()
    assert "".join(each for each, stays in zip(text, shown, strict=True) if stays) == re.sub("_+", "_", text)


def test_random_tokens_are_uniform_over_the_candidates() -> None:
    ids = torch.zeros(30000, dtype=torch.long)
    replaced = random_tokens(ids, torch.ones_like(ids, dtype=torch.bool), range(10, 20), sample_generator(0, 0, 0))  # type: ignore[arg-type]
    counts = torch.bincount(replaced - 10, minlength=10)
    assert len(counts) == 10 and (counts - 3000).abs().max() < 4.5 * 52


def test_the_replacement_of_a_token_does_not_depend_on_the_others() -> None:
    ids = torch.zeros(10, dtype=torch.long)
    one, all_hidden = torch.arange(10) == 6, torch.ones(10, dtype=torch.bool)
    first = random_tokens(ids, one, list(range(1000)), sample_generator(0, 0, 0))
    second = random_tokens(ids, all_hidden, list(range(1000)), sample_generator(0, 0, 0))
    assert first[6] == second[6]


def test_random_tokens_need_candidates() -> None:
    with pytest.raises(
        ConfigurationError, match="^random_tokens: candidate_ids is empty, expected the ids that .* token$"
    ):
        random_tokens(torch.tensor([1]), torch.tensor([True]), [], sample_generator(0, 0, 0))
