"""What the recipes share: settings from YAML and the command line, and errors that say what to do."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from kinject.commands import recipe
from kinject.commands.options import OWN_MODELS, all_training_options, measured_settings
from kinject.commands.recipe import parse, parse_training
from kinject.commands.settings import check_files, check_settings, default_output_dir, read_training
from kinject.compat import NEEDED, UNUSED, UNUSED_IN_RUNS
from kinject.corruption import MaskUnit
from kinject.data.knowledge import PARAPHRASES
from kinject.errors import ConfigurationError
from kinject.models import EMBEDDED_MODEL, NANO_MODELS
from kinject.sampling.config import SAMPLINGS
from kinject.trainers import DiffusionSFTConfig, MaskedSFTConfig, PlainSFTConfig
from kinject.trainers.collator import Corruption, LossScope
from kinject.trainers.diffusion_trainer import Normalization
from kinject.trainers.document_config import RatioScope
from kinject.trainers.infilling import InfillUnit
from kinject.trainers.masked_trainer import PAPER

ROOT = Path(__file__).parents[2]
NO_RUNS = ("launch", "lm_eval", "scales", "sft", "tables")  # folders of other YAML files
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
    missing, folder = ["--config", str(tmp_path / "none.yaml")], ["--config", str(tmp_path)]
    for arguments, why in ((missing, "no such file"), (["--config"], "no such file"), (folder, "a folder")):
        with pytest.raises(ConfigurationError, match=f"{why}. Expected a YAML file"):
            parse((Settings,), arguments)


@pytest.mark.parametrize(
    ("objective", "arguments", "message"),
    [
        ("maskd", [], "unknown objective 'maskd'"),
        ("masked", ["--mask_ratio", "uniform(0.5, 1.5)"], "uniform"),
        ("masked", ["--mask_unit", "letter"], "mask_unit is 'letter'; expected one of"),
        ("ar", ["--frame", "letter"], "frame is 'letter'; expected one of chat, raw"),
        ("diffusion", ["--normalize", "token"], "normalize is 'token'; expected one of maskable, sequence, paper"),
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


@pytest.mark.parametrize(
    ("options", "file", "message"),
    [
        ("--recipe paper --mask_unit entity", "", "mask_unit entity .the paper: token. is not"),
        ("--recipe paper --infill_share 0.5 --mask_ratio_per sample", "", "mask_ratio_per sample .*infill_share 0.5"),
        ("--mask_unit entity", "recipe: paper", "mask_unit entity"),
        ("", "recipe: paper\nloss_on: masked", "loss_on masked"),
    ],
)
def test_the_papers_recipe_overrides_no_explicit_setting(tmp_path: Path, options: str, file: str, message: str) -> None:
    (tmp_path / "run.yaml").write_text(file + "\nseed: 1\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=f"recipe paper is the objective as published, and .*{message}"):
        parse_training("masked", ["--config", str(tmp_path / "run.yaml"), *options.split()])


def test_the_papers_recipe_replaces_what_the_file_and_the_command_prefer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text("mask_unit: entity\ninfill_share: 0.5\n", encoding="utf-8")
    options = ["--config", str(tmp_path / "run.yaml"), "--recipe", "paper", "--mask_unit", "token"]
    training = parse_training("masked", options, measured_settings("masked"))[1]
    assert {name: getattr(training, name) for name in PAPER} == PAPER
    assert capsys.readouterr().err == "--recipe paper replaces infill_share of the --config file.\n"
    with pytest.raises(ConfigurationError, match="corruption random"):
        parse_training("random_token", ["--recipe", "paper"])
    with pytest.raises(ConfigurationError, match="recipe paper sets mask_unit to 'token', and mask_unit is 'entity'"):
        MaskedSFTConfig("run", recipe="paper", mask_unit="entity")


@pytest.mark.parametrize(
    ("objective", "options", "message"),
    [
        ("masked", "--assistant_only_loss", "assistant_only_loss is True, and would have no effect: every document"),
        ("ar", "--completion_only_loss false", "completion_only_loss is False, and would have no effect"),
        ("diffusion", "--dataset_num_proc 8", "dataset_num_proc is 8, and would have no effect"),
        ("masked", "--eval_packing true", "eval_packing"),
        ("masked", "--packing_strategy wrapped", "packing_strategy"),
        ("masked", "--eval_strategy epoch", "eval_strategy .* questions are asked"),
        ("masked", "--load_best_model_at_end", "load_best_model_at_end .*--select_on"),
        ("masked", "--save_strategy best", "save_strategy is 'best', and would have no effect"),
        ("masked", "--do_train", "do_train"),
        ("masked", "--lora_r 8", "lora_r is 8, and would have no effect: it describes the adapter that --use_peft"),
        ("masked", "--use_peft --use_bnb_nested_quant", "use_bnb_nested_quant .*--load_in_4bit"),
        ("masked", "--infill_unit side", "infill_unit .*--infill_share above 0"),
        ("random_token", "--mask_token [MASK]", "mask_token .*--corruption mask"),
        ("ar", "--block_length 8", "block_length .* ar trains an autoregressive one"),
        ("diffusion", "--shifted_logits true", "shifted_logits .*--to_diffusion"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused_by_name(objective: str, options: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read_training(objective, options.split())


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        ("masked", "--use_peft --lora_r 8"),
        ("masked", "--use_peft false --lora_r 8"),  # said outright, such as by one arm of a comparison
        ("masked", "--infill_share 0.5 --infill_unit side --rehearsal 0.5"),
        ("masked", "--assistant_only_loss false --dataset_num_proc None --packing_strategy bfd --eval_strategy no"),
        ("random_token", "--corruption random --mask_token [MASK]"),
        ("diffusion", "--block_length 8 --sampling published --to_diffusion --shifted_logits false"),
        ("ar", "--sampling fast --lora_r 16"),
    ],
)
def test_settings_that_something_reads_are_not_refused(objective: str, options: str) -> None:
    assert read_training(objective, options.split()).typed >= {options.split()[0].lstrip("-")}


def test_a_tracker_that_is_not_installed_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kinject.commands.settings.find_spec", lambda name: None)
    for name in ("trackio", "wandb", "tensorboard"):
        with pytest.raises(ConfigurationError, match=f"report_to: {name} is not installed; pip install"):
            check_files({"model_name_or_path": "nano-ar", "report_to": [name]})
    check_files({"model_name_or_path": "nano-ar", "report_to": "none"})


def test_packing_is_left_to_the_model_where_its_files_name_the_attention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kinject.commands.settings.require_attention", lambda *_, **options: None)  # which is not here
    settings = {"model_name_or_path": str(tmp_path), "packing": True, "objective": "masked"}
    (tmp_path / "config.json").write_text('{"attn_implementation": "flash_attention_2"}', encoding="utf-8")
    check_settings(settings)
    check_settings({**settings, "attn_implementation": "flash_attention_2"})
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="with sdpa attention"):
        check_settings(settings)


def test_the_trainers_refuse_what_they_do_not_read(tmp_path: Path) -> None:
    for name, value in (("assistant_only_loss", True), ("dataset_num_proc", 2), ("length_column_name", "size")):
        with pytest.raises(ConfigurationError, match=f"{name} is .*, and would have no effect"):
            PlainSFTConfig(str(tmp_path), **{name: value})
    with pytest.raises(ConfigurationError, match="router_aux_loss_coef"):
        DiffusionSFTConfig(str(tmp_path), router_aux_loss_coef=0.1, report_to="none", bf16=False)


def test_what_is_said_to_be_without_effect_exists() -> None:
    known = all_training_options()
    assert {*UNUSED, *UNUSED_IN_RUNS, *NEEDED, *PAPER} <= set(known)
    assert {other for other, _, _ in NEEDED.values()} <= set(known)
    assert (EMBEDDED_MODEL, *NANO_MODELS) == OWN_MODELS


def test_choices_that_are_checked_early_are_those_of_the_code() -> None:
    known = all_training_options()
    for name, choices in {
        "mask_unit": MaskUnit,
        "mask_ratio_per": RatioScope,
        "corruption": Corruption,
        "loss_on": LossScope,
        "infill_unit": InfillUnit,
        "normalize": Normalization,
    }.items():
        assert known[name].choices == get_args(choices), name
    assert known["sampling"].choices == SAMPLINGS and known["paraphrases"].choices == PARAPHRASES


@pytest.mark.parametrize(
    ("documents", "named"),
    [
        ("wiki/", "masked-wiki"),
        ("my notes, old.txt", "masked-my-notes-old"),
        ("fictional:name_description", "masked-name_description"),
        ("user/name:config", "masked-name-config"),
        (["a/one.md", "b", "c"], "masked-one-and-2-more"),
        ("*", "masked-documents"),
    ],
)
def test_a_directory_is_named_after_what_is_trained(documents: str | list[str], named: str) -> None:
    assert default_output_dir("masked", documents) == f"outputs/{named}"


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
