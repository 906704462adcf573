"""The figures of a table, as PNG and SVG: bars by method, accuracy over mask ratios, accuracy over steps with its fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kinject.evaluation.report import COLORS, steps_apart
from kinject.reproduction.findings import Findings
from kinject.reproduction.reading import Recipes
from kinject.reproduction.specification import DIRECTIONS
from kinject.reproduction.tables import Rendered

_LINES = {"forward": "-", "backward": "--"}
_READING_NAMES = {"exact_match": "exact match", "paper": "ROUGE-1 recall"}


def draw(kind: str, recipes: Recipes, rendered: Rendered, findings: Findings, path: Path) -> list[Path]:
    """Draw the figure ``kind`` (`bars`, `ratios` or `steps`) to ``path`` with the endings .png and .svg.

    Returns:
        The files; none if there is nothing to draw.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawing: Mapping[str, Callable[..., bool]] = {"bars": _bars, "ratios": _ratios, "steps": _steps}
    names = list(rendered.panels)
    if not names:
        return []
    figure = Figure(figsize=(1.5 + 4.2 * len(names), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    drawn = False
    for axis, name in zip(axes, names, strict=True):
        drawn |= drawing[kind](axis, recipes, rendered, findings, name)
        axis.set(title=rendered.table.panels[name].label, ylim=(-0.03, 1.03))
        axis.grid(alpha=0.25)
    if not drawn:
        return []
    axes[0].set_ylabel(_READING_NAMES[findings.reading])
    labeled = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    if labeled:
        figure.legend(labeled.values(), labeled, loc="outside right upper", fontsize="small", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_suffix(ending) for ending in (".png", ".svg")]
    for file in files:
        figure.savefig(file, dpi=120, metadata={"Date": None} if file.suffix == ".svg" else None)
    return files


def _bars(axis: Any, recipes: Recipes, rendered: Rendered, findings: Findings, name: str) -> bool:
    rows = rendered.panels[name]
    several = len({row.model for row in rows}) > 1
    for index, direction in enumerate(DIRECTIONS):
        found = [
            (position, row.cells[direction].scores[findings.reading])
            for position, row in enumerate(rows)
            if direction in row.cells
        ]
        positions = [position + 0.4 * index - 0.2 for position, _ in found]
        means = [each.mean for _, each in found]
        errors = [[each.mean - each.low for _, each in found], [each.high - each.mean for _, each in found]]
        axis.bar(positions, means, 0.38, yerr=errors, color=COLORS[index], label=direction, error_kw={"linewidth": 0.8})
    labels = [f"{row.label} ({row.model})" if several else row.label for row in rows]
    axis.set_xticks(range(len(rows)), labels=labels, rotation=60, ha="right", fontsize="small")
    return bool(rows)


def _ratios(axis: Any, recipes: Recipes, rendered: Rendered, findings: Findings, name: str) -> bool:
    panel, drawn = rendered.table.panels[name], False
    for index, model in enumerate(findings.models):
        for direction in DIRECTIONS:
            points = []
            for method in rendered.table.methods:
                ratio = recipes.methods[method].ratio
                score = findings.score([model], method, panel, direction) if ratio is not None else None
                if ratio is not None and score is not None:
                    points.append((ratio, score.mean))
            if points:
                label = f"{recipes.scale.models[model].label}, {direction}"
                axis.plot(
                    *zip(*sorted(points), strict=True), _LINES[direction], color=COLORS[index], marker="o", label=label
                )
                drawn = True
    axis.set_xlabel("mask ratio")
    return drawn


def _steps(axis: Any, recipes: Recipes, rendered: Rendered, findings: Findings, name: str) -> bool:
    dataset, drawn, asked = rendered.table.panels[name].dataset, False, set()
    color = 0
    for model in findings.models:
        for method in rendered.table.methods:
            for direction in DIRECTIONS:
                points = findings.curve(model, method, dataset, direction)
                if not points:
                    continue
                steps = [step for step, _ in points]
                asked.update(steps)
                label = f"{recipes.methods[method].label}, {direction}"
                axis.plot(steps, [value for _, value in points], "o", color=COLORS[color % len(COLORS)], markersize=4)
                fit = rendered.fits.get((model, method, name, direction))
                if fit is not None:
                    grid = [steps[0] * (steps[-1] / steps[0]) ** (i / 60) for i in range(61)]
                    axis.plot(
                        grid,
                        [fit.at(x) for x in grid],
                        _LINES[direction],
                        color=COLORS[color % len(COLORS)],
                        label=label,
                    )
                drawn = True
            color += bool(findings.results(model, method, dataset))
    if drawn:
        ticks = steps_apart(asked)
        axis.set(xscale="log", xlabel="step")
        axis.set_xticks(ticks, labels=map(str, ticks))
        axis.set_xticks([], minor=True)
    return drawn
