"""`kinject reproduce` and `recipes/reproduce.py`: plan a table's runs, start those missing, render, and check the claims.

Knows nothing of how runs are trained.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinject.errors import ConfigurationError, exit_on_user_error

if TYPE_CHECKING:
    from kinject.reproduction.grid import Cost, Launch, Run
    from kinject.reproduction.specification import Recipes, Scale, Table

DESCRIPTION = (
    "Reproduce a table of the paper with its figures: start the missing runs, resume those that were killed, render the "
    "results beside the published figures, and check the paper's claims. Finished runs are not repeated."
)

REFERENCE = "masked"  # the method whose floating-point operations the others get under --matched_compute


def main(argv: Sequence[str] | None = None) -> None:
    """Run from `recipes/reproduce.py`; errors that the user can mend end it with status 2 and one line."""
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    add_arguments(parser)
    with exit_on_user_error():
        run(parser.parse_args(argv))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("tables", nargs="+", metavar="TABLE", help="such as table5 or figure4, several, or 'all'")
    parser.add_argument("--scale", default="nano", help="nano, smol or paper (default: nano)")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/reproduce"), help="default: outputs/reproduce")
    parser.add_argument(
        "--data_dir", type=Path, default=Path("data"), help="folder of the published data sets (default: data)"
    )
    parser.add_argument("--recipes", type=Path, help="folder of the recipes (default: that of this checkout)")
    parser.add_argument("--jobs", type=int, help="runs at once (default: as many as the cores feed)")
    parser.add_argument("--models", nargs="+", metavar="MODEL", help="only these of the scale, such as nano-block")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: the scale's")
    parser.add_argument(
        "--accelerate_config", type=Path, help="configuration of accelerate launch (default: the scale's)"
    )
    parser.add_argument(
        "--dry_run", "--dry-run", action="store_true", help="show the runs and what they cost, and stop"
    )
    parser.add_argument(
        "--matched_compute",
        action="store_true",
        help="give every method the floating-point operations of masked fine-tuning, by its number of steps",
    )
    parser.add_argument(
        "--rehearsal", type=float, default=0.0, metavar="SHARE", help="share of samples that rehearse general answers"
    )
    parser.add_argument(
        "--keep_stale", action="store_true", help="keep results of older code instead of rerunning them"
    )


def run(arguments: argparse.Namespace) -> None:
    """Reproduce the tables that ``arguments`` name.

    Raises:
        ConfigurationError: no recipes, no such table or scale, data that is not there, or runs that failed.
        DataError: documents that cannot be used.
    """
    from dataclasses import replace

    os.environ.setdefault("TQDM_DISABLE", "1")  # the libraries' progress bars, since this command has its own
    from kinject.reproduction.specification import read_recipes, table_names

    recipes = read_recipes(find_recipes(arguments.recipes), arguments.scale)
    if arguments.seeds:
        recipes = replace(recipes, scale=replace(recipes.scale, seeds=arguments.seeds))
    whole = recipes
    if arguments.models:
        recipes = replace(recipes, scale=_only(recipes.scale, arguments.models))
    names = arguments.tables
    if names == ["all"]:
        names = [name for name in table_names(recipes.folder) if _exists_at_scale(recipes, name)]
    tables = {name: recipes.table(name) for name in names}
    runs = {name: plan_runs(recipes, table, arguments, whole) for name, table in tables.items()}
    distinct = list({each.key: each for grid in runs.values() for each in grid}.values())
    launch = plan_launch(arguments, recipes.scale, recipes.folder)
    costs = _costs(distinct, recipes.scale, launch)
    if arguments.dry_run:
        print_plan(distinct, costs, recipes.scale, launch)
        return
    require_data(distinct)
    distinct.sort(key=lambda each: -costs[each.key].flops)  # the longest first, so that no core is idle at the end
    suffix = "-matched" * arguments.matched_compute + f"-rehearsal-{arguments.rehearsal:g}" * (arguments.rehearsal > 0)
    failures = run_with_progress(distinct, costs, launch, arguments.keep_stale)
    for name, table in tables.items():
        print(render(recipes, name + suffix, table, runs[name], launch, arguments.output_dir / arguments.scale))
    if failures:
        listed = "\n".join(f"  {name}: {problem}" for name, problem in failures.items())
        raise ConfigurationError(f"{len(failures)} of {len(distinct)} runs failed:\n{listed}")


def _only(scale: Scale, models: Sequence[str]) -> Scale:
    """``scale`` with only these ``models``."""
    from dataclasses import replace

    for name in models:
        if name not in scale.models:
            raise ConfigurationError(f"--models {name}: the scale has {', '.join(scale.models)}.")
    return replace(scale, models={name: model for name, model in scale.models.items() if name in models})


def plan_runs(recipes: Recipes, table: Table, arguments: argparse.Namespace, whole: Recipes) -> list[Run]:
    """The runs of ``table`` with the options of the command line: rehearsal, and matched compute.

    Args:
        recipes: With the models that are run.
        table, arguments: What is run.
        whole: With all models of the scale, as compute is matched with runs that may be left out.

    Raises:
        ConfigurationError: ``--matched_compute`` at a scale without masked fine-tuning.
    """
    from kinject.reproduction.grid import matched, method_runs, table_runs

    overrides = {"rehearsal": arguments.rehearsal} if arguments.rehearsal else {}
    data_dir = arguments.data_dir.absolute()
    runs = table_runs(recipes, table, overrides, data_dir)
    if not arguments.matched_compute:
        return runs
    references = list(method_runs(whole, table, REFERENCE, overrides, data_dir))
    if not references:
        raise ConfigurationError(
            f"--matched_compute: scale {recipes.scale_name} has no runs of '{REFERENCE}' to match the others with."
        )
    return matched(runs, references, whole.scale, processes(whole.scale))


def processes(scale: Scale) -> int:
    """The number of processes that share a step."""
    return int(scale.device.get("processes", 1)) if scale.launch == "accelerate" else 1


def find_recipes(given: Path | None) -> Path:
    """The folder of the recipes: ``given``, or that of the checkout that kinject is imported from or run in."""
    places = [given] if given else [Path(__file__).parents[2] / "recipes", Path.cwd() / "recipes"]
    return next((place for place in places if (place / "methods.yaml").is_file()), places[-1])


def plan_launch(arguments: argparse.Namespace, scale: Scale, recipes: Path) -> Launch:
    """How many runs at once, with how many threads, and by which launcher.

    Raises:
        ConfigurationError: ``--jobs`` below 1, or no configuration for `accelerate launch`.
    """
    from kinject.reproduction.grid import Launch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = arguments.jobs if arguments.jobs is not None else max(1, cores // scale.cores if scale.cores else 1)
    if jobs < 1:
        raise ConfigurationError(f"--jobs {jobs}: expected 1 or more.")
    threads = max(1, cores // jobs)
    config = arguments.accelerate_config
    if config is None and scale.launch == "accelerate":
        config = recipes.parent / str(scale.accelerate_config)
    if config is not None and not config.is_file() and not arguments.dry_run:
        raise ConfigurationError(f"{config}: no such file; name one with --accelerate_config (`accelerate config`).")
    return Launch(
        recipes=recipes.absolute(),
        runs=(arguments.output_dir / arguments.scale / "runs").absolute(),
        jobs=jobs,
        threads=min(threads, scale.cores) if scale.cores else threads,
        accelerate_config=config.absolute() if config else None,
    )


def require_data(runs: Sequence[Run]) -> None:
    """Refuse to start while documents are missing.

    Raises:
        ConfigurationError: names the first documents that are missing.
    """
    for each in runs:
        documents = str(each.options["documents"])
        if not each.data and not documents.startswith("fictional:"):
            raise ConfigurationError(
                f"{documents}: no documents there. Get the published data sets (github.com/xup5/masked_arLLM, folder "
                "datasets/) and name their folder with --data_dir."
            )


def print_plan(runs: Sequence[Run], costs: Mapping[str, Cost], scale: Scale, launch: Launch) -> None:
    """Show every run with its state and expected cost, and the totals."""
    from rich.console import Console
    from rich.table import Table as RichTable

    from kinject.reproduction.grid import state

    table = RichTable(box=None, pad_edge=False)
    table.add_column("run", no_wrap=True)
    for title in ("state", "steps", "tokens", "FLOPs", f"hours of {scale.device['name']}"):
        table.add_column(title, justify="right", no_wrap=True)
    missing = []
    for each in runs:
        found, cost = state(launch.directory(each)), costs[each.key]
        missing += [cost] if found != "done" else []
        about = "" if cost.counted else "~"
        cells = (f"{cost.steps}", f"{about}{cost.tokens:.3g}", f"{about}{cost.flops:.2g}", f"{about}{cost.hours:.2g}")
        table.add_row(each.label, found, *cells)
    console = Console(width=200 if not sys.stdout.isatty() else None, markup=False, highlight=False)
    console.print(table)
    console.print(
        f"{len(runs)} runs, {len(missing)} to do: {sum(cost.tokens for cost in missing):.3g} tokens, "
        f"{sum(cost.flops for cost in missing):.2g} FLOPs, {sum(cost.hours for cost in missing):.2g} hours of "
        f"{scale.device['name']} at {float(scale.device['flops']):.2g} FLOP/s; {launch.jobs} at once"
        + ("" if all(cost.counted for cost in costs.values()) else "; ~: tokens assumed, not counted")
    )


def run_with_progress(
    runs: Sequence[Run], costs: Mapping[str, Cost], launch: Launch, keep_stale: bool
) -> dict[str, str]:
    """Run the grid under one progress bar that counts FLOPs; returns the failures."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from kinject.reproduction.grid import run_grid, state

    states = {each.key: state(launch.directory(each)) for each in runs}
    console = Console(markup=False, highlight=False)
    stale = [each.label for each in runs if states[each.key] == "stale"]
    if stale:
        what = "are kept" if keep_stale else "run again (--keep_stale keeps them)"
        console.print(f"{len(stale)} runs were made with other code and {what}: {', '.join(stale)}")
    ready = {each.key for each in runs if states[each.key] == "done" or (keep_stale and states[each.key] == "stale")}
    todo = [each for each in runs if each.key not in ready]
    columns = (
        TextColumn("runs"),
        MofNCompleteColumn(),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, TextColumn("{task.description}"), console=console, speed_estimate_period=3600) as progress:
        task = progress.add_task("", total=len(runs), completed=len(ready))
        running: list[str] = []

        def report(each: Run, event: str) -> None:
            if event in ("started", "resumed"):
                running.append(each.label)
            elif each.label in running:
                running.remove(each.label)
            if event in ("finished", "failed"):
                progress.advance(task)
            progress.update(task, description=", ".join(running))
            progress.console.print(f"{event}: {each.label}")

        return run_grid(todo, launch, keep_stale=keep_stale, report=report)


