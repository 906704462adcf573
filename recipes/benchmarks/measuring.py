"""What the benchmarks share: options that count, passes that take turns, the memory of a step, the table and the JSON."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Above this size glibc returns memory to the system as soon as it is freed, so that resident memory is memory in use.
# glibc reads it when the process starts.
RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536"}


def at_least_one(text: str) -> int:
    """The value of an option that counts something, for argparse."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return value


def take_turns(passes: Mapping[str, Callable[[], float]], repetitions: int) -> dict[str, list[float]]:
    """Call every pass ``repetitions`` times in turns, every other round in reverse, and return their results.

    Other work on the machine then affects all of them equally.
    """
    results: dict[str, list[float]] = {name: [] for name in passes}
    for repetition in range(repetitions):
        for name in reversed(list(passes)) if repetition % 2 else list(passes):
            results[name].append(passes[name]())
            print(f"repetition {repetition + 1} of {repetitions}: {name} {results[name][-1]:.2f} s", flush=True)
    return results


def medians(results: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each list."""
    return {name: statistics.median(values) for name, values in results.items()}


def resident_memory(field: str = "VmRSS") -> int:
    """Resident bytes of this process now, or the most so far (``field="VmHWM"``). Linux only."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


@dataclass
class Peak:
    """The largest growth of resident memory, in bytes."""

    bytes: int = 0

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Include the growth of memory in the block. Linux only, since it resets the process's recorded peak."""
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before = resident_memory()
        yield
        self.bytes = max(self.bytes, resident_memory("VmHWM") - before)


def environment() -> dict[str, Any]:
    """The versions and the number of threads that figures depend on."""
    import torch
    import transformers
    import trl

    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "trl": trl.__version__,
        "python": sys.version.split()[0],
        "threads": torch.get_num_threads(),
    }


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print ``rows`` in columns: the first of each to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print()
    for row in rows:
        print(
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            sep="  ",
        )


def write_report(path: str | None, report: Mapping[str, Any]) -> None:
    """Write ``report`` as JSON to ``path``, if there is one."""
    if path:
        Path(path).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
