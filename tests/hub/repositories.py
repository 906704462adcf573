"""What the local Hub stores: repositories with their commits, branches and tags, and large files by their hash.

All in memory. A commit maps paths to content; the content of a large file is in the store of the whole Hub, as on the
real one, so that a file that was uploaded once is never asked for again.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import threading
from dataclasses import dataclass, field
from typing import Any

LARGE_SUFFIXES = (".safetensors", ".bin", ".pt", ".arrow", ".parquet", ".png", ".model")


@dataclass(frozen=True)
class Blob:
    """One file of a commit: its content, or the hash of a large file."""

    size: int
    content: bytes = b""
    sha256: str | None = None

    @property
    def oid(self) -> str:
        """The hash git gives the file, or the pointer to it."""
        content = self.content
        if self.sha256 is not None:
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n"
            content = pointer.encode()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def described(self, path: str) -> dict[str, Any]:
        """The file as the Hub lists it."""
        entry: dict[str, Any] = {"type": "file", "path": path, "oid": self.oid, "size": self.size}
        if self.sha256 is not None:
            entry["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": 134}
        return entry


@dataclass(frozen=True)
class Commit:
    """A state of a repository."""

    oid: str
    title: str
    files: dict[str, Blob]
    parent: Commit | None = None

    def history(self) -> list[Commit]:
        """This commit and those before it, newest first."""
        commits: list[Commit] = []
        commit: Commit | None = self
        while commit is not None:
            commits.append(commit)
            commit = commit.parent
        return commits


@dataclass
class Repository:
    """A model or data set repository."""

    kind: str  # "models" or "datasets"
    name: str
    private: bool
    branches: dict[str, Commit] = field(default_factory=dict)
    tags: dict[str, Commit] = field(default_factory=dict)

    def at(self, revision: str) -> Commit | None:
        """The commit that a branch, a tag or a hash names."""
        named = self.branches.get(revision) or self.tags.get(revision)
        if named is not None:
            return named
        known = (commit for head in (*self.branches.values(), *self.tags.values()) for commit in head.history())
        return next((commit for commit in known if commit.oid == revision), None)

    def commit(self, branch: str, title: str, files: dict[str, Blob]) -> Commit:
        """Put a new state on top of ``branch``."""
        parent = self.branches.get(branch)
        seed = f"{self.kind}/{self.name}/{branch}/{title}/{parent.oid if parent else ''}/{sorted(files)}"
        commit = Commit(hashlib.sha1(seed.encode()).hexdigest(), title, files, parent)
        self.branches[branch] = commit
        return commit


class Store:
    """Users with their tokens, repositories, and large files."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.tokens: dict[str, tuple[str, str]] = {}  # token: (user, "write" or "read")
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self._numbers = itertools.count()

    def add_user(self, user: str, role: str = "write") -> str:
        """A new token of ``user``."""
        token = f"hf_{hashlib.sha256(f'{user}{role}{next(self._numbers)}'.encode()).hexdigest()[:34]}"
        self.tokens[token] = (user, role)
        return token

    def create(self, kind: str, name: str, private: bool) -> Repository:
        """A new repository with its first commit."""
        repository = self.repositories[kind, name] = Repository(kind, name, private)
        repository.commit("main", "initial commit", {".gitattributes": _blob(b"*.safetensors filter=lfs\n")})
        return repository

    def content(self, blob: Blob) -> bytes:
        """The bytes of a file."""
        return blob.content if blob.sha256 is None else self.objects[blob.sha256]

    def apply(self, repository: Repository, branch: str, lines: list[dict[str, Any]]) -> Commit:
        """Commit the operations of a request.

        Raises:
            KeyError: a large file was never uploaded.
        """
        files = dict(repository.branches[branch].files)
        title = ""
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                title = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = _blob(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                files[value["path"]] = Blob(len(self.objects[value["oid"]]), sha256=value["oid"])
            elif line["key"] == "deletedFile":
                files.pop(value["path"], None)
            elif line["key"] == "deletedFolder":
                files = {
                    path: blob for path, blob in files.items() if not path.startswith(value["path"].rstrip("/") + "/")
                }
        return repository.commit(branch, title, files)


def is_large(path: str, size: int) -> bool:
    """Whether the Hub wants a file as a large one."""
    return size > 0 and (path.endswith(LARGE_SUFFIXES) or size > 5_000_000)


def _blob(content: bytes) -> Blob:
    return Blob(len(content), content)
