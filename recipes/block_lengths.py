"""Is block diffusion free of the reversal curse? Forward and backward questions over block lengths, on nano.

    python recipes/block_lengths.py --json recipes/results/nano/block_lengths.json --output_dir outputs/block_lengths

Every model starts from nano-ar and is pretrained in the same way (`recipes/nano/pretrain.py --kind block`, as nano-block), then
learns thirty statements in one wording by `recipes/nano/diffusion_block.yaml`, and is asked forward and backward. Blocks of one
token are autoregressive: a token attends only to those before it. A block as long as a row is full masked diffusion. When it is
started again, finished models and runs are not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kinject.errors import exit_on_user_error
from kinject.evaluation.results import read_results
from kinject.reproduction.findings import mean_and_deviation

HERE = Path(__file__).parent
CONFIG = HERE / "nano" / "diffusion_block.yaml"
WAYS = ("forward", "backward")
STEPS = 120  # of pretraining, as for nano-block


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description="Forward and backward answers of block diffusion over block lengths.")
    parser.add_argument(
        "--block_lengths", type=int, nargs="+", default=[1, 2, 4, 8, 32], help="tokens of a block (default: 1 2 4 8 32)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="people and training (default: 1 2 3)")
    parser.add_argument(
        "--epochs", type=int, help="epochs of learning the statements (default: those of the configuration)"
    )
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/block_lengths"), help="models and runs")
    parser.add_argument(
        "--json",
        type=Path,
        metavar="PATH",
        help="write every score here, and the table (.md) and figure (.png) beside it",
    )
    return parser


def pretrained(length: int, folder: Path) -> Path:
    """nano-ar as a block diffusion model with blocks of ``length`` tokens."""
    model = folder / f"pretrained-{length}"
    if not (model / "pretraining.json").exists():
        words = ["--kind", "block", "--block_length", str(length), "--init", "nano-ar", "--seed", "1"]
        words += ["--steps", str(STEPS), "--learning_rate", "1e-3", "--output_dir", str(model)]
        subprocess.run([sys.executable, str(HERE / "nano" / "pretrain.py"), *words], check=True)
    return model


def learned(model: Path, seed: int, out: Path, epochs: int | None) -> dict[str, Any]:
    """The results of a run that teaches ``model`` the statements of ``seed``."""
    from kinject.commands.recipe import train

    file = out / "results.json"
    if not file.exists() or read_results(file)["after"] is None:
        words = ["--config", str(CONFIG), "--model", str(model), "--output_dir", str(out), "--overwrite"]
        words += ["--seed", str(seed), "--world_seed", str(seed), "--evaluations", "0", "--disable_tqdm", "true"]
        train("diffusion", [*words, *(["--num_train_epochs", str(epochs)] if epochs else [])])
    return read_results(file)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The scores of every block length, seed by seed."""
    found = []
    for seed in options.seeds:
        for length in options.block_lengths:
            model = pretrained(length, options.output_dir)
            results = learned(model, seed, options.output_dir / f"{length}-{seed}", options.epochs)
            record = json.loads((model / "pretraining.json").read_text(encoding="utf-8"))["history"][-1]
            found.append(
                {
                    "block_length": length,
                    "seed": seed,
                    "pretrained": {name: record[name] for name in ("asked", "unasked")},
                    **{way: {name: results["after"][way][name] for name in ("exact_match", "paper")} for way in WAYS},
                    "by_order": {
                        name: cell["exact_match"] for name, cell in results["after"].get("groups", {}).items()
                    },
                    **{name: results["train"][name] for name in ("tokens", "steps")},
                }
            )
    return found


def table(measured: Sequence[dict[str, Any]]) -> str:
    """Exact match by block length: the mean over seeds and its standard deviation."""
    lines = [
        "| block length | pretrained: asked / unasked people | forward | backward | tokens |",
        "| --- | --- | --- | --- | --- |",
    ]
    for length in sorted({each["block_length"] for each in measured}):
        runs = [each for each in measured if each["block_length"] == length]
        ways = [mean_and_deviation([each[way]["exact_match"] for each in runs]) for way in WAYS]
        before = " / ".join(f"{runs[0]['pretrained'][name]:.2f}" for name in ("asked", "unasked"))
        tokens = statistics.mean(each["tokens"] for each in runs)
        lines.append(f"| {length} | {before} | {' | '.join(ways)} | {tokens:,.0f} |")
    return "\n".join(lines)


def draw(measured: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw exact match over block lengths, with a dot for every seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lengths = sorted({each["block_length"] for each in measured})
    for way, color in zip(WAYS, ("#0072b2", "#d55e00"), strict=True):
        scores = {
            length: [each[way]["exact_match"] for each in measured if each["block_length"] == length]
            for length in lengths
        }
        axes.plot(lengths, [statistics.mean(scores[length]) for length in lengths], color=color, label=way)
        for length in lengths:
            axes.scatter([length] * len(scores[length]), scores[length], color=color, s=12)
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.set(xlabel="tokens of a block", ylabel="exact match", ylim=(-0.03, 1.03))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Start the missing runs, print the table, and write scores, table and figure."""
    options = build_parser().parse_args()
    with exit_on_user_error():
        measured = measure(options)
        shown = table(measured)
        print(shown)
        if options.json is not None:
            settings = {name: getattr(options, name) for name in ("block_lengths", "seeds", "epochs")}
            content = json.dumps({"settings": settings, "runs": measured}, indent=1)
            options.json.write_text(content + "\n", encoding="utf-8")
            options.json.with_suffix(".md").write_text(shown + "\n", encoding="utf-8")
            draw(measured, options.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