def render(recipes: Recipes, name: str, table: Table, runs: Sequence[Run], launch: Launch, folder: Path) -> str:
    """Write the table, its figures and its verdicts to ``folder``; returns what the terminal shows."""
    from kinject.evaluation.results import write_json, write_text
    from kinject.reproduction.findings import Findings, check_claims
    from kinject.reproduction.grid import finished_results
    from kinject.reproduction.rendering import as_csv, as_latex, as_markdown, collect, draw

    results = [(each, found) for each in runs if (found := finished_results(launch.directory(each))) is not None]
    findings = Findings(results, recipes.scale.weights, recipes.scale.reading)
    rendered = collect(recipes, table, findings, _notes(recipes, table, runs, len(results)))
    claims = [recipes.claims[claim] for claim in table.claims]
    planned = {(each.dataset, each.method) for each in runs}
    verdicts = check_claims(claims, findings, list(table.panels.values()), planned)
    lines = []
    for says in dict.fromkeys(verdict.says for verdict in verdicts):
        lines += [f"- {says}", *(f"  - {verdict}" for verdict in verdicts if verdict.says == says)]
    markdown = as_markdown(rendered) + ("\n**Claims of the paper**\n\n" + "\n".join(lines) + "\n" if lines else "")
    write_text(folder / f"{name}.md", markdown)
    write_text(folder / f"{name}.csv", as_csv(rendered))
    write_text(folder / f"{name}.tex", as_latex(rendered))
    write_json(folder / f"{name}.json", [{"method": each.method, **_figures_only(found)} for each, found in results])
    files = [folder / f"{name}{ending}" for ending in (".md", ".csv", ".tex", ".json")]
    for kind in table.figures:
        files += draw(kind, recipes, rendered, findings, folder / f"{name}-{kind}.png")
    return f"\n{markdown}\n{', '.join(map(str, files))}"


