"""`import kinject` stays light, and its public names are there."""

from __future__ import annotations

import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

import kinject

HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "evaluate", "matplotlib", "numpy")


@pytest.mark.parametrize("module", ["kinject", "kinject.cli", "kinject.commands.recipe", "kinject.commands.options"])
def test_importing_is_light(module: str) -> None:
    program = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_every_public_name_is_importable() -> None:
    for name in kinject.__all__:
        assert getattr(kinject, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = kinject.nothing


def test_every_file_beside_the_code_is_packaged() -> None:
    root = Path(kinject.__file__).parent
    settings = ConfigParser()
    settings.read(root.parent / "setup.cfg", encoding="utf-8")
    patterns = settings["options.package_data"]["kinject"].split()
    packaged = {path for pattern in patterns for path in root.glob(pattern) if path.is_file()}
    beside = {path for path in root.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert beside == packaged and root / "hub" / "card.md.jinja" in packaged
