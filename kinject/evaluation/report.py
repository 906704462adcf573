"""Shows results as text and pictures: a table of runs, a plot, answers, how a diffusion model fills one in. Knows no Hub."""

from __future__ import annotations

import io
import math
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.text import Text

from kinject.data.knowledge import DIRECTIONS, UNKNOWN
from kinject.errors import ConfigurationError, KinjectError
from kinject.evaluation.measures import RECITED, asked, read_otherwise, share_of
from kinject.evaluation.results import MEASURES, SHOWN
from kinject.evaluation.retention import perplexity_factor, still_right

if TYPE_CHECKING:
    import os

    from rich.console import Console
    from transformers import PreTrainedTokenizerBase

    from kinject.sampling import Step


# One for each run in a plot; distinguishable with color vision deficiencies (Okabe and Ito).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def figures(value: float | None, decimals: int = 2) -> str:
    """``value`` as tables and cards show it: with so many ``decimals``, or as many significant digits if it is below .1.

    Only 0 is shown as 0; an unknown value is shown as a dash.
    """
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.{decimals}{'g' if 0 < value < 0.1 or value >= 1e6 else 'f'}}"


def percent(share: float) -> str:
    """``share`` as :func:`figures` shows it, in percent."""
    return f"{float(figures(share)) * 100:g}%"


