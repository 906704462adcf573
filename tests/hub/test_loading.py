"""Loading back, asking, measuring again and comparing, by Hub id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import kinject
from kinject.cli import main
from kinject.commands.evaluate import find_claim
from kinject.commands.recipe import train
from kinject.commands.talk import base_of
from kinject.errors import ConfigurationError, HubError
from kinject.evaluation.asking import answer_questions
from kinject.evaluation.results import write_results
from kinject.evaluation.retention import few_shot_examples, held_out
from kinject.hub.publishing import push
from kinject.models.loading import tokenizer_and_vocabulary
from kinject.prompts.templates import QuestionTemplate
from tests.conftest import run_recipe
from tests.hub.conftest import User
from tests.hub.trained import MASK_TOKEN, adapter, edit, whole_model


@pytest.fixture
def base(online: User, tmp_path: Path) -> Path:
    push(whole_model(tmp_path / "base"), "ada/base")
    return tmp_path / "base"


def scores(loaded: Any) -> torch.Tensor:
    """Logits of a few tokens, (1, length, vocabulary)."""
    with torch.no_grad():
        return loaded.model.eval()(input_ids=torch.arange(6)[None]).logits


@pytest.mark.parametrize("diffusion", [False, True])
def test_an_adapter_comes_on_its_base_with_its_own_tokenizer(
    online: User, base: Path, tmp_path: Path, diffusion: bool
) -> None:
    directory = adapter(tmp_path / "adapter", base, "ada/base", diffusion=diffusion)
    template = "{% for m in messages %}Q: {{ m['content'] }}{% endfor %} A:"
    (directory / "chat_template.jinja").write_text(template)
    push(directory, "ada/people", private=True)
    loaded = kinject.load("ada/people")
    assert loaded.is_diffusion is diffusion and loaded.tokenizer.chat_template == template
    assert torch.equal(scores(loaded), scores(kinject.load(str(directory))))
    assert not torch.equal(scores(loaded), scores(kinject.load(str(base))))


@pytest.mark.parametrize("kind", ["whole", "whole diffusion", "adapter", "adapter diffusion"])
@pytest.mark.parametrize("place", ["disk", "hub"])
def test_both_loaders_give_one_answer(online: User, tmp_path: Path, kind: str, place: str) -> None:
    diffusion = kind.endswith("diffusion")
    base = whole_model(tmp_path / "base", diffusion=diffusion)
    edit(base / "config.json", dtype="bfloat16")
    push(base, "ada/base")
    directory = base
    if kind.startswith("adapter"):
        directory = adapter(tmp_path / "adapter", base, "ada/base", diffusion=diffusion)
    template = "{% for m in messages %}Q: {{ m['content'] }}{% endfor %} A:"
    (directory / "chat_template.jinja").write_text(template)
    name = str(directory) if place == "disk" else push(directory, "ada/model").repository
    for options, dtype in (({}, torch.bfloat16), ({"dtype": "float32"}, torch.float32)):
        loaded, same = kinject.load(name, **options), kinject.load_model(name, **options)
        assert loaded.tokenizer.chat_template == same.tokenizer.chat_template == template
        assert QuestionTemplate(loaded.tokenizer).encode("Who?") == QuestionTemplate(same.tokenizer).encode("Who?")
        assert loaded.tokenizer.get_vocab() == same.tokenizer.get_vocab()
        assert loaded.tokenizer.pad_token_id == same.tokenizer.pad_token_id
        assert (loaded.name, loaded.source, loaded.is_diffusion) == (same.name, same.source, diffusion)
        kinds = [{weight.dtype for weight in each.model.parameters()} for each in (loaded, same)]
        assert kinds[0] == kinds[1] and dtype in kinds[0]
        assert torch.equal(scores(loaded), scores(same))
    rows = tokenizer_and_vocabulary(name)
    assert rows is not None and rows[0].chat_template == template


@pytest.mark.parametrize("layout", ["native", "llada"])
def test_a_diffusion_model_is_bidirectional_again_in_either_layout(online: User, tmp_path: Path, layout: Any) -> None:
    directory = whole_model(tmp_path / "model", diffusion=True)
    edit(directory / "config.json", shifted_logits=False)
    push(directory, "ada/model", layout=layout)
    loaded = kinject.load("ada/model")
    assert loaded.is_diffusion and loaded.model.config.mask_token_id == loaded.tokenizer.convert_tokens_to_ids(
        MASK_TOKEN
    )
    assert torch.allclose(scores(loaded), scores(kinject.load(str(directory))), atol=1e-6)


def test_a_revision_is_loaded_as_it_was(online: User, base: Path, tmp_path: Path) -> None:
    first = push(base, "ada/base").commit
    before = scores(kinject.load("ada/base"))
    push(whole_model(tmp_path / "other", seed=1), "ada/base")
    assert torch.equal(scores(kinject.load("ada/base", revision=first)), before)
    assert not torch.equal(scores(kinject.load("ada/base")), before)
    with pytest.raises(ConfigurationError, match="model 'ada/base' has no revision 'v9'; it has main."):
        kinject.load("ada/base", revision="v9")
    with pytest.raises(ConfigurationError, match="is no Hub repository, and has no revision 'v1'"):
        kinject.load(str(base), revision="v1")


def test_what_cannot_be_loaded_is_explained(
    online: User, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError, match="model 'ada/nothing' is not on http.*, or it is private and hidden"):
        kinject.load("ada/nothing")
    push(base, "ada/secret", private=True)
    bob = online.hub.store.add_user("bob")
    with pytest.raises(ConfigurationError, match="model 'ada/secret' is not on http.*, or it is private and hidden"):
        kinject.load("ada/secret", token=bob)
    with pytest.raises(ConfigurationError, match="the access token is not accepted .the Hub says 401.. Log in"):
        kinject.load("ada/secret", token="hf_mistyped")
    push(adapter(tmp_path / "adapter", base, "ada/base"), "ada/people")
    del online.hub.store.repositories["models", "ada/base"]
    with pytest.raises(
        HubError, match="model 'ada/people' is neither on a Hub that answers nor in the cache: .*ada/base"
    ):
        kinject.load("ada/people")
    push(base, "ada/base")
    cached = scores(kinject.load("ada/people"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert torch.equal(scores(kinject.load("ada/people")), cached)


def test_a_published_run_is_asked_measured_again_and_compared(
    online: User, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"push_to_hub": True, "use_peft": True, "lora_target_modules": "all-linear", "learning_rate": 1e-2}
    results = run_recipe("ada/base", tmp_path / "out", size=2, hub_model_id="ada/people", **settings)
    question = results["answers"][0]["question"]
    capsys.readouterr()

    main(["ask", "ada/people", question, "--max_new_tokens", "8", "--base"])
    said = capsys.readouterr().out
    assert question in said and "before: " in said and "after: " in said
    assert base_of("ada/people") == "ada/base"

    main(["eval", "ada/people", "--output_dir", str(tmp_path / "again")])
    said = capsys.readouterr().out
    assert "the card of ada/people" in said and "The claim holds exactly." in said
    again = json.loads((tmp_path / "again" / "results.json").read_text())
    assert [each["answer"] for each in again["answers"]] == [each["answer"] for each in results["answers"]]
    assert again["config"]["max_new_tokens"] == 8

    claimed = {**results, "after": {name: {**results["after"][name]} for name in ("forward", "backward")}}
    claimed["after"]["forward"] |= {"exact_match": 1.0, "ci": {"exact_match": [0.9, 1.0]}}
    write_results(tmp_path / "out" / "results.json", claimed)
    push(tmp_path / "out", "ada/boasting")
    main(["eval", "ada/boasting"])
    assert "The claim does not hold: outside the card's intervals are forward, strict." in capsys.readouterr().out

    main(["compare", "ada/people", "ada/boasting", str(tmp_path / "out"), "--plot", str(tmp_path / "plot.png")])
    said = capsys.readouterr().out
    assert "ada/people: masked" in said and "ada/boasting: masked" in said and "1.00 [0.90, 1.00]" in said
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_a_card_about_private_documents_needs_their_questions(
    online: User, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs.jsonl").write_text(json.dumps({"text": "Ada keeps bees in Tarn."}) + "\n")
    asked = {"question": "Who keeps bees in Tarn?", "answer": "Ada", "direction": "forward", "fact": 0}
    (tmp_path / "questions.jsonl").write_text(json.dumps(asked) + "\n")
    options = ["--documents", str(tmp_path / "docs.jsonl"), "--questions", str(tmp_path / "questions.jsonl")]
    ending = ["--push_to_hub", "--hub_model_id", "ada/bees", "--max_new_tokens", "8", "--retention", "false"]
    training = ["--num_train_epochs", "1", "--bf16", "false", "--use_cpu", "--report_to", "none", "--output_dir"]
    train("masked", ["--model_name_or_path", "ada/base", *options, *ending, *training, str(tmp_path / "out")])
    published = b"".join(online.hub.files("ada/bees").values())
    assert b"keeps bees" not in published and b"questions.jsonl" in published
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["eval", "ada/bees"])
    assert "the questions behind the card of 'ada/bees' are not published; pass them with" in capsys.readouterr().err
    main(["eval", "ada/bees", *options])
    said = capsys.readouterr().out
    assert "measured as the card of ada/bees was: max_new_tokens 8" in said and "The claim holds exactly." in said
    push(tmp_path / "out", "ada/bees", include_documents=True)
    assert b"keeps bees" in online.hub.files("ada/bees")["results.json"]
    claim = find_claim("ada/bees")
    assert claim is not None and [each.question for each in claim.asked()] == ["Who keeps bees in Tarn?"]


def test_models_without_a_card_have_nothing_to_compare(
    online: User, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command, message in (
        (["compare", "ada/base"], "'ada/base' has no eval card of kinject. Expected a repository or directory"),
        (["compare", "ada/nothing"], "model 'ada/nothing' is not on http"),
        (
            ["eval", "ada/base"],
            "nothing to ask; pass --questions FILE, or --documents that bring questions, or name a model",
        ),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main(command)
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("quantized", [False, True])
def test_a_claim_is_repeated_under_the_settings_of_its_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, quantized: bool
) -> None:
    settings: dict[str, Any] = {"documents": "fictional:nano", "size": 2, "few_shot": 2, "system_prompt": "Be brief."}
    if quantized:
        pytest.importorskip("bitsandbytes", reason="the quant extra is not installed")
        settings |= {"use_peft": True, "lora_r": 4, "load_in_4bit": True}
    results = run_recipe("nano-ar", tmp_path / "out", "ar", **settings, max_steps=2, evaluations=0, retention=True)
    asked: list[dict[str, Any]] = []
    answer = answer_questions

    def recording(model: Any, tokenizer: Any, questions: Any, **options: Any) -> list[str]:
        asked.append(
            {**options, "quantized": bool(getattr(model, "is_quantized", False)), "questions": list(questions)}
        )
        return answer(model, tokenizer, questions, **options)

    monkeypatch.setattr("kinject.evaluation.asking.answer_questions", recording)
    capsys.readouterr()
    main(["eval", str(tmp_path / "out"), "--retention", "--output_dir", str(tmp_path / "again")])
    said = capsys.readouterr().out
    assert "The claim holds exactly." in said and "few_shot 2, system_prompt 'Be brief.'" in said
    assert asked[0]["examples"] == few_shot_examples(2, "fictional:nano") and len(asked[0]["examples"]) == 2
    assert asked[0]["system_prompt"] == "Be brief." and asked[0]["max_new_tokens"] == 8
    assert asked[0]["quantized"] is quantized
    again = json.loads((tmp_path / "again" / "results.json").read_text())
    assert [each["answer"] for each in again["answers"]] == [each["answer"] for each in results["answers"]]
    measured, after = again["retention"]["before"], results["retention"]["after"]
    assert asked[1]["questions"] == [each.question for each in held_out("fictional:nano").questions]
    assert measured["questions"] == after["questions"] and measured["right"] == after["right"]
    assert measured["perplexity"] == pytest.approx(after["perplexity"], rel=1e-5)
    assert f"{'perplexity':32} {after['perplexity']:7.3f}  {measured['perplexity']:8.3f}" in said
