"""Questions that a model writes: parsed, checked against the document and the base model, and over an address."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from kinject.cli import main
from kinject.commands.inject import InjectionArguments
from kinject.data import Document
from kinject.data.made_questions import KEY, by_address, checked_questions, made_by, parse
from kinject.errors import ConfigurationError, DataError

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


class Faulty(Server):
    """Answers each request with the next of its replies: a status, a type and a body."""

    replies: list[tuple[int, str, str]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status, kind, body = self.replies.pop(0)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())


def said(content: str | None) -> tuple[int, str, str]:
    return 200, "application/json", json.dumps({"choices": [{"message": {"content": content}}]})


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv(KEY, "sk-secret")
    monkeypatch.setattr(Faulty, "replies", [])
    server = HTTPServer(("127.0.0.1", 0), Faulty)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "reply", "message"),
    [
        (
            "/v1",
            (401, "text/plain", "wrong key sk-secret"),
            f"(401: wrong key <{KEY}>). Set the environment variable {KEY}",
        ),
        (
            "/v1",
            (404, "application/json", '{"error": "no model m"}'),
            "Check the address, or check the name of the model.",
        ),
        ("", (404, "text/plain", "Not Found"), "(404: Not Found). Did you mean http://127.0.0.1:"),
        ("/v1", (429, "text/plain", "slow down"), "(429: slow down). Try again a little later."),
        ("/v1", (500, "text/plain", "out of memory"), "(500: out of memory). Look into the server's log."),
        ("/v1", (302, "text/plain", ""), "(302: )"),
        (
            "",
            (200, "text/html", "<html>Welcome</html>"),
            "(no JSON came, but text/html: <html>Welcome</html>). Did you mean",
        ),
        ("/v1", (200, "application/json", ""), "(no JSON came, but application/json: )"),
        (
            "/v1",
            (200, "application/json", '{"error": "busy"}'),
            'choices[0].message.content came, but {"error": "busy"})',
        ),
        ("/v1", (200, "application/json", '{"choices": []}'), "name that of an OpenAI-compatible API."),
        ("/v1", (200, "application/json", '"text"'), "no choices[0].message.content came"),
        ("/v1", said(""), "all 1 replies of m are empty. A model that thinks first"),
        ("/v1", said(None), "let the server switch thinking off, or name another model."),
    ],
)
def test_a_server_that_answers_otherwise_is_explained(
    faulty: str, path: str, reply: tuple[int, str, str], message: str
) -> None:
    Faulty.replies.append(reply)
    address = faulty.replace("//", "//user:password@") + path
    with pytest.raises(DataError) as error:
        by_address("m", address)(["Hello"])
    assert message in str(error.value) and str(error.value).startswith(f"--writer_url {faulty}{path}: ")
    assert not {"sk-secret", "password"} & set(str(error.value).replace("@", " ").replace(":", " ").split())


def test_a_server_that_is_not_there_or_silent(faulty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        DataError, match=r"m did not answer \(not reached: .*Start the server, or check host and port\."
    ):
        by_address("m", "http://127.0.0.1:1/v1")(["Hello"])
    monkeypatch.setattr(Faulty, "do_POST", lambda self: time.sleep(0.5))
    monkeypatch.setattr("kinject.data.made_questions._PATIENCE", 0.1)
    with pytest.raises(DataError, match=r"nothing came within 0\.1 seconds\). Look whether the server is busy"):
        by_address("m", f"{faulty}/v1")(["Hello"])


def test_replies_that_came_are_kept_and_not_asked_for_again(faulty: str, tmp_path: Path) -> None:
    kept = tmp_path / "q.jsonl.replies"
    Faulty.replies += [said("one"), (500, "text/plain", "gone")]
    with pytest.raises(
        DataError, match=r"1 of 3 replies are kept in .*q\.jsonl\.replies: the same command goes on from there"
    ):
        by_address("m", f"{faulty}/v1", kept)(["a", "b", "c"])
    kept.write_text(kept.read_text(encoding="utf-8") + '{"prompt": "cut', encoding="utf-8")
    Faulty.replies += [said("two"), said("three")]
    assert by_address("m", f"{faulty}/v1", kept)(["a", "b", "c"]) == ["one", "two", "three"] and Faulty.replies == []
    Faulty.replies += [said("another model's")]
    assert by_address("other", f"{faulty}/v1", kept)(["a"]) == ["another model's"]


def test_a_server_is_asked_before_torch_is_imported(faulty: str, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(TEXT, encoding="utf-8")
    code = """
import sys
from kinject import cli
try:
    cli.main(sys.argv[1:])
except SystemExit as stopped:
    print(stopped.code, sorted({"torch", "transformers"} & set(sys.modules)))
"""
    Faulty.replies.append((500, "text/plain", "broken"))
    words = ["questions", "a.md", "--writer", "m", "--writer_url", f"{faulty}/v1", "--model", "nano-ar"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "2 []\n" and "m did not answer (500: broken)" in done.stderr


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
