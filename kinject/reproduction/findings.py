"""What the finished runs of a grid found, looked up by model, method, dataset and direction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kinject.evaluation.scores import DIRECTIONS, macro
from kinject.reproduction.grid import Run
from kinject.reproduction.specification import Panel
from kinject.reproduction.statistics import Spread, spread

BEFORE = "before"
READINGS = ("exact_match", "paper")


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
        """Of general questions the share that each seed answered before training, and after it."""
        return {
            seed: (found["retention"]["before"]["answered"], found["retention"]["after"]["answered"])
            for seed, found in self._by_seed(model, method, dataset).items()
            if found.get("retention")
        }

    def retained(self, models: Sequence[str], method: str, dataset: str) -> tuple[Spread, Spread] | None:
        """The same over the seeds of all of ``models``; `None` where it was not measured."""
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
        """The scores of each seed that are reported."""
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