def _figures_only(results: Mapping[str, Any]) -> dict[str, Any]:
    """The part of ``results`` that may be committed: no documents, questions or answers."""
    from kinject.evaluation.results import summary

    kept = summary(results)
    retention = kept.get("retention") or {}
    shown = {when: {key: value for key, value in each.items() if key != "right"} for when, each in retention.items()}
    return {**kept, "retention": shown} if shown else kept


def _notes(recipes: Recipes, table: Table, runs: Sequence[Run], finished: int) -> list[str]:
    """Notes below the table: scale, seeds, weights, and the source of published figures."""
    scale = recipes.scale
    weights = (
        "last weights"
        if scale.weights == "last"
        else "best evaluation by the macro mean on the test questions, as in the paper"
    )
    seeds = f"{len(scale.seeds)} seeds" if len(scale.seeds) > 1 else "1 seed"
    shown = f"Scale {recipes.scale_name}; {finished} of {len(runs)} runs finished; "
    if table.cost:
        return [
            f"{shown}means over {seeds}.",
            "Published are the FLOPs and the memory of a step as multiples of AR's (arXiv 2510.09885).",
        ]
    notes = [
        f"{shown}{seeds}: mean ± standard deviation [95 % interval: Student's t over seeds, with one seed the bootstrap "
        f"over questions]; {weights}."
    ]
    if table.published is not None:
        notes.append("Published figures are ROUGE-1 recall (arXiv 2510.09885); 'difference' is our recall less theirs.")
    return notes


def _costs(runs: Sequence[Run], scale: Scale, launch: Launch) -> dict[str, Cost]:
    from kinject.reproduction.grid import estimate

    logging.disable(logging.WARNING)  # the runs themselves will warn about their models and documents
    try:
        return {each.key: estimate(each, scale, processes(scale)) for each in runs}
    finally:
        logging.disable(logging.NOTSET)


def _exists_at_scale(recipes: Recipes, name: str) -> bool:
    from kinject.reproduction.specification import load_yaml

    scales: Any = load_yaml(recipes.folder / "tables" / f"{name}.yaml").get("scales")
    return not scales or recipes.scale_name in scales
