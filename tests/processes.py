"""Processes of their own for tests that kill one or need two, forked from one that has imported what runs need.

A process that imports torch, transformers and trl anew takes ten seconds of a processor; a fork of one that has takes none.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

ROOT = Path(__file__).parents[1]
# Seconds after which a process is said to hang; on a busy machine one takes ten times as long as alone.
PATIENCE = 900.0
Process = multiprocessing.process.BaseProcess

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["tests.preloaded"])


def start(
    work: Callable[..., None], *arguments: Any, output: Path, environment: Mapping[str, str] | None = None
) -> Process:
    """Start ``work`` in a process of its own, which appends what it prints to ``output``.

    Args:
        work: A function of a module, which the process imports.
        arguments: Of it.
        output: A file.
        environment: Instead of this process's.
    """
    process = _forks.Process(target=_run, args=(output, dict(environment or os.environ), work, arguments))
    process.start()
    return process


def run_two(module: str, *arguments: str, **environment: str) -> list[str]:
    """Run ``module`` on two processes of one gloo group, as torchrun would; what each of them printed."""
    return run_ranks(module, *arguments, processes=2, environment=environment)


def run_ranks(module: str, *arguments: str, processes: int, environment: Mapping[str, str]) -> list[str]:
    """Run ``module`` on so many processes, each with ``environment`` and what torchrun adds; what each of them printed."""
    import torch

    # As torchrun's agent, this process keeps the store that the others meet at: its port is taken before they start.
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    shared |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), **environment}
    with ExitStack() as files:
        outputs = [Path(files.enter_context(NamedTemporaryFile()).name) for _ in range(processes)]
        started = [
            start(
                _run_module,
                module,
                arguments,
                output=output,
                environment={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank, output in enumerate(outputs)
        ]
        try:
            for process in started:
                process.join(PATIENCE)
            statuses = [process.exitcode for process in started]
        finally:
            for process in started:
                process.kill()
        printed = [output.read_text(encoding="utf-8", errors="replace") for output in outputs]
    assert statuses == [0] * processes, "\n".join(text[-6000:] for text in printed)
    return printed


def _run(output: Path, environment: Mapping[str, str], work: Callable[..., None], arguments: Sequence[Any]) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.clear()
    os.environ.update(environment)
    import torch

    torch.set_num_threads(1)
    work(*arguments)


def _run_module(module: str, arguments: Sequence[str]) -> None:
    os.chdir(ROOT)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
