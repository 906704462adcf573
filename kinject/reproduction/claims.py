"""Checks the paper's qualitative claims against what the runs of a grid found."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from kinject.reproduction.findings import Findings
from kinject.reproduction.specification import DIRECTIONS, Check, Claim, Panel
from kinject.reproduction.statistics import spread


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
        planned: The datasets and methods of the grid; what a claim needs beyond them it is not checked for. Default: all.
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
    digits = ".3f" if check.direction == "forgotten" else ".2f"  # where a point is much
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
    """How much the first have more, seed by seed, with its interval, which tells a comparison from chance."""
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
