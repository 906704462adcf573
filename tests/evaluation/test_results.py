"""results.json: complete or absent, checked field by field, and free of local paths and tokens."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest

from kinject.errors import ConfigurationError, DataError, KinjectError, exit_on_user_error
from kinject.evaluation.results import new_results, public_config, public_name, read_results, versions, write_results
from kinject.hub.card_metadata import code, fenced, redacted
from kinject.hub.staging import public_content

CELL = {"paper": 0.5, "exact_match": 0.25, "f1": 0.3, "n": 4}
SCORES = {"forward": CELL, "backward": CELL, "groups": {}}


def some_results(**extra: Any) -> dict[str, Any]:
    results = new_results(
        objective="masked",
        model="org/name",
        dataset="fictional:biography",
        paraphrases="none",
        seed=3,
        config={"lr": 1e-4},
    )
    amounts = {"epoch": 1.0, "tokens": 10, "flops": 1e9, "seconds": 2.0}
    results["history"] = [{"step": 1, **amounts, **SCORES}, {"step": 2, **amounts, **SCORES}]
    return {**results, "before": SCORES, "after": SCORES, **extra}


def test_written_results_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "results.json"
    write_results(path, some_results(note="ünï"))
    assert read_results(path) == read_results(path.parent)
    read = read_results(path)
    assert read["schema"] == 1 and read["note"] == "ünï" and read["history"][1]["forward"] == CELL
    assert os.listdir(path.parent) == ["results.json"]


def test_new_results_are_valid_at_once(tmp_path: Path) -> None:
    write_results(tmp_path / "results.json", new_results(objective="ar", model="m", dataset="d"))
    assert read_results(tmp_path)["before"] is None


def test_a_failed_write_keeps_the_last_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    write_results(path, some_results())
    before = path.read_text()
    with pytest.raises(DataError, match=r"after\.forward\.paper"):
        write_results(path, some_results(after={**SCORES, "forward": {**CELL, "paper": 1.5}}))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigurationError, match="No space left"):
        write_results(path, some_results(seed=4))
    assert path.read_text() == before
    assert os.listdir(tmp_path) == ["results.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema: expected 1"),
        ({"objective": None}, "objective: expected a text"),
        ({"seed": "0"}, "seed: expected a whole number"),
        ({"history": {}}, "history: expected a list"),
        ({"history": [{"step": 1}]}, r"history\[0\]\.epoch"),
        ({"before": {"forward": CELL}}, r"before\.backward: expected scores"),
        ({"before": {**SCORES, "backward": {**CELL, "n": -1}}}, r"before\.backward\.n: expected a count"),
        ({"train": {"steps": 1}}, r"train\.tokens"),
    ],
)
def test_each_wrong_field_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps({**some_results(), **change}))
    with pytest.raises(DataError, match=message):
        read_results(path)


def test_history_goes_forward(tmp_path: Path) -> None:
    results = copy.deepcopy(some_results())
    results["history"].reverse()
    with pytest.raises(DataError, match=r"history\[1\]\.step"):
        write_results(tmp_path / "results.json", results)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_results(tmp_path)
    path = tmp_path / "results.json"
    path.write_text('{"schema": 1,\n oops}')
    with pytest.raises(DataError, match="line 2"):
        read_results(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not JSON"):
        read_results(path)
    path.write_text("[]")
    with pytest.raises(DataError, match="expected an object"):
        read_results(path)


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KinjectError, match="cannot be written"):
        write_results(tmp_path / "file" / "results.json", some_results())


class Color(Enum):
    RED = "red"


@dataclass
class Settings:
    output_dir: Path = Path("/home/ada/outputs/run")
    hub_token: str | None = "hf_abcdefghijklmnop"
    learning_rate: float = 1e-4
    max_new_tokens: int = 128
    mask_token: str = "<reserved_0>"
    nested: Any = None


@pytest.mark.parametrize(
    "token",
    [
        "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZabcdefgh",
        "hf_abcdefghijklmnop",
        "hf_a1b2c3d4",
        "api_org_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZabcdefgh",
        "hf_oauth_eyJhbGciOiJFZERTQSJ9.eyJzY29wZSI6WyJ3cml0ZSJdfQ.c2lnbmF0dXJl-x_y",
        "hf_jwt_eyJhbGciOiJFZERTQSJ9.e30.c2ln",
    ],
)
@pytest.mark.parametrize("around", ["{}", "https://ada:{}@huggingface.co/x", "HF_TOKEN={}", "my_{} is mine"])
def test_every_kind_of_access_token_is_seen_by_all_that_must_not_tell_it(
    token: str, around: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = around.format(token)
    assert public_config({"note": text, "names": [text]}) == {"names": []}
    for shown in (code(text), fenced(text), redacted(text)):
        assert token not in shown and token[-8:] not in shown
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(ConfigurationError, match="holds what looks like a Hub access token"):
        public_content("README.md", tmp_path / "README.md")
    with pytest.raises(SystemExit), exit_on_user_error():
        raise ConfigurationError(text)
    assert token[-8:] not in capsys.readouterr().err


def test_names_that_only_begin_like_a_token_are_published(tmp_path: Path) -> None:
    text = "Install hf_transfer, call hf_hub_download(hf_tokenizer), or set HF_TOKEN; see shf_abcdefghijklmnopqrst."
    (tmp_path / "README.md").write_text(text)
    assert public_content("README.md", tmp_path / "README.md") is None
    assert redacted(text) == text


def test_config_is_free_of_secrets_and_local_paths() -> None:
    config = public_config(
        {
            "hub_token": "x",
            "push_to_hub_token": "x",
            "token": "x",
            "wandb_api_key": "x",
            "apiKey": "x",
            "secrets": ["x"],
            "note": "uses hf_abcdefghijklmnop",
            "names": ["a", "hf_abcdefghijklmnop"],
            "max_new_tokens": 64,
            "mask_token": "<m>",
            "pad_token": "</s>",
            "num_tokens": 3,
            "tokenizer": "t",
            "output_dir": "/home/ada/outputs/run/",
            "relative": "outputs/run",
            "url": "https://example.org/a/b",
            "command": "train --data /home/ada/x.json --n 3 --m=/srv/models/llama",
            "windows": "C:\\Users\\ada\\x.json",
            "home": "~/x/y",
            "system_prompt": "/no_think",
            "path": PurePosixPath("/srv/data/x"),
            "list": ("/srv/data/x", 1),
            "loss": float("nan"),
            "color": Color.RED,
            "settings": Settings(nested={"key": "x", "a": np.float32(0.5)}),
            "function": len,
        }
    )
    assert config == {
        "names": ["a"],
        "max_new_tokens": 64,
        "mask_token": "<m>",
        "pad_token": "</s>",
        "num_tokens": 3,
        "tokenizer": "t",
        "output_dir": "run",
        "relative": "outputs/run",
        "url": "https://example.org/a/b",
        "command": "train --data x.json --n 3 --m=llama",
        "windows": "x.json",
        "home": "y",
        "system_prompt": "/no_think",
        "path": "x",
        "list": ["x", 1],
        "loss": None,
        "color": "red",
        "settings": {
            "output_dir": "run",
            "learning_rate": 1e-4,
            "max_new_tokens": 128,
            "mask_token": "<reserved_0>",
            "nested": {"a": 0.5},
        },
        "function": "len",
    }
    json.dumps(config, allow_nan=False)


def test_a_model_is_never_a_local_path(tmp_path: Path) -> None:
    assert public_name("org/name") == "org/name"
    assert public_name("outputs/demo") == "outputs/demo"
    assert public_name("/home/ada/models/llama/") == "llama"
    assert public_name("~/models/llama") == "llama"
    assert public_name("../llama") == "llama"
    assert public_name("C:\\models\\llama") == "llama"
    assert public_name("/root/.cache/huggingface/hub/models--org--name/snapshots/0a1b2c") == "org/name"
    write_results(
        tmp_path / "results.json", some_results(model="/home/ada/llama", dataset=str(tmp_path / "facts.json"))
    )
    text = (tmp_path / "results.json").read_text()
    assert "/home" not in text and str(tmp_path) not in text
    assert read_results(tmp_path)["dataset"] == "facts.json"


def test_versions_name_the_packages_a_result_depends_on() -> None:
    assert {"python", "kinject", "torch", "transformers", "trl"} <= set(versions())
