"""What a push puts on the Hub, and what it does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from safetensors.torch import load_file, save_file

import kinject
from kinject.cli import build_parser, main, run_app
from kinject.errors import ConfigurationError, HubError
from kinject.evaluation.results import write_results
from kinject.hub.publishing import push, push_space, space_files
from kinject.hub.staging import replaceable, tokenizer_files
from tests.hub.conftest import User
from tests.hub.runs import some_run
from tests.hub.trained import adapter, contents, edit, whole_model

TOKENIZER = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
MODEL = {"config.json", "generation_config.json", "model.safetensors"}
ADAPTER = {"adapter_config.json", "adapter_model.safetensors"}


@pytest.fixture
def base(online: User, tmp_path: Path) -> Path:
    """A base model that is on the Hub as `ada/base`."""
    directory = whole_model(tmp_path / "base")
    push(directory, "ada/base")
    return directory


def test_a_whole_model_travels_without_what_training_left(online: User, base: Path) -> None:
    published = online.hub.files("ada/base")
    assert set(published) == MODEL | TOKENIZER
    assert published["model.safetensors"] == (base / "model.safetensors").read_bytes()
    assert not online.hub.store.repositories["models", "ada/base"].private


def test_an_adapter_travels_with_tokenizer_and_diffusion_settings(online: User, base: Path, tmp_path: Path) -> None:
    causal = adapter(tmp_path / "causal", base, "ada/base")
    before = contents(causal)
    pushed = push(causal, "ada/causal", private=True)
    assert set(online.hub.files("ada/causal")) == ADAPTER | TOKENIZER == set(pushed.files)
    assert online.hub.store.repositories["models", "ada/causal"].private
    assert pushed.url == f"{online.hub.endpoint}/ada/causal"
    assert contents(causal) == before
    diffusion = adapter(tmp_path / "diffusion", base, "ada/base", diffusion=True)
    push(diffusion, "ada/diffusion")
    assert json.loads(online.hub.files("ada/diffusion")["diffusion.json"])["shifted_logits"] is True


def test_pushing_again_uploads_nothing_and_makes_no_commit(online: User, base: Path) -> None:
    repository = online.hub.store.repositories["models", "ada/base"]
    commit, uploads = repository.branches["main"], len(online.hub.uploads())
    assert push(base, "ada/base").commit == commit.oid
    assert repository.branches["main"] is commit and len(online.hub.uploads()) == uploads


def test_a_merged_model_replaces_the_adapter(online: User, base: Path, tmp_path: Path) -> None:
    directory = adapter(tmp_path / "adapter", base, "ada/base")
    push(directory, "ada/people")
    api_files = online.hub.store.repositories["models", "ada/people"]
    online.hub.store.apply(api_files, "main", [_commit_of("notes.md", b"by hand")])
    before = contents(tmp_path)
    push(directory, "ada/people", merge=True)
    assert set(online.hub.files("ada/people")) == MODEL | TOKENIZER | {"notes.md"}
    unchanged = {name: content for name, content in contents(tmp_path).items() if not name.startswith("ada/")}
    assert unchanged == {name: content for name, content in before.items() if not name.startswith("ada/")}


def _commit_of(name: str, content: bytes) -> dict[str, object]:
    import base64

    return {"key": "file", "value": {"path": name, "content": base64.b64encode(content).decode()}}


def test_a_diffusion_model_travels_in_either_layout(online: User, tmp_path: Path) -> None:
    directory = whole_model(tmp_path / "diffusion", diffusion=True)
    edit(directory / "config.json", shifted_logits=False)
    push(directory, "ada/native")
    push(directory, "ada/llada", layout="llada")
    native, llada = (json.loads(online.hub.files(f"ada/{name}")["config.json"]) for name in ("native", "llada"))
    assert native["is_causal"] is False and native["mask_token_id"] == llada["mask_token_id"]
    assert llada["model_type"] == "llada"
    assert b"model.transformer.wte" in online.hub.files("ada/llada")["model.safetensors"][:5000]


def test_neither_paths_nor_tokens_are_published(online: User, base: Path) -> None:
    edit(base / "config.json", _name_or_path="/home/ada/models/secret-place/base")
    edit(base / "tokenizer_config.json", special_tokens_map_file="/home/ada/x/special_tokens_map.json", note="</s>")
    push(base, "ada/base")
    published = online.hub.files("ada/base")
    assert json.loads(published["config.json"])["_name_or_path"] == "base"
    assert json.loads(published["tokenizer_config.json"])["note"] == "</s>"
    assert not any(b"/home/ada" in content for content in published.values())
    (base / "README.md").write_text(f"My token is {online.token}.")
    with pytest.raises(ConfigurationError, match="README.md' holds what looks like a Hub access token. Remove it"):
        push(base, "ada/base")
    assert "README.md" not in online.hub.files("ada/base")


def test_a_branch_is_made_where_it_is_missing(online: User, base: Path) -> None:
    edit(base / "generation_config.json", temperature=0.5)
    push(base, "ada/base", revision="draft")
    assert b"0.5" in online.hub.files("ada/base", revision="draft")["generation_config.json"]
    assert b"0.5" not in online.hub.files("ada/base")["generation_config.json"]


def test_an_adapter_of_a_local_base_needs_a_name_for_it(online: User, base: Path, tmp_path: Path) -> None:
    directory = adapter(tmp_path / "adapter", base, str(base))
    with pytest.raises(ConfigurationError, match="base model 'base' is not on .*Name it with --base user/name"):
        push(directory, "ada/people")
    with pytest.raises(ConfigurationError, match="base model 'ada/nowhere' is not on"):
        push(directory, "ada/people", base="ada/nowhere")
    push(directory, "ada/people", base="ada/base")
    published = json.loads(online.hub.files("ada/people")["adapter_config.json"])
    assert published["base_model_name_or_path"] == "ada/base"
    edit(directory / "adapter_config.json", base_model_name_or_path="nano-ar")
    assert "loads with kinject.load, not with peft alone" in push(directory, "ada/people").notes[0]


def test_a_public_repository_is_not_taken_for_a_private_one(online: User, base: Path) -> None:
    with pytest.raises(HubError, match="ada/base is public, and --private was asked for; nothing was uploaded"):
        push(base, "ada/base", private=True)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "holds neither adapter_config.json nor config.json"),
        ("model.safetensors", "lacks model.safetensors. Save the model there again"),
    ],
)
def test_an_incomplete_directory_is_refused_before_anything_is_created(
    online: User, base: Path, missing: str, message: str
) -> None:
    (base / missing).unlink()
    with pytest.raises(ConfigurationError, match=message):
        push(base, "ada/new")
    assert ("models", "ada/new") not in online.hub.store.repositories


@pytest.mark.parametrize(
    ("repository", "options", "message"),
    [
        ("people", {}, "'people' names no repository; expected user/name"),
        ("ada/a/b", {}, "names no repository"),
        ("ada/new", {"merge": True}, "there is nothing to merge. Leave --merge out"),
        ("ada/new", {"base": "ada/base"}, "--base is for adapters"),
        ("ada/new", {"layout": "jax"}, "expected one of native, llada, sdar"),
    ],
)
def test_what_does_not_fit_is_refused(
    online: User, base: Path, repository: str, options: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        push(base, repository, **options)


def logits(directory: Path | str) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = kinject.load(str(directory)).model.eval()(input_ids=torch.arange(40, 60)[None]).logits
    return found


@pytest.mark.parametrize("diffusion", [False, True])
@pytest.mark.parametrize("layout", ["native", "llada"])
def test_an_adapter_on_tied_embeddings_answers_the_same_when_it_is_merged(
    online: User, tmp_path: Path, diffusion: bool, layout: str
) -> None:
    if layout == "llada" and not diffusion:
        pytest.skip("LLaDA's layout holds diffusion models")
    base = whole_model(tmp_path / "base", diffusion=diffusion, tied=True)
    if diffusion:
        edit(base / "config.json", shifted_logits=False)
    push(base, "ada/base")
    assert json.loads(online.hub.files("ada/base")["config.json"])["tie_word_embeddings"]
    directory = adapter(tmp_path / "adapter", base, "ada/base", targets=["embed_tokens", "q_proj"])
    push(directory, "ada/merged", merge=True, layout=layout)  # type: ignore[arg-type]
    torch.testing.assert_close(logits("ada/merged"), logits(directory), atol=1e-5, rtol=0)
    assert (logits(directory) - logits(base)).abs().max() > 0.1


@pytest.mark.parametrize("fault", ["head", "adapter", "nan"])
def test_a_merged_model_that_answers_otherwise_is_refused(
    online: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    base = whole_model(tmp_path / "base", tied=True)
    push(base, "ada/base")
    directory = adapter(tmp_path / "adapter", base, "ada/base", targets=["embed_tokens", "q_proj"])

    def wrongly(model: Any) -> Any:
        if fault == "adapter":  # the base without what was learned
            return model.unload()
        merged = model.merge_and_unload()  # tied: the head gets what the embedding learned
        if fault == "nan":
            merged.model.norm.weight.data[0] = 1e38
        return merged

    monkeypatch.setattr("kinject.models.merge_adapter", wrongly)
    with pytest.raises(ConfigurationError, match="differs from the one that was measured: its logits differ by "):
        push(directory, "ada/merged", merge=True)
    assert online.hub.files("ada/merged") == {}


def test_rounding_to_the_type_of_the_base_is_not_refused(online: User, tmp_path: Path) -> None:
    base = whole_model(tmp_path / "base", tied=True)
    weights = {name: weight.bfloat16() for name, weight in load_file(base / "model.safetensors").items()}
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    edit(base / "config.json", dtype="bfloat16")
    push(base, "ada/base")
    directory = adapter(tmp_path / "adapter", base, "ada/base", targets=["embed_tokens", "q_proj", "down_proj"])
    push(directory, "ada/merged", merge=True)
    assert kinject.load("ada/merged").model.dtype == torch.bfloat16


def test_an_adapter_is_not_published_for_another_base_than_its_own(online: User, base: Path, tmp_path: Path) -> None:
    push(whole_model(tmp_path / "other", seed=1), "ada/other")
    directory = adapter(tmp_path / "adapter", base, str(base))
    write_results(directory / "results.json", some_run())
    with pytest.raises(ConfigurationError, match="was trained on another base than 'ada/other': name that one"):
        push(directory, "ada/people", base="ada/other")
    assert online.hub.files("ada/people") == {}
    push(directory, "ada/people", base="ada/base")
    assert torch.equal(logits("ada/people"), logits(directory))


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_weights_that_are_no_numbers_are_not_published(online: User, base: Path, tmp_path: Path, value: str) -> None:
    for directory in (base, adapter(tmp_path / "adapter", base, "ada/base")):
        (path,) = directory.glob("*model.safetensors")
        weights = load_file(path)
        name = sorted(weights)[-1]
        weights[name].view(-1)[-1] = float(value)
        save_file(weights, path, {"format": "pt"})
        for options in ({}, {"merge": True}) if directory != base else ({},):
            with pytest.raises(ConfigurationError, match=f"not finite numbers .nan or inf., the first in {name}"):
                push(directory, "ada/new", **options)
        with pytest.raises(ConfigurationError, match="has weights that are not finite numbers"):
            kinject.load(str(directory))
    assert ("models", "ada/new") not in online.hub.store.repositories


def test_a_space_shows_a_pushed_model_and_can_be_pushed_again(
    online: User, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["push", str(base), "ada/base", "--space"])
    assert f"{online.hub.endpoint}/spaces/ada/base shows it" in capsys.readouterr().out
    files = online.hub.store.repositories["spaces", "ada/base"].branches["main"].files
    assert {"README.md", "app.py", "requirements.txt", "kinject/cli.py", "kinject/hub/card.md.jinja"} <= set(files)
    assert not any("__pycache__" in name for name in files)
    assert set(online.hub.files("ada/base")) == MODEL | TOKENIZER  # the model is as it was
    content = space_files("ada/base")
    metadata = yaml.safe_load(content["README.md"].decode().split("---")[1])
    assert metadata["sdk"] == "gradio" and metadata["app_file"] == "app.py" and metadata["models"] == ["ada/base"]
    needed = {Requirement(line).name for line in content["requirements.txt"].decode().splitlines()}
    assert {"torch", "transformers", "trl"} <= needed
    called: list[list[str]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kinject.cli.main", called.append)
        exec(compile(content["app.py"], "app.py", "exec"), {})
    assert build_parser().parse_args(called[0]).run is run_app and called[0][:2] == ["app", "ada/base"]
    commit = push_space("ada/base").commit
    assert push_space("ada/base").commit == commit


def test_words_of_tokenizers_of_any_kind_are_published(tmp_path: Path) -> None:
    names = ["merges.txt", "sentencepiece.bpe.model", "spiece.model", "tekken.json", "tokenizer.json", "vocab.json"]
    for name in (*names, "notes.txt", "model.safetensors", "trainer_state.json"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    assert sorted(tokenizer_files(tmp_path)) == names
    assert all(map(replaceable, names)) and not replaceable("notes.txt")
