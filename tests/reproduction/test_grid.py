"""Runs and their settings: what wins, what makes another run, and what makes a result stale."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kinject.reproduction import grid
from kinject.reproduction.grid import (
    bare_code,
    code_fingerprint,
    data_fingerprint,
    estimate,
    matched,
    method_runs,
    table_runs,
)
from tests.reproduction.recipes_folder import small_recipes

DATA = Path("data")


def test_a_grid_holds_the_methods_of_the_table_and_of_its_claims(tmp_path: Path) -> None:
    recipes = small_recipes(tmp_path, {"scales/nano.yaml:seeds": [0, 1]})
    runs = table_runs(recipes, recipes.table("table5"), {}, DATA)
    assert [(run.method, run.seed) for run in runs] == [
        (method, seed) for method in ("ar", "ar+paraphrases", "masked") for seed in (0, 1)
    ]
    assert all(run.options["seed"] == run.options["world_seed"] == run.seed for run in runs)


def test_later_settings_win_and_paraphrases_share_the_samples(tmp_path: Path) -> None:
    changes = {
        "methods.yaml:ar.options": {"learning_rate": 1.0, "evaluations": 7},
        "scales/nano.yaml:datasets.people.methods": {"ar": {"evaluations": 8}},
    }
    recipes = small_recipes(tmp_path, changes)
    by_method = {run.method: run.options for run in table_runs(recipes, recipes.table("table5"), {"lora_r": 2}, DATA)}
    ar = by_method["ar"]
    assert (ar["learning_rate"], ar["evaluations"], ar["lora_r"]) == (1.0, 8, 2)
    assert ar["model_name_or_path"] == "nano-ar"  # of recipes/nano/ar.yaml
    assert (ar["num_train_epochs"], by_method["ar+paraphrases"]["num_train_epochs"]) == (4.0, 0.5)


def test_a_method_may_take_other_steps_than_its_recipe(tmp_path: Path) -> None:
    recipes = small_recipes(tmp_path, {"methods.yaml:ar.steps": 2, "methods.yaml:ar+paraphrases.steps": 0.5})
    epochs = {
        run.method: run.options["num_train_epochs"] for run in table_runs(recipes, recipes.table("table5"), {}, DATA)
    }
    assert epochs == {"ar": 8.0, "ar+paraphrases": 0.25, "masked": 4.0}


def test_methods_and_wordings_that_a_scale_does_not_have_are_left_out(tmp_path: Path) -> None:
    recipes = small_recipes(tmp_path, {"scales/nano.yaml:datasets.people.wordings": {"none": 1}})
    assert {run.method for run in table_runs(recipes, recipes.table("table5"), {}, DATA)} == {"ar", "masked"}
    recipes = small_recipes(tmp_path, {"scales/nano.yaml:methods": ["ar"]})
    assert {run.method for run in table_runs(recipes, recipes.table("table5"), {}, DATA)} == {"ar"}


def test_a_run_is_known_by_what_decides_its_results(tmp_path: Path) -> None:
    def key(changes: dict[str, object]) -> str:
        recipes = small_recipes(tmp_path, changes)
        return table_runs(recipes, recipes.table("table5"), {}, DATA)[0].key

    option = "scales/nano.yaml:options."
    assert key({}) == key({option + "logging_steps": 99}) == key({option + "output_dir": "x"})
    assert key({}) != key({option + "learning_rate": 0.5})


def test_documents_are_known_by_their_content_wherever_they_lie(tmp_path: Path) -> None:
    keys = []
    for place, text in (("here", "one"), ("there", "one"), ("elsewhere", "two")):
        folder = tmp_path / place / "people"
        folder.mkdir(parents=True)
        (folder / "train_no_paraphrase.json").write_text(f'[{{"text": "{text}"}}]', encoding="utf-8")
        documents = {"documents": "{data_dir}/people"}
        recipes = small_recipes(tmp_path / "recipes", {"scales/nano.yaml:datasets.people.options": documents})
        keys.append(table_runs(recipes, recipes.table("table5"), {}, tmp_path / place)[0].key)
    assert keys[0] == keys[1] != keys[2]
    assert data_fingerprint("fictional:nano") == data_fingerprint(str(tmp_path / "absent")) == ""


@pytest.mark.parametrize("option", ["questions", "wordings", "model_name_or_path"])
def test_a_file_that_a_run_reads_changes_it_under_its_name(tmp_path: Path, option: str) -> None:
    keys = []
    for text in ("one", "one", "two"):
        folder = tmp_path / "read"
        folder.mkdir(exist_ok=True)
        (folder / "file.json").write_text(text, encoding="utf-8")
        named = str(folder if option == "model_name_or_path" else folder / "file.json")
        recipes = small_recipes(tmp_path / "recipes", {"scales/nano.yaml:options." + option: named})
        data_fingerprint.cache_clear()
        keys.append(table_runs(recipes, recipes.table("table5"), {}, DATA)[0].key)
    assert keys[0] == keys[1] != keys[2]


def test_the_code_fingerprint_ignores_explanations_and_nothing_else(tmp_path: Path) -> None:
    def fingerprint(source: str, name: str = "corruption.py") -> str:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source, encoding="utf-8")
        code_fingerprint.cache_clear()
        try:
            return code_fingerprint(tmp_path)
        finally:
            code_fingerprint.cache_clear()

    plain = fingerprint("def f(x):\n    return x + 1\n")
    assert plain == fingerprint('"""Why."""\n\n\ndef f(x):\n    """What."""\n    return x + 1  # more\n')
    assert plain != fingerprint("def f(x):\n    return x + 2\n")
    plain = fingerprint("def f(x):\n    return x + 1\n")
    assert plain == fingerprint("print()", "hub/card.py") == fingerprint("x = 1", "cli.py")
    assert plain != fingerprint("x = 1", "data/new.py")
    assert plain != fingerprint("{}", "models/nano/ar/tokenizer.json")
    plain = fingerprint("{{ messages }}", "models/nano/ar/chat_template.jinja")
    assert plain == fingerprint("what Python makes of it", "data/__pycache__/new.cpython-310.pyc")
    assert plain != fingerprint("{{ messages[0] }}", "models/nano/ar/chat_template.jinja")
    assert bare_code('def f():\n    """Only a docstring."""\n') == "def f():\n    pass"


def test_estimates_follow_steps_and_copies(tmp_path: Path) -> None:
    recipes = small_recipes(tmp_path)
    by_method = {run.method: run for run in table_runs(recipes, recipes.table("table5"), {}, DATA)}
    ar, masked = (estimate(by_method[method], recipes.scale) for method in ("ar", "masked"))
    assert ar.counted and not masked.counted and ar.steps == 4  # how much an infilling sample leaves out varies
    assert ar.flops == 6e6 * ar.tokens and ar.hours == ar.flops / 1e10 / 3600
    assert 1.5 < masked.tokens / ar.tokens < 2.5
    shorter = estimate(by_method["ar"].scaled(0.5), recipes.scale)
    assert shorter.tokens == ar.tokens / 2


def test_a_model_may_have_a_file_of_its_own_for_a_recipe_and_compute_tokens_more_than_once(tmp_path: Path) -> None:
    one = {"recipes": "nano", "family": "diffusion", "parameters": 1e6, "label": "nano"}
    models = {"full": one, "block": {**one, "files": {"diffusion": "diffusion_block"}, "copies": 1.5}}
    changes = {"scales/nano.yaml:models": models, "tables/table5.yaml:methods": ["diffusion"]}
    recipes = small_recipes(tmp_path, {**changes, "tables/table5.yaml:claims": []})
    full, block = table_runs(recipes, recipes.table("table5"), {}, DATA)
    assert full.options["model_name_or_path"] == "nano-diffusion"
    assert block.options["model_name_or_path"] == "nano-block"
    assert (full.recipe, full.script) == (block.recipe, block.script)
    costs = estimate(full, recipes.scale), estimate(block, recipes.scale)
    assert costs[1].tokens == 1.5 * costs[0].tokens and [cost.counted for cost in costs] == [True, False]


def test_matched_runs_cost_what_the_reference_does(tmp_path: Path) -> None:
    recipes = small_recipes(tmp_path, {"scales/nano.yaml:options": {"num_train_epochs": 60}})
    table = recipes.table("table5")
    references = list(method_runs(recipes, table, "masked", {}, DATA))
    budget = estimate(references[0], recipes.scale).flops
    for run in matched(table_runs(recipes, table, {}, DATA), references, recipes.scale):
        assert abs(estimate(run, recipes.scale).flops / budget - 1) < 0.05, run.label
    stepped = table_runs(recipes, table, {"max_steps": 7}, DATA)[0]
    assert stepped.scaled(3.0).options["max_steps"] == 21 and stepped.scaled(3.0).key != stepped.key


def test_rehearsal_adds_its_share_to_the_samples(tmp_path: Path) -> None:
    recipes = small_recipes(tmp_path)
    table = recipes.table("table5")
    plain, rehearsed = (table_runs(recipes, table, options, DATA)[0] for options in ({}, {"rehearsal": 0.5}))
    options = {"per_device_train_batch_size": 1}
    plain, rehearsed = (replace(run, options={**run.options, **options}) for run in (plain, rehearsed))
    assert estimate(rehearsed, recipes.scale).steps == 2 * estimate(plain, recipes.scale).steps
    documents, everything = (estimate(run, recipes.scale).tokens for run in (plain, rehearsed))
    assert everything == pytest.approx(2 * documents, rel=0.2)  # a nano model's answers are as long as the documents


def test_practice_adds_statements_and_questions_to_the_samples(tmp_path: Path) -> None:
    recipes = small_recipes(tmp_path)
    table = recipes.table("table5")
    plain, practiced = (
        table_runs(recipes, table, options, DATA)[0] for options in ({}, {"practice": 0.5, "abstain": 0.2})
    )
    before, after = (estimate(run, recipes.scale) for run in (plain, practiced))
    assert after.tokens > 2 * before.tokens and not after.counted


def test_what_shapes_no_result_is_there() -> None:
    """A file that has moved would count again without a word, and every finished run would be repeated."""
    assert [each for each in grid._SHAPES_NO_RESULT if not (grid.PACKAGE / each).exists()] == []
