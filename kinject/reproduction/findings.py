"""The results of a grid's runs over seeds, and whether the paper's claims hold. Draws nothing."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from kinject.data.knowledge import DIRECTIONS
from kinject.evaluation.measures import macro
from kinject.evaluation.results import SHOWN
from kinject.reproduction.grid import Run
from kinject.reproduction.specification import Check, Claim, Panel

# Statistics for tables: mean, deviation and interval over seeds, and the fit of a learning curve.


@dataclass(frozen=True)
class Spread:
    """A measure over seeds.

    Attributes:
        mean: Its mean.
        deviation: Standard deviation of a sample (n - 1); 0 for one seed.
        low, high: 95 % interval.
        n: Number of seeds.
    """

    mean: float
    deviation: float
    low: float
    high: float
    n: int


def spread(
    values: Sequence[float], interval: Sequence[float] | None = None, bounds: tuple[float, float] = (0.0, 1.0)
) -> Spread:
    """Mean, deviation and Student's 95 % interval of ``values``, one for each seed.

    Args:
        values: At least one.
        interval: The interval for a single seed, such as the bootstrap interval over its questions.
        bounds: The interval is clipped to these.
    """
    mean, n = statistics.fmean(values), len(values)
    if n == 1:
        low, high = interval or (mean, mean)
        return Spread(mean, 0.0, low, high, 1)
    deviation = statistics.stdev(values)
    half = student_95(n - 1) * deviation / math.sqrt(n)
    return Spread(mean, deviation, max(bounds[0], mean - half), min(bounds[1], mean + half), n)


def mean_and_deviation(values: Sequence[float]) -> str:
    """``values``, one for each seed, as a cell of a table: their mean, with the deviation if there are several."""
    found = spread(values)
    return f"{found.mean:.2f}" + (f" ± {found.deviation:.2f}" if found.n > 1 else "")


def student_95(freedom: int) -> float:
    """The two-sided 95 % quantile of Student's t with ``freedom`` degrees of freedom (1 or more)."""
    from scipy.stats import t  # imported here, since that takes a second

    return float(t.ppf(0.975, freedom))


@dataclass(frozen=True)
class LearningCurve:
    """``accuracy = limit * (1 - exp(-rate * step))``, as the paper fits accuracy over steps (Table 7)."""

    limit: float
    rate: float
    error: float

    def at(self, step: float) -> float:
        """The fitted accuracy after ``step`` steps."""
        return self.limit * (1.0 - math.exp(-self.rate * step))


def fit_learning_curve(steps: Sequence[float], values: Sequence[float]) -> LearningCurve:
    """The least-squares fit of `LearningCurve`; ``error`` is the root of the mean squared residual.

    For a given rate the best limit has a closed form, so only the rate is searched: on a logarithmic grid, then ever
    more finely around the best. Unlike `scipy.optimize.curve_fit` this needs no value to start from, and always converges.

    Raises:
        ValueError: there are no steps, or not as many values.
    """
    if not steps or len(steps) != len(values):
        raise ValueError(f"{len(steps)} steps and {len(values)} values; expected as many, and at least one")
    low, high = math.log(1e-3 / max(steps)), math.log(1e2 / max(min(steps), 1e-9))
    best = _with_rate(math.exp(low), steps, values)
    for _ in range(12):
        width = (high - low) / 40
        found = min(
            (_with_rate(math.exp(low + index * width), steps, values) for index in range(41)),
            key=lambda each: each.error,
        )
        best = min(best, found, key=lambda each: each.error)
        center = math.log(best.rate)
        low, high = center - 2 * width, center + 2 * width
    return best


def _with_rate(rate: float, steps: Sequence[float], values: Sequence[float]) -> LearningCurve:
    shape = [1.0 - math.exp(-rate * step) for step in steps]
    norm = sum(each * each for each in shape)
    # An accuracy cannot exceed 1; without this bound a curve that still rises is fitted by any straight line.
    limit = min(1.0, max(0.0, sum(a * b for a, b in zip(shape, values, strict=True)) / norm)) if norm else 0.0
    squares = [(limit * a - b) ** 2 for a, b in zip(shape, values, strict=True)]
    return LearningCurve(limit, rate, math.sqrt(sum(squares) / len(squares)))


BEFORE = "before"
READINGS = SHOWN[::-1]


