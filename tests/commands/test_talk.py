"""Questions of a command line, a file or a pipe, and conversations: what is kept between turns, and what ends them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from kinject import cli
from kinject.commands.talk import Conversation, converse, typed_questions
from kinject.errors import ConfigurationError, DataError


def test_questions_come_from_the_line_a_file_or_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "questions.txt"
    file.write_bytes("\ufeffWho?\r\n\r\n  Wo? \n".encode())
    monkeypatch.setattr("sys.stdin", io.StringIO("When?\n\nWhy?\n"))
    assert typed_questions(["First?"], str(file)) == ["First?", "Who?", "Wo?"]
    assert typed_questions(["-"], None) == ["When?", "Why?"]
    monkeypatch.setattr("sys.stdin", io.StringIO("When?"))
    assert typed_questions(["First?", "-"], None) == ["First?", "When?"]
    with pytest.raises(ConfigurationError, match="no questions; give some"):
        typed_questions([], "-")  # all is read
    with pytest.raises(DataError, match=r"gone\.txt: cannot be read"):
        typed_questions([], str(tmp_path / "gone.txt"))
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8"):
        typed_questions([], str(file))


@pytest.fixture(scope="module")
def nano() -> Any:
    from kinject.models import load_model

    return load_model("nano-ar")


def test_a_conversation_keeps_its_turns_until_a_new_one(nano: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from kinject.evaluation import asking

    seen: list[tuple[str, list[Any]]] = []

    def answer(model: Any, tokenizer: Any, questions: list[str], **options: Any) -> list[str]:
        seen.append((questions[0], list(options["examples"])))
        return [f"{questions[0]}!"]

    monkeypatch.setattr(asking, "answer_questions", answer)
    loads: list[int] = []

    def load_base() -> Any:
        loads.append(1)
        return nano

    shown: list[str] = []
    lines = ["one", "", "/base", "two", "three", "/base", "four", "/new", "five", "/what", "/quit", "six"]
    converse(Conversation(nano, load_base), lines, shown.append)
    said = [line for line in shown if line.endswith("!")]
    assert said == ["one!", "before: two!", "after: two!", "before: three!", "after: three!", "four!", "five!"]
    assert len(loads) == 1 and seen[-1] == ("five", [])
    assert seen[-2] == ("four", [(text, f"{text}!") for text in ("one", "two", "three")])
    assert seen[3] == ("three", [("two", "two!")])  # the base does not know what was said before it was asked
    assert any(line.startswith("/what is no command") for line in shown)


def test_what_is_too_long_is_explained_and_the_talk_goes_on(nano: Any) -> None:
    shown: list[str] = []
    converse(Conversation(nano, lambda: nano, max_new_tokens=4), ["word " * 3000, "Who is Asher Hadley?"], shown.append)
    assert shown[0].startswith("error: the longest question takes") and "/new" in shown[0]
    assert len(shown) == 2 and not shown[1].startswith("error")


def test_chat_and_ask_read_what_is_piped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Who is Asher Hadley?\nWho is Asher Hadley?\n"))
    cli.main(["ask", "nano-ar", "--max_new_tokens", "6"])
    asked = capsys.readouterr().out.split("\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("Who is Asher Hadley?\n"))
    cli.main(["chat", "nano-ar", "--max_new_tokens", "6"])
    assert asked[0] == "Who is Asher Hadley?" and asked[1] == asked[3] != ""
    assert asked[1].removeprefix("  answer: ") == capsys.readouterr().out.strip()
