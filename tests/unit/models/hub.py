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

    def _handler(hub) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - `self` is the request's
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.answer(send=False)

            def do_GET(self) -> None:
                self.answer(send=True)

            def answer(self, send: bool) -> None:
                path = self.path.split("?")[0]
                resolve = f"/{hub.repository}/resolve/{hub.commit}/"
                if path.startswith(f"/api/models/{hub.repository}/revision/{hub.commit}"):
                    self.reply(json.dumps(hub.info()).encode(), {"Content-Type": "application/json"}, send)
                elif path.startswith(f"/api/models/{hub.repository}/tree/{hub.commit}"):
                    self.reply(json.dumps(hub.tree()).encode(), {"Content-Type": "application/json"}, send)
                elif path.startswith(resolve) and path.removeprefix(resolve) in hub.files:
                    self.deliver(path.removeprefix(resolve), send)
                else:
                    self.send_response(HTTPStatus.NOT_FOUND)
                    self.send_header("X-Error-Code", "RepoNotFound")
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            def deliver(self, name: str, send: bool) -> None:
                content = hub.content(name)
                etag = hashlib.sha256(hub.files[name]).hexdigest()
                if send:
                    hub.delivered.append(name)
                self.reply(content, {"ETag": f'"{etag}"', "X-Repo-Commit": hub.commit}, send)

            def reply(self, body: bytes, headers: dict[str, str], send: bool) -> None:
                self.send_response(HTTPStatus.OK)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if send:
                    self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                """Not into the test's output."""

        return Handler
