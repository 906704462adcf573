"""Fine-tuning on questions with answers: every configuration parses, and both objectives take their first steps."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from kinject.errors import ConfigurationError, DataError
from kinject.models import load_model
from kinject.objectives import find_objective
from kinject.recipe import parse

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def sft() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sft_recipe", RECIPES / "sft.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def rows(folder: Path) -> Path:
    path = folder / "rows.jsonl"
    lines = [{"question": f"Who is person {i}?", "answer": f"the baker of town {i}"} for i in range(4)]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["gsm8k", "math", "webscale_rl"])
@pytest.mark.parametrize("objective", ["ar", "masked"])
def test_every_configuration_parses_and_its_values_survive(sft: ModuleType, name: str, objective: str) -> None:
    from trl import ModelConfig

    path = RECIPES / "sft" / f"{name}.yaml"
    parsed = parse((sft.RowArguments, find_objective(objective).config_class(), ModelConfig), ["--config", str(path)])
    for key, value in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        found = next(getattr(group, key) for group in parsed if hasattr(group, key))
        expected = [] if key == "report_to" else value  # none of the trackers
        assert found == expected and isinstance(found, type(expected))


@pytest.mark.parametrize("objective", ["ar", "masked"])
def test_the_first_steps_are_taken_and_what_is_saved_loads(
    sft: ModuleType, objective: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {
        "config": RECIPES / "sft" / "gsm8k.yaml",
        "model_name_or_path": "nano-ar",
        "rows": rows(tmp_path),
        "output_dir": tmp_path / "out",
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "bf16": "false",
        "disable_tqdm": "true",
    }
    sft.train(objective, [str(part) for name, value in options.items() for part in (f"--{name}", value)])
    assert not load_model(str(tmp_path / "out")).is_diffusion
    assert f"pretrained={tmp_path / 'out'} --apply_chat_template --tasks gsm8k" in capsys.readouterr().out


def test_mistakes_are_told(sft: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="expected ar or masked"):
        sft.train("diffusion", [])
    with pytest.raises(ConfigurationError, match="no rows"):
        sft.load_rows(sft.RowArguments())
    with pytest.raises(DataError, match="no field 'problem'; it has question, answer"):
        sft.load_rows(sft.RowArguments(rows=str(rows(tmp_path)), prompt_field="problem"))
    with pytest.raises(DataError, match="cannot be loaded"):
        sft.load_rows(sft.RowArguments(rows=str(tmp_path / "none.jsonl")))
    assert sft.load_rows(sft.RowArguments(rows=str(rows(tmp_path)), text_field="answer")).column_names == ["text"]
