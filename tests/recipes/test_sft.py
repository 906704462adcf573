"""Fine-tuning on questions with answers: every configuration parses, and both objectives take their first steps."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from kinject.commands.options import find_objective
from kinject.commands.recipe import parse
from kinject.errors import ConfigurationError, DataError
from kinject.models import load_model

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
    with pytest.raises(
        DataError, match=r"rows.jsonl:1: no field 'problem'; it has question, answer\. Name the right one"
    ):
        sft.load_rows(sft.RowArguments(rows=str(rows(tmp_path)), prompt_field="problem"))
    with pytest.raises(DataError, match="there is no such file"):
        sft.load_rows(sft.RowArguments(rows=str(tmp_path / "none.jsonl")))
    with pytest.raises(DataError, match="user/none: cannot be loaded"):
        sft.load_rows(sft.RowArguments(rows="user/none"))
    assert sft.load_rows(sft.RowArguments(rows=str(rows(tmp_path)), text_field="answer")).column_names == [
        "text",
        "read_from",
    ]


ASKED = "Who keeps the lighthouse?"
CHAT = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": "Mira Dorn"}]


@pytest.mark.parametrize(
    ("row", "options"),
    [
        ({"messages": CHAT}, {}),
        ({"prompt": ASKED, "completion": "Mira Dorn"}, {}),
        ({"prompt": CHAT[:1], "completion": CHAT[1:]}, {}),
        ({"question": ASKED, "answer": " Mira Dorn\n", "meta": {"a": [1, {"b": None}]}}, {}),
        ({"Question": ASKED, "Answer": "Mira Dorn"}, {}),
        ({"problem": ASKED, "Solution ": "Mira Dorn"}, {"prompt_field": "problem", "completion_field": "solution"}),
        (
            {"prompt": "x", "completion": "y", "q": ASKED, "a": "Mira Dorn"},
            {"prompt_field": "q", "completion_field": "a"},
        ),
        ({"instruction": ASKED, "input": "", "output": "Mira Dorn"}, {}),
        ({"conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": "Mira Dorn"}]}, {}),
    ],
)
def test_rows_of_every_form_are_read(
    sft: ModuleType, tmp_path: Path, row: dict[str, object], options: dict[str, str]
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert sft.load_rows(sft.RowArguments(rows=str(path), **options)).to_list() == [
        {"messages": CHAT, "read_from": f"{path}:1"}
    ]


def test_rows_in_a_spreadsheet(sft: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"Question; Answer\n{ASKED};Mira Dorn\n", encoding="utf-16")
    assert sft.load_rows(sft.RowArguments(rows=str(path))).to_list() == [{"messages": CHAT, "read_from": f"{path}:2"}]


def test_all_faults_of_a_file_are_told_with_their_lines(sft: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    bad: list[object] = [
        {"question": ASKED, "answer": ""},
        {"question": ASKED, "answer": ["a", "b"]},
        "text",
        {"body": "x"},
    ]
    path.write_text("\n".join(map(json.dumps, [{"messages": CHAT}, *bad])), encoding="utf-8")
    with pytest.raises(DataError) as error:
        sft.load_rows(sft.RowArguments(rows=str(path)))
    starts = [
        "2: the answer ('answer') is empty; write it, or delete the row.",
        "3: 'answer' is a list of texts, expected one text or messages such as ",
        "4: the row is a string, expected an object with named fields.",
        "5: no field 'question'; it has body. Name the right one with --prompt_field, --completion_field or --text_field.",
    ]
    assert len(error.value.faults) == len(starts)
    for fault, start in zip(error.value.faults, starts, strict=True):
        assert fault.startswith(f"{path}:{start}")


def test_rows_of_the_hub(sft: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    loaded = datasets.Dataset.from_list([{"problem": ASKED, "solution": "Mira Dorn", "level": 1}] * 2)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: loaded)
    named = {"prompt_field": "problem", "completion_field": "solution"}
    assert sft.load_rows(sft.RowArguments(rows="user/rows", **named)).to_list() == [{"messages": CHAT}] * 2
    with pytest.raises(DataError, match="user/rows row 1: no field 'question'; it has problem, solution, level"):
        sft.load_rows(sft.RowArguments(rows="user/rows"))
