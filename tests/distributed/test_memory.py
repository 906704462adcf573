"""The table of what fits: it is that of the documents, and more GPUs, or smaller batches, never need more of each."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def memory() -> Any:
    specification = importlib.util.spec_from_file_location("memory", ROOT / "deepspeed_configs" / "memory.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["memory"] = module  # where dataclasses look their types up
    specification.loader.exec_module(module)
    return module


def test_the_table_in_the_documents_is_what_the_script_prints(memory: Any) -> None:
    assert memory.table(80.0, 4096) in (ROOT / "docs" / "many_gpus.md").read_text(encoding="utf-8")


def test_every_strategy_has_a_configuration_and_more_gpus_need_no_more_of_each(memory: Any) -> None:
    for strategy in memory.STRATEGIES:
        assert (ROOT / "deepspeed_configs" / f"{strategy}.yaml").is_file()
        for model in memory.MODELS:
            needs = [memory.full(model, strategy, gpus, 4096).gpu for gpus in memory.GPUS]
            assert needs == sorted(needs, reverse=True)
            assert memory.full(model, strategy, 4, 1024).gpu <= memory.full(model, strategy, 4, 4096).gpu


def test_what_fits_is_chosen_and_what_does_not_is_said(memory: Any) -> None:
    model = memory.Model("one billion", 1e9, 20, 2048)
    assert memory.full(model, "ddp", 8, 0).gpu == 18e9  # fp32 weights, gradients, two moments; bf16 copies
    assert memory.full(model, "zero2", 4, 0).gpu == 2e9 + 16e9 / 4
    assert memory.full(model, "zero3", 4, 0).gpu == 18e9 / 4 + 2e9
    assert memory.full(model, "zero3_offload", 4, 0) == memory.Need(2e9, host=18e9)
    chosen = [memory.choose(model, 4, 0, limit) for limit in (18e9, 11e9, 6e9, 2e9, 1e9)]
    assert [each and each[0] for each in chosen] == ["ddp", "zero1", "zero2", "zero3_offload", None]