def results_table(results: Sequence[Mapping[str, Any]], *, intervals: bool = False) -> str:
    """A plain-text table of runs: forward and backward, by the paper's measure and the strict one, before and after.

    Runs of the same model on the same questions share one row for the model before training. A run that is not finished shows
    its last evaluation. Columns for reciting, forgetting and refusals follow where these were measured, and below the table a
    sentence on each further measurement. A dash means that nothing was asked or known; if no run was asked anything, there
    are no columns of scores.

    Args:
        results: contents of ``results.json``.
        intervals: whether to show confidence intervals.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    names = run_names(results)
    rows = _table_rows(names, results)
    columns = _table_columns(rows, intervals)
    if not columns:
        return "\n".join(_notes(results))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for title, _ in columns:
        table.add_column(title, justify="right", no_wrap=True)
    for name, scores, result in rows:
        table.add_row(name, *(shown(scores, result) for _, shown in columns))
    output = io.StringIO()
    console = Console(file=output, width=200, force_terminal=False, color_system=None, markup=False, highlight=False)
    console.print(table)
    lines = [line.rstrip() for line in output.getvalue().splitlines()]
    sentences = [
        f"{name + ': ' if len(results) > 1 else ''}{sentence}"
        for name, result in zip(names, results, strict=True)
        for sentence in beyond_the_questions(result)
    ]
    return "\n".join([*(line for line in lines if line), *_notes(results), *sentences])


_Row = tuple[str, Mapping[str, Any], Mapping[str, Any]]  # name, scores, and the run, empty for a model before training
_Column = tuple[str, Callable[[Mapping[str, Any], Mapping[str, Any]], str]]  # title, and the cell for scores and run


def _table_rows(names: Sequence[str], results: Sequence[Mapping[str, Any]]) -> list[_Row]:
    """One row for every model before training, then one for every run with scores."""
    befores: list[tuple[str, Mapping[str, Any]]] = []
    for result in results:
        before = (f"{result['model']} {result['dataset']}", result["before"])
        if asked(result["before"]) and result["objective"] != "evaluation" and before not in befores:
            befores.append(before)
    rows: list[_Row] = [
        ("before" if len(befores) == 1 else f"before ({which})", scores, {}) for which, scores in befores
    ]
    for name, result in zip(names, results, strict=True):
        scores = result["after"]
        if scores is None and result["history"]:
            scores, name = result["history"][-1], f"{name} (step {result['history'][-1]['step']}, not finished)"
        if scores is not None:
            rows.append((name, scores, result))
    return rows


def _table_columns(rows: Sequence[_Row], intervals: bool) -> list[_Column]:
    """The columns with something to show in ``rows``; none if nothing was asked and forgetting was not measured."""

    def score(direction: str, key: str) -> _Column:
        title = f"{direction}\n{MEASURES[key].reading}"
        return title, lambda scores, result: _cell(scores[direction], key, intervals)

    def earlier(direction: str) -> _Column:
        return f"earlier\n{direction}", lambda scores, result: _then_now(result.get("kept"), direction, "paper")

    def refusals(title: str, key: str) -> _Column:
        return f"unseen\n{title}", lambda scores, result: figures(_after(result, "refusals").get(key))

    def measured(part: str) -> bool:
        return any(_after(result, part) for _, _, result in rows)

    asks = any(asked(scores) for _, scores, _ in rows)
    if not asks and not measured("retention"):
        return []
    columns = [score(direction, key) for key in SHOWN for direction in DIRECTIONS] if asks else []
    if any(share_of(scores, RECITED) is not None for _, scores, _ in rows):
        columns.append(("recited", lambda scores, result: figures(share_of(scores, RECITED))))
    if measured("retention"):
        columns += [
            ("still right\ngeneral", lambda scores, result: figures(still_right(result.get("retention")))),
            ("perplexity\nfactor", lambda scores, result: figures(perplexity_factor(result.get("retention")))),
        ]
    if measured("refusals"):
        columns += [refusals("refused", "refused"), refusals("leaked", "leaked")]
    if measured("kept"):
        columns += [earlier(direction) for direction in DIRECTIONS]
    if measured("outdated"):
        old: _Column = (
            "old answers\nstill given",
            lambda scores, result: _then_now(result.get("outdated"), None, "still_given"),
        )
        columns.append(old)
    return columns


def _after(result: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    """The measurement of a part after training; empty if there is none."""
    return (result.get(part) or {}).get("after") or {}


def _then_now(part: Mapping[str, Any] | None, direction: str | None, key: str) -> str:
    """A figure of a part before and after training."""
    moments = [(part or {}).get(moment) or {} for moment in ("before", "after")]
    cells = [each if direction is None else each.get(direction) or {} for each in moments]
    return " -> ".join(f"{each[key]:.2f}" for each in cells) if all(each.get("n") for each in cells) else "-"


def beyond_the_questions(result: Mapping[str, Any]) -> list[str]:
    """One sentence on each further measurement of a run, as `examination` makes them before and after training."""
    said = []
    if refusals := _after(result, "refusals") or (result.get("refusals") or {}).get("before"):
        part = f"Asked {refusals['n']} questions about unseen people, it says in {percent(refusals['refused'])} that it does "
        part += f"not know, and tells what it was taught of others in {percent(refusals['leaked'])}"
        if (unsaid := refusals["unsaid"])["n"]:
            part += f"; asked of what was taught for what was never said, {percent(unsaid['not_attempted'])} of {unsaid['n']}"
        if taught := refusals.get("taught"):
            part += f"; of the questions that were taught it answers {percent(taught['right'])} rightly and refuses "
            part += percent(taught["not_attempted"])
        if (known := _after(result, "retention").get("known_refused")) is not None:
            part += f"; of the general questions that it knew it refuses {percent(known)}"
        said.append(part + ".")
    if unknown := _after(result, "unknown"):
        tries = result["unknown"]["before"]["samples"]
        part = f"Of the {unknown['n']} questions that the untrained model failed greedily and in {tries} samples, "
        part += f"{percent(unknown['learned'])} are answered rightly"
        part += (
            f"; of the {unknown['known']} that it knew, {percent(unknown['lost'])} are lost" if unknown["known"] else ""
        )
        said.append(part + ".")
    for name, title in (("open_book", "With the document in the prompt"), ("other_wordings", "In other wordings")):
        found = result.get(name) or {}
        for direction in asked(found.get("after") or found.get("before")):
            moments = [found[moment][direction] for moment in ("before", "after") if found.get(moment)]
            shown = ", ".join(
                f"{measure.short} {' -> '.join(figures(each[key]) for each in moments)}"
                for key, measure in MEASURES.items()
            )
            every = moments[-1].get("all_exact")
            shown += "" if every is None else f"; all wordings exact {figures(every)}"
            said.append(f"{title}, {direction}: {shown}.")
    kept = result.get("kept") or {}
    for direction in asked(kept.get("after")):
        shown = ", ".join(
            f"{MEASURES[key].short} {' -> '.join(figures(kept[moment][direction][key]) for moment in ('before', 'after'))}"
            for key in SHOWN
        )
        count = f"Of {kept['documents']} earlier documents" if "documents" in kept else "Of earlier documents"
        said.append(f"{count}, {direction} ({kept['after'][direction]['n']} questions): {shown}.")
    if outdated := _after(result, "outdated"):
        before = result["outdated"]["before"]["still_given"]
        said.append(
            f"Of the {outdated['n']} questions whose answer the new documents correct, the old answer is still given in "
            f"{percent(outdated['still_given'])}; before it was in {percent(before)}."
        )
    for direction, by in ((result.get("control") or {}).get("effect") or {}).items():
        shown = ", ".join(f"{MEASURES[key].short} {by[key]:+.2f}" for key in SHOWN)
        said.append(f"Against the half that was left out, {direction}: {shown}.")
    return said


def run_names(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """A short name for every run: its objective, and the settings in which the runs differ."""
    names = []
    for result in results:
        name = result["objective"]
        if result["paraphrases"] not in ("none", ""):
            name += " + paraphrases"
        apart = [
            f"{label}{result[key]}"
            for key, label in (("model", ""), ("dataset", ""), ("seed", "seed "))
            if len({each[key] for each in results}) > 1
        ]
        names.append(f"{name} ({', '.join(apart)})" if apart else name)
    return names


def plot_history(
    results: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    path: str | os.PathLike[str],
    *,
    comment: str | None = None,
) -> Path:
    """Plot accuracy over training steps (logarithmic) for one run or several, and write a PNG to ``path``.

    There is one panel for each measure, with solid lines for forward, dashed ones for backward, and thin ones for the model
    before training. A direction without questions has no line. ``comment`` is stored in the file's metadata.

    Raises:
        KinjectError: no run has a history of answers.
        ConfigurationError: ``path`` cannot be written, or holds something else than a PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    target = Path(path)
    _require_place_for_picture(target)
    runs = [results] if isinstance(results, Mapping) else list(results)
    if not any(asked(entry) for run in runs for entry in run["history"]):
        raise KinjectError("no run has a history to plot; expected results.json of a run that asked while it trained")
    figure = Figure(figsize=(9.6, 4.2))
    figure.subplots_adjust(0.065, 0.12, 0.99, 0.92, wspace=0.04)  # a layout that is sought draws everything twice
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(SHOWN), sharey=True, squeeze=False)[0]
    for panel, key in zip(panels, SHOWN, strict=True):
        for index, (name, run) in enumerate(zip(run_names(runs), runs, strict=True)):
            color = COLORS[index % len(COLORS)]
            steps = [entry["step"] for entry in run["history"]]
            for direction, line in zip(DIRECTIONS, ("-", "--"), strict=True):
                if direction not in asked(run["history"][-1] if run["history"] else None):
                    continue
                values = [entry[direction][key] for entry in run["history"]]
                panel.plot(steps, values, line, color=color, marker="o", markersize=4, label=f"{name}, {direction}")
                if run["before"] is not None:
                    before = run["before"][direction][key]
                    panel.axhline(before, linestyle=line, color=color, linewidth=0.6, alpha=0.5)
        panel.set(
            xscale="log", ylim=(-0.03, 1.03), xlabel="step", title=f"{MEASURES[key].reading}: {MEASURES[key].name}"
        )
        ticks = steps_apart({entry["step"] for run in runs for entry in run["history"]})
        panel.set_xticks(ticks, labels=map(str, ticks))
        panel.set_xticks([], minor=True)
        panel.grid(alpha=0.25)
    panels[0].set_ylabel("share of answers")
    panels[0].legend(fontsize="small", frameon=False)
    figure.savefig(target, dpi=120, format="png", metadata={} if comment is None else {"Comment": comment})
    return target


