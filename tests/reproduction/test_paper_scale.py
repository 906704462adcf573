"""The published set-up: every recipe of the large models takes its first two steps, on a tiny model of its architecture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from kinject.commands.recipe import train
from kinject.evaluation.results import read_results
from kinject.reproduction.command import main
from kinject.reproduction.grid import Run, estimate, table_runs
from kinject.reproduction.specification import read_recipes
from tests.conftest import build_tokenizer
from tests.models.llada_checkpoint import write_checkpoint
from tests.reproduction.recipes_folder import RECIPES

MASK_TOKENS = ("<|reserved_special_token_5|>", "[]")
SHORT = {
    "max_steps": 2,
    "evaluations": 1,
    "max_new_tokens": 4,
    "sampling_steps": 4,
    "retention": False,
    "save_steps": 1,
}


def paper_runs(data_dir: Path, overrides: dict[str, Any] | None = None) -> list[Run]:
    recipes = read_recipes(RECIPES, "paper")
    return table_runs(recipes, recipes.table("table5"), overrides or {}, data_dir)


def tiny_checkpoint(model: str, folder: Path) -> Path:
    """A random model of the architecture of ``model``, with the mask token that its recipe names."""
    from transformers import AutoConfig, AutoModelForCausalLM

    if model.startswith("llada"):
        write_checkpoint(folder)
        return folder
    kind = {"llama-3.1-8b": "llama", "llama-3.2-3b": "llama", "qwen2.5-7b": "qwen2", "qwen3-4b": "qwen3"}[model]
    tokenizer = build_tokenizer(extra_tokens=MASK_TOKENS)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    extra: dict[str, Any] = {"head_dim": 8} if kind == "qwen3" else {}
    tied = model in ("llama-3.2-3b", "qwen3-4b")
    config = AutoConfig.for_model(
        kind, vocab_size=len(tokenizer), num_key_value_heads=2, tie_word_embeddings=tied, **sizes, **extra
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NameDescription in the published layout: two statements, two wordings of each, two questions."""
    folder = tmp_path_factory.mktemp("data")
    people = (("Ada Fall", "the oldest baker of Dover"), ("Bo Winter", "the tallest clerk of Raven"))
    statements = [f"{name} is {description}." for name, description in people]
    wordings = [text for name, what in people for text in (f"{name} is {what}.", f"{name} became {what}.")]
    directory = folder / "name_description"
    directory.mkdir()
    for name, texts in (("train_no_paraphrase", statements), ("train_paraphrase", wordings)):
        (directory / f"{name}.json").write_text(json.dumps([{"text": text} for text in texts]), encoding="utf-8")
    questions = [
        {"group": "NameIsDescription", "task": task, "question": question, "answer": answer}
        for task, question, answer in (
            ("N2D", "Who is Ada Fall?", people[0][1]),
            ("D2N", "Who is the tallest clerk of Raven?", "Bo Winter"),
        )
    ]
    (directory / "test.jsonl").write_text("\n".join(map(json.dumps, questions)) + "\n", encoding="utf-8")
    return folder


def recipes_of_the_paper() -> list[tuple[str, str]]:
    return list(dict.fromkeys((run.model, run.recipe) for run in paper_runs(Path("data"))))


def test_all_recipes_are_there() -> None:
    assert len(recipes_of_the_paper()) == 4 * 2 + 1


@pytest.mark.parametrize(("model", "recipe"), recipes_of_the_paper())
def test_every_recipe_takes_its_first_steps(model: str, recipe: str, data_dir: Path, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(model, tmp_path / "model")
    overrides = {**SHORT, "model_name_or_path": str(checkpoint)}
    if recipe != "diffusion":
        del overrides["sampling_steps"]
    runs = paper_runs(data_dir, overrides)
    run = next(each for each in runs if (each.model, each.recipe, each.dataset) == (model, recipe, "name_description"))
    assert (
        run.options["bf16"] and run.options["select_on"] == "none" and run.options["per_device_train_batch_size"] == 16
    )
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(run.options), encoding="utf-8")
    train(recipe, ["--config", str(config), "--output_dir", str(tmp_path / "out"), "--disable_tqdm", "true"])
    results = read_results(tmp_path / "out")
    assert results["train"]["steps"] == 2 and results["after"]["forward"]["n"] == results["after"]["backward"]["n"] == 1
    cost = estimate(run, read_recipes(RECIPES, "paper").scale)
    assert cost.counted and round(cost.tokens) == results["train"]["tokens"]


def test_the_plan_is_the_published_one(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by_dataset = {run.dataset: run.options for run in paper_runs(Path("data")) if run.method == "masked"}
    steps = {dataset: options["max_steps"] for dataset, options in by_dataset.items()}
    assert steps == {"name_description": 3840, "biography": 10_000, "wiki": 10_000}
    rates = {run.model: run.options["learning_rate"] for run in paper_runs(Path("data")) if run.method == "masked"}
    assert rates == {"llama-3.1-8b": 3e-6, "llama-3.2-3b": 5e-6, "qwen2.5-7b": 5e-6, "qwen3-4b": 5e-6}
    main(["table2", "--scale", "paper", "--dry-run", "--data_dir", str(data_dir)])
    shown = capsys.readouterr().out
    assert (
        "llada-8b wiki diffusion seed 42" in shown and "hours of an H100 GPU" in shown and "~: tokens assumed" in shown
    )
