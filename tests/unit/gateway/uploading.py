"""Uploads in tests: files of every kind, and requests that send them."""

from __future__ import annotations

import io
import subprocess
from typing import Any

from aiohttp import ClientResponse, FormData
from PIL import Image

from tests.unit.gateway.support import API, World, until

TEXT = b"An example.\nOf two lines."


def picture(size: tuple[int, int] = (1600, 900), kind: str = "PNG", mode: str = "RGB") -> bytes:
    written = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert(mode).save(written, kind)
    return written.getvalue()


def clip(form: str, *arguments: str, source: str = "testsrc=duration=2:size=320x180:rate=10") -> bytes:
    """A clip made by ffmpeg."""
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, *arguments, "-f", form]
    if form in ("mp4", "mov"):
        command += ["-movflags", "frag_keyframe+empty_moov"]  # written front to back
    return subprocess.run([*command, "-"], check=True, capture_output=True).stdout


async def send(
    world: World, content: bytes, name: str = "example.txt", *, user: str = "ada", key: str = "", **fields: str
) -> ClientResponse:
    """Upload a file; answers with the file first and the fields after it, as curl sends them."""
    form = FormData(quote_fields=False)  # as browsers and curl do: names as they are
    form.add_field("file", content, filename=name, content_type="application/octet-stream")
    for field, value in fields.items():
        form.add_field(field, value)
    headers = world.headers(user) | ({"Idempotency-Key": key} if key else {})
    return await world.client.post(f"{API}/files/upload", data=form, headers=headers)


async def upload(world: World, content: bytes = TEXT, name: str = "example.txt", **more: Any) -> dict[str, Any]:
    """Upload a file that is accepted; returns it."""
    response = await send(world, content, name, **more)
    body = await response.json()
    assert response.status == 201, body
    return dict(body["data"])


async def inspected(world: World, file_id: str, user: str = "ada") -> dict[str, Any]:
    """The file's details once it was looked into."""

    async def done() -> dict[str, Any] | None:
        details = await world.data(f"/files/{file_id}", user)
        return details if details["inspection"] != "pending" else None

    return await until(done)


async def send_batch(world: World, *files: tuple[str, bytes], name: str = "files", key: str = "") -> ClientResponse:
    form = FormData(quote_fields=False)
    for filename, content in files:
        form.add_field(name, content, filename=filename)
    headers = world.headers() | ({"Idempotency-Key": key} if key else {})
    return await world.client.post(f"{API}/files/batch-upload", data=form, headers=headers)


async def batch(world: World, *files: tuple[str, bytes], **more: str) -> dict[str, Any]:
    """Upload files together; returns what became of them."""
    response = await send_batch(world, *files, **more)
    body = await response.json()
    assert response.status in (200, 201), body
    return dict(body["data"])