def _require_place_for_picture(target: Path) -> None:
    """Refuse to plot over a file that is no picture, or where nothing can be written."""
    try:
        if target.exists() and target.stat().st_size:
            with target.open("rb") as opened:
                if not opened.read(8).startswith(b"\x89PNG"):
                    raise ConfigurationError(f"{target}: no PNG is there, so it is not replaced; name another file.")
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("ab"):
            pass
        if not target.stat().st_size:
            target.unlink()
    except OSError as error:
        raise ConfigurationError(
            f"{target}: cannot be written ({error.strerror}); name a file in a folder that you may write to."
        ) from error


def steps_apart(steps: Iterable[int]) -> list[int]:
    """Those of ``steps`` whose labels fit side by side on a logarithmic axis, the last one included."""
    kept: list[int] = []
    for step in sorted(steps, reverse=True):
        if step > 0 and (not kept or kept[-1] >= 1.3 * step):
            kept.append(step)
    return kept[::-1]


def _cell(measured: Mapping[str, Any], key: str, intervals: bool) -> str:
    if not measured["n"]:
        return "-"
    interval = measured.get("ci", {}).get(key) if intervals else None
    return f"{measured[key]:.2f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "")


def _unknown(scores: Mapping[str, Any] | None) -> str:
    """A note on the questions of unknown direction, which count in neither column."""
    cell = (scores or {}).get(UNKNOWN)
    if not cell:
        return ""
    found = f"recall {cell['paper']:.2f}, exact {cell['exact_match']:.2f}"
    return f"{cell['n']} questions of unknown direction, in neither column ({found})"


