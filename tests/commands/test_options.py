"""The help of a recipe: complete, right about defaults, and printed without importing what it describes."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from kinject.commands.options import (
    MAIN_OPTIONS,
    OBJECTIVES,
    class_options,
    evaluate_help,
    recipe_help,
    training_options,
)
from kinject.errors import ConfigurationError, KinjectError

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "trl", "datasets", "peft")


def real_class(module: str, name: str) -> Any:
    import importlib

    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("kinject.commands.inject", "InjectionArguments"),
        ("kinject.commands.evaluate", "MeasurementArguments"),
        ("kinject.trainers.masked_trainer", "MaskedSFTConfig"),
        ("kinject.trainers.plain_trainer", "PlainSFTConfig"),
        ("kinject.trainers.diffusion_trainer", "DiffusionSFTConfig"),
        ("trl", "ModelConfig"),
        ("transformers", "TrainingArguments"),
    ],
)
def test_every_field_is_listed_with_its_default(module: str, name: str) -> None:
    options = class_options(module, name)
    fields = [field for field in dataclasses.fields(real_class(module, name)) if field.init]
    assert set(options) == {field.name for field in fields}
    for field in fields:
        made = field.default_factory is not dataclasses.MISSING
        expected = field.default_factory() if made else field.default  # type: ignore[misc]
        option = options[field.name]
        if field.name != "optim":  # the only one that is computed
            assert option.default == (expected.value if isinstance(expected, Enum) else expected), field.name
        assert option.help == field.metadata["help"], field.name
        if isinstance(field.metadata.get("choices"), list):
            assert list(option.choices) == field.metadata["choices"], field.name


def test_overridden_defaults_win_and_own_options_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    text = recipe_help("masked", all_options=True)
    titles = re.findall(r"^\w+\.(\w+):$", text, re.MULTILINE)
    ours = [
        "InjectionArguments",
        "SamplingArguments",
        "ExaminationArguments",
        "KeepingArguments",
        "CurriculumArguments",
    ]
    ours += ["MaskedSFTConfig", "CorruptionSFTConfig", "DocumentSFTConfig"]
    assert titles == [*ours, "ModelConfig", "SFTConfig", "TrainingArguments"]
    assert text.count("--max_length ") == 1 and "nothing is cut away. [default: 1024]" in text
    assert class_options("kinject.trainers.masked_trainer", "MaskedSFTConfig")["max_length"].owner.endswith(
        "DocumentSFTConfig"
    )
    assert "--gradient_checkpointing {true,false}" in text and "~20% slower" in " ".join(text.split())
    assert max(len(line) for line in text.splitlines()) <= 90


def listed(text: str) -> list[str]:
    """The options that a help describes, in its order."""
    return re.findall(r"^  --(\w+)", text, re.MULTILINE)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_help_shows_the_main_options_by_group_and_all_options_all(objective: str) -> None:
    text, known = recipe_help(objective), training_options(objective)
    shown = listed(text)
    assert shown[:2] == ["config", "all_options"] and f"list all {len(known)} options" in text
    expected = [name for names in MAIN_OPTIONS.values() for name in names if name in known]
    assert shown[2:] == expected and 15 < len(expected) <= 23
    titles = re.findall(r"^([\w ]+):$", text, re.MULTILINE)
    assert titles == ["options", *MAIN_OPTIONS]
    every = listed(recipe_help(objective, all_options=True))
    assert sorted(every) == sorted(["config", *known]) and len(every) > 180


def test_a_main_option_is_one_of_an_objective() -> None:
    known = {name for objective in OBJECTIVES for name in training_options(objective)}
    assert {name for names in MAIN_OPTIONS.values() for name in names} <= known
    for objective, ours in (("masked", "mask_unit"), ("diffusion", "to_diffusion"), ("reverse", "objective")):
        assert ours in listed(recipe_help(objective))
    assert "mask_unit" not in listed(recipe_help("ar"))


def test_help_says_what_happens_here_rather_than_in_the_library() -> None:
    text = " ".join(recipe_help("masked").split())
    assert "--model_name_or_path STR Model to train: smollm2-135m, nano-ar" in text and "also as --model." in text
    assert "Not directly used by Trainer" not in text and "the last whole one in output_dir" in text


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_objective_shows_its_own_settings(objective: str) -> None:
    text = " ".join(recipe_help(objective, prog="kinject inject DOCUMENTS", all_options=True).split())
    assert text.startswith("usage: kinject inject DOCUMENTS [--config FILE]")
    for name, value in OBJECTIVES[objective].settings.items():
        shown = text.split(f"--{name} {{")[1].split(" --")[0]
        assert value in shown.split("}")[0].split(",") and f"[default: {value}]" in shown


def test_a_source_that_lacks_the_class_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="unknown objective"):
        recipe_help("maskd")
    with pytest.raises(KinjectError, match="no class NoSuchConfig"):
        class_options("trl", "NoSuchConfig")
    monkeypatch.setattr("kinject.compat.find_spec", lambda name: None)
    with pytest.raises(KinjectError, match="trl is not installed"):
        class_options("trl", "ModelConfig")


def test_the_evaluation_recipe_has_help_too() -> None:
    assert "--model_name_or_path STR" in evaluate_help()


@pytest.mark.parametrize(
    "command",
    [
        ["recipes/masked_ft.py", "--help"],
        ["recipes/ar_ft.py", "-h"],
        ["recipes/dllm_ft.py", "--all_options"],
        ["recipes/evaluate_qa.py", "--help"],
        ["-m", "kinject.cli", "--help"],
        ["-m", "kinject.cli", "inject", "--all_options", "--objective", "reverse"],
        ["-m", "kinject.cli", "inject", "--help"],
    ],
    ids=lambda command: " ".join(command),
)
def test_help_imports_nothing_heavy(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in imported and not imported & set(HEAVY)
