"""The command line: help, and one line with status 2 for each thing a user can get wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from kinject import __version__, cli
from kinject.commands import recipe, settings
from kinject.commands.options import OBJECTIVES, PRESETS, Option, measured_settings, training_options
from kinject.commands.settings import read_training
from kinject.commands.talk import base_of
from kinject.errors import exit_on_user_error


def fails(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Run the command line, expect status 2, and return what it said."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(argv)
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in ("inject", "ask", "eval", "table"))


def test_eval_reads_documents_of_several_paths_and_fields_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kinject.commands import evaluate

    (tmp_path / "a.csv").write_text("Inhalt;Nr\nMira Dorn keeps the lighthouse of Vell.;1\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text("Inhalt;Nr\nTom Bell runs the mill of Oster.;2\n", encoding="utf-8")
    (tmp_path / "q.csv").write_text("Frage;Antwort\nWho runs the mill of Oster?;Tom Bell\n", encoding="utf-8")
    asked: list[Any] = []
    monkeypatch.setattr(evaluate, "evaluate_model", asked.append)
    paths = [str(tmp_path / "a.csv"), str(tmp_path / "[b].csv")]
    fields = ["--text_field", "inhalt", "--question_field", "frage", "--answer_field", "antwort"]
    cli.main(["eval", "nano-ar", "--documents", *paths, "--questions", str(tmp_path / "q.csv"), *fields])
    name, (question,), _ = evaluate._load_questions(asked[0])
    assert (name, question.answer, question.direction) == (f"a+{tmp_path.name}", "Tom Bell", "backward")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"kinject {__version__}\n"


def test_help_of_inject_is_that_of_the_objective(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["inject", "--help"], ["inject", "notes.md", "-h", "--objective", "diffusion"]):
        cli.main(words)
        shown = capsys.readouterr().out
        assert shown.startswith("usage: kinject inject DOCUMENTS [--config FILE]")
        assert "--objective {masked,random_token,ar,reverse,diffusion}" in shown and "--all_options" in shown
        assert ("--to_diffusion" in shown) == ("diffusion" in words) and "--infill_ratio" not in shown
        assert "[default: chosen" in shown.split("--num_train_epochs FLOAT")[1].split("--learning_rate")[0]


def test_all_options_are_listed_without_documents(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["inject", "--all_options", "--objective", "ar"])
    shown = capsys.readouterr().out
    assert shown.startswith("usage: kinject inject DOCUMENTS") and "--frame {chat,raw}" in shown
    assert f"[default: {measured_settings('ar')['weight_decay']}]" in shown.split("--weight_decay FLOAT")[1]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["inject", "docs", "--objective", "maskd"], "unknown objective 'maskd'; expected one of masked, random_token"),
        (["inject", "--model", "m"], "no documents; give a file"),
        (["inject", "docs", "--config", "none.yaml"], "--config none.yaml: no such file"),
        (["eval", "nano-ar"], "nothing to ask; pass --questions"),
    ],
)
def test_user_errors_take_one_line(capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    said = fails(capsys, *argv)
    assert said.startswith(f"error: {message}") and said.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["teach"], "invalid choice: 'teach'"),
        (["ask"], "the following arguments are required: model"),
        (["ask", "model", "Who?", "--nope"], "unrecognized arguments: --nope"),
        (["ask", "model", "Who?", "--max_new_token", "4"], "--max_new_token 4; did you mean --max_new_tokens?"),
        (["ask", "--model", "model", "--file", "gone.txt"], "gone.txt: cannot be read"),
        (["eval", "--model"], "--model expects a value"),
        (["eval", "--model", "a", "--model_name_or_path=b"], "a and b are both named as --model"),
        (["table", "run", "--answers", "few"], "invalid int value: 'few'"),
    ],
)
def test_wrong_usage_is_explained(capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    assert message in fails(capsys, *argv)


def test_inject_passes_every_option_on_to_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[Any] = []
    monkeypatch.setattr(recipe, "train", lambda *given: passed.append(given))
    cli.main(["inject", "docs", "--model", "m", "--output_dir", "out", "--learning_rate", "1e-4", "--use_peft"])
    objective, options, defaults, _ = passed.pop()
    assert objective == "masked" and defaults == measured_settings("masked")
    assert dict(zip(options[:6:2], options[1:6:2], strict=True)) == {
        "--documents": "docs",
        "--model_name_or_path": "m",
        "--output_dir": "out",
    }
    assert options[6:] == ["--learning_rate", "1e-4", "--use_peft"]
    cli.main(["inject", "--config", "run.yaml", "--objective", "ar"])
    assert passed.pop() == ("ar", ["--config", "run.yaml"], None, None)


def test_for_machines_one_json_document_and_for_the_quiet_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = {"paper": 1.0, "exact_match": 1.0, "f1": 1.0, "n": 4}
    results = {"objective": "masked", "after": {"forward": cell, "backward": cell}, "config": {}, "seed": float("nan")}

    def train(*given: Any) -> dict[str, Any]:
        print("much is said", given)
        return results

    monkeypatch.setattr(recipe, "train", train)
    for name in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "1")
    cli.main(["inject", "docs", "--json", "--model", "m"])
    assert json.loads(capsys.readouterr().out) == {**results, "seed": None}
    cli.main(["inject", "docs", "--model", "m", "--quiet"])
    assert capsys.readouterr().out == "good enough by these questions: forward 1.00, backward 1.00.\n"
    cli.main(["inject", "docs", "--model", "m"])
    assert "much is said" in capsys.readouterr().out
    assert "leave one of them out" in fails(capsys, "ask", "out", "Who?", "--json", "--show")


@pytest.mark.parametrize(
    ("words", "left_out"),
    [
        ([], set()),
        (["--use_peft", "--learning_rate", "1e-4"], {"frozen_modules", "preserved_rank"}),  # an adapter freezes all
        (["--use_peft", "false"], set()),
        (["--max_steps", "9"], {"known"}),  # which come in the last epochs
        (["--max_steps", "-1"], set()),
    ],
)
def test_what_is_typed_wins_over_a_preset_that_contradicts_it(words: list[str], left_out: set[str]) -> None:
    preset = {"frozen_modules": ["attention"], "preserved_rank": 0.5, "known": 0.3, "practice": 0.5}
    settings = read_training("masked", ["docs", "--model", "m", *words], preset).settings
    assert preset.keys() - settings.keys() == left_out
    typed = read_training(
        "masked", ["--frozen_modules", "mlp", "--known", "0.1", "--max_steps", "9", "--use_peft"], preset
    )
    assert typed.settings["frozen_modules"] == ["mlp"] and typed.settings["known"] == 0.1  # refused where it is used
    assert read_training("masked", ["docs", "--frozen_modules", "None"], preset).settings["frozen_modules"] is None


def test_a_preset_chooses_what_inject_prefers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    passed: list[Any] = []
    monkeypatch.setattr(recipe, "train", lambda *given: passed.append(given))
    for words, preset in (([], "documents"), (["--preset", "practice"], "practice"), (["--preset=paper"], "paper")):
        cli.main(["inject", "docs", "--model", "m", *words])
        *_, defaults, practice = passed.pop()
        assert defaults == measured_settings("masked", preset)
        assert practice == (None if words else measured_settings("masked", "practice"))  # where model and documents fit
    assert measured_settings("masked", "practice")["practice"] == 0.5 and "practice" not in measured_settings("masked")
    assert measured_settings("masked", "paper")["recipe"] == "paper" and "recipe" not in measured_settings(
        "ar", "paper"
    )
    for (
        preset
    ) in PRESETS:  # files that one can read: options of the objective that they are for, with values of their form
        for objective in OBJECTIVES:
            options = training_options(objective)
            for name, value in measured_settings(objective, preset).items():
                assert options[name].written(value) == value, (preset, name)
    message = fails(capsys, "inject", "docs", "--model", "m", "--preset", "practise")
    assert f"preset is 'practise'; expected one of {', '.join(PRESETS)}; did you mean practice?" in message
    assert "--preset expects a value" in fails(capsys, "inject", "docs", "--preset")
    config = tmp_path / "run.yaml"
    config.write_text("num_train_epochs: 1", encoding="utf-8")
    message = fails(capsys, "inject", "docs", "--preset", "paper", "--config", str(config))
    assert "both say how to train" in message


CONFIG = {"config": Option("config", "str", None, "", (), "")}


@pytest.mark.parametrize(
    ("typed", "passed"),
    [
        ("--config s.yaml --num_train_epochs 3", {"config": "s.yaml", "num_train_epochs": "3"}),
        ("--config s.yaml --retention false", {"config": "s.yaml", "retention": "false"}),
        ("--num_train_epochs 3 wiki/", {"documents": "wiki/", "num_train_epochs": "3"}),
        ("--num_train_epochs=3 wiki/", {"documents": "wiki/", "num_train_epochs": "3"}),
        ("--num-train-epochs 3 wiki/", {"documents": "wiki/", "num_train_epochs": "3"}),
        ("--use_peft wiki/", {"documents": "wiki/", "use_peft": None}),
        ("--use_peft true wiki/", {"documents": "wiki/", "use_peft": None}),
        ("--no_retention wiki/", {"documents": "wiki/", "retention": "false"}),
        ("wiki/ --frozen_modules a b", {"documents": "wiki/", "frozen_modules": ["a", "b"]}),
        ("--frozen_modules a b -- wiki/", {"documents": "wiki/", "frozen_modules": ["a", "b"]}),
        ("--frozen_modules a b --size 3 wiki/", {"documents": "wiki/", "frozen_modules": ["a", "b"], "size": "3"}),
        ("--report_to none wiki/", {"documents": "wiki/", "report_to": "none"}),
        ("wiki/ --max_steps -1", {"documents": "wiki/", "max_steps": "-1"}),
        ("--max_steps -1e0 wiki/", {"documents": "wiki/", "max_steps": "-1e0"}),
        ("--model m wiki/ --size 3", {"documents": "wiki/", "model_name_or_path": "m", "size": "3"}),
        ("--model=m --questions q.csv wiki/", {"documents": "wiki/", "model_name_or_path": "m", "questions": "q.csv"}),
        ("a,b.md c d/ --size 3 e", {"documents": ["a,b.md", "c", "d/", "e"], "size": "3"}),
        ("--documents a b", {"documents": ["a", "b"]}),
    ],
)
def test_words_are_documents_wherever_they_stand_and_values_stay_with_their_options(
    monkeypatch: pytest.MonkeyPatch, typed: str, passed: dict[str, Any]
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(recipe, "train", lambda *each: given.append(each))
    read = settings.Given({}, frozenset({"documents"}), frozenset())
    monkeypatch.setattr(recipe, "read_training", lambda *each, **more: read)
    cli.main(["inject", *typed.split()])
    (_, options, *_) = given.pop()
    found: dict[str, Any] = {}
    for name, values in settings.split_arguments(options, training_options("masked") | CONFIG)[1]:
        before = found.get(name, [])
        found[name] = [*([before] if isinstance(before, str) else before), *values]
        found[name] = found[name] if len(found[name]) > 1 or name == "frozen_modules" else found[name][0]
    assert found == {name: "true" if value is None else value for name, value in passed.items()}
    assert [word for word in options if word.startswith("-")][0] == (
        "--config" if "config" in passed else "--documents"
    )


def test_a_path_with_a_space_is_one_document(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("my notes, old.txt", "b.txt"):
        (tmp_path / name).write_text("Ada Vance mapped the salt caves of Orrin.", encoding="utf-8")
    paths = [str(tmp_path / name) for name in ("my notes, old.txt", "b.txt")]
    script, _, model = recipe.parse_training("masked", [*paths, "--model", "nano-ar"])
    assert script.documents == paths and model.model_name_or_path == "nano-ar"
    assert len(script.load_knowledge().documents) == 2
    assert recipe.parse_training("masked", [paths[0]])[0].documents == paths[0]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--modl", "nano-ar"], "--modl nano-ar; did you mean --model? --all_options lists all options."),
        (["-model", "nano-ar"], "-model nano-ar; did you mean --model?"),
        (["--num_train_epoch", "3"], "did you mean --num_train_epochs?"),
        (["--overwrite_output_dir"], "unknown option on the command line: --overwrite_output_dir"),
        (["--objective", "ar", "--mask_ratio", "0.5"], "it belongs to the objectives masked, random_token, diffusion."),
        (["--objective", "maskd"], "unknown objective 'maskd'"),
        (["--size", "many"], "size is 'many'; expected a whole number."),
        (["--size"], "--size expects a value"),
        (["--use_cpu=perhaps"], "use_cpu is 'perhaps'; expected true or false."),
        (["--learning_rate", "nan"], "learning_rate is 'nan'; expected a number."),
        (["--learning_rate", "-1e-4"], "learning_rate is -0.0001; expected 0 or more."),
        (["--num_train_epochs", "0"], "num_train_epochs is 0.0; expected more than 0."),
        (["--mask_ratio", "uniform(0.5, 1.5)"], "mask ratio uniform: high is 1.5"),
        (
            ["--mask_unit", "tokens"],
            "mask_unit is 'tokens'; expected one of token, word, entity, span, mixed; did you mean",
        ),
        (["--lr_scheduler_type", "cosin"], "did you mean cosine?"),
        (["--lr_scheduler_kwargs", "{a: 1}"], "lr_scheduler_kwargs is '{a: 1}'; not valid JSON"),
        (["--model", "nano"], "model 'nano': no such directory"),
        (["--model", "./none"], "model './none': no such directory"),
        (["--model", "nano-ar", "--model_name_or_path", "nano-diffusion"], "name two models"),
        (["--questions", "none.csv"], "none.csv: there is no such file or folder"),
        (["--config", "none.yaml"], "--config none.yaml: no such file"),
        (["--baselines", "none"], "none: no such file; a run writes results.json"),
        (["--resume_from_checkpoint", "gone"], "gone is no checkpoint that was written to its end"),
        (["--wordings", "none.yaml"], "wordings 'none.yaml': expected paper, rotating, or a YAML file"),
        (["--deepspeed", "none.json"], "deepspeed: none.json: no such file"),
        (["--output_dir", "fact.txt"], "output_dir 'fact.txt' cannot be written"),
        (["--frozen_modules", "self_attn", "fact.txt"], "--frozen_modules took fact.txt for one of its values"),
        (["none.md"], "none.md"),
        (["--config", "unknown.yaml"], "unknown option in the --config file: --sise 3; did you mean --size?"),
        (["--config", "models.yaml"], "model and model_name_or_path name two models"),
        (["--config", "on.yaml"], "save_strategy is False; YAML reads a bare yes, no, on or off as true or false"),
        (["--fp16", "--bf16"], "fp16 and bf16 are both set"),
        (["--push_to_hub", "--hub_model_id", "a/b/c"], "hub_model_id is 'a/b/c'; expected a repository"),
        (["--select_on", "practice"], "select_on is 'practice', and nothing is practiced"),
        (["--preset", "practise"], "did you mean practice?"),
        (["--report_to", "tensorbord"], "report_to is 'tensorbord'; expected none, all or one of azure_ml"),
        (["--packing"], "packing needs attention that takes each document for itself: with sdpa attention"),
        (["--padding_free", "--attn_implementation", "eager"], "with eager attention documents leak into each other"),
        (["--objective", "diffusion", "--packing"], "packing is not supported for masked diffusion models"),
        (["--use_peft", "--lora_target_modules", "lm_head"], "lora_target_modules reach the output head, lm_head"),
        (["--use_peft", "--lora_target_modules", "q_proj", "lm_head"], "or all-linear, which leaves the head out"),
        (["--use_peft", "--lora_target_modules", "embed_out", "up", "--model", "neox"], "the output head, embed_out"),
        (["--use_peft", "--lora_target_modules", ".*", "--model", "neox"], "the output head, embed_out"),
        (["--use_peft", "--lora_target_modules", "q_prj", "v_proj"], "lora_target_modules ['q_prj'] match no module"),
        (["--use_peft", "--lora_target_modules", "q_proj"], "'q_proj' (alone, a regular expression) match no module"),
        (["--use_peft", "--lora_target_modules", "(q_proj"], "'(q_proj' (alone, a regular expression) cannot be read"),
        (["--use_peft", "--lora_target_modules", "q_proj", "mlp"], "model.layers.0.mlp holds no matrix of its own"),
        (["--use_peft", "--lora_modules_to_save", "hed"], "lora_modules_to_save ['hed'] match no module"),
        (
            ["--frozen_modules", "self_atn"],
            "no weight of this model lies in 'self_atn'. Name modules that it has: down_proj",
        ),
        (["--frozen_modules", "layers.9", "--model", "shards"], "lies in 'layers.9'. Name modules that it has: "),
        (
            ["--objective", "diffusion", "--frozen_modules", "wte", "--model", "llada"],
            "lies in 'wte'. Name modules that it has: embed_tokens, lm_head",
        ),
        (
            ["--frozen_modules", "up_prj", "--model", "smollm2-135m"],
            "Name modules that it has: down_proj, embed_tokens",
        ),
        (["--frozen_modules", "model"], "frozen_modules ['model'] hold all of the model's weights"),
        (["--frozen_modules", "mlp", "--use_peft"], "and an adapter is trained here. Leave out --use_peft"),
        (["--frozen_modules", "mlp", "--model", "adapter"], "and an adapter is trained here. Leave out --use_peft"),
        (
            ["--use_peft", "--lora_r", "64", "--model", "adapter"],
            "lora_r is 64, and would have no effect: 'adapter' is",
        ),
        (["--model", "lost"], "model 'user/gone' is not in the local cache of the Hub"),
        (
            ["--model", "baseless"],
            "model 'baseless': its base './gone' is not here, which its adapter_config.json names",
        ),
        (["--model", "torn"], "model 'torn': its config.json is no JSON"),
        (["--model", "listed"], "model 'listed': its config.json holds no settings by name"),
        (["--model", "nano-diffusion"], "model 'nano-diffusion' is a masked diffusion model, and masked trains"),
        (["--model", "llada", "--objective", "ar"], "model 'llada' is a masked diffusion model, and ar trains"),
        (["--model", "unmasked"], "model 'unmasked' is a masked diffusion model, and masked trains"),
        (["--objective", "diffusion"], "model 'nano-ar' is causal (autoregressive), not a masked diffusion model"),
        (
            ["--objective", "diffusion", "--model", "adapter"],
            "model 'adapter' is causal (autoregressive), not a masked",
        ),
        (["--keep", "shards"], "--keep shards is the directory of a run or a model, not of documents"),
        (["--use_peft", "--load_in_4bit", "--load_in_8bit"], "load_in_4bit and load_in_8bit are both set"),
        (["--use_peft", "--lora_dropout", "2"], "lora_dropout is 2.0; expected a share from 0 to below 1"),
        (["--model", "broken"], "model 'broken': its adapter_config.json is no JSON"),
        (["--model", "user/gone"], "model 'user/gone' is not in the local cache of the Hub"),
        (["--writer", "user/gone"], "model 'user/gone' is not in the local cache of the Hub"),
        (["--use_liger_kernel", "--use_cpu"], "use_liger_kernel needs a GPU, Triton and the package liger-kernel"),
        (
            ["--resume_from_checkpoint", "shaky"],
            "resume_from_checkpoint: shaky is no checkpoint that was written to its end",
        ),
        (["--config", "tabs.yaml"], "YAML indents with spaces: replace the tabs."),
        (
            ["--config", "listing.yaml"],
            "a YAML mapping of names to values, as in learning_rate: 1e-4; it holds a list.",
        ),
        (["--config", "word.yaml"], "it holds a single value."),
        (["--config", "nothing.yaml"], "it is empty."),
        (["--config", "accent.yaml"], "Save it as UTF-8."),
        (["--config", "twice.yaml"], "a is set twice; keep one of the lines."),
        (["--config", "shards"], "--config shards: a folder. Expected a YAML file"),
        (["--config", "unknwn.yaml"], "no such file. Expected a YAML file of settings; did you mean unknown.yaml?"),
        (
            ["--attn_implementation", "sdap"],
            "attn_implementation is 'sdap'; expected one of eager, sdpa, flex_attention",
        ),
        (["--attn_implementation", "flash_attention_2", "--use_cpu"], "which runs on a GPU, and use_cpu is set"),
        (["--attn_implementation", "owner/kernel", "--use_cpu"], "Leave out --attn_implementation: sdpa, the default"),
        (["--model", "vit"], "model 'vit': config.json has model_type 'vit', which is no language model that"),
        (["--model", "vit", "--objective", "diffusion"], "but another kind of model. Name one that writes text"),
        (["--model", "clip", "--to_diffusion", "--objective", "diffusion"], "config.json has model_type 'clip'"),
        (["--model", "lama"], "and remote code is not run unasked; did you mean llama? Use a checkpoint"),
        (["--model", "typeless"], "model 'typeless': config.json has no model_type"),
        (["--model", "bert"], "model 'bert' is an encoder (model_type 'bert' without is_decoder in its config.json)"),
        (["--model", "on_vit"], "model 'vit': config.json has model_type 'vit'"),
        (["--model", "blank"], "model 'blank': its config.json is no JSON"),
        (["--model", "unfinished"], "model 'unfinished': its model.safetensors was not written to its end"),
        (["--model", "empty"], "model 'empty': its model.safetensors was not written to its end"),
        (["--model", "weightless"], "model 'weightless': its model.safetensors is missing. Download or save"),
        (["--model", "pickled"], "is missing; pickled weights (pytorch_model.bin) can run any code and are not read"),
        (["--model", "unsharded"], "is missing, which model.safetensors.index.json names. Download or save"),
        (["--model", "unindexed"], "model 'unindexed': its model.safetensors.index.json has no weight_map"),
        (["--model", "wordless"], "model 'wordless' has no tokenizer that can be loaded. Expected tokenizer.json"),
        (["--model", "half_a_word"], "model 'half_a_word': its tokenizer.json was not written to its end"),
        (["--model", "settings_alone"], "model 'settings_alone': its adapter_model.safetensors is missing"),
        (["--writer", "vit"], "model 'vit': config.json has model_type 'vit'"),
        (["--hub-token", "hf_abcdefghijkl"], "--hub_token: every user of this machine can read a command line"),
    ],
)
def test_what_can_be_seen_early_costs_no_import_and_leaves_nothing(
    refusals: dict[str, Any], argv: list[str], message: str
) -> None:
    said = refusals["said"][json.dumps(argv)]
    assert message in said and said.startswith("error: ") and said.count("\n") == 1


def test_refusals_import_nothing_heavy_and_write_nothing(refusals: dict[str, Any]) -> None:
    assert refusals["imported"] == []
    assert refusals["left"] == refusals["given"]


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process says to every wrong command line, what it imported for them, and what it left behind."""
    folder = tmp_path_factory.mktemp("refused")
    (folder / "fact.txt").write_text("Ada Vance mapped the salt caves of Orrin.", encoding="utf-8")
    (folder / "unknown.yaml").write_text("sise: 3\n", encoding="utf-8")
    (folder / "models.yaml").write_text("model: nano-ar\nmodel_name_or_path: nano-diffusion\n", encoding="utf-8")
    for name, text in CONFIGS.items():
        (folder / f"{name}.yaml").write_text(text, encoding="latin-1")
    (folder / "on.yaml").write_text("save_strategy: no\n", encoding="utf-8")
    block, other = "gpt_neox.layers.0.mlp.up.weight", "model.layers.0.mlp.up.weight"
    write_model(folder / "neox", "gpt_neox", {"gpt_neox.embed_in.weight": 2, block: 2, "embed_out.weight": 2})
    write_model(folder / "shards", "llama", {"model.norm.weight": 1}, {other: 2})
    write_model(folder / "llada", "llada", {"model.transformer.wte.weight": 2, "model.transformer.ff_out.weight": 2})
    for name, base in (("adapter", "nano-ar"), ("lost", "user/gone"), ("baseless", "./gone"), ("unmasked", "nano-ar")):
        settings = {"base_model_name_or_path": base, "r": 8, "target_modules": ["q_proj", "v_proj"]}
        write_adapter(folder / name, settings)
    damage_models(folder)
    (folder / "unmasked" / "diffusion.json").write_text("{}", encoding="utf-8")
    for file, text in (("broken/adapter_config.json", "{"), ("torn/config.json", "{"), ("listed/config.json", "[]")):
        (folder / file).parent.mkdir()
        (folder / file).write_text(text, encoding="utf-8")
    given = sorted(path.name for path in folder.iterdir())
    (marks,) = [
        mark
        for mark in test_what_can_be_seen_early_costs_no_import_and_leaves_nothing.pytestmark
        if mark.name == "parametrize"
    ]
    code = """
import contextlib, io, json, os, sys
from kinject import cli
from kinject.commands.options import Objective
def stop(self): sys.exit("all checks passed")
Objective.trainer_class = Objective.config_class = stop
said = {}
for argv in json.load(sys.stdin):
    words = ["fact.txt", *argv] if "fact.txt" not in argv[1:] or "--output_dir" in argv else [*argv]
    named = any(word.startswith(("--model", "-model", "--modl")) for word in argv) or argv[0] == "--config"
    words += [] if named else ["--model", "nano-ar"]
    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(error), contextlib.suppress(SystemExit):
        cli.main(["inject", *words])
    said[json.dumps(argv)] = error.getvalue()
heavy = sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "transformers", "trl", "peft"})
json.dump({"said": said, "imported": heavy, "left": sorted(os.listdir())}, sys.stdout)
"""
    argvs = json.dumps([argv for argv, _ in marks.args[1]])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, input=argvs, capture_output=True, text=True, check=True
    )
    return {**json.loads(done.stdout), "given": given}


