"""What the document's requests are about: a user's jobs and files, made by the documented requests themselves."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from aiohttp import ClientResponse, FormData, web
from multidict import CIMultiDict

from gateway.auth.base import Role
from gateway.links import BASE_PATH
from tests.conformance.document import Endpoint
from tests.unit.gateway.support import World, until

EMAIL = "ada@example.com"
PAGES, AUTHOR = 10, "John Doe"
ADMIN = "/system/"
"""Below it, what changes something is for administrators."""


@dataclass
class Scene:
    """A gateway, and a user with an e-mail address."""

    world: World
    made: dict[str, str] = field(default_factory=dict)

    def has(self, endpoint: Endpoint) -> bool:
        """Whether the gateway knows the endpoint at all."""
        app = self.world.client.app
        assert isinstance(app, web.Application)
        wanted = BASE_PATH + endpoint.path.replace("{file_id}", "{}").replace("{job_id}", "{}")
        return any(
            route.method == endpoint.method and route.resource is not None and _shape(route.resource) == wanted
            for route in app.router.routes()
        )

    def headers(self, role: Role = Role.USER) -> CIMultiDict[str]:
        return CIMultiDict(Authorization=f"Bearer {self.world.token('ada', role, email=EMAIL)}")

    async def request(self, endpoint: Endpoint) -> ClientResponse:
        """Ask as the document says, with a token unless it says there is none."""
        role = Role.ADMIN if endpoint.path.startswith(ADMIN) and endpoint.method == "POST" else Role.USER
        headers = self.headers(role) if endpoint.token != "none" else CIMultiDict()
        path, query = await self._filled(endpoint)
        url = f"{BASE_PATH}{path}"
        return await self.world.client.request(
            endpoint.method, url, params=query, headers=headers, **self._body(endpoint)
        )

    async def _filled(self, endpoint: Endpoint) -> tuple[str, Mapping[str, str]]:
        path = endpoint.path
        if path == "/files/secure/{file_id}":
            return await self._signed()
        if "{job_id}" in path:
            path = path.replace("{job_id}", await self._job(endpoint))
        if "{file_id}" in path:
            path = path.replace("{file_id}", await self._file(endpoint))
        if path in ("/files", "/files/stats"):
            await self._file(endpoint)
        if path == "/jobs":
            await self._job(endpoint)
        return path, {}

    async def _job(self, endpoint: Endpoint) -> str:
        if endpoint.path.endswith("/cancel"):
            return await self.world.generate()
        if endpoint.method == "DELETE":
            return await self.world.completed()
        if "job" not in self.made:
            self.made["job"] = await self.world.completed()
        return self.made["job"]

    async def _file(self, endpoint: Endpoint) -> str:
        kind = "image" if endpoint.path.endswith("thumbnail") else "document"
        if endpoint.method == "DELETE":
            return await self.upload(kind)
        if kind not in self.made:
            self.made[kind] = await self.upload(kind)
        return self.made[kind]

    async def upload(self, kind: str) -> str:
        """Upload a file; returns its id."""
        form = FormData({"file_type": kind, "subdirectory": "uploads/2024", "description": "Important document"})
        content, name, media_type = FILES[kind]
        form.add_field("file", content, filename=name, content_type=media_type)
        response = await self.world.client.post(f"{BASE_PATH}/files/upload", data=form, headers=self.headers())
        assert response.status < HTTPStatus.MULTIPLE_CHOICES, await response.text()
        file_id = str((await response.json())["data"]["id"])
        await until(lambda: self._inspected(file_id))
        return file_id

    async def _inspected(self, file_id: str) -> bool | None:
        return (await self.world.data(f"/files/{file_id}"))["inspection"] != "pending" or None

    async def _signed(self) -> tuple[str, Mapping[str, str]]:
        """Path and query of a signed URL, as the gateway gives it out."""
        file_id = await self._file(Endpoint("GET", "/files/{file_id}"))
        response = await self.world.client.post(
            f"{BASE_PATH}/files/{file_id}/signed-url", json={"expires_in": 3600}, headers=self.headers()
        )
        url = str((await response.json())["data"]["url"])
        path, _, query = url.partition(BASE_PATH)[2].partition("?")
        return path, dict(part.split("=", 1) for part in query.split("&"))

    def _body(self, endpoint: Endpoint) -> dict[str, Any]:
        match str(endpoint):
            case "POST /videos/generate":
                prompt = "A beautiful sunset over mountains"
                return {"json": {"prompt": prompt, "duration": 10, "quality": "1080p"}}
            case "POST /webhooks":
                hook = {"url": "https://your-app.com/webhooks/t2m", "secret": "your-webhook-secret"}
                return {"json": hook | {"events": ["job.completed", "job.failed"]}}
            case "POST /files/cleanup":
                return {"json": {"dry_run": True}}
            case "POST /files/{file_id}/signed-url":
                return {"json": {"expires_in": 3600}}
            case "POST /files/upload":
                return {"data": _form("file", "document")}
            case "POST /files/batch-upload":
                return {"data": _form("files", "document", "document")}
        return {}


def _form(name: str, *kinds: str) -> FormData:
    form = FormData({"file_type": "document"})
    for kind in kinds:
        content, filename, media_type = FILES[kind]
        form.add_field(name, content, filename=filename, content_type=media_type)
    return form


def _shape(resource: web.AbstractResource) -> str:
    """A route's path with its parameters' names left out."""
    shape = resource.canonical
    for name in ("{file_id}", "{job_id}"):
        shape = shape.replace(name, "{}")
    return shape


def pdf() -> bytes:
    """Ten empty pages, with an author and a date."""
    pages = [f"{number + 4} 0 R" for number in range(PAGES)]
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{' '.join(pages)}] /Count {PAGES} >>",
        f"<< /Author ({AUTHOR}) /CreationDate (D:20240115103000Z) >>",
        *["<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] >>"] * PAGES,
    ]
    out, places = b"%PDF-1.4\n", []
    for number, text in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{text}\nendobj\n".encode()
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    head = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    trailer = f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R /Info 3 0 R >>\nstartxref\n{len(out)}\n%%EOF\n"
    return out + (head + trailer).encode()


def png() -> bytes:
    """A small grey picture."""
    width, height = 64, 36
    rows = (b"\0" + b"\x80" * width) * height

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


FILES = {
    "document": (pdf(), "document.pdf", "application/pdf"),
    "image": (png(), "picture.png", "image/png"),
}
