"""`--push_to_hub` of the recipes: pushed with its card at the end, and a Hub that fails costs no training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kinject.errors import ConfigurationError, HubError
from kinject.evaluation.results import read_results
from kinject.hub.publishing import push
from tests.conftest import run_recipe
from tests.hub.conftest import User
from tests.hub.trained import whole_model

PUBLISHED = {
    "README.md",
    "results.json",
    "accuracy.png",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
}
ADAPTER = {"adapter_config.json", "adapter_model.safetensors"}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


@pytest.fixture
def base(online: User, tmp_path: Path) -> str:
    push(whole_model(tmp_path / "base"), "ada/base")
    return "ada/base"


def run(base: str, output_dir: Path, objective: str = "masked", **options: Any) -> dict[str, Any]:
    peft = {"use_peft": True, "lora_target_modules": "all-linear"}
    settings = {"push_to_hub": True, "hub_model_id": "ada/people", "evaluations": 1, "size": 2, "num_train_epochs": 1}
    return run_recipe(base, output_dir, objective, **{**peft, **settings, **options})


def test_a_run_ends_on_the_hub_with_its_card(online: User, base: str, tmp_path: Path) -> None:
    results = run(base, tmp_path / "out", hub_private_repo=True, save_strategy="epoch", num_train_epochs=2)
    published = online.hub.files("ada/people")
    assert set(published) == PUBLISHED | ADAPTER
    repository = online.hub.store.repositories["models", "ada/people"]
    titles = [commit.title for commit in repository.branches["main"].history()]
    assert titles[0] == "End of training" and "Training in progress, step 2" in titles
    assert repository.private
    assert published["adapter_model.safetensors"] == (tmp_path / "out" / "adapter_model.safetensors").read_bytes()
    assert json.loads(published["results.json"])["after"] == results["after"]
    assert "answers" not in json.loads(published["results.json"])
    assert len(read_results(tmp_path / "out")["answers"]) > 0
    assert b"ada/people" in published["README.md"] and str(tmp_path).encode() not in b"".join(published.values())


def test_a_diffusion_run_tells_the_hub_that_it_is_one(online: User, base: str, tmp_path: Path) -> None:
    run(base, tmp_path / "out", "diffusion", to_diffusion=True, hub_model_id="people")
    published = online.hub.files("ada/people")
    assert set(published) == PUBLISHED | ADAPTER | {"diffusion.json"}


def test_a_hub_that_breaks_during_the_run_costs_no_training(
    online: User, base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    online.hub.fail("POST .*/commit/", status=500, message="Internal error", times=None)
    with pytest.raises(HubError, match="the Hub failed, .* To resume, run: kinject push .*/out ada/people$"):
        run(base, tmp_path / "out", save_strategy="epoch")
    assert "warning: the Hub failed" in capsys.readouterr().out
    assert read_results(tmp_path / "out")["after"] is not None
    online.hub.faults.clear()
    push(tmp_path / "out", "ada/people")
    assert set(online.hub.files("ada/people")) == PUBLISHED | ADAPTER


def test_a_hub_that_is_down_at_the_start_is_asked_again_at_the_end(
    online: User, base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    online.hub.fail("POST /api/repos/create", status=503, message="Back soon")
    run(base, tmp_path / "out")
    assert "Training goes on; the model is pushed later." in capsys.readouterr().out
    assert set(online.hub.files("ada/people")) == PUBLISHED | ADAPTER


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hub_model_id": "bob/people"}, "may not write to bob/people .* Nothing was trained yet"),
        ({"hub_strategy": "all_checkpoints"}, "hub_strategy 'all_checkpoints' would publish optimizer states"),
        ({"config": "hub_token: hf_mistyped"}, "the access token is not accepted"),
    ],
)
def test_what_cannot_be_pushed_is_not_trained(
    online: User, base: str, tmp_path: Path, options: dict[str, str], message: str
) -> None:
    if "config" in options:  # where a token may stand, unlike on the command line
        (tmp_path / "settings.yaml").write_text(options["config"], encoding="utf-8")
        options = {"config": str(tmp_path / "settings.yaml")}
    with pytest.raises((ConfigurationError, HubError), match=message):
        run(base, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "results.json").exists()