def _notes(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Notes below the table on each run: model, data, number of questions, and which weights were scored."""
    notes = []
    for result in results:
        scores = result["after"] or result["before"]
        counts = f"{scores['forward']['n']} forward and {scores['backward']['n']} backward questions" if scores else ""
        counts = counts if asked(scores) or not scores else "" if UNKNOWN in scores else "no questions"
        made = result.get("questions_made_by")
        counts += (
            f" ({', '.join(f'{count} made by {maker}' for maker, count in made.items())})" if made and counts else ""
        )
        parts = [result["model"], result["dataset"], counts, _unknown(scores), result.get("selection", "")]
        parts.append(read_otherwise(scores))
        note = "; ".join(part for part in parts if part)
        if note not in notes:
            notes.append(note)
    return notes


# Draws in the terminal how a masked diffusion model fills in an answer.

_MASK = "░"
_MASK_STYLE, _NEW_STYLE = "dim", "bold reverse green"
_SECONDS_A_STEP = 0.12


def draw_unmasking(
    console: Console, tokenizer: PreTrainedTokenizerBase, steps: Sequence[Step], mask_token_id: int
) -> None:
    """Show ``steps`` one after the other in a terminal; elsewhere print a line for each."""
    if not console.is_terminal:
        for number, step in enumerate(steps, 1):
            console.print(Text(f"  {number:>3} ") + draw_step(tokenizer, step, mask_token_id))
        return
    with Live(console=console, auto_refresh=False) as live:
        for number, step in enumerate(steps, 1):
            live.update(Text(f"  {number:>3} ") + draw_step(tokenizer, step, mask_token_id), refresh=True)
            time.sleep(_SECONDS_A_STEP)


def draw_step(tokenizer: PreTrainedTokenizerBase, step: Step, mask_token_id: int) -> Text:
    """One line: masks as shaded boxes, and the tokens of this step highlighted."""
    styles = {"hidden": _MASK_STYLE, "new": _NEW_STYLE, "old": None}
    return Text.assemble(*((text, styles[kind] or "") for kind, text in step_parts(tokenizer, step, mask_token_id)))


def step_parts(tokenizer: PreTrainedTokenizerBase, step: Step, mask_token_id: int) -> list[tuple[str, str]]:
    """An answer after one step as runs of text, each with its kind.

    Kinds are ``hidden`` (a shaded box for each mask), ``new`` (tokens that the step committed) and ``old`` (earlier tokens).
    """
    special = set(tokenizer.all_special_ids)
    parts: list[tuple[str, str]] = []

    def add(kind: str, text: str, apart: bool) -> None:
        if apart and parts and not parts[-1][1].endswith(" ") and not text.startswith(" "):
            parts.append(("old", " "))
        parts.append((kind, text))

    for masked, group in groupby(enumerate(step.ids), key=lambda placed: placed[1] == mask_token_id):
        run = list(group)  # (place, token)
        if masked:
            add("hidden", _MASK * len(run), apart=True)
            continue
        # The rest after an answer is filled with end tokens; one of them is shown.
        run = [each for at, each in enumerate(run) if not (at and each[1] in special and each[1] == run[at - 1][1])]
        shown = ""
        for count, (place, _) in enumerate(run, 1):
            # The text that each token adds, since spaces and letters may depend on several tokens.
            text = str(tokenizer.decode([token for _, token in run[:count]])).replace("\n", "⏎")
            if text.endswith("\ufffd") and count < len(run):
                continue  # part of a letter
            add("new" if place in step.committed else "old", text[len(shown) :], apart=not shown)
            shown = text
    return parts


def print_answers(recorded: Sequence[dict[str, Any]], count: int = 6) -> None:
    """Print ``count`` recorded answers, spread over the questions."""
    from rich.console import Console
    from rich.markup import escape

    from kinject.evaluation.results import expected_answers

    console = Console(soft_wrap=True, highlight=False)
    for entry in recorded[:: max(1, -(-len(recorded) // count))] if count > 0 else ():
        console.print(f"\n[bold]{escape(entry['question'].strip())}[/bold] ({entry['direction']})")
        console.print(
            f"  answered: {escape(entry['answer'])}\n  expected: {escape(' / '.join(expected_answers(entry)))}"
        )


# The last lines of a run: its files, the next command, and a verdict by these limits.

_LEARNED = 0.5  # a direction with less recall counts as not learned
_APART = 0.25  # recall by which backward may be lower than forward
_KEPT = 0.8  # share of general questions that should still be answered
_WORSE = 1.5  # factor by which the perplexity of other texts may grow
_LOST = 0.1  # recall that earlier documents may lose
_OLD = 0.1  # share of outdated answers that may still be given
_WHOLE = 0.4  # below this F1, answers with the right words are whole passages


def ending(results: Mapping[str, Any], output_dir: str | Path, push: bool = False) -> str:
    """The files of a run, the next command to type, and in the last line the `verdict`.

    Args:
        results: content of ``results.json``.
        output_dir: of the run.
        push: whether it was published already.
    """
    place = shlex.quote(str(output_dir))
    answers = results.get("answers") or []
    question = str(answers[0]["question"]).strip() if answers else "..."
    kinds = "model or adapter, report.html (to look at), results.json (all of it), README.md (card), accuracy.png"
    lines = [f"{output_dir}: {kinds if answers else kinds.replace(', accuracy.png', '')}"]
    publish = "" if push else f", or kinject push {place} user/name"
    lines.append(f"next: kinject ask {place} {shlex.quote(question)}{publish}")
    return "\n".join([*lines, verdict(results)])


def verdict(results: Mapping[str, Any]) -> str:
    """Whether the result is good enough to use; if not, the first fault and the option that mends it.

    Faults in this order: nothing was asked; little is answered; backward is much lower than forward; general knowledge is lost;
    earlier documents are forgotten; outdated answers are given; answers are whole passages.
    """
    after = results.get("after") or {}
    asked = [name for name in DIRECTIONS if (after.get(name) or {}).get("n")]
    if not asked:
        return "not measured: nothing was asked, so nobody knows what it learned (--questions FILE, or rule)."
    recall = {name: float(after[name]["paper"]) for name in asked}
    shown = ", ".join(f"{name} {recall[name]:.2f}" for name in asked)
    if max(recall.values()) < _LEARNED:
        return f"not good enough: little is answered ({shown}); train longer (--num_train_epochs) or faster (--learning_rate)."
    if len(asked) == 2 and recall["backward"] < recall["forward"] - _APART:
        mend = (
            "--num_train_epochs: backward takes two to three times the epochs of forward"
            if results.get("objective") in ("masked", "diffusion")
            else "--objective masked"
        )
        return f"not good enough: backward is weak ({shown}); {mend}."
    kept, factor = still_right(results.get("retention")), perplexity_factor(results.get("retention"))
    if (kept is not None and kept < _KEPT) or (kept is None and factor is not None and factor > _WORSE):
        lost = (
            f"{percent(kept)} of what it knew is still answered" if kept is not None else f"perplexity x {factor:.2f}"
        )
        return f"not good enough for general use: it forgets ({lost}); --rehearsal 0.5 --frozen_modules attention."
    before, now = ((results.get("kept") or {}).get(moment) or {} for moment in ("before", "after"))
    forgotten = [
        name
        for name in DIRECTIONS
        if (now.get(name) or {}).get("n") and now[name]["paper"] < before[name]["paper"] - _LOST
    ]
    if forgotten:
        shown = ", ".join(f"{name} {before[name]['paper']:.2f} -> {now[name]['paper']:.2f}" for name in forgotten)
        return (
            f"not good enough: earlier documents are forgotten ({shown}); --keep_share 0.7, or more --num_train_epochs."
        )
    old = ((results.get("outdated") or {}).get("after") or {}).get("still_given", 0.0)
    if old > _OLD:
        return f"not good enough: old answers are still given ({percent(old)}); --num_train_epochs, or --learning_rate."
    f1 = min(float(after[name].get("f1", 1.0)) for name in asked)
    if f1 < _WHOLE:
        return f"answers are right but long ({shown}, F1 {f1:.2f}): it recites; --preset practice mends it."
    return f"good enough by these questions: {shown}."
