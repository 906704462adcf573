"""Writes a table down as Markdown and LaTeX: one block a panel, one line a method."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from kinject.reproduction.specification import DIRECTIONS
from kinject.reproduction.statistics import Spread
from kinject.reproduction.tables import Cell, Rendered, Row

_NAMES = {"exact_match": "exact match", "paper": "recall"}
_LATEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", "→": r"$\rightarrow$", "~": r"\textasciitilde{}", "−": "$-$"}
_LATEX |= {character: f"\\{character}" for character in "&%$#_{}"}


def as_markdown(rendered: Rendered) -> str:
    """The table in Markdown, its notes below."""
    lines = [f"### {rendered.table.title}", ""]
    for heading, header, body in _blocks(rendered):
        lines += [f"**{heading}**", "", _line(header), _line(["---"] + ["---:"] * (len(header) - 1))]
        lines += [*map(_line, body), ""]
    return "\n".join([*lines, *(f"{note}  " for note in rendered.notes)]).rstrip() + "\n"


def as_latex(rendered: Rendered) -> str:
    """The table for LaTeX (`booktabs`), one `tabular` a panel."""
    lines = [f"% {rendered.table.title}"]
    for heading, header, body in _blocks(rendered):
        lines += ["", f"% {heading}", rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\toprule"]
        lines += [_latex_line(header), r"\midrule", *map(_latex_line, body), r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*lines, "", *(f"% {note}" for note in rendered.notes)]).rstrip() + "\n"


def number(value: float, signed: bool = False) -> str:
    """A share in two digits without its zero, as in ``.97`` or ``-.03``."""
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
        header += [f"{direction}, {_NAMES[reading]}" for reading in rendered.readings]
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
    """What a step costs, and its FLOPs and memory as multiples of AR's, beside the published multiples."""
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
