"""A local Hub with a user on it, and clients: in processes of their own, or in this one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.hub.server import LocalHub
from tests.processes import PATIENCE

ROOT = Path(__file__).parents[2]
_WITHOUT = """
import sys
sys.modules["kinject"] = None  # as if it were not installed
try:
    import kinject.models
except ImportError:
    pass
else:
    sys.exit("kinject can be imported")
"""


@dataclass(frozen=True)
class User:
    """Someone with a token and a computer of their own."""

    name: str
    hub: LocalHub
    token: str
    home: Path

    def environment(self) -> dict[str, str]:
        """What a client on that computer sees."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        return {
            **kept,
            "HF_ENDPOINT": self.hub.endpoint,
            "HF_TOKEN": self.token,
            "HF_HOME": str(self.home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": str(ROOT),
        }

    def run(self, program: str, *, without_kinject: bool = False, **changes: str) -> str:
        """What a Python program prints in a process of its own; it must not fail."""
        done = self._process(["-c", (_WITHOUT if without_kinject else "") + program], changes)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    def kinject(self, *arguments: object, **changes: str) -> subprocess.CompletedProcess[str]:
        """The command line in a process of its own."""
        return self._process(["-m", "kinject.cli", *map(str, arguments)], changes)

    def start(self, program: str) -> subprocess.Popen[str]:
        """A Python program in a process of its own, which goes on."""
        command = [sys.executable, "-c", program]
        return subprocess.Popen(command, env=self.environment(), cwd=self.home, stdout=subprocess.PIPE, text=True)

    def _process(self, arguments: list[str], changes: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        environment = {**self.environment(), **changes}
        return subprocess.run(command, env=environment, cwd=self.home, capture_output=True, text=True, timeout=PATIENCE)


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    with LocalHub() as running:
        yield running


@pytest.fixture
def ada(hub: LocalHub, tmp_path: Path) -> User:
    home = tmp_path / "ada"
    home.mkdir()
    return User("ada", hub, hub.store.add_user("ada"), home)


@pytest.fixture
def online(ada: User, monkeypatch: pytest.MonkeyPatch) -> Iterator[User]:
    """Ada's computer is this very process: huggingface_hub reads these settings when it is imported."""
    from huggingface_hub import close_session, constants

    for name, value in (("HF_TOKEN", ada.token), ("HF_HUB_DISABLE_TELEMETRY", "1")):
        monkeypatch.setenv(name, value)
    settings = {
        "ENDPOINT": ada.hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": ada.hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_TOKEN_PATH": str(ada.home / "token"),
        "HF_STORED_TOKENS_PATH": str(ada.home / "stored_tokens"),
        "HF_HUB_CACHE": str(ada.home / "hub"),
    }
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    # Clients that the libraries make once for all, with the endpoint of that moment.
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", ada.hub.endpoint)
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)
    yield ada
    close_session()  # its connections would be taken for those of a later hub that is given the same port
