"""Requests to the local Hub, and its answers."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Request:
    """What a client asks."""

    method: str
    path: str
    query: str
    body: bytes
    token: str | None
    range: str | None

    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body or b"{}")


@dataclass(frozen=True)
class Answer:
    """What it is told."""

    status: int
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)


def error(status: int, message: str, code: str = "") -> Answer:
    """A refusal, in the Hub's headers and body."""
    headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
    return Answer(status, {"error": message}, headers)


def deliver(content: bytes, request: Request, headers: dict[str, str]) -> Answer:
    """The part of ``content`` that is asked for."""
    headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", request.range or "")
    if not found:
        return Answer(200, content, headers)
    start, end = int(found[1]), min(int(found[2] or len(content) - 1), len(content) - 1)
    if start > end:
        return Answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
    return Answer(206, content[start : end + 1], {**headers, "Content-Range": f"bytes {start}-{end}/{len(content)}"})


def digest(text: str) -> str:
    """A short name for ``text``."""
    return hashlib.sha1(text.encode()).hexdigest()
