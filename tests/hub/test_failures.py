"""Every way a push can fail, once: nothing is lost, the message is exact, and the command it names completes the push."""

from __future__ import annotations

import os
import shlex
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from kinject.cli import main
from kinject.hub.publishing import reason
from tests.hub.conftest import User
from tests.hub.trained import contents, whole_model


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return whole_model(tmp_path / "trained model")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client waits between its attempts; not here."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line with which the command ends."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["push", *arguments])
    assert stopped.value.code == 2
    *_, said = capsys.readouterr().err.splitlines()
    assert said.count("error: ") == 1
    return said.split("error: ")[1]  # the client's progress bar may stand before it


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            {
                "pattern": "POST /api/repos/create",
                "status": 401,
                "message": "Invalid credentials in Authorization header",
            },
            "the access token is not accepted (the Hub says 401: Invalid credentials in Authorization header). Log in with "
            "`hf auth login`, or set HF_TOKEN to a token with write access.",
        ),
        (
            {
                "pattern": "POST .*/commit/",
                "status": 403,
                "message": "You don't have the rights to write to ada/people.",
            },
            "the access token may not write to ada/people (the Hub says 403: You don't have the rights to write to "
            "ada/people). Use a token with write access to 'ada'.",
        ),
        (
            {"pattern": "POST .*/preupload/", "status": 404, "message": "Repository not found", "code": "RepoNotFound"},
            "ada/people is not there, or hidden from this token (the Hub says 404: Repository not found). Check the name "
            "and the token.",
        ),
        (
            {"pattern": "POST .*/commit/", "status": 409, "message": "Another commit is in progress"},
            "ada/people was changed by someone else at the same time (the Hub says 409: Another commit is in progress). Try "
            "again.",
        ),
        (
            {"pattern": "POST .*/commit/", "status": 412, "message": "A commit has happened since. Please refresh."},
            "ada/people was changed by someone else at the same time (the Hub says 412: A commit has happened since. Please "
            "refresh). Try again.",
        ),
        (
            {"pattern": "POST .*/preupload/", "status": 429, "message": "Rate limit reached", "times": None},
            "there were too many requests (the Hub says 429: Rate limit reached). Wait a few minutes.",
        ),
        (
            {"pattern": "POST .*objects/batch", "status": 403, "message": "Private storage quota exceeded"},
            "the Hub has no room for this (the Hub says 403: Private storage quota exceeded). Free space there, or raise the "
            "quota of 'ada'.",
        ),
        (
            {"pattern": "POST .*objects/batch", "status": 507, "message": "No room left", "times": None},
            "the Hub has no room for this (the Hub says 507: No room left). Free space there, or raise the quota of 'ada'.",
        ),
        (
            {"pattern": "PUT /lfs/", "status": 503, "message": "Slow down", "times": None},
            "the Hub failed, also when asked again while model.safetensors was uploaded (the Hub says 503: Slow down). Wait "
            "a few minutes.",
        ),
        (
            {"pattern": "POST .*/commit/", "status": 500, "message": "Internal error"},
            "the Hub failed, also when asked again (the Hub says 500: Internal error). Wait a few minutes.",
        ),
    ],
)
def test_an_answer_that_refuses(
    online: User, directory: Path, capsys: pytest.CaptureFixture[str], fault: dict[str, Any], message: str
) -> None:
    online.hub.fail(**fault)
    before = contents(directory)
    said = refusal(capsys, str(directory), "ada/people", "--private")
    command = f"kinject push '{directory}' ada/people --private"
    assert said == f"{message} Nothing is lost: '{directory}' is complete. To resume, run: {command}"
    assert contents(directory) == before
    assert_completes(online, directory, command)


