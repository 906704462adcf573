"""A push that is killed at any request leaves its directory whole, and the same command completes it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

from tests.hub.conftest import User, ada, hub
from tests.hub.trained import contents, whole_model
from tests.processes import PATIENCE

KILLS = int(os.environ.get("KINJECT_TRUST_KILLS", "2"))
__all__ = ["ada", "hub"]  # fixtures


def push(user: User, directory: Path, repository: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "kinject.cli", "push", str(directory), repository]
    return subprocess.Popen(command, env=user.environment(), cwd=user.home, stderr=subprocess.PIPE)


def pushed(user: User, directory: Path, repository: str) -> dict[str, bytes]:
    """What the repository holds after a push that was left alone."""
    process = push(user, directory, repository)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said.decode()
    # The card names its own repository.
    return {name: body.replace(repository.encode(), b"") for name, body in user.hub.files(repository).items()}


def test_a_push_that_is_killed_is_completed_by_the_same_command(ada: User, tmp_path: Path) -> None:
    directory = whole_model(tmp_path / "trained")
    before = contents(directory)
    expected = pushed(ada, directory, "ada/whole")
    requests = len(ada.hub.requests)
    assert requests > 5
    for number, last in enumerate(random.Random(0).choices(range(1, requests), k=KILLS)):
        ada.hub.requests.clear()
        process = push(ada, directory, f"ada/killed-{number}")
        while process.poll() is None and len(ada.hub.requests) < last:
            time.sleep(0.001)
        process.kill()
        process.communicate()
        assert contents(directory) == before
        assert pushed(ada, directory, f"ada/killed-{number}") == expected, f"killed at request {last} of {requests}"
    assert contents(directory) == before
