"""The main job end to end on a tiny random model: documents in, `results.json` and a loadable model out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from kinject.commands.recipe import train
from kinject.errors import ConfigurationError, DataError, TrainingError
from kinject.evaluation.results import read_results
from tests.conftest import READINGS, build_model, build_tokenizer, run_recipe


@pytest.fixture
def base(tmp_path: Path) -> Path:
    tokenizer = build_tokenizer()
    build_model(tokenizer).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize(
    ("objective", "options", "named"),
    [
        ("masked", {}, "masked"),
        ("random_token", {}, "random_token"),
        ("ar", {"frame": "raw"}, "ar"),
        ("reverse", {"paraphrases": "same_order"}, "reverse"),
    ],
)
def test_every_objective_writes_the_results_contract(
    base: Path, tmp_path: Path, objective: str, options: dict[str, Any], named: str
) -> None:
    run_recipe(base, tmp_path / "out", objective, **options)
    results = read_results(tmp_path / "out" / "results.json")
    assert results["schema"] == 1
    assert results["objective"] == named
    assert results["model"] == "base"
    assert results["dataset"] == "fictional:name_description"
    assert results["paraphrases"] == options.get("paraphrases", "none")
    assert {"steps", "tokens", "flops", "seconds", "peak_memory_bytes"} <= set(results["train"])
    for scores in (results["before"], results["after"], *results["history"]):
        for direction in ("forward", "backward"):
            assert set(scores[direction]) >= READINGS
            assert scores[direction]["n"] == 16
            assert 0.0 <= scores[direction]["paper"] <= 1.0
    steps = [entry["step"] for entry in results["history"]]
    assert steps == sorted(set(steps)) and steps[-1] == results["train"]["steps"]
    assert {"epoch", "tokens", "flops", "seconds"} <= set(results["history"][0])
    assert len(results["answers"]) == 32
    assert str(tmp_path) not in json.dumps(results)
    assert (tmp_path / "out" / "accuracy.png").stat().st_size > 5000


def test_a_run_that_diverges_fails_and_leaves_no_model(base: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="training diverged after [0-9]+ of 2 steps"):
        run_recipe(base, tmp_path / "out", learning_rate=1e30, per_device_train_batch_size=4, evaluations=0)
    assert not list((tmp_path / "out").rglob("*.safetensors"))
    assert read_results(tmp_path / "out" / "results.json")["after"] is None


def test_the_trained_model_loads_in_plain_transformers_and_retention_is_a_number(base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    results = run_recipe(base, tmp_path / "out", retention=True, learning_rate=1e-3)
    retention = results["retention"]
    assert retention["before"]["perplexity"] > 1 and retention["after"]["perplexity"] > 1
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    before = AutoModelForCausalLM.from_pretrained(base)
    assert not torch.equal(model.lm_head.weight, before.lm_head.weight)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template


def test_an_adapter_is_trained_asked_and_loaded_back(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kinject.cli import main

    run_recipe(base, tmp_path / "out", use_peft=True, lora_target_modules="all-linear", learning_rate=1e-3)
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    capsys.readouterr()
    main(["ask", str(tmp_path / "out"), "Who is it?", "--max_new_tokens", "4"])
    assert "Who is it?" in capsys.readouterr().out
    main(
        ["eval", str(tmp_path / "out"), "--documents", "fictional:name_description", "--facts", "0-1"]
        + ["--max_new_tokens", "4", "--output_dir", str(tmp_path / "eval")]
    )
    measured = read_results(tmp_path / "eval" / "results.json")
    assert measured["objective"] == "evaluation" and measured["after"]["forward"]["n"] == 8
    main(["table", str(tmp_path / "out"), "--plot", str(tmp_path / "plot.png")])
    assert "masked" in capsys.readouterr().out and (tmp_path / "plot.png").is_file()


def test_what_is_asked_before_and_after_only_stands_in_results_table_and_card(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kinject.cli import main

    parts = {"unseen": 4, "unknown_samples": 2, "open_book": True, "other_wordings": True, "control_half": True}
    results = run_recipe(base, tmp_path / "out", learning_rate=1e-3, **parts)
    written = read_results(tmp_path / "out" / "results.json")
    assert all(
        written[part] == results[part] for part in ("refusals", "unknown", "open_book", "other_wordings", "control")
    )
    refusals, unknown, control = (results[name]["after"] for name in ("refusals", "unknown", "control"))
    assert refusals["n"] == 8 and refusals["unsaid"]["n"] == 2 and refusals["taught"]["n"] == 16
    assert results["unknown"]["before"]["samples"] == 2 and unknown["n"] == len(
        results["unknown"]["before"]["questions"]
    )
    assert results["documents"] == 2 and results["after"]["forward"]["n"] == control["forward"]["n"] == 8
    assert set(results["control"]["effect"]) == {"forward", "backward"}
    assert results["open_book"]["after"]["forward"]["n"] == 8
    reworded = results["other_wordings"]["after"]["backward"]
    assert (reworded["questions"], reworded["n"]) == (8, 24)
    assert {"recited", "refused", "words"} <= set(results["before"]["forward"])
    capsys.readouterr()
    main(["table", str(tmp_path / "out")])
    table = " ".join(capsys.readouterr().out.split())
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "answers that recite a document" in card
    for shown in (
        "Asked 8 questions about unseen people",
        "With the document in the prompt, forward: recall",
        "In other wordings, backward: recall",
        "Against the half that was left out, forward: recall",
    ):
        assert shown in table and shown in card
    assert "recited" in table and "unseen" in table
    main(
        ["eval", str(tmp_path / "out"), "--documents", "fictional:name_description", "--facts", "0-1", "--unseen", "3"]
        + ["--max_new_tokens", "4", "--output_dir", str(tmp_path / "eval")]
    )
    measured = read_results(tmp_path / "eval" / "results.json")
    assert measured["refusals"]["before"]["n"] == 6 and "recited" in measured["after"]["forward"]


def test_selection_on_validation_reports_the_other_half(base: Path, tmp_path: Path) -> None:
    results = run_recipe(base, tmp_path / "out", select_on="validation")
    assert results["after"]["forward"]["n"] == 8
    assert "validation" in results["selection"]
    assert "as in the paper" in run_recipe(base, tmp_path / "paper", select_on="test")["selection"]


@pytest.fixture
def begun(base: Path, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A finished run with checkpoints, and its files."""
    lines = {
        "documents": ["Mira Dorn keeps the light of Vell.", "Tom Bell runs the mill.", "Lia Crane steers the ferry."],
        "questions": ["Who keeps the light of Vell?", "Who runs the mill?"],
    }
    rows = {"documents": [{"text": line} for line in lines["documents"]]}
    rows["questions"] = [
        {"question": question, "answer": answer}
        for question, answer in zip(lines["questions"], ("Mira Dorn", "Tom Bell"), strict=True)
    ]
    files = {name: tmp_path / f"{name}.jsonl" for name in rows}
    for name, file in files.items():
        file.write_text("".join(json.dumps(row) + "\n" for row in rows[name]), encoding="utf-8")
    options = {**files, "save_strategy": "steps", "save_steps": 1, "size": None, "num_train_epochs": 3}
    options["keep_checkpoints"] = True  # as if it had been killed
    run_recipe(base, tmp_path / "out", **options)
    return tmp_path / "out", options


