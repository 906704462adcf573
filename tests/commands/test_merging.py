"""Adapters of several runs: listed, merged, one removed, and such as cannot be merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from kinject.cli import main
from kinject.commands.merging import listing, merge, parts_of
from kinject.commands.recipe import train
from kinject.errors import ConfigurationError
from kinject.models.adapters import adapter_config
from kinject.models.loading import load
from tests.conftest import build_model, build_tokenizer


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs on the nano model, of ranks 4 and 2."""
    folder = tmp_path_factory.mktemp("runs")
    for name, rank, text in (
        ("one", 4, "Cecil Young is the blind shepherd of Quarry."),
        ("two", 2, "Maren Clifton is the kindly judge of Hollow."),
    ):
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
        train(
            "masked",
            [str(folder / f"{name}.md"), "--model", "nano-ar", "--output_dir", str(folder / name)]
            + ["--use_peft", "--lora_r", str(rank), "--lora_target_modules", "all-linear", "--learning_rate", "1e-3"]
            + ["--num_train_epochs", "8", "--evaluations", "0", "--max_new_tokens", "12", "--retention", "false"],
        )
    return folder


def change(model: Any) -> torch.Tensor:
    """By how much the adapter moves the logits of a prompt."""
    ids = torch.arange(10, 20)[None]
    model.eval()  # without dropout
    with torch.no_grad():
        with model.disable_adapter():
            before = model(input_ids=ids).logits
        return model(input_ids=ids).logits - before


def test_adapters_are_listed_merged_and_one_is_removed(
    adapters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two, both = str(adapters / "one"), str(adapters / "two"), tmp_path / "both"
    main(["merge", one, two])
    shown = capsys.readouterr().out
    assert "one: rank 4 on nano-ar; 1 documents" in shown and "two: rank 2" in shown and not both.exists()
    main(["merge", one, two, "--output_dir", str(both)])
    assert "merged" in capsys.readouterr().out
    config = adapter_config(str(both))
    assert config is not None and config["r"] == 6 and config["base_model_name_or_path"] == "nano-ar"
    results = json.loads((both / "results.json").read_text(encoding="utf-8"))
    assert set(results["parts"]) == {"one", "two"} and results["parts"]["one"]["merged"]["forward"]["n"] > 0
    assert {each["document"] for each in results["learned"]} == {0, 1}
    assert {each["document"] for each in results["answers"]} == {0, 1}
    assert [part.name for part in parts_of(str(both))] == ["one", "two"]
    less = merge([str(both)], str(tmp_path / "less"), remove=["one"])
    assert [part.name for part in less.parts] == ["two"] and "one: rank 4 on nano-ar; removed" in listing(less)
    assert set(less.scores) == {"one", "two"}
    # What is left is the adapter that it was.
    torch.testing.assert_close(
        change(load(str(tmp_path / "less")).model), change(load(two).model), atol=1e-4, rtol=1e-4
    )


def test_a_merged_adapter_is_the_sum_of_its_parts(adapters: Path, tmp_path: Path) -> None:
    paths = [str(adapters / name) for name in ("one", "two")]
    merge(paths, str(tmp_path / "both"), weights=[1.0, 0.5])
    merged, one, two = (load(path).model.merge_and_unload() for path in (str(tmp_path / "both"), *paths))
    base = load("nano-ar").model
    for name, weight in base.named_parameters():
        expected = one.get_parameter(name) + 0.5 * (two.get_parameter(name) - weight)
        torch.testing.assert_close(merged.get_parameter(name), expected, atol=1e-5, rtol=1e-4)


def test_a_merged_adapter_learns_on(adapters: Path, tmp_path: Path) -> None:
    merge([str(adapters / "one"), str(adapters / "two")], str(tmp_path / "both"))
    (tmp_path / "new.md").write_text("Asher Hadley is the brave diver of Aspen.", encoding="utf-8")
    results = train(
        "masked",
        [str(tmp_path / "new.md"), "--model", str(tmp_path / "both"), "--keep", "--output_dir", str(tmp_path / "on")]
        + ["--num_train_epochs", "1", "--evaluations", "0", "--max_new_tokens", "8", "--retention", "false"],
    )
    assert results["kept"]["documents"] == 2 and results["config"]["lora_r"] == 6


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ({"base_model_name_or_path": "a/b"}, {}, "one was trained on nano-ar, other on a/b"),
        ({"revision": "v2"}, {}, "one was trained on nano-ar, other on nano-ar at v2"),
        ({"peft_type": "IA3"}, {}, "other is an adapter of the kind IA3"),
        ({"modules_to_save": ["lm_head"]}, {}, "other holds whole modules .lm_head"),
        ({}, {"combination": "linear"}, "of equal rank, and these have one 4, other 2; take cat or svd"),
        ({}, {"combination": "mean"}, "combination is 'mean'; expected one of cat"),
        ({}, {"weights": [1.0]}, "--weights names 1, and 2 adapters"),
        ({}, {"remove": ["three"]}, "--remove three: no such adapter is here; there are one, other"),
        ({}, {"remove": ["one", "other"]}, "leaves no adapter"),
    ],
)
def test_what_cannot_be_merged_is_named(
    adapters: Path, tmp_path: Path, changes: dict[str, Any], options: dict[str, Any], said: str
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    config = json.loads((adapters / "two" / "adapter_config.json").read_text(encoding="utf-8"))
    (other / "adapter_config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=said):
        merge([str(adapters / "one"), str(other)], str(tmp_path / "both"), **options)
    assert not (tmp_path / "both").exists()


def test_a_whole_model_and_one_name_twice_are_no_adapters(adapters: Path, tmp_path: Path) -> None:
    build_model(build_tokenizer()).save_pretrained(tmp_path / "whole")
    with pytest.raises(ConfigurationError, match="holds no adapter"):
        merge([str(adapters / "one"), str(tmp_path / "whole")])
    with pytest.raises(ConfigurationError, match="two adapters are called one"):
        merge([str(adapters / "one"), str(adapters / "one")])
