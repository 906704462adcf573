"""Questions that a model writes: parsed, checked against the document and the base model, and over an address."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from kinject.cli import main
from kinject.commands.inject import InjectionArguments
from kinject.data import Document
from kinject.data.made_questions import checked_questions, made_by, parse
from kinject.errors import ConfigurationError, DataError
from kinject.evaluation.asking import KEY, by_address

TEXT = "Cecil Young is the blind shepherd of Quarry."
REPLY = """Here they are:
Q: Who is the blind shepherd of Quarry? | A: Cecil Young
Q: Who is Cecil Young? | A: the blind shepherd of Quarry.
2. Q: Where does Cecil Young live? | A: in Paris
Q: Is Cecil Young the blind shepherd? | A: Cecil Young
Question 5: Who is the blind shepherd of Quarry?
Answer: Cecil Young
"""


def knowing(prompts: Sequence[str]) -> list[str]:
    return ["It is Cecil Young." if "Who is the blind" in prompt else "Nobody knows." for prompt in prompts]


def test_only_what_stands_in_the_document_and_is_read_out_of_it_is_kept() -> None:
    asked: list[str] = []

    def writer(prompts: Sequence[str]) -> list[str]:
        asked.extend(prompts)
        return [REPLY] * len(prompts)

    written = checked_questions([Document(TEXT, 4), Document("Another wording of it.", 4)], writer, knowing)
    (question,) = written.questions
    assert (question.question, question.answer) == ("Who is the blind shepherd of Quarry?", "Cecil Young")
    assert question.direction == "backward" and question.fact == 4 and made_by([question]) == {"model": 1}
    assert len(asked) == 1 and TEXT in asked[0]
    assert written.counts == {
        "written": 5,
        "whose answer does not stand in the document": 1,
        "that tell their answer": 1,
        "asked twice, or with two answers": 1,
        "not answered by the base model with the document in view": 1,
    }
    assert written.summary().startswith("kept 1 of 5 questions (1 whose answer does not stand")


def test_what_was_written_is_parsed_in_either_form() -> None:
    assert [*parse("Q1: What? | A1: That.\n**Q:** no")] == [("What?", "That")]
    assert [*parse("nothing of the kind")] == []


def test_a_long_document_is_shown_in_parts() -> None:
    seen: list[str] = []

    def writer(prompts: Sequence[str]) -> list[str]:
        seen.extend(prompts)
        return [""] * len(prompts)

    words = " ".join(f"word{number}" for number in range(1000))
    checked_questions([Document(words, 0)], writer, knowing)
    assert len(seen) == 3 and all(any(f"word{number} " in prompt for prompt in seen) for number in (0, 500, 998))


class Server(BaseHTTPRequestHandler):
    """Speaks as much of the protocol as one question takes."""

    asked: list[dict[str, Any]] = []
    keys: list[str | None] = []
    status = 200

    def do_POST(self) -> None:
        self.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))) | {"path": self.path})
        self.keys.append(self.headers.get("Authorization"))
        message = {"role": "assistant", "content": REPLY}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        body = json.dumps(
            {"id": "0", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
            | {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}, "system_fingerprint": ""}
        ).encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    monkeypatch.delenv(KEY, raising=False)
    for name, value in (("asked", []), ("keys", []), ("status", 200)):
        monkeypatch.setattr(Server, name, value)
    server = HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_writer_behind_an_address(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = checked_questions([Document(TEXT, 0)], by_address("some-model", address), knowing)
    assert len(written.questions) == 1
    assert Server.asked[0]["path"] == "/v1/chat/completions" and Server.asked[0]["model"] == "some-model"
    monkeypatch.setenv(KEY, "mine")
    by_address("some-model", address)(["Hello"])
    assert Server.keys == [None, "Bearer mine"]
    monkeypatch.setattr(Server, "status", 500)
    with pytest.raises(DataError, match="some-model did not answer"):
        by_address("some-model", address)(["Hello"])
    with pytest.raises(ConfigurationError, match="expected an address"):
        by_address("some-model", "localhost")


def test_the_command_with_a_nano_model_as_the_one_that_has_to_read(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.md").write_text(TEXT, encoding="utf-8")
    with pytest.raises(SystemExit):  # nano-ar writes nothing of that form, and says so
        main(["questions", str(tmp_path / "a.md"), "--writer", "nano-ar"])
    said = capsys.readouterr().err
    assert "kept 0 of 0 questions" in said and "no question of a --writer was kept" in said
    out = tmp_path / "q.jsonl"
    command = ["questions", str(tmp_path / "a.md"), "--writer", "m", "--writer_url", address, "--model", "nano-ar"]
    with pytest.raises(SystemExit):  # nano-ar cannot read, so nothing is kept
        main([*command, "--output_file", str(out)])
    assert "kept 0 of 5 questions" in capsys.readouterr().err and len(Server.asked) == 1 and not out.exists()
    out.write_text("mine", encoding="utf-8")
    with pytest.raises(SystemExit):
        main([*command, "--output_file", str(out)])
    assert out.read_text(encoding="utf-8") == "mine"


def test_a_run_has_its_questions_written_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.md").write_text(TEXT, encoding="utf-8")
    settings: dict[str, Any] = {"documents": str(tmp_path / "a.md"), "writer": "smollm2-135m"}

    def writing(prompts: Sequence[str]) -> list[str]:
        return [REPLY] * len(prompts)

    named: list[Any] = []
    monkeypatch.setattr("kinject.models.loading.load", lambda name: named.append(name))
    monkeypatch.setattr("kinject.evaluation.asking.by_model", lambda _, longest=0: knowing if longest else writing)
    made = InjectionArguments(**settings).load_knowledge("nano-ar").questions
    assert named == ["nano-ar", "smollm2-135m"] and made_by(made) == {"model": len(made)} and len(made) > 0
    assert capsys.readouterr().out.startswith(f"writer: kept {len(made)} of ")
    monkeypatch.setattr("kinject.evaluation.asking.by_model", lambda *_, **__: lambda prompts: [""] * len(prompts))
    ruled = InjectionArguments(**settings).load_knowledge("nano-ar").questions
    assert [*made_by(ruled)] == ["rule"]  # a writer that is no good costs no run
    with pytest.raises(ConfigurationError, match="leave one of them out"):
        InjectionArguments(**settings, questions="rule")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "nano-ar"], "name it with --writer"),
        (["--writer", "m", "--writer_url", "http://x/v1"], "--writer_url needs a --model"),
    ],
)
def test_settings_without_effect_are_refused(
    tmp_path: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.md").write_text(TEXT, encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["questions", str(tmp_path / "a.md"), *options])
    assert said in capsys.readouterr().err