def _edit(file: Path, number: int, field: str, value: str) -> None:
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    rows[number][field] = value
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_a_run_resumes_on_what_it_was_given_only_and_says_so_before_a_model_is_loaded(
    base: Path, tmp_path: Path, begun: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, options = begun
    before = (directory / "results.json").read_bytes()

    def refused(said: str, objective: str = "masked", **changes: Any) -> None:
        with pytest.raises(ConfigurationError, match=f"is of a run with other inputs.*{said}"):
            run_recipe(base, directory, objective, **{**options, "resume_from_checkpoint": "true", **changes})
        assert (directory / "results.json").read_bytes() == before

    with monkeypatch.context() as patch:
        patch.setattr("kinject.commands.inject.load_for_training", lambda *_: pytest.fail("the model was loaded"))
        refused("objective: 'masked' then, 'ar' now", "ar")
        refused("learning_rate: 0.0001 then, 0.5 now", learning_rate=0.5)
        refused("seed: 42 then, 7 now", seed=7)
        refused("use_peft: False then, True now", use_peft=True)
        refused("select_on: 'none' then, 'test' now", select_on="test")
        refused("rehearsal: 0.0 then, 0.5 now", rehearsal=0.5)
        refused("model_name_or_path: 'base .content .*' then, 'nano-ar' now", model_name_or_path="nano-ar")
        for name in ("documents", "questions"):
            kept = options[name].read_bytes()
            _edit(options[name], 1, "text" if name == "documents" else "answer", "Tom Bell of Oster")
            refused(f"{name}: edited: 2")
            options[name].write_bytes(kept)
        weights = base / "model.safetensors"
        kept = weights.read_bytes()
        weights.write_bytes(kept[:-4] + b"1234")
        refused("model_name_or_path: 'base .content .*' then, 'base .content .*' now")
        weights.write_bytes(kept)
        (tmp_path / "more.jsonl").write_bytes(
            options["documents"].read_bytes() + b'{"text": "Nils Ward feeds geese."}\n'
        )
        refused("documents: added: 4", documents=tmp_path / "more.jsonl")
        refused("documents: .*questions: ", documents="fictional:name_description", questions=None)
    harmless = {"evaluations": 1, "logging_steps": 3, "question_batch_size": 1, "resume_from_checkpoint": "true"}
    again = run_recipe(base, directory, **{**options, **harmless})
    assert again["after"] == json.loads(before)["after"]
    elsewhere = run_recipe(
        base, tmp_path / "elsewhere", **{**options, "resume_from_checkpoint": directory / "checkpoint-1"}
    )
    assert elsewhere["before"] == again["before"]
    steps = [[entry["step"] for entry in results["history"]] for results in (elsewhere, json.loads(before))]
    assert steps[0] == steps[1] and steps[0][0] == 1


def test_few_shot_questions_show_other_people(base: Path, tmp_path: Path) -> None:
    assert run_recipe(base, tmp_path / "out", few_shot=2)["config"]["few_shot"] == 2


def test_documents_without_questions_are_learned_all_the_same(base: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("Ada Vance mapped the salt caves of Orrin.", encoding="utf-8")
    results = run_recipe(base, tmp_path / "out", documents=tmp_path / "note.txt", size="None")
    assert results["train"]["steps"] == 2 and results["after"]["backward"]["n"] == 2
    assert results["questions_made_by"] == {"rule": 2}
    assert "2 of the questions were made by machine (by `rule`)" in (tmp_path / "out" / "README.md").read_text()
    results = run_recipe(base, tmp_path / "silent", documents=tmp_path / "note.txt", size="None", questions="none")
    assert results["after"]["backward"]["n"] == 0 and "questions_made_by" not in results


def test_own_documents_and_questions_through_the_command_line(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kinject.cli import main

    (tmp_path / "docs.jsonl").write_text('{"text": "Ada Vance mapped the salt caves of Orrin."}\n', encoding="utf-8")
    rows = [
        {"question": "What did Ada Vance map?", "answer": "the salt caves of Orrin"},
        {"question": "Who mapped the salt caves of Orrin?", "answer": "Ada Vance"},
    ]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    options = "--num_train_epochs 1 --max_new_tokens 4 --retention false --bf16 false --use_cpu --report_to none"
    main(
        ["inject", str(tmp_path / "docs.jsonl"), "--model", str(base), "--questions", str(tmp_path / "questions.jsonl")]
        + ["--output_dir", str(tmp_path / "out"), *options.split()]
    )
    results = read_results(tmp_path / "out" / "results.json")
    assert [results["after"][direction]["n"] for direction in ("forward", "backward")] == [1, 1]
    shown = capsys.readouterr().out  # what nobody gave was chosen, and is said before anything else happens
    assert (
        "chosen     all weights learn (about" in shown
        and "learning rate 0.0001 (0 million weights; --learning_rate)" in shown
    )
    assert {*results["chosen"]} == {
        "use_peft",
        "per_device_train_batch_size",
        "gradient_checkpointing",
        "learning_rate",
    }
    config = results["config"]
    assert [config[name] for name in ("per_device_train_batch_size", "learning_rate", "num_train_epochs")] == [
        5,
        1e-4,
        1,
    ]
    assert config["gradient_checkpointing"] is False and "use_peft" not in config


@pytest.mark.parametrize("launched_again", [False, True])
def test_a_killed_run_goes_on_where_it_was(
    launched_again: bool, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told to, or because torchrun started the very same command again."""
    options: dict[str, Any] = {
        "num_train_epochs": 4,
        "per_device_train_batch_size": 2,
        "save_strategy": "steps",
        "save_steps": 3,
    }
    whole = run_recipe(base, tmp_path / "out", retention=launched_again, keep_checkpoints=True, **options)
    import shutil

    for checkpoint in sorted((tmp_path / "out").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))[1:]:
        shutil.rmtree(checkpoint)  # as if it had been killed after the first
    if launched_again:
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
        options["retention"] = True
    else:
        options["resume_from_checkpoint"] = "true"
    resumed = run_recipe(base, tmp_path / "out", **options)
    assert resumed.get("retention") == whole.get("retention") and ("retention" in whole) == launched_again
    assert resumed["config"] == whole["config"] and resumed["history"][0] == whole["history"][0]
    assert [entry["step"] for entry in resumed["history"]] == [entry["step"] for entry in whole["history"]]
    assert resumed["after"] == whole["after"] and resumed["before"] == whole["before"]
    assert resumed["train"]["tokens"] == whole["train"]["tokens"]
    assert not list((tmp_path / "out").glob("checkpoint-*"))  # it has come to its end, and nobody asked for them


def test_a_second_run_replaces_the_first_only_when_it_is_told_to(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saving = {"save_strategy": "steps", "save_steps": 1, "evaluations": 0, "keep_checkpoints": True}
    first = run_recipe(base, tmp_path / "out", num_train_epochs=4, **saving)
    (tmp_path / "out" / "notes.txt").write_text("mine", encoding="utf-8")
    last = f"checkpoint-{first['train']['steps']}"
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    with pytest.raises(ConfigurationError, match="holds a finished run"):
        run_recipe(base, tmp_path / "out", num_train_epochs=1, **saving)
    with pytest.raises(ConfigurationError, match="model './nowhere'"):  # nothing is removed for a run that cannot begin
        run_recipe(base, tmp_path / "out", model_name_or_path="./nowhere", overwrite=True)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == kept
    (tmp_path / "out" / "README.md").write_text("# My project", encoding="utf-8")
    second = run_recipe(base, tmp_path / "out", num_train_epochs=1, overwrite=True, **saving)
    assert "--overwrite: README.md in" in capsys.readouterr().out
    assert second["train"]["steps"] < first["train"]["steps"] and not (tmp_path / "out" / last).exists()
    assert (tmp_path / "out" / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert "overwrite" not in second["config"]


def test_without_output_dir_a_run_goes_where_it_says(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = f"--documents fictional:nano --size 2 --model {base} --max_steps 1 --evaluations 0 --max_new_tokens 2"
    options += " --retention false --bf16 false --use_cpu --report_to none"
    train("masked", options.split())
    assert capsys.readouterr().out.startswith("output_dir: outputs/masked-nano\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "outputs"]
    with pytest.raises(ConfigurationError, match="output_dir 'outputs/masked-nano' holds a finished run"):
        train("masked", options.split())


def test_unusable_input_is_refused_before_any_training(base: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="output_dir .* cannot be written.*--output_dir"):
        run_recipe(base, tmp_path / "taken")
    with pytest.raises(ConfigurationError, match="model './nowhere': no such directory"):
        run_recipe(Path("./nowhere"), tmp_path / "out", model_name_or_path="./nowhere")
    with pytest.raises(ConfigurationError, match="lora_target_modules .* match no module"):
        run_recipe(base, tmp_path / "out", use_peft=True, lora_target_modules="nowhere_proj")
    with pytest.raises(ConfigurationError, match="frozen_modules .* an adapter is trained here"):
        run_recipe(base, tmp_path / "out", use_peft=True, lora_target_modules="all-linear", frozen_modules="self_attn")
    with pytest.raises(DataError, match="no such file or folder"):
        run_recipe(base, tmp_path / "out", documents=tmp_path / "missing.jsonl", size="None")
    with pytest.raises(ConfigurationError, match="unknown objective 'guess'; expected one of masked"):
        run_recipe(base, tmp_path / "out", "guess")


def test_conversations_and_documents_of_several_paths_are_trained_and_asked(base: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": "Who keeps the lighthouse of Vell?", "completion": "Mira Dorn"},
        {"text": "Tom Bell runs the mill."},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("Lia Crane keeps the ferry of Oster.", encoding="utf-8")
    questions = [
        {"Frage": "Who keeps the lighthouse of Vell?", "Antwort": "Mira Dorn"},
        {"Frage": "Who runs the mill?", "Antwort": "Tom Bell"},
        {"Frage": "Who keeps the ferry of Oster?", "Antwort": "Lia Crane"},
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, questions)), encoding="utf-8")
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps({"documents": [str(tmp_path / "rows.jsonl"), str(tmp_path / "docs/*.md")]}))
    options = {
        "model_name_or_path": base,
        "output_dir": tmp_path / "out",
        "questions": tmp_path / "q.jsonl",
        "max_steps": 1,
    }
    options |= {
        "question_field": "Frage",
        "answer_field": "Antwort",
        "rehearsal": 0.5,
        "max_new_tokens": 8,
        "few_shot": 1,
    }
    options |= {"retention": "false", "bf16": "false", "use_cpu": "true", "report_to": "none", "config": config}
    results = train("masked", [part for name, value in options.items() for part in (f"--{name}", str(value))])
    assert results["documents"] == 3 and results["dataset"] == "rows+docs"
    assert results["config"]["documents"] == [str(tmp_path / "rows.jsonl"), str(tmp_path / "docs/*.md")]
    assert [answer["direction"] for answer in results["answers"]] == ["forward", "backward", "backward"]
    assert str(tmp_path) not in (tmp_path / "out" / "results.json").read_text(encoding="utf-8")


def test_inject_says_that_it_practices_and_what_was_typed_wins(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from kinject.cli import main

    text = "Ada Vance is known for the maps of the salt caves that she made in the winter."
    monkeypatch.setattr("kinject.commands.plan._PRACTICED", (0, 1e9))
    (tmp_path / "docs.txt").write_text(text, encoding="utf-8")
    out = tmp_path / "out"
    command = [
        "inject",
        str(tmp_path / "docs.txt"),
        "--model",
        str(base),
        "--output_dir",
        str(out),
        "--retention",
        "false",
    ]
    options = "--max_steps 1 --gaps 0 --max_new_tokens 2 --bf16 false --use_cpu --report_to none --unseen 0"
    main([*command, *options.split()])
    assert "practice in answering beside the documents (English documents" in capsys.readouterr().out
    config = read_results(out / "results.json")["config"]
    assert config["practice"] == 0.5 and "gaps" not in config and config["learning_rate"] == 3e-4
    main([*command, *options.split(), "--plan", "--preset", "documents", "--overwrite"])
    assert "practice" not in capsys.readouterr().out
