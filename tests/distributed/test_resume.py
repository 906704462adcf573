"""Resumed in the middle of an epoch, a run goes on as if it had never stopped, on one process and on two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.distributed import worker
from tests.distributed.launching import seen_by_all, work

Crossed = dict[int, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def crossed(runs: Path) -> Crossed:
    """What was seen of every crossing: by the number of processes, for each of them."""
    folders = {processes: runs / f"crossings-on-{processes}" for processes in (1, 2)}
    for folder in folders.values():
        folder.mkdir()
    work("ddp", str(folders[2]), "1", "cross")
    return {1: [worker.cross(folders[1], 2)], 2: seen_by_all(folders[2], "cross")}


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("name", worker.CROSSINGS)
def test_a_resumed_run_sees_what_an_uninterrupted_one_does_and_ends_in_the_same_weights(
    name: str, processes: int, crossed: Crossed
) -> None:
    for process in crossed[processes]:
        found = process[name]
        assert found["world_size"] == processes
        seen = [[epoch, ids] for epoch, ids in found["batches"]]
        rest = [[epoch, ids] for epoch, ids in found["resumed"]]
        assert {epoch for epoch, _ in seen} == {0, 1, 2} and {epoch for epoch, _ in rest} == {1, 2}
        assert rest == seen[-len(rest) :]
        assert found["equal"]


@pytest.mark.parametrize("name", [name for name in worker.CROSSINGS if name != "packing"])
def test_two_processes_share_every_batch_of_one(name: str, crossed: Crossed) -> None:
    def rows(batches: list[Any]) -> list[Any]:
        return sorted([epoch, [index for index in ids if index != pad]] for epoch, batch in batches for ids in batch)

    from tests.conftest import build_tokenizer

    pad = build_tokenizer().pad_token_id
    alone, shared = crossed[1][0][name]["batches"], [process[name]["batches"] for process in crossed[2]]
    assert len(alone) == len(shared[0]) == len(shared[1])
    for batch, *parts in zip(alone, *shared, strict=True):
        assert rows([batch]) == rows(parts)