class Findings:
    """The results of a grid's runs.

    Args:
        results: Each finished run with its `results.json`.
        weights: The evaluation that is reported: `last`, or `best` by the paper's macro mean of forward and backward.
        reading: The measure that claims and figures go by.
    """

    def __init__(
        self, results: Iterable[tuple[Run, Mapping[str, Any]]], weights: str = "last", reading: str = "paper"
    ) -> None:
        self.weights, self.reading = weights, reading
        self._by_cell: dict[tuple[str, str, str], dict[int, Mapping[str, Any]]] = defaultdict(dict)
        self._before: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = defaultdict(dict)
        for run, found in results:
            self._by_cell[run.model, run.method, run.dataset][run.seed] = found
            if found["before"] is not None:
                self._before[run.model, run.dataset].setdefault(run.seed, found["before"])

    @property
    def models(self) -> list[str]:
        """The models with results, in their order."""
        return list(dict.fromkeys(model for model, _, _ in self._by_cell))

    def results(self, model: str, method: str, dataset: str) -> Sequence[Mapping[str, Any]]:
        """The `results.json` of each seed."""
        return list(self._by_seed(model, method, dataset).values())

    def score(
        self, models: Sequence[str], method: str, panel: Panel, direction: str, reading: str | None = None
    ) -> Spread | None:
        """A score over the seeds of one model, or over the models' means of several; `None` where nothing was asked."""
        measured = [
            (cell[reading or self.reading], cell["ci"][reading or self.reading])
            for scores in self._scores(models[0], method, panel.dataset).values()
            if (cell := _cell(scores, panel.group, direction)) is not None
        ]
        if len(models) > 1:
            means = [self.score([model], method, panel, direction, reading) for model in models]
            found = [each.mean for each in means if each is not None]
            return spread(found) if found else None
        if not measured:
            return None
        return spread([value for value, _ in measured], measured[0][1])

    def by_seed(self, model: str, method: str, panel: Panel, direction: str) -> dict[int, float]:
        """The score of each seed that was asked for it."""
        return {
            seed: cell[self.reading]
            for seed, scores in self._scores(model, method, panel.dataset).items()
            if (cell := _cell(scores, panel.group, direction)) is not None
        }

    def answered(self, model: str, method: str, dataset: str) -> dict[int, tuple[float, float]]:
        """The shares of general questions answered before and after training, by seed."""
        return {
            seed: (found["retention"]["before"]["answered"], found["retention"]["after"]["answered"])
            for seed, found in self._by_seed(model, method, dataset).items()
            if (found.get("retention") or {}).get("after")
        }

    def retained(self, models: Sequence[str], method: str, dataset: str) -> tuple[Spread, Spread] | None:
        """The same shares over the seeds of all ``models``; None if they were not measured."""
        measured = [pair for model in models for pair in self.answered(model, method, dataset).values()]
        if not measured:
            return None
        return spread([before for before, _ in measured]), spread([after for _, after in measured])

    def cost(self, models: Sequence[str], method: str, dataset: str, name: str) -> float | None:
        """The mean of `train.<name>` of `results.json` over models and seeds."""
        values = [found["train"][name] for model in models for found in self.results(model, method, dataset)]
        return sum(values) / len(values) if values else None

    def curve(self, model: str, method: str, dataset: str, direction: str) -> list[tuple[int, float]]:
        """Steps and the mean score over seeds at the steps that all seeds were asked at."""
        by_step: dict[int, list[float]] = defaultdict(list)
        runs = self.results(model, method, dataset)
        for found in runs:
            for entry in found["history"]:
                if entry[direction]["n"]:
                    by_step[entry["step"]].append(entry[direction][self.reading])
        return [
            (step, sum(values) / len(values)) for step, values in sorted(by_step.items()) if len(values) == len(runs)
        ]

    def _by_seed(self, model: str, method: str, dataset: str) -> Mapping[int, Mapping[str, Any]]:
        return self._by_cell.get((model, method, dataset), {})

    def _scores(self, model: str, method: str, dataset: str) -> Mapping[int, Mapping[str, Any]]:
        """The reported scores, by seed."""
        if method == BEFORE:
            return self._before.get((model, dataset), {})
        found = self._by_seed(model, method, dataset)
        if self.weights == "best":
            return {
                seed: max(each["history"], key=macro) if each["history"] else each["after"]
                for seed, each in found.items()
            }
        return {seed: each["after"] for seed, each in found.items()}


def _cell(scores: Mapping[str, Any], group: str | None, direction: str) -> Mapping[str, Any] | None:
    """The scores of one direction, of all questions or of one group of them."""
    assert direction in DIRECTIONS
    if group is None:
        return scores[direction] if scores[direction]["n"] else None
    named = (
        cell
        for name, cell in scores["groups"].items()
        if name.startswith(f"{group}/") and name.endswith(f"/{direction}")
    )
    return next(named, None)


