"""How often must a document be shown, at which learning rate? Accuracy over epochs on nano, and of runs of SmolLM2.

    python recipes/exposures.py --json recipes/results/nano/exposures.json      # half an hour on two idle cores

Each run teaches nano-ar statements about people whom it does not know, with the masks of `kinject inject`, all weights trained,
five documents at a time, and asks at log-spaced epochs. An epoch shows every document once. The rows of SmolLM2-135M are runs
of other tables, read from `recipes/results/`. The rule of `kinject inject` for epochs follows from these figures
(docs/settings.md).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kinject.errors import exit_on_user_error
from kinject.reproduction.findings import mean_and_deviation

HERE = Path(__file__).parent
WAYS = ("forward", "backward")
KNOWN = 0.9  # a direction counts as learned from this recall on
SMOL_RATE = 3e-4  # recipes/scales/smol.yaml, for all runs of results/smol
SMOL = {
    "smollm2-135m-name_description-20-masked.json": 1e-4,
    "smollm2-135m-name_description-60-masked.json": 1e-4,
    "smol/table5.json": SMOL_RATE,
    "smol/half_the_compute.json": SMOL_RATE,
    "smol/biography_long.json": SMOL_RATE,
}


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description="Accuracy over epochs, by number of documents and learning rate.")
    parser.add_argument(
        "--documents", type=int, nargs="+", default=[10, 30, 90], help="numbers of documents (default: 10 30 90)"
    )
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[3e-4, 1e-3, 3e-3], help="learning rates (default: 3e-4 1e-3 3e-3)"
    )
    parser.add_argument("--epochs", type=int, default=120, help="epochs of each run (default: 120)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="people and training (default: 1 2 3)")
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="write every score here, and the table beside it as .md"
    )
    return parser


def run(documents: int, rate: float, epochs: int, seed: int, folder: Path) -> dict[str, Any]:
    """The recall of one run over epochs."""
    from kinject.commands.options import measured_settings
    from kinject.commands.recipe import train

    words = f"--documents fictional:nano --size {documents} --world_seed {300 + seed} --seed {seed} --model nano-ar "
    words += f"--num_train_epochs {epochs} --learning_rate {rate} --per_device_train_batch_size 5 --use_peft false "
    words += "--evaluations 12 --max_new_tokens 16 --question_batch_size 128 --retention false --bf16 false "
    words += "--save_strategy no --report_to none --disable_tqdm true --logging_steps 1000"
    out = folder / f"{documents}-{rate}-{seed}"
    results = train("masked", [*words.split(), "--output_dir", str(out)], measured_settings("masked"))
    history = [{"epoch": entry["epoch"], **{way: entry[way]["paper"] for way in WAYS}} for entry in results["history"]]
    return {"model": "nano-ar", "documents": documents, "rate": rate, "seed": seed, "history": history}


def smol_runs() -> Iterator[dict[str, Any]]:
    """The recall of finished runs of SmolLM2-135M."""
    for name, rate in SMOL.items():
        content = json.loads((HERE / "results" / name).read_text(encoding="utf-8"))
        for each in content if isinstance(content, list) else [content]:
            if each["objective"] != "masked" or each["documents"] > 100:
                continue
            history = [
                {"epoch": entry["epoch"], **{way: entry[way]["paper"] for way in WAYS}} for entry in each["history"]
            ]
            yield {
                "model": "smollm2-135m",
                "documents": each["documents"],
                "rate": rate,
                "seed": each["seed"],
                "dataset": each["dataset"],
                "method": each.get("method", "masked"),
                "history": history,
            }


def learned_after(history: Sequence[dict[str, Any]], way: str) -> float | None:
    """The first epoch with a recall of `KNOWN`; None if it was not reached."""
    return next((entry["epoch"] for entry in history if entry[way] >= KNOWN), None)


def table(measured: Sequence[dict[str, Any]], seen: Sequence[dict[str, Any]]) -> str:
    """Epochs until a direction is learned on nano, and the recall of SmolLM2 by epochs."""
    lines = [
        f"| documents | rate | epochs until {KNOWN:.0%} forward | backward | at the end, forward / backward |",
        "| --- | --- | --- | --- | --- |",
    ]
    for documents, rate in dict.fromkeys((each["documents"], each["rate"]) for each in measured):
        runs = [each["history"] for each in measured if (each["documents"], each["rate"]) == (documents, rate)]
        cells = [_range([learned_after(history, way) for history in runs], runs[0][-1]["epoch"]) for way in WAYS]
        last = " / ".join(mean_and_deviation([history[-1][way] for history in runs]) for way in WAYS)
        lines.append(f"| {documents} | {rate:g} | {' | '.join(cells)} | {last} |")
    lines += ["", "| SmolLM2-135M on | documents | rate | epochs | forward / backward | runs |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    kinds = dict.fromkeys((_kind(each), each["history"][-1]["epoch"]) for each in seen)
    for kind, epochs in kinds:
        of = [each["history"][-1] for each in seen if (_kind(each), each["history"][-1]["epoch"]) == (kind, epochs)]
        name, documents, rate = kind
        shown = " / ".join(mean_and_deviation([entry[way] for entry in of]) for way in WAYS)
        lines.append(f"| {name} | {documents} | {rate:g} | {epochs:g} | {shown} | {len(of)} |")
    return "\n".join(lines)


def _kind(each: dict[str, Any]) -> tuple[str, int, float]:
    method = "" if each["method"] == "masked" else f", `{each['method']}`"
    return f"{each['dataset']}{method}", each["documents"], each["rate"]


def _range(found: Sequence[float | None], last: float) -> str:
    """The epochs of several runs, from the least to the greatest."""
    reached = sorted({round(each) for each in found if each is not None})
    if not reached:
        return f"not in {last:g}"
    shown = f"{reached[0]}" if len(reached) == 1 else f"{reached[0]} to {reached[-1]}"
    missing = sum(each is None for each in found)
    return shown + (f" ({missing} of {len(found)} not in {last:g})" if missing else "")


def main() -> None:
    """Run all, print the table, and write both."""
    options = build_parser().parse_args()
    with exit_on_user_error(), tempfile.TemporaryDirectory() as folder:
        grid = [(count, rate, seed) for seed in options.seeds for count in options.documents for rate in options.rates]
        measured: list[dict[str, Any]] = []
        for count, rate, seed in grid:
            measured.append(run(count, rate, options.epochs, seed, Path(folder)))
            if options.json is not None:  # after every run, in case the rest is stopped
                settings = {name: value for name, value in vars(options).items() if name != "json"}
                content = json.dumps({"settings": settings, "runs": measured}, indent=1)
                options.json.write_text(content + "\n", encoding="utf-8")
                shown = table(measured, [*smol_runs()]) + "\n"
                options.json.with_suffix(".md").write_text(shown, encoding="utf-8")
        print(table(measured, [*smol_runs()]))


if __name__ == "__main__":
    main()
