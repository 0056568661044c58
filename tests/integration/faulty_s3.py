"""Faults between a client and an S3 server: a proxy that makes them, and a server that ignores conditions."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import urllib3

from tests.local_http import Handler, serving


@dataclass
class Faults:
    """How often each fault is still to happen; `requests` counts what was asked for."""

    lost_answers: int = 0
    busy: int = 0
    half_bodies: int = 0
    dropped_conditions: int = 0
    requests: list[tuple[str, str | None]] = field(default_factory=list)

    def take(self, fault: str) -> bool:
        left = getattr(self, fault)
        setattr(self, fault, max(0, left - 1))
        return bool(left)


@contextmanager
def faulty_proxy(endpoint: str) -> Iterator[tuple[str, Faults]]:
    """A proxy before the S3 server at `endpoint`: (its own endpoint, the faults to make)."""
    faults, pool = Faults(), urllib3.PoolManager()

    class Proxy(Handler):
        def handle_any(self) -> None:
            data, headers = self.body(), dict(self.headers)
            faults.requests.append((self.command, self.headers.get("range")))
            if faults.take("busy"):
                self.answer(503)
                return
            if faults.take("dropped_conditions"):
                headers.pop("If-None-Match", None)
            response = pool.request(
                self.command, f"http://{endpoint}{self.path}", body=data, headers=headers, decode_content=False
            )
            if self.command == "PUT" and faults.take("lost_answers"):
                self.close_connection = True
                return
            self.pass_on(response)

        def pass_on(self, response: urllib3.BaseHTTPResponse) -> None:
            kept = {
                name.replace("-", "_"): value
                for name, value in response.headers.items()
                if name.lower() not in ("connection", "date", "server", "transfer-encoding", "content-length")
            }
            length = response.headers.get("content-length", str(len(response.data)))
            half = self.command == "GET" and faults.take("half_bodies")
            data = response.data[: len(response.data) // 2] if half else response.data
            self.answer(response.status, data, content_length=length, **kept)
            self.close_connection = half

    with serving(Proxy) as own:
        yield own, faults


class UnfitServer(Handler):
    """An S3 server in memory; each condition is "honoured", "ignored" or "racy" (checked, but not in one step)."""

    create = replace = "honoured"
    objects: ClassVar[dict[str, bytes]]

    def handle_any(self) -> None:
        data, key = self.body(), self.path.partition("?")[0]
        getattr(self, self.command.lower())(key, data)

    def put(self, key: str, data: bytes) -> None:
        unheld = self.unheld(key)
        if "racy" in (self.create, self.replace):
            time.sleep(0.05)
        if unheld:
            self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>", content_type="application/xml")
            return
        self.objects[key] = data
        self.answer(200, etag=etag_of(data))

    def unheld(self, key: str) -> bool:
        if self.headers["if-none-match"]:
            return self.create != "ignored" and key in self.objects
        changed = key not in self.objects or self.headers["if-match"] != etag_of(self.objects[key])
        return self.replace != "ignored" and changed

    def get(self, key: str, _: bytes) -> None:
        if "list-type" in self.path:
            self.answer(
                200, b"<ListBucketResult><Name>bucket</Name></ListBucketResult>", content_type="application/xml"
            )
        elif key in self.objects:
            self.answer(200, self.objects[key], etag=etag_of(self.objects[key]))
        else:
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>", content_type="application/xml")

    def delete(self, key: str, _: bytes) -> None:
        self.objects.pop(key, None)
        self.answer(204)


def unfit_server(**conditions: str) -> type[Handler]:
    """An `UnfitServer` with some conditions set and nothing stored."""
    return type("Server", (UnfitServer,), {**conditions, "objects": {}})


def etag_of(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'
