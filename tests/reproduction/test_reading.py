"""What the YAML files may not say, and how that is told; and that those of this repository read."""

from __future__ import annotations

from pathlib import Path

import pytest

from kinject.errors import ConfigurationError
from kinject.reproduction.grid import table_runs
from kinject.reproduction.specification import read_recipes, table_names
from tests.reproduction.recipes_folder import RECIPES, small_recipes


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("methods.yaml:ar.recipe", "sft", "methods.yaml: ar.recipe is 'sft'; expected ar, masked, diffusion"),
        ("methods.yaml:ar.lable", "AR", "methods.yaml: ar: unknown field 'lable'; expected label"),
        ("methods.yaml:ar.options", 3, "methods.yaml: ar: options is 3; expected dict"),
        ("claims.yaml:masked_helps.checks.0.direction", "sideways", "check 1: direction is 'sideways'"),
        ("claims.yaml:masked_helps.checks.0.at_most", 0.5, "check 1: expected either at_least or at_most"),
        ("claims.yaml:masked_helps.checks.0.method", "magic", "masked_helps: unknown method 'magic'"),
        ("scales/nano.yaml:reading", "bleu", "reading is 'bleu'; expected one of paper, exact_match"),
        ("scales/nano.yaml:seeds", [], "seeds is empty"),
        ("scales/nano.yaml:models", {}, "models must name at least one model"),
        ("scales/nano.yaml:models.nano-ar.family", "rnn", "models.nano-ar.family is 'rnn'"),
        (
            "scales/nano.yaml:models.nano-ar.files",
            {"x": "ar"},
            "models.nano-ar.files is 'x'; expected one of ar, masked",
        ),
        ("scales/nano.yaml:datasets.people.methods", {"x": {}}, "datasets.people is 'x'"),
        ("scales/nano.yaml:cores", True, "cores is True; expected int"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_field(tmp_path: Path, place: str, value: object, message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        small_recipes(tmp_path, {place: value})
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("tables/table5.yaml:methods", ["ar", "magic"], "methods: unknown 'magic'"),
        ("tables/table5.yaml:claims", ["magic"], "claims: unknown 'magic'"),
        ("tables/table5.yaml:published", "table99", "published: unknown 'table99'"),
        ("tables/table5.yaml:panels.people.dataset", 3, "panels.people: dataset is 3; expected str"),
        ("tables/table5.yaml:scales", ["smol"], "does not exist at scale nano; use --scale smol"),
        ("tables/table5.yaml:panels", None, "panels must name at least one panel"),
    ],
)
def test_a_mistake_in_a_table_is_named(tmp_path: Path, place: str, value: object, message: str) -> None:
    recipes = small_recipes(tmp_path, {place: value})
    with pytest.raises(ConfigurationError) as error:
        recipes.table("table5")
    assert message in str(error.value)


def test_what_is_not_there_is_told_with_what_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no recipes in .*--recipes"):
        read_recipes(tmp_path / "nowhere", "nano")
    recipes = small_recipes(tmp_path)
    with pytest.raises(ConfigurationError, match="table 'table6': expected one of table5"):
        recipes.table("table6")
    with pytest.raises(ConfigurationError, match="scale 'huge': expected one of nano"):
        read_recipes(tmp_path, "huge")
    (tmp_path / "methods.yaml").write_text("ar: [", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"methods.yaml: not valid YAML"):
        read_recipes(tmp_path, "nano")


@pytest.mark.parametrize("scale", ["nano", "smol", "paper"])
def test_every_table_of_the_repository_reads_and_has_runs(scale: str) -> None:
    recipes = read_recipes(RECIPES, scale)
    read = 0
    for name in table_names(RECIPES):
        try:
            table = recipes.table(name)
        except ConfigurationError as error:
            assert "does not exist at scale" in str(error)
            continue
        runs = table_runs(recipes, table, {}, Path("data"))
        read += 1
        assert len({run.name for run in runs}) == len(runs)
        assert all("{data_dir}" not in str(run.options) for run in runs)
    assert read >= 4


def test_the_published_figures_are_shares() -> None:
    published = read_recipes(RECIPES, "paper").published
    rows = [
        figures
        for table in ("table1", "table2", "table5")
        for methods in published[table].values()
        for panels in methods.values()
        for figures in panels.values()
    ]
    assert len(rows) > 100 and all(len(each) == 2 and all(0 <= value <= 1 for value in each) for each in rows)
    assert published["table5"]["Llama-3.1-8B"]["masked"]["wiki"] == [0.98, 0.93]
