"""What the recipes share: settings from YAML and the command line, and errors that say what to do."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from kinject import recipe
from kinject.errors import ConfigurationError
from kinject.recipe import parse, parse_training

ROOT = Path(__file__).parents[1]
NO_RUNS = ("lm_eval", "scales", "sft", "tables")  # folders of other YAML files
CONFIGS = sorted(path for path in (ROOT / "recipes").glob("*/*.yaml") if path.parent.name not in NO_RUNS)


@dataclasses.dataclass
class Settings:
    """Two options, to test the parser by."""

    size: int = 1
    rate: float = 0.5


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_recipe_parses_and_its_values_survive(path: Path) -> None:
    objective = path.stem.split("_")[0]
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    groups = parse_training(objective, ["--config", str(path)])
    fields = {field.name: group for group in groups for field in dataclasses.fields(group)}
    for name, value in written.items():
        parsed = getattr(fields[name], name)
        if name == "report_to":
            assert (value, parsed) == ("none", [])
        else:
            assert parsed == value and isinstance(parsed, type(value)), name  # YAML reads 5e-6 as a text


def test_the_large_models_are_all_there() -> None:
    models = {path.parent.name for path in CONFIGS}
    assert models >= {"demo", "smollm2-135m", "llama-3.2-3b", "llama-3.1-8b", "qwen3-4b", "qwen2.5-7b"}
    autoregressive = models - {"llada-8b", "nano"}
    assert all(
        (ROOT / "recipes" / model / f"{kind}.yaml").is_file() for model in autoregressive for kind in ("masked", "ar")
    )
    assert all((ROOT / "recipes" / model / "diffusion.yaml").is_file() for model in ("llada-8b", "smollm2-135m"))


def test_the_command_line_wins_over_the_file_and_the_file_over_the_objective(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("size: 2\nrate: 5e-6\n")
    (settings,) = parse((Settings,), ["--config", str(path), "--size", "3"], {"rate": 0.9})
    assert settings == Settings(size=3, rate=5e-6)
    assert parse((Settings,), [], {"rate": 0.9}) == (Settings(rate=0.9),)


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ("sise: 2\n", [], r"unknown option in the --config file: --sise 2; did you mean --size\? --help lists"),
        ("", ["--sise", "2"], r"unknown option on the command line: --sise 2; did you mean --size\?"),
        ("", ["--zzz"], "unknown option on the command line: --zzz. --help lists"),
        ("size: 1\nrate: 2\nsize: 3\n", [], "size is set twice"),
        ("size: many\n", [], "--config .*: size is 'many'; expected a whole number"),
        ("size: 1.5\n", [], "size is 1.5; expected a whole number"),
        ("size: yes\n", [], "size is True; .* put it between quotes"),
        ("size: [1]\n", [], "size is .1.; expected a whole number"),
        ("size:\n", [], "size is None; expected a whole number"),
        ("rate: .nan\n", [], "rate is nan; expected a number"),
        ("", ["--size", "many"], "size is 'many'; expected a whole number"),
        ("", ["--size"], "--size expects a value"),
        ("", ["word", "--size", "3"], "'word' belongs to no option"),
        ("size: [1\n", [], "not valid YAML.*line 2"),
        (b"size: \xff\n", [], "not valid YAML"),
        ("- size\n", [], "must contain a YAML mapping"),
    ],
)
def test_bad_settings_are_named(tmp_path: Path, content: str | bytes, arguments: list[str], message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content if isinstance(content, bytes) else (content or "size: 1\n").encode())
    with pytest.raises(ConfigurationError, match=f"(?s){message}"):
        parse((Settings,), ["--config", str(path), *arguments])


def test_a_missing_config_file_is_named(tmp_path: Path) -> None:
    for arguments in (["--config", str(tmp_path / "none.yaml")], ["--config"], ["--config", str(tmp_path)]):
        with pytest.raises(ConfigurationError, match="no such file. Expected a YAML file"):
            parse((Settings,), arguments)


@pytest.mark.parametrize(
    ("objective", "arguments", "message"),
    [
        ("maskd", [], "unknown objective 'maskd'"),
        ("masked", ["--mask_ratio", "uniform(0.5, 1.5)"], "uniform"),
        ("masked", ["--mask_unit", "letter"], "mask_unit is 'letter'; expected one of"),
        ("ar", ["--frame", "letter"], "frame is 'letter'; expected one of chat, raw"),
        ("diffusion", ["--normalize", "token"], "normalize is 'token'; expected one of maskable, sequence, paper"),
        ("diffusion", ["--eps", "1"], "eps is 1.0; expected a number from 0 to below 1"),
        ("diffusion", ["--sampling", "slow"], "sampling is 'slow'; expected one of fast, published"),
        ("ar", ["--mask_ratio", "0.5"], "unknown option on the command line: --mask_ratio 0.5"),
    ],
)
def test_settings_out_of_range_are_named(objective: str, arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        recipe.train(objective, arguments)


def test_an_objective_keeps_its_settings() -> None:
    assert parse_training("random_token", [])[1].corruption == "random"
    assert parse_training("reverse", [])[1].objective == "reverse"


def test_a_recipe_without_arguments_runs_its_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[Any] = []
    monkeypatch.setattr(recipe, "train", lambda *given: ran.append(given))
    default = ROOT / "recipes" / "demo" / "masked.yaml"
    recipe.main("masked", default, [])
    assert ran == [("masked", ["--config", str(default)])]
    assert "masked.yaml" in capsys.readouterr().out


def test_a_recipe_ends_with_status_2_and_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "recipes/masked_ft.py", "--config", "none.yaml"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: --config none.yaml: no such file")


def test_a_value_of_the_wrong_type_ends_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        recipe.main("masked", ROOT, ["--size", "many"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: size is 'many'; expected a whole number.\n"
