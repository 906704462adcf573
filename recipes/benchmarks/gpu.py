"""Checks on a GPU that need one: parity, placement, kernels, speed, answering, and a killed run.

    python recipes/benchmarks/gpu.py --json out.json                # at most nine minutes on one bare H200
    python recipes/benchmarks/gpu.py --only parity step --quick --json out.json
    python recipes/benchmarks/gpu.py --cpu                          # all sections, small, on a processor
    torchrun --nproc_per_node 2 recipes/benchmarks/gpu.py --multi --json out.json    # two GPUs or more; never run yet

Each section runs in its own process, which is ended at its deadline, and the JSON is written after each, so that earlier
sections are kept if a later one fails. Models are the nano ones of kinject, or random at the full shape; nothing is
downloaded. gpu.md beside this file says what to copy to a machine that cannot install anything.

The JSON holds `ratios`, `checks` (each with its value, its limit, and whether it holds) and `measurements`, by section. The
status is 1 where a check does not hold, or a section ended in an error.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring import print_table, write_report

# By section: the seconds after which it is ended on a GPU.
DEADLINES = {
    "machine": 30,
    "parity": 80,
    "devices": 40,
    "kernels": 50,
    "step": 170,
    "compile": 60,
    "answering": 70,
    "sampler": 45,
    "inject": 60,
}


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description="Prove on a GPU what a processor cannot.")
    parser.add_argument("--only", nargs="+", choices=list(DEADLINES), help="sections to run (default: all)")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, and steps of the 1B model only")
    parser.add_argument("--cpu", action="store_true", help="all sections, small, in one process, on the CPU")
    parser.add_argument("--multi", action="store_true", help="the checks for two GPUs or more; start it with torchrun")
    parser.add_argument("--json", metavar="PATH", help="write ratios, checks and measurements here")
    parser.add_argument("--section", choices=list(DEADLINES), help=argparse.SUPPRESS)  # of a process of its own
    parser.add_argument("--into", help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the sections from the command line."""
    arguments = build_parser().parse_args(argv)
    if arguments.section:
        found = run_section(arguments.section, arguments)
        Path(arguments.into).write_text(json.dumps(found), encoding="utf-8")
        return
    if arguments.multi:
        from gpu_multi import run_multi

        report = run_multi()
        if int(os.environ.get("RANK", "0")) == 0:
            write_report(arguments.json, report)
        sys.exit(not report["ok"])
    report = run_all(arguments)
    show(report)
    if not report["ok"]:
        sys.exit(1)


def run_all(arguments: argparse.Namespace) -> dict[str, Any]:
    """All sections that were asked for, one after the other.

    Returns:
        The report that `--json` writes.
    """
    report: dict[str, Any] = {"ok": True, "ratios": {}, "checks": [], "measurements": {}, "seconds": {}, "errors": {}}
    for name in arguments.only or DEADLINES:
        print(f"{name} ...", flush=True)
        started = time.perf_counter()
        found = run_section(name, arguments) if arguments.cpu else run_alone(name, arguments)
        report["seconds"][name] = round(time.perf_counter() - started, 1)
        report["checks"] += [{"section": name, **each} for each in found.get("checks", ())]
        report["ratios"] |= found.get("ratios", {})
        report["measurements"][name] = found.get("measurements", {})
        if found.get("error"):
            report["errors"][name] = found["error"]
        report["ok"] = not report["errors"] and all(each["ok"] for each in report["checks"])
        write_report(arguments.json, report)
    return report


def run_section(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One section, in this process."""
    import gpu_sections

    section = gpu_sections.Section(small=arguments.cpu, quick=arguments.quick or arguments.cpu)
    getattr(gpu_sections, name)(section)
    return section.report()


def run_alone(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One section in a process of its own, which is ended at its deadline."""
    with tempfile.TemporaryDirectory() as directory:
        into = Path(directory) / "section.json"
        command = [sys.executable, __file__, "--section", name, "--into", str(into)]
        command += ["--quick"] if arguments.quick else []
        try:
            status = subprocess.run(command, timeout=DEADLINES[name]).returncode
        except subprocess.TimeoutExpired:
            return {"error": f"ended after {DEADLINES[name]} s"}
        if status or not into.is_file():
            return {"error": f"ended with status {status}"}
        found: dict[str, Any] = json.loads(into.read_text(encoding="utf-8"))
        return found


def show(report: dict[str, Any]) -> None:
    """Print ``report`` as a table of its checks, its ratios, and what went wrong."""
    rows = [["check", "value", "limit", "holds"]]
    for each in report["checks"]:
        rows.append(
            [f"{each['section']}: {each['name']}", str(each["value"]), each["limit"], "yes" if each["ok"] else "NO"]
        )
    print_table(rows)
    print_table([["ratio", ""], *([name, f"{value:.2f}"] for name, value in report["ratios"].items())])
    for name, error in report["errors"].items():
        print(f"{name}: {error}")


if __name__ == "__main__":
    main()
