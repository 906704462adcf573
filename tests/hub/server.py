"""A Hub on this machine: enough of its HTTP interface for unmodified huggingface_hub, transformers and peft clients.

`LocalHub` runs it in a thread, on a free port of the loopback interface. `routes` says what it answers.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from tests.hub import routes
from tests.hub.faults import Fault, Faults
from tests.hub.messages import Answer, Request, error
from tests.hub.repositories import Store


class LocalHub:
    """A running Hub.

    Attributes:
        store: What it holds, to look into and to change behind the clients' backs.
        faults: What goes wrong.
        requests: Every request so far, as `PUT /path`.
        storage: Where large files are: another host by its name, as with the real Hub.
        multipart_above: Larger files are uploaded in parts of this size.
    """

    def __init__(self) -> None:
        self.store = Store()
        self.faults = Faults()
        self.requests: list[str] = []
        self.multipart_above = 8_000_000
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.storage = f"http://localhost:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> LocalHub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fail(self, pattern: str, status: int | None = None, **options: Any) -> Fault:
        """Answer requests that match ``pattern`` with ``status``, or break their connection; see `Fault`."""
        return self.faults.add(Fault(pattern, status, **options))

    def files(self, name: str, kind: str = "models", revision: str = "main") -> dict[str, bytes]:
        """What a repository holds, without what the Hub itself put there."""
        commit = self.store.repositories[kind, name].at(revision)
        assert commit is not None
        return {path: self.store.content(blob) for path, blob in commit.files.items() if path != ".gitattributes"}

    def uploads(self) -> list[str]:
        """The requests that carried large files."""
        return [line for line in self.requests if line.startswith("PUT /lfs/")]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LocalHub

    def _serve(self) -> None:
        line = f"{self.command} {self.path}"
        self.hub.requests.append(line)
        fault = self.hub.faults.meet(line)
        if fault is not None:
            self._fail(fault)
            return
        parts = urlsplit(self.path)
        request = Request(
            method="GET" if self.command == "HEAD" else self.command,
            path=parts.path,
            query=parts.query,
            body=self._body(),
            token=self.headers.get("Authorization", "").removeprefix("Bearer ").strip() or None,
            range=self.headers.get("Range"),
        )
        with self.hub.store.lock:
            answer = routes.answer(self.hub, request)
        self._send(answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def log_message(self, *_: object) -> None:
        """Silence: the requests are recorded."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            chunks = []
            while size := int(self.rfile.readline().strip() or b"0", 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _fail(self, fault: Fault) -> None:
        if fault.status is None:
            self.rfile.read(fault.cut_after)
            self.close_connection = True
            self.connection.close()
            return
        self._body()
        self._send(error(fault.status, fault.message, fault.code))

    def _send(self, answer: Answer) -> None:
        body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **answer.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
