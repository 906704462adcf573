"""The main job with masked diffusion models: documents in, `results.json` and a model that answers the same out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kinject.cli import main
from kinject.errors import ConfigurationError
from kinject.evaluation.results import read_results
from kinject.models import load_model
from kinject.models.diffusion import is_diffusion, to_diffusion
from tests.conftest import READINGS, build_model, build_tokenizer, run_recipe


@pytest.fixture
def causal(tmp_path: Path) -> Path:
    tokenizer = build_tokenizer()
    build_model(tokenizer).save_pretrained(tmp_path / "causal")
    tokenizer.save_pretrained(tmp_path / "causal")
    return tmp_path / "causal"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    tokenizer = build_tokenizer()
    model = to_diffusion(build_model(tokenizer), int(tokenizer.convert_tokens_to_ids("<reserved_0>")))
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize("sampling", ["fast", "published"])
def test_a_diffusion_model_writes_the_results_contract(base: Path, tmp_path: Path, sampling: str) -> None:
    run_recipe(base, tmp_path / "out", "diffusion", sampling=sampling, learning_rate=1e-3)
    results = read_results(tmp_path / "out" / "results.json")
    assert (results["objective"], results["model"], results["schema"]) == ("diffusion", "base", 1)
    for scores in (results["before"], results["after"], *results["history"]):
        for direction in ("forward", "backward"):
            assert set(scores[direction]) >= READINGS and scores[direction]["n"] == 16
    assert results["train"]["tokens"] > 0 and results["train"]["flops"] > results["train"]["tokens"]
    assert len(results["answers"]) == 32 and str(tmp_path) not in json.dumps(results)
    assert is_diffusion(load_model(str(tmp_path / "out")).model)


def test_an_ar_model_is_turned_trained_as_an_adapter_asked_and_loaded_back(
    causal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"to_diffusion": True, "use_peft": True, "lora_target_modules": "all-linear", "learning_rate": 1e-2}
    options |= {"retention": True, "retention_questions": 20, "unseen": 4, "unknown_samples": 2}
    results = run_recipe(causal, tmp_path / "out", "diffusion", select_on="test", **options)
    assert results["refusals"]["after"]["n"] == 8 and results["unknown"]["before"]["samples"] == 2
    assert results["config"]["to_diffusion"] is True
    assert results["retention"]["before"]["perplexity"] > results["retention"]["after"]["perplexity"] > 1
    world = ["--documents", "fictional:name_description", "--facts", "0-3", "--max_new_tokens", "8"]
    main(["eval", str(tmp_path / "out"), *world, "--output_dir", str(tmp_path / "eval")])
    measured = read_results(tmp_path / "eval" / "results.json")
    assert [each["question"] for each in measured["answers"]] == [each["question"] for each in results["answers"]]
    assert [each["answer"] for each in measured["answers"]] == [each["answer"] for each in results["answers"]]
    capsys.readouterr()
    question = results["answers"][0]["question"]
    main(["ask", str(tmp_path / "out"), question, "--max_new_tokens", "8"])
    assert results["answers"][0]["answer"][:20] in capsys.readouterr().out


def test_eval_takes_the_published_algorithm(base: Path, tmp_path: Path) -> None:
    (tmp_path / "questions.jsonl").write_text('{"question": "Who?", "answer": "Ada", "direction": "forward"}\n')
    asked = [
        "eval",
        str(base),
        "--questions",
        str(tmp_path / "questions.jsonl"),
        "--output_dir",
        str(tmp_path / "eval"),
    ]
    main([*asked, "--sampling", "published", "--max_new_tokens", "8", "--sampling_steps", "4", "--block_length", "8"])
    config = read_results(tmp_path / "eval" / "results.json")["config"]
    assert (config["sampling"], config["sampling_steps"], config["block_length"]) == ("published", 4, 8)


def test_a_model_of_the_wrong_kind_is_refused(base: Path, causal: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"is causal .*--to_diffusion"):
        run_recipe(causal, tmp_path / "out", "diffusion")
    with pytest.raises(ConfigurationError, match=r"masked diffusion model.*--objective diffusion"):
        run_recipe(base, tmp_path / "out", "masked")
    with pytest.raises(ConfigurationError, match="expected a multiple of block_length 4"):
        run_recipe(base, tmp_path / "out", "diffusion", sampling="published", max_new_tokens=10)