def test_a_connection_that_breaks_in_the_middle_of_an_upload(
    online: User, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    online.hub.fail("PUT /lfs/", times=None, cut_after=1000)
    before = contents(directory)
    said = refusal(capsys, str(directory), "ada/people")
    start = f"the connection to {online.hub.endpoint} failed while model.safetensors was uploaded ("
    command = f"kinject push '{directory}' ada/people"
    end = f"). Check the network. Nothing is lost: '{directory}' is complete. To resume, run: {command}"
    assert said.startswith(start) and said.endswith(end)
    assert contents(directory) == before
    assert_completes(online, directory, command)


def test_no_network(
    online: User, directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as nobody:  # bound, but it does not listen
        nobody.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with monkeypatch.context() as patch:
            patch.setattr("huggingface_hub.constants.ENDPOINT", closed)
            said = refusal(capsys, str(directory), "ada/people")
    command = f"kinject push '{directory}' ada/people"
    assert said.startswith(f"the connection to {closed} failed (ConnectError ")
    assert said.endswith(f"Check the network. Nothing is lost: '{directory}' is complete. To resume, run: {command}")
    assert_completes(online, directory, command)


def test_no_token(
    online: User, directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.delenv("HF_TOKEN")
        said = refusal(capsys, str(directory), "ada/people")
    command = f"kinject push '{directory}' ada/people"
    assert said == (
        "there is no access token. Log in with `hf auth login`, or set HF_TOKEN to a token with write access. Nothing is "
        f"lost: '{directory}' is complete. To resume, run: {command}"
    )
    assert online.hub.requests == []
    assert_completes(online, directory, command)


def test_offline(
    online: User, directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        said = refusal(capsys, str(directory), "ada/people")
    assert said.startswith("HF_HUB_OFFLINE is set, so the Hub is not asked. Unset it. Nothing is lost: ")
    assert_completes(online, directory, f"kinject push '{directory}' ada/people")


def test_the_command_to_resume_pushes_the_space_too(
    online: User, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    online.hub.fail("POST .*/commit/", status=409, message="Another commit is in progress")
    command = f"kinject push '{directory}' ada/people --space"
    assert refusal(capsys, str(directory), "ada/people", "--space").endswith(f"To resume, run: {command}")
    assert ("spaces", "ada/people") not in online.hub.store.repositories
    assert_completes(online, directory, command)
    assert ("spaces", "ada/people") in online.hub.store.repositories


def test_a_full_disk_here_is_not_taken_for_a_full_hub() -> None:
    full = RuntimeError("Error while uploading 'model.safetensors' to the Hub.")
    full.__cause__ = OSError(28, "No space left on device", "/cache")
    said, again = reason(full, "ada/people")
    assert "No space left on device: '/cache'" in said and "the Hub has no room" not in said and not again


def test_someone_elses_repository(online: User, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, str(directory), "bob/people")
    assert said.startswith(
        "the access token may not write to bob/people (the Hub says 403: You don't have the rights to write to bob/people). "
        "Use a token with write access to 'bob'. Nothing is lost: "
    )


def test_what_was_uploaded_before_the_failure_is_not_uploaded_again(
    online: User, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    online.hub.fail("POST .*/commit/", status=500)
    refusal(capsys, str(directory), "ada/people")
    assert len(online.hub.uploads()) == 1
    main(["push", str(directory), "ada/people"])
    assert len(online.hub.uploads()) == 1
    assert "model.safetensors" in online.hub.files("ada/people")


def test_the_command_in_a_process_of_its_own(ada: User, directory: Path) -> None:
    refused = ada.kinject("push", directory, "ada/people", HF_TOKEN="hf_mistyped")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.splitlines()[-1].startswith("error: the access token is not accepted (the Hub says 401: ")
    assert "hf_mistyped" not in refused.stderr
    done = ada.kinject("push", directory, "ada/people")
    assert done.returncode == 0
    assert done.stdout.startswith(f"{ada.hub.endpoint}/ada/people holds chat_template.jinja, config.json, ")


MERGING = """
import sys, time
from pathlib import Path
from kinject.hub import publishing
def stage(directory, staged, *arguments, **options):
    Path(staged, "model.safetensors").write_bytes(b"half")
    print(staged, flush=True)
    time.sleep(600)
publishing.stage = stage
publishing.push({directory!r}, "ada/people", layout="llada")
"""


def test_what_a_killed_push_left_beside_its_directory_is_removed_by_the_next(online: User, directory: Path) -> None:
    def age(place: Path) -> None:
        os.utime(place, (time.time() - 3600,) * 2, follow_symlinks=False)

    beside = directory.parent
    (beside / ".kinject-push-fresh").mkdir()
    (beside / ".kinject-push-link").symlink_to(directory, target_is_directory=True)
    age(beside / ".kinject-push-link")
    killed = online.start(MERGING.format(directory=str(directory)))
    assert killed.stdout is not None
    try:
        staged = Path(killed.stdout.readline().strip())
        assert staged.parent == beside and os.listdir(staged) == ["model.safetensors"]
        age(staged)
        main(["push", str(directory), "ada/people"])
        assert staged.is_dir()  # in use
    finally:
        killed.kill()
        killed.communicate()
    assert staged.is_dir()
    age(staged)
    main(["push", str(directory), "ada/people"])
    assert {each.name for each in beside.glob(".kinject-push-*")} == {".kinject-push-fresh", ".kinject-push-link"}
    assert contents(directory)


def assert_completes(online: User, directory: Path, command: str) -> None:
    """The command of the message publishes all, the same as a push that never failed."""
    online.hub.faults.clear()
    program, *arguments = shlex.split(command)
    assert program == "kinject"
    main(arguments)
    main(["push", str(directory), "ada/untroubled"])
    assert online.hub.files("ada/people") == online.hub.files("ada/untroubled") != {}
