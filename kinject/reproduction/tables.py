"""The rows of a table: ours over seeds, the published figure, and the difference; and the same as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kinject.reproduction.findings import BEFORE, READINGS, Findings
from kinject.reproduction.reading import Recipes
from kinject.reproduction.specification import DIRECTIONS, FAMILIES, Panel, Table
from kinject.reproduction.statistics import LearningCurve, Spread, fit_learning_curve

_COSTS = ("tokens", "flops", "seconds", "peak_memory_bytes")


@dataclass(frozen=True)
class Cell:
    """One direction of one row: our scores by reading, and the published one, which is always the paper's recall."""

    scores: dict[str, Spread]
    published: float | None

    @property
    def difference(self) -> float | None:
        """Ours less the published, both in the paper's reading."""
        return None if self.published is None else self.scores["paper"].mean - self.published


@dataclass(frozen=True)
class Row:
    """One method on one model (or the mean over the models of a family).

    Attributes:
        model, label: As tables show model and method.
        method: Its name.
        cells: By direction; a direction without questions is missing.
        retained: Share of general questions answered before and after training.
        cost: Steps, and means of tokens, FLOPs, seconds and peak memory of a run.
    """

    model: str
    label: str
    method: str
    cells: dict[str, Cell]
    retained: tuple[Spread, Spread] | None
    cost: dict[str, float]


@dataclass(frozen=True)
class Rendered:
    """A table with its rows, panel by panel, ready to be written down in any form.

    Attributes:
        published_costs: TFLOPs and peak memory of a step as published, by method.
        fits: Accuracy over steps by model, method, panel and direction.
    """

    table: Table
    panels: dict[str, list[Row]]
    notes: list[str]
    reading: str
    published_costs: Mapping[str, Mapping[str, float]]
    fits: dict[tuple[str, str, str, str], LearningCurve]

    @property
    def readings(self) -> tuple[str, ...]:
        """The reading that counts first, then the other."""
        return tuple(sorted(READINGS, key=lambda each: each != self.reading))


def collect(recipes: Recipes, table: Table, findings: Findings, notes: Sequence[str] = ()) -> Rendered:
    """The rows of ``table`` that ``findings`` hold scores for."""
    panels = {}
    for name, panel in table.panels.items():
        if panel.dataset in recipes.scale.datasets:
            panels[name] = [row for row in _rows(recipes, table, findings, name, panel) if row.cells]
    return Rendered(
        table=table,
        panels={name: rows for name, rows in panels.items() if rows},
        notes=list(notes),
        reading=findings.reading,
        published_costs=recipes.published.get(table.published or "", {}).get("8B", {}) if table.cost else {},
        fits=_fits(table, findings, panels) if table.fits else {},
    )


def _fits(table: Table, findings: Findings, panels: Iterable[str]) -> dict[tuple[str, str, str, str], LearningCurve]:
    fits = {}
    for model in findings.models:
        for method in table.methods:
            for name in panels:
                for direction in DIRECTIONS:
                    points = findings.curve(model, method, table.panels[name].dataset, direction)
                    if len(points) > 2:
                        steps, values = zip(*points, strict=True)
                        fits[model, method, name, direction] = fit_learning_curve(steps, values)
    return fits


def _rows(recipes: Recipes, table: Table, findings: Findings, panel_name: str, panel: Panel) -> Iterator[Row]:
    models = recipes.scale.models
    found = [name for name in models if name in findings.models]
    for family in FAMILIES:
        members = [name for name in found if models[name].family == family]
        groups = [members] if table.average else [[name] for name in members]
        for group in groups:
            if not group:
                continue
            label = models[group[0]].label if len(group) == 1 else f"mean of {len(group)} models"
            published_as = "mean" if table.average else models[group[0]].published_as
            for method in [BEFORE] * table.before + table.methods:
                if method != BEFORE and recipes.methods[method].family != family:
                    continue
                published = _published(recipes.published, table.published, published_as, method, panel_name)
                cells = {}
                for index, direction in enumerate(DIRECTIONS):
                    scores = {
                        reading: score
                        for reading in READINGS
                        if (score := findings.score(group, method, panel, direction, reading)) is not None
                    }
                    if scores:
                        cells[direction] = Cell(scores, published[index] if published else None)
                yield Row(
                    model=label,
                    label="before" if method == BEFORE else recipes.methods[method].label,
                    method=method,
                    cells=cells,
                    retained=findings.retained(group, method, panel.dataset),
                    cost={
                        name: value
                        for name in ("steps", *_COSTS)
                        if (value := findings.cost(group, method, panel.dataset, name)) is not None
                    },
                )


def _published(published: Mapping[str, Any], table: str | None, model: str | None, method: str, panel: str) -> Any:
    """Forward and backward as published, or `None`."""
    return published.get(table or "", {}).get(model or "", {}).get(method, {}).get(panel)


def as_csv(rendered: Rendered) -> str:
    """One line for each model, method, panel, direction and reading, in full precision."""
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    scores = ["mean", "std", "low_95", "high_95", "seeds", "published", "difference"]
    writer.writerow(
        [
            "panel",
            "model",
            "method",
            "direction",
            "reading",
            *scores,
            "retained_before",
            "retained_after",
            "steps",
            *_COSTS,
        ]
    )
    for name, rows in rendered.panels.items():
        for row in rows:
            retained = [each.mean for each in row.retained] if row.retained else ["", ""]
            costs = [row.cost.get(cost, "") for cost in ("steps", *_COSTS)]
            for direction, cell in row.cells.items():
                for reading, each in cell.scores.items():
                    published: Sequence[Any] = ["", ""]
                    if reading == "paper" and cell.published is not None:
                        published = [cell.published, cell.difference]
                    values = [each.mean, each.deviation, each.low, each.high, each.n, *published]
                    cells = [*values, *retained, *costs]
                    shown = [f"{value:.6g}" if isinstance(value, float) else value for value in cells]
                    writer.writerow([name, row.model, row.method, direction, reading, *shown])
    return output.getvalue()
