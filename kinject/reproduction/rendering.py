"""Shows findings: tables beside the published figures as Markdown, CSV and LaTeX, and plots as PNG and SVG. Knows no runs."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinject.data.knowledge import DIRECTIONS
from kinject.evaluation.report import COLORS, steps_apart
from kinject.evaluation.results import MEASURES
from kinject.reproduction.findings import BEFORE, READINGS, Findings, LearningCurve, Spread, fit_learning_curve
from kinject.reproduction.specification import FAMILIES, Panel, Recipes, Table

# The rows of a table: our scores over seeds, the published figure, and the difference; and the same as CSV.

_COSTS = ("tokens", "flops", "seconds", "peak_memory_bytes")


@dataclass(frozen=True)
class Cell:
    """One direction of one row: our scores by reading, and the published one, which is always the paper's recall."""

    scores: dict[str, Spread]
    published: float | None

    @property
    def difference(self) -> float | None:
        """Our recall minus the published one."""
        return None if self.published is None else self.scores["paper"].mean - self.published


@dataclass(frozen=True)
class Row:
    """One method on one model (or the mean over the models of a family).

    Attributes:
        model, label: Model and method as tables show them.
        method: The method's name.
        cells: Scores by direction; a direction without questions is missing.
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
    """A table with its rows, panel by panel, to be written in any form.

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
        """The measure of claims and figures first, then the other one."""
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
    fits: dict[tuple[str, str, str, str], LearningCurve] = {}
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
                cells: dict[str, Cell] = {}
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
    """Forward and backward as published, or None."""
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


# The figures of a table, as PNG and SVG: bars by method, accuracy over mask ratios, accuracy over steps with its fit.

_LINES = {"forward": "-", "backward": "--"}


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
    axes[0].set_ylabel(MEASURES[findings.reading].name)
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


_LATEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", "→": r"$\rightarrow$", "~": r"\textasciitilde{}", "−": "$-$"}
_LATEX |= {character: f"\\{character}" for character in "&%$#_{}"}


def as_markdown(rendered: Rendered) -> str:
    """The table in Markdown, with its notes below."""
    lines = [f"### {rendered.table.title}", ""]
    for heading, header, body in _blocks(rendered):
        lines += [f"**{heading}**", "", _line(header), _line(["---"] + ["---:"] * (len(header) - 1))]
        lines += [*map(_line, body), ""]
    return "\n".join([*lines, *(f"{note}  " for note in rendered.notes)]).rstrip() + "\n"


def as_latex(rendered: Rendered) -> str:
    """The table for LaTeX (`booktabs`), one `tabular` for each panel."""
    lines = [f"% {rendered.table.title}"]
    for heading, header, body in _blocks(rendered):
        lines += ["", f"% {heading}", rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\toprule"]
        lines += [_latex_line(header), r"\midrule", *map(_latex_line, body), r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*lines, "", *(f"% {note}" for note in rendered.notes)]).rstrip() + "\n"


def number(value: float, signed: bool = False) -> str:
    """A share with two decimals and without a leading zero, as in ``.97`` or ``-.03``."""
    text = f"{value:+.2f}" if signed else f"{value:.2f}"
    return re.sub(r"^([+-]?)0\.", r"\1.", text)


def _blocks(rendered: Rendered) -> list[tuple[str, list[str], list[list[str]]]]:
    """Heading, header and body of each panel."""
    blocks = []
    for name, rows in rendered.panels.items():
        label = rendered.table.panels[name].label
        for model in dict.fromkeys(row.model for row in rows):
            mine = [row for row in rows if row.model == model]
            header, body = _cost_block(rendered, mine, rows) if rendered.table.cost else _score_block(rendered, mine)
            blocks.append((f"{label}, {model}", header, body))
    if rendered.fits:
        blocks.append(("Fits of A (1 - exp(-k step)) to the mean over seeds", *_fit_block(rendered)))
    return blocks


def _score_block(rendered: Rendered, rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    published = any(cell.published is not None for row in rows for cell in row.cells.values())
    retained = any(row.retained for row in rows)
    directions = [direction for direction in DIRECTIONS if any(direction in row.cells for row in rows)]
    header = ["method"]
    for direction in directions:
        header += [f"{direction}, {MEASURES[reading].short}" for reading in rendered.readings]
        header += ["published", "difference"] if published else []
    header += ["still known"] if retained else []
    header += ["tokens"]
    body = []
    for row in rows:
        line = [row.label]
        for direction in directions:
            cell = row.cells.get(direction)
            if cell is None:
                line += ["-"] * (len(rendered.readings) + 2 * published)
                continue
            line += [
                _spread(cell.scores[reading], interval=reading == rendered.reading) for reading in rendered.readings
            ]
            line += _compared(cell) if published else []
        if retained:
            line.append(" → ".join(number(each.mean) for each in row.retained) if row.retained else "-")
        line.append(f"{row.cost['tokens']:,.0f}" if row.cost else "-")
        body.append(line)
    return header, body


def _cost_block(rendered: Rendered, rows: Sequence[Row], every_row: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """The cost of a step, and its FLOPs and memory as multiples of AR's, beside the published multiples."""
    header = ["method", "steps", "tokens a step", "GFLOPs a step", "seconds a step", "peak memory, GB"]
    header += ["FLOPs / AR", "published", "memory / AR", "published"]
    base = next((each.cost for each in every_row if each.method == "ar" and each.cost), None)
    body = []
    for row in rows:
        if not row.cost.get("steps"):
            continue
        steps, cost = row.cost["steps"], row.cost
        line = [row.label, f"{steps:.0f}", f"{cost['tokens'] / steps:.0f}", f"{cost['flops'] / steps / 1e9:.3g}"]
        line += [f"{cost['seconds'] / steps:.3g}", f"{cost['peak_memory_bytes'] / 1e9:.2f}"]
        for ours, theirs in (("flops", "tflops_a_step"), ("peak_memory_bytes", "peak_gigabytes")):
            scale = steps / base["steps"] if base and ours == "flops" else 1.0  # per step, where runs differ in steps
            line.append(f"{cost[ours] / (base[ours] * scale):.2f}" if base else "-")
            published = rendered.published_costs
            known = row.method in published and "ar" in published
            line.append(f"{published[row.method][theirs] / published['ar'][theirs]:.2f}" if known else "-")
        body.append(line)
    return header, body


def _fit_block(rendered: Rendered) -> tuple[list[str], list[list[str]]]:
    header = ["method", "model", "panel", "direction", "A", "k", "step at A / 2", "error"]
    body = []
    for (model, method, panel, direction), fit in rendered.fits.items():
        place = [method, model, rendered.table.panels[panel].label, direction]
        half = f"{math.log(2) / fit.rate:.0f}" if fit.limit > 0 else "-"
        body.append([*place, number(fit.limit), f"{fit.rate:.2g}", half, number(fit.error)])
    return header, body


def _compared(cell: Cell) -> list[str]:
    if cell.published is None or cell.difference is None:
        return ["-", "-"]
    return [number(cell.published), number(cell.difference, signed=True)]


def _spread(each: Spread, interval: bool) -> str:
    text = number(each.mean)
    text += f" ± {number(each.deviation)}" if each.n > 1 else ""
    return f"{text} [{number(each.low)}, {number(each.high)}]" if interval else text


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join("".join(_LATEX.get(character, character) for character in cell) for cell in cells) + r" \\"
