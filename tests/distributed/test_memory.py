"""The table of what fits is the one in the documents, and names configurations that are there."""

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
    sys.modules["memory"] = module
    specification.loader.exec_module(module)
    return module


def test_the_table_in_the_documents_is_what_the_script_prints(memory: Any) -> None:
    printed = memory.table(memory.sizes_of([]), 80.0, 4096)
    assert printed in (ROOT / "docs" / "many_gpus.md").read_text(encoding="utf-8")
    named = {cell.split("`")[1] for line in printed.splitlines() for cell in line.split("|") if "`" in cell}
    assert {"ddp", "zero2", "zero3_offload"} <= named
    assert all((ROOT / "deepspeed_configs" / f"{name}.yaml").is_file() for name in (*named, *memory.STRATEGIES))


def test_any_model_is_read_by_its_configuration(memory: Any) -> None:
    from kinject.models.loading import NANO_DIRECTORY

    (name, found), *others = memory.sizes_of([str(NANO_DIRECTORY / "ar")]).items()
    assert (name, others) == ("ar", []) and 0 < found.parameters < 2e6
    chosen = [memory.choose(found, 4, 64, limit) for limit in (1e9, 1.0)]
    assert [each and each[0] for each in chosen] == ["ddp", None]