# Checks the paper's qualitative claims against what the runs of a grid found.


@dataclass(frozen=True)
class Verdict:
    """Whether a claim holds for one model on one dataset.

    Attributes:
        says: The claim.
        where: Model and dataset.
        holds: `None` where a run is missing.
        numbers: The comparisons, each with what was measured.
    """

    says: str
    where: str
    holds: bool | None
    numbers: str

    def __str__(self) -> str:
        """One line: verdict, place and numbers."""
        verdict = {True: "holds", False: "does not hold", None: "not measured"}[self.holds]
        return f"{verdict:13} {self.where}: {self.numbers}"


def check_claims(
    claims: Sequence[Claim],
    findings: Findings,
    panels: Sequence[Panel],
    planned: Collection[tuple[str, str]] | None = None,
) -> list[Verdict]:
    """The verdict on every claim for every model and dataset that has runs of its methods.

    Args:
        claims: What to check.
        findings: What runs gave.
        panels: The datasets, as parts of a table.
        planned: Dataset and method of the grid's runs; a claim is not checked on datasets for which one of its methods is not
            planned. Default: all are.
    """
    datasets = list(dict.fromkeys(panel.dataset for panel in panels))
    verdicts = []
    for claim in claims:
        for model in findings.models:
            for dataset in datasets:
                whole = Panel(dataset, dataset)
                if not any(findings.results(model, method, dataset) for method in claim.methods):
                    continue
                if planned is not None and any((dataset, method) not in planned for method in claim.methods):
                    continue
                outcomes = [_check(check, model, whole, findings) for check in claim.checks]
                known = [holds for holds, _ in outcomes if holds is not None]
                holds = all(known) if len(known) == len(outcomes) else None
                numbers = "; ".join(text for _, text in outcomes)
                verdicts.append(Verdict(claim.says, f"{model} on {dataset}", holds, numbers))
    return verdicts


def _check(check: Check, model: str, panel: Panel, findings: Findings) -> tuple[bool | None, str]:
    """Whether a comparison of means over seeds holds, and its numbers in words."""
    measured = _by_seed(findings, model, check.method, panel, check.direction)
    score = fmean(measured.values()) if measured else None
    at_least = check.at_least is not None
    bound = check.at_least if at_least else check.at_most
    relation = ">=" if at_least else "<="
    digits = ".3f" if check.direction == "forgotten" else ".2f"  # differences in forgetting are small
    text = f"{check.direction} of {check.method}"
    if isinstance(bound, str):
        others = _by_seed(findings, model, bound, panel, check.direction)
        margin = f" {'+' if check.plus > 0 else '-'} {abs(check.plus):{digits}}" if check.plus else ""
        other = fmean(others.values()) if others else None
        limit = None if other is None else other + check.plus
        shown = "not measured" if other is None else f"{other:{digits}}{margin}{_paired(measured, others)}"
        expected = f"{relation} {bound}{margin} ({shown})"
    else:
        limit = float(bound or 0.0) + check.plus
        expected = f"{relation} {limit:{digits}}"
    if score is None or limit is None:
        return None, f"{text} {'not measured' if score is None else f'{score:{digits}}'}, expected {expected}"
    holds = score >= limit - 1e-9 if at_least else score <= limit + 1e-9
    return holds, f"{text} {score:{digits}}, expected {expected}"


def _paired(measured: Mapping[int, float], others: Mapping[int, float]) -> str:
    """The mean difference of the same seeds with its interval, which shows whether it may be due to chance."""
    differences = [score - others[seed] for seed, score in measured.items() if seed in others]
    if len(differences) < 2:
        return ""
    found = spread(differences, bounds=(-1.0, 1.0))
    return f"; difference {found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}], {found.n} seeds"


def _by_seed(findings: Findings, model: str, method: str, panel: Panel, direction: str) -> dict[int, float]:
    """A score of each seed; `macro` is the mean of both directions, `forgotten` the share of general questions lost."""
    if direction == "forgotten":
        answered = findings.answered(model, method, panel.dataset)
        return {seed: before - after for seed, (before, after) in answered.items()}
    directions = DIRECTIONS if direction == "macro" else (direction,)
    scores = [findings.by_seed(model, method, panel, each) for each in directions]
    return {seed: fmean(each[seed] for each in scores) for seed in scores[0] if all(seed in each for each in scores)}
