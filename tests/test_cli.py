"""The command line: help, and one line with status 2 for each thing a user can get wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kinject import cli, recipe
from kinject._version import __version__
from kinject.objectives import measured_settings


def fails(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Run the command line, expect status 2, and return what it said."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(argv)
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in ("inject", "ask", "eval", "table"))


def test_eval_reads_documents_of_several_paths_and_fields_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kinject import measurement

    (tmp_path / "a.csv").write_text("Inhalt;Nr\nMira Dorn keeps the lighthouse of Vell.;1\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text("Inhalt;Nr\nTom Bell runs the mill of Oster.;2\n", encoding="utf-8")
    (tmp_path / "q.csv").write_text("Frage;Antwort\nWho runs the mill of Oster?;Tom Bell\n", encoding="utf-8")
    asked: list[Any] = []
    monkeypatch.setattr(measurement, "evaluate_model", asked.append)
    paths = [str(tmp_path / "a.csv"), str(tmp_path / "[b].csv")]
    fields = ["--text_field", "inhalt", "--question_field", "frage", "--answer_field", "antwort"]
    cli.main(["eval", "m", "--documents", *paths, "--questions", str(tmp_path / "q.csv"), *fields])
    name, (question,) = measurement._load_questions(asked[0])
    assert (name, question.answer, question.direction) == (f"a+{tmp_path.name}", "Tom Bell", "backward")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"kinject {__version__}\n"


def test_all_options_are_listed_without_documents(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["inject", "--all_options", "--objective", "ar"])
    shown = capsys.readouterr().out
    assert shown.startswith("usage: kinject inject DOCUMENTS") and "--frame {chat,raw}" in shown
    assert f"[default: {measured_settings('ar')['num_train_epochs']}]" in shown.split("--num_train_epochs FLOAT")[1]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["inject", "docs", "--objective", "maskd"], "unknown objective 'maskd'; expected one of masked, random_token"),
        (["inject", "--model", "m"], "no documents; give a file"),
        (["inject", "docs", "--config", "none.yaml"], "--config none.yaml: no such file"),
        (["eval", "m"], "nothing to ask; pass --questions"),
    ],
)
def test_user_errors_take_one_line(capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    said = fails(capsys, *argv)
    assert said.startswith(f"error: {message}") and said.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["teach"], "invalid choice: 'teach'"),
        (["ask", "model"], "the following arguments are required: QUESTION"),
        (["ask", "model", "Who?", "--nope"], "unrecognized arguments: --nope"),
        (["table", "run", "--answers", "few"], "invalid int value: 'few'"),
    ],
)
def test_wrong_usage_is_explained(capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    assert message in fails(capsys, *argv)


def test_inject_passes_every_option_on_to_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[Any] = []
    monkeypatch.setattr(recipe, "train", lambda *given: passed.append(given))
    cli.main(["inject", "docs", "--model", "m", "--output_dir", "out", "--learning_rate", "1e-4", "--use_peft"])
    objective, options, defaults = passed.pop()
    assert objective == "masked" and defaults == measured_settings("masked")
    assert dict(zip(options[:6:2], options[1:6:2], strict=True)) == {
        "--documents": "docs",
        "--model_name_or_path": "m",
        "--output_dir": "out",
    }
    assert options[6:] == ["--learning_rate", "1e-4", "--use_peft"]
    cli.main(["inject", "--config", "run.yaml", "--objective", "ar"])
    assert passed.pop() == ("ar", ["--config", "run.yaml"], None)


def test_the_base_of_a_run_is_read_from_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds no adapter_config.json or results.json" in fails(capsys, "ask", str(tmp_path), "Who?", "--base")
    (tmp_path / "results.json").write_text(json.dumps({"model": "org/model"}))
    assert cli.base_of(str(tmp_path)) == "org/model"
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    assert cli.base_of(str(tmp_path)) == "org/base"
