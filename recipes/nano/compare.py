"""The whole paper in minutes: plain, paraphrased and masked fine-tuning and diffusion, on people the models never met.

    python recipes/nano/compare.py --output_dir outputs/nano

Each run injects one statement about each of 30 people (or eight wordings of it) into a nano model that ships with
kinject, and asks six questions about each, both ways. Settings are those of the YAML files beside this script, chosen
on the people of `--world_seed` 100 and up; reported are those of `--seeds`. Finished runs are not repeated. Writes a
table, `compare.json`, and every run's directory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# Method: configuration and wordings of each statement.
METHODS = {
    "ar": ("ar", "none"),
    "ar+same": ("ar", "same_order"),
    "ar+both": ("ar", "permute_order"),
    "masked": ("masked", "none"),
    "diffusion": ("diffusion", "none"),
}
SCRIPTS = {"ar": "ar_ft.py", "masked": "masked_ft.py", "diffusion": "dllm_ft.py"}
PARAPHRASES = 8  # wordings of a statement; as many times fewer epochs show as many samples


def command(method: str, seed: int, directory: Path) -> list[str]:
    """The command of one run: training seed and people both follow ``seed``."""
    objective, paraphrases = METHODS[method]
    options = {
        "config": HERE / f"{objective}.yaml",
        "output_dir": directory,
        "paraphrases": paraphrases,
        "seed": seed,
        "world_seed": seed,
    }
    parts = [str(part) for name, value in options.items() for part in (f"--{name}", value)] + ["--overwrite"]
    if paraphrases != "none":
        parts += ["--num_train_epochs", str(epochs(objective) / PARAPHRASES)]
    return [sys.executable, str(HERE.parent / SCRIPTS[objective]), *parts]


def epochs(objective: str) -> float:
    """The epochs that the configuration of ``objective`` asks for."""
    import yaml

    return float(yaml.safe_load((HERE / f"{objective}.yaml").read_text(encoding="utf-8"))["num_train_epochs"])


def run(method: str, seed: int, output_dir: Path) -> dict[str, Any]:
    """Run ``method`` on the people of ``seed``, or read what an earlier run of it left.

    Raises:
        RuntimeError: the run failed; its log says why.
    """
    from kinject.evaluation.results import read_results

    directory = output_dir / f"{method.replace('+', '-')}-{seed}"
    results = directory / "results.json"
    if not results.is_file() or read_results(results)["after"] is None:
        directory.mkdir(parents=True, exist_ok=True)
        # One thread a run: matrices this small do not gain from a second one, and a second run does.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        with (directory / "log.txt").open("w", encoding="utf-8") as log:
            status = subprocess.run(
                command(method, seed, directory), stdout=log, stderr=log, env=environment
            ).returncode
        if status:
            raise RuntimeError(f"{method}, seed {seed} ended with status {status}; see {directory / 'log.txt'}")
    found = read_results(results)
    row = {"method": method, "seed": seed}
    row |= {direction: found["after"][direction]["exact_match"] for direction in ("forward", "backward")}
    row |= {"seconds": found["train"]["seconds"], "tokens": found["train"]["tokens"]}
    print(f"{method:10} seed {seed}  forward {row['forward']:.2f}  backward {row['backward']:.2f}", flush=True)
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Mean and standard deviation over seeds of each method, exact match."""
    lines = [f"{'exact match':12}{'forward':>15}{'backward':>15}{'tokens':>12}"]
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        cells = []
        for direction in ("forward", "backward"):
            values = [row[direction] for row in mine]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):8.2f} ± {spread:.2f}")
        lines.append(f"{method:12}{cells[0]:>15}{cells[1]:>15}{statistics.mean(row['tokens'] for row in mine):>12,.0f}")
    return "\n".join(lines)


def main() -> None:
    """Run every method on every seed, two at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/nano"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=list(METHODS))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at once (default: one a core)")
    arguments = parser.parse_args()
    # The longest runs first, so that none is left alone at the end.
    todo = [(method, seed) for method in reversed(arguments.methods) for seed in arguments.seeds]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = list(pool.map(lambda each: run(each[0], each[1], arguments.output_dir), todo))
    rows.sort(key=lambda row: (list(METHODS).index(row["method"]), row["seed"]))
    path = arguments.output_dir / "compare.json"
    path.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
    print(f"\n{table(rows)}\n\n{path}")


if __name__ == "__main__":
    main()
