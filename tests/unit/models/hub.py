"""A small HTTP server that speaks as much of the hub's protocol as its client needs to download a repository."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub:
    """One repository at one commit: `files` by path; those in `damaged` are delivered with a flipped byte."""

    def __init__(self, repository: str, commit: str, files: dict[str, bytes]) -> None:
        self.repository = repository
        self.commit = commit
        self.files = files
        self.damaged: set[str] = set()
        self.delivered: list[str] = []

    @contextmanager
    def serving(self) -> Iterator[str]:
        """The server's address while it runs."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def info(self) -> dict[str, object]:
        siblings = [
            {
                "rfilename": name,
                "size": len(content),
                "blobId": hashlib.sha1(content).hexdigest(),
                **({"lfs": self._lfs(content)} if name.endswith(".safetensors") else {}),
            }
            for name, content in self.files.items()
        ]
        return {"id": self.repository, "sha": self.commit, "siblings": siblings}

    def tree(self) -> list[dict[str, object]]:
        return [
            {
                "type": "file",
                "path": name,
                "size": len(content),
                "oid": hashlib.sha1(content).hexdigest(),
                **({"lfs": self._lfs(content, "oid")} if name.endswith(".safetensors") else {}),
            }
            for name, content in self.files.items()
        ]

    @staticmethod
    def _lfs(content: bytes, key: str = "sha256") -> dict[str, object]:
        return {key: hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}

    def content(self, name: str) -> bytes:
        content = self.files[name]
        return bytes([content[0] ^ 1]) + content[1:] if name in self.damaged else content

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        return type("Bound", (Handler,), {"hub": self})


class Handler(BaseHTTPRequestHandler):
    """Answers for the `hub` of the class made for it."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(send=False)

    def do_GET(self) -> None:
        self.answer(send=True)

    def answer(self, send: bool) -> None:
        api = f"/api/models/{self.hub.repository}"
        resolve = f"/{self.hub.repository}/resolve/{self.hub.commit}/"
        path = self.path.split("?")[0]
        name = path.removeprefix(resolve)
        if path.startswith(f"{api}/revision/{self.hub.commit}"):
            self.reply(json.dumps(self.hub.info()).encode(), {"Content-Type": "application/json"}, send)
        elif path.startswith(f"{api}/tree/{self.hub.commit}"):
            self.reply(json.dumps(self.hub.tree()).encode(), {"Content-Type": "application/json"}, send)
        elif path.startswith(resolve) and name in self.hub.files:
            self.deliver(name, send)
        else:
            self.reply(b"", {"X-Error-Code": "RepoNotFound"}, send, HTTPStatus.NOT_FOUND)

    def deliver(self, name: str, send: bool) -> None:
        etag = hashlib.sha256(self.hub.files[name]).hexdigest()
        if send:
            self.hub.delivered.append(name)
        self.reply(self.hub.content(name), {"ETag": f'"{etag}"', "X-Repo-Commit": self.hub.commit}, send)

    def reply(self, body: bytes, headers: dict[str, str], send: bool, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if send:
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Not into the test's output."""