CONFIGS = {
    "tabs": "model: nano-ar\n\tseed: 1\n",
    "listing": "- seed\n",
    "word": "seed\n",
    "nothing": "# to be written\n",
    "accent": "output_dir: caf\xe9\n",
    "twice": "model_init_kwargs:\n  - {a: 1, a: 2}\n",
}


def write_adapter(directory: Path, settings: dict[str, Any]) -> None:
    """A directory with the settings of an adapter, and a whole file of weights."""
    directory.mkdir()
    (directory / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    save_file({"lora_A.weight": np.zeros((1, 1), np.float32)}, directory / "adapter_model.safetensors")


def damage_models(folder: Path) -> None:
    """Models of another kind, and those whose files are missing or not whole."""
    for name in ("vit", "clip", "lama", "bert"):
        write_model(folder / name, name, {"a.weight": 2})
    for name in ("typeless", "blank", "unfinished", "empty", "weightless", "pickled", "wordless", "half_a_word"):
        write_model(folder / name, "llama", {"a.weight": 2})
    for name in ("unsharded", "unindexed"):
        write_model(folder / name, "llama", {"a.weight": 2}, {"b.weight": 2})
    (folder / "typeless" / "config.json").write_text("{}", encoding="utf-8")
    (folder / "blank" / "config.json").write_text("", encoding="utf-8")
    weights = (folder / "unfinished" / "model.safetensors").read_bytes()
    (folder / "unfinished" / "model.safetensors").write_bytes(weights[:-1])
    (folder / "empty" / "model.safetensors").write_bytes(b"")
    (folder / "weightless" / "model.safetensors").unlink()
    (folder / "pickled" / "model.safetensors").rename(folder / "pickled" / "pytorch_model.bin")
    (folder / "unsharded" / "model-00002-of-00002.safetensors").unlink()
    (folder / "unindexed" / "model.safetensors.index.json").write_text('{"weight_map": {}}', encoding="utf-8")
    (folder / "wordless" / "tokenizer.json").unlink()
    (folder / "half_a_word" / "tokenizer.json").write_text('{"version": ', encoding="utf-8")
    write_model(folder / "shaky", "llama", {"a.weight": 2})
    (folder / "shaky" / "trainer_state.json").write_text("{}", encoding="utf-8")
    (folder / "shaky" / "optimizer.pt").write_bytes(b"PK")
    write_adapter(folder / "on_vit", {"base_model_name_or_path": "./vit"})
    write_adapter(folder / "settings_alone", {"base_model_name_or_path": "nano-ar"})
    (folder / "settings_alone" / "adapter_model.safetensors").unlink()


def write_model(directory: Path, model_type: str, *shards: dict[str, int]) -> None:
    """A directory with the weights of ``shards``, each a name with the number of its dimensions."""
    directory.mkdir()
    (directory / "tokenizer.json").write_text("{}", encoding="utf-8")
    (directory / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    several, weight_map = len(shards) > 1, {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors" if several else "model.safetensors"
        save_file({name: np.zeros((1,) * size, np.float32) for name, size in shard.items()}, directory / file)
        weight_map |= dict.fromkeys(shard, file)
    if several:
        index = {"metadata": {}, "weight_map": weight_map}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def test_other_commands_see_early_too_what_can_be_seen(tmp_path: Path) -> None:
    files = {
        "fact.txt": "Ada maps.",
        "nothing/notes.txt": "Ada maps.",
        "q.csv": "question,answer\nWho?,Ada\n",
        "adapter/adapter_config.json": "{}",
        "listed/adapter_config.json": "[]",
        "adapter/adapter_model.safetensors": "",
        "whole/config.json": "{}",
        "whole/model.safetensors": "",
        "whole/asked.csv": "question,answer,direction\nWho?,Ada,forward\n",
        "vit/config.json": '{"model_type": "vit"}',
        "vit/tokenizer.json": "{}",
        "vit/model.safetensors": "\2\0\0\0\0\0\0\0{}",
        "empty/config.json": '{"model_type": "llama"}',
        "empty/model.safetensors": "",
        "torn/config.json": '{"model_type": "llama"}',
        "torn/model.safetensors.index.json": "{",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    expected = {
        "preview fact.txt --model ./gone": "model './gone': no such directory",
        "questions fact.txt --writer nano-r": "did you mean nano-ar?",
        "questions fact.txt --writer user/gone": "model 'user/gone' is not in the local cache of the Hub",
        "ask adapter Who?": "model 'adapter': its adapter_config.json has no base_model_name_or_path",
        "ask gone Who?": "model 'gone': no such directory",
        "ask nothing Who?": "model 'nothing': the directory holds neither config.json nor adapter_config.json",
        "ask nano-ar Who? --max_new_tokens 0": "max_new_tokens is 0; expected 1 or more",
        "ask nano-ar --file q.csv": "q.csv: expected plain text with one question a line. Rows of questions with their answers",
        "chat nano-ar --max_new_tokens 0": "max_new_tokens is 0; expected 1 or more",
        "app nano-ar --port 99999": "port is 99999; expected a port from 0 to 65535",
        "eval nano-ar --questions q.csv --documents fact.txt --batch_size 0": "batch_size is 0; expected 1 or more",
        "questions fact.txt --output_file q.txt": "q.txt: questions are written as JSON lines; let the name end with .jsonl",
        "questions fact.txt --writer w --model nano-ar --writer_url local": "--writer_url local: expected an address such as",
        "preview fact.txt --model vit": "model 'vit': config.json has model_type 'vit'",
        "questions fact.txt --writer vit": "model 'vit': config.json has model_type 'vit'",
        "ask vit Who?": "model 'vit': config.json has model_type 'vit'",
        "chat vit": "model 'vit': config.json has model_type 'vit'",
        "app vit": "model 'vit': config.json has model_type 'vit'",
        "eval vit --questions whole/asked.csv": "model 'vit': config.json has model_type 'vit'",
        "export vit --output_dir out": "model 'vit': config.json has model_type 'vit'",
        "push vit user/name": "model 'vit': config.json has model_type 'vit'",
        "ask empty Who?": "model 'empty': its model.safetensors was not written to its end",
        "eval empty --questions whole/asked.csv": "model 'empty': its model.safetensors was not written to its end",
        "push empty user/name": "model 'empty': its model.safetensors was not written to its end",
        "push torn user/name": "model 'torn': its model.safetensors.index.json is no JSON",
        "merge listed --output_dir out": "model 'listed': its adapter_config.json holds no settings by name",
        "chat ./gone": "model './gone': no such directory",
        "app ./gone": "model './gone': no such directory",
        "eval ./gone --questions q.csv": "model './gone': no such directory",
        "eval nano-ar --questions gone.csv": "gone.csv: there is no such file",
        "eval nano-ar --questions q.csv --documents gone.txt": "gone.txt: there is no such file",
        "eval nano-ar --questions q.csv --documents fact.txt --sampling slow": "sampling",
        "eval nano-ar --questions q.csv --documents fact.txt --output_dir q.csv": "output_dir 'q.csv' cannot be written",
        "export ./gone --output_dir out": "model './gone': no such directory",
        "export nano-ar --output_dir nothing": "output_dir 'nothing' is not empty",
        "merge gone": "gone is neither a directory nor a Hub id",
        "push gone user/name": "'gone' is no directory",
        "push nothing name": "'name' names no repository; expected user/name",
        "push nothing user/name": "'nothing' holds neither adapter_config.json nor config.json",
        "push adapter user/name --layout lada": "layout is 'lada'; expected one of native, llada",
        "push adapter user/name --layout llada": "an adapter has no key layout. Add --merge",
        "push whole user/name --merge": "'whole' holds a whole model: there is nothing to merge",
        "ask user/gone Who?": "model 'user/gone' is not in the local cache of the Hub",
        "chat user/gone": "model 'user/gone' is not in the local cache of the Hub",
        "app user/gone": "model 'user/gone' is not in the local cache of the Hub",
        "eval user/gone": "model 'user/gone' is not in the local cache of the Hub",
        "eval nano-ar": "nothing to ask; pass --questions FILE",
        "eval nano-ar --questions whole/asked.csv --open_book": "open_book needs the documents that the model was taught",
        "export user/gone --output_dir out": "model 'user/gone' is not in the local cache of the Hub",
        "export nano-ar --output_dir out --layout lada": "layout is 'lada'; expected one of native, llada",
        "compare gone": "'gone' has no eval card of kinject",
        "compare nothing": "'nothing' has no eval card of kinject",
        "compare user/gone": "model 'user/gone' is not in the local cache of the Hub",
        "benchmark gone --output_dir out": "gone: there is no such file or folder",
        "table gone": "results.json: no such file",
        "report gone": "results.json: no such file",
        "reproduce tabel5": "table 'tabel5'",
    }
    code = """
import contextlib, io, json, sys
from kinject import cli
said = {}
for line in json.load(sys.stdin):
    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.suppress(SystemExit):
        cli.main(line.split())
    heavy = {"torch", "transformers", "trl", "peft", "datasets"} & {name.partition(".")[0] for name in sys.modules}
    said[line] = error.getvalue() + " ".join(sorted(heavy))
json.dump(said, sys.stdout)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        input=json.dumps([*expected]),
        capture_output=True,
        text=True,
        check=True,
    )
    for line, said in json.loads(done.stdout).items():
        assert expected[line] in said and said.startswith("error: ") and said.endswith("\n"), line
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "adapter",
        "empty",
        "fact.txt",
        "listed",
        "nothing",
        "q.csv",
        "torn",
        "vit",
        "whole",
    ]


def test_a_file_may_name_model_objective_and_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[Any] = []
    monkeypatch.setattr(recipe, "train", lambda *given: passed.append(given))
    path = tmp_path / "run.yaml"
    path.write_text("model: nano-ar\nobjective: reverse\ndocuments: fictional:nano\n", encoding="utf-8")
    cli.main(["inject", "--config", str(path)])
    assert passed.pop() == ("reverse", ["--config", str(path)], None, None)
    _, training, model = recipe.parse_training("reverse", ["--config", str(path)])
    assert (training.objective, model.model_name_or_path) == ("reverse", "nano-ar")
    cli.main(["inject", "--config", str(path), "--objective", "ar"])  # wins over the file
    assert recipe.parse_training(*passed.pop()[:3])[1].objective == "ar"


def test_a_file_without_documents_does_not_train_on_other_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text("model: nano-ar\n", encoding="utf-8")
    assert "no documents; give a file" in fails(capsys, "inject", "--config", str(tmp_path / "run.yaml"))


def test_ask_and_eval_take_the_model_by_its_option(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    for name in ("run_ask", "run_eval"):
        monkeypatch.setattr(cli, name, given.append)
    cli.main(["ask", "--model", "m", "Who?", "--base", "Where?"][:5])
    assert (given[-1].model, given[-1].questions) == ("m", ["Who?"])
    cli.main(["ask", "m", "--base", "Who?", "Where?"])
    assert (given[-1].model, given[-1].questions) == ("m", ["Who?", "Where?"])
    for words in (["m"], ["--model", "m", "--max_new_tokens", "4"], ["m", "--file", "q.txt", "--base"]):
        cli.main(["ask", *words])
        assert (given[-1].model, given[-1].questions) == ("m", ["-"])
    for words in (["--questions", "q.csv", "--model=m"], ["m", "--questions", "q.csv"]):
        cli.main(["eval", *words])
        assert (given[-1].model_name_or_path, given[-1].questions) == ("m", "q.csv")


def test_the_package_is_a_command() -> None:
    done = subprocess.run([sys.executable, "-m", "kinject", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"kinject {__version__}\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "words",
    [
        ["-m", "kinject", "--help"],
        ["-m", "kinject", "inject", "--help"],
        ["-m", "kinject", "completion", "bash"],
        ["recipes/masked_ft.py", "--help"],
        ["recipes/reproduce.py", "--help"],
    ],
)
def test_output_that_nobody_reads_ends_a_command_without_a_word(words: list[str], unbuffered: str) -> None:
    root, options = Path(__file__).parents[1], {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as output:
        done = subprocess.run([sys.executable, *words], stdout=output, stderr=subprocess.PIPE, cwd=root, env=options)
    assert done.stderr == b""


def test_ctrl_c_ends_a_command_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, exit_on_user_error():
        raise KeyboardInterrupt
    assert ended.value.code == 130 and capsys.readouterr().err == "stopped by Ctrl-C\n"


RECIPES = sorted(
    str(path.relative_to(Path(__file__).parents[1]))
    for path in (Path(__file__).parents[1] / "recipes").rglob("*.py")
    if "def main(" in path.read_text(encoding="utf-8") or "def build_parser(" in path.read_text(encoding="utf-8")
)


def test_the_help_of_every_recipe_needs_no_heavy_import() -> None:
    # All in one process, since each start takes a part of a second.
    script = """
import contextlib, io, os, runpy, sys
sys.path.insert(0, os.getcwd())
for path in sys.argv[1:]:
    sys.argv, sys.path[0], shown = [path, "--help"], os.path.dirname(path), io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(shown):
        runpy.run_path(path, run_name="__main__")
    heavy = {"torch", "transformers", "trl", "peft", "datasets", "scipy"} & {*sys.modules}
    assert not heavy, f"{path}: {sorted(heavy)}"
    assert "--help" in shown.getvalue(), path
"""
    assert len(RECIPES) > 15
    done = subprocess.run(
        [sys.executable, "-c", script, *RECIPES], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert done.returncode == 0, done.stderr


def test_the_base_of_a_run_is_read_from_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds no adapter_config.json or results.json" in fails(capsys, "ask", str(tmp_path), "Who?", "--base")
    (tmp_path / "results.json").write_text(json.dumps({"model": "org/model"}))
    assert base_of(str(tmp_path)) == "org/model"
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    assert base_of(str(tmp_path)) == "org/base"


def test_without_a_model_the_embedded_default_is_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    taken: list[dict[str, object]] = []
    monkeypatch.setattr(recipe, "find_spec", lambda name: object())
    monkeypatch.setattr(cli.recipe, "train", lambda objective, options, defaults, *_: taken.append(defaults or {}))
    cli.main(["inject", "docs"])
    assert taken[-1]["model_name_or_path"] == "smollm2-135m"
    assert "no model is named: taking smollm2-135m" in capsys.readouterr().out
    cli.main(["inject", "docs", "--model", "m"])
    cli.main(["inject", "docs", "--objective", "diffusion"])  # would need --to_diffusion
    assert all("model_name_or_path" not in each for each in taken[1:]) and capsys.readouterr().out == ""
    monkeypatch.setattr(recipe, "find_spec", lambda name: None)
    cli.main(["inject", "docs"])
    assert "model_name_or_path" not in taken[-1]


def test_a_shell_completes_commands_options_values_and_files(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for shell in ("zsh", "tcsh", "bash"):
        cli.main(["completion", shell])
        script = capsys.readouterr().out
        assert "mask_unit" in script and "reproduce" in script
    (tmp_path / "notes.md").touch()
    (tmp_path / "complete.sh").write_text(script, encoding="utf-8")
    tried = {
        "kinject rep": {"report", "reproduce"},
        "kinject inject docs --mask_u": {"--mask_unit"},
        "kinject inject docs --mask_unit sp": {"span"},
        "kinject inject docs --preset one": {"one-gpu"},
        "kinject doctor --objective dif": {"diffusion"},
        f"kinject inject {tmp_path}/no": {f"{tmp_path}/notes.md"},
        f"kinject ask --file {tmp_path}/no": {f"{tmp_path}/notes.md"},
    }
    lines = ["source complete.sh"]
    for line in tried:
        lines += [f"COMP_WORDS=({line}); COMP_CWORD={len(line.split()) - 1}; COMPREPLY=()"]
        lines += ["_shtab_kinject 2>/dev/null", 'echo "${COMPREPLY[@]}"']
    shown = subprocess.run(["bash", "-c", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True)
    assert [{*line.split()} for line in shown.stdout.splitlines()] == [*tried.values()], shown.stderr


def test_tables_and_evaluations_for_machines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from kinject.commands import evaluate
    from kinject.evaluation.results import new_results, write_results

    cell = {"paper": 1.0, "exact_match": 1.0, "f1": 1.0, "n": 4}
    scores = {"forward": cell, "backward": cell}
    results = new_results(objective="masked", model="m", dataset="d", paraphrases="none", seed=0)
    results |= {"before": scores, "after": scores}
    write_results(tmp_path / "results.json", results)
    cli.main(["table", str(tmp_path), str(tmp_path), "--json"])
    assert [each["after"] for each in json.loads(capsys.readouterr().out)] == [scores, scores]

    def measure(arguments: Any) -> Any:
        print("much is said", arguments)
        return results

    monkeypatch.setattr(evaluate, "evaluate_model", measure)
    cli.main(["eval", "nano-ar", "--questions", "q.jsonl", "--json"])
    assert json.loads(capsys.readouterr().out)["after"] == scores
    cli.main(["eval", "nano-ar", "--questions", "q.jsonl"])
    assert capsys.readouterr().out.startswith("much is said")
