"""Every example of the document runs, changed only in host, token, ids and files."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path

import pytest

from gateway.auth.base import Role
from tests.conformance import document
from tests.conformance.document import Endpoint
from tests.conformance.scene import EMAIL, Scene
from tests.unit.gateway.support import MEDIA, PATIENCE_S, World, until

HOST, TOKEN, JOB, FILE = "https://api.example.com", "your-token-here", "job_789012", "file_123456"
MASKED = "[email\u00a0protected]"
SHIM = """
const fileInput = { files: [new File([require("node:fs").readFileSync("example.txt")], "example.txt")] };
"""
"""Stands for the `<input type="file">` of a page."""
CURL = dict(enumerate(document.curl_examples(), 1))
PYTHON, JAVASCRIPT = document.programs("Python"), document.programs("JavaScript")


@pytest.fixture
def scene(world: World) -> Scene:
    return Scene(world)


def preamble(program: str) -> str:
    """What the first program declares for all of them."""
    return program[: re.search(r'api/v1"(;?)\n', program).end()]  # type: ignore[union-attr]


async def prepared(scene: Scene, code: str, folder: Path) -> str:
    """The example with this gateway's host, a token, ids of what exists, and files."""
    (folder / "example.txt").write_text("An example.")
    for number in (1, 2, 3):
        (folder / f"file{number}.txt").write_text(f"File {number}.")
    role = Role.ADMIN if "-X POST" in code and "/system/" in code else Role.USER
    masks = iter(["file=@example.txt"] if "files/upload" in code else [f"files=@file{n}.txt" for n in (1, 2, 3)])
    code = re.sub(re.escape(MASKED), lambda _: next(masks), code)
    if JOB in code:
        code = code.replace(JOB, await _job(scene, code))
    if FILE in code:
        code = code.replace(FILE, await scene._file(Endpoint("GET", "/files/{file_id}")))
    host = str(scene.world.client.make_url("/")).rstrip("/")
    return code.replace(HOST, host).replace(TOKEN, scene.world.token("ada", role, email=EMAIL))


async def _job(scene: Scene, code: str) -> str:
    if "cancel" not in code:
        return await scene.world.completed()
    job_id = await scene.world.generate()
    await scene.world.work(scene.world.worker.render_half, job_id)
    return job_id


async def run(folder: Path, *command: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(2 * PATIENCE_S):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out


def printed(out: bytes, code: str) -> list[str]:
    """The lines of a program; each `print` and `console.log` has said something."""
    lines = out.decode().splitlines()
    assert len(lines) >= len(re.findall(r"print\(|console\.log\(", code)), lines
    assert not [line for line in lines if "undefined" in line or "None" in line], lines
    return lines


@pytest.mark.parametrize("number", CURL)
async def test_curl(scene: Scene, tmp_path: Path, number: int) -> None:
    await check_curl(scene, tmp_path, CURL[number])


async def check_curl(scene: Scene, tmp_path: Path, code: str) -> None:
    out = await run(tmp_path, "bash", "-c", await prepared(scene, code, tmp_path))
    if "/stream" in code or "/thumbnail" in code:
        assert len(out) == MEDIA["720p.mp4" if "/stream" in code else "poster-large.jpg"][1]
    else:
        assert json.loads(out)["success"] is True, out


@pytest.mark.parametrize("heading", PYTHON)
async def test_python(scene: Scene, tmp_path: Path, heading: str) -> None:
    await check_python(scene, tmp_path, heading)


async def check_python(scene: Scene, tmp_path: Path, heading: str) -> None:
    code = PYTHON[heading]
    whole = code if heading == "File Management" else preamble(PYTHON["File Management"]) + code
    printed(await run(tmp_path, sys.executable, "-c", await prepared(scene, whole, tmp_path)), code)


@pytest.mark.parametrize("heading", JAVASCRIPT)
async def test_javascript(scene: Scene, tmp_path: Path, heading: str) -> None:
    await check_javascript(scene, tmp_path, heading)


async def check_javascript(scene: Scene, tmp_path: Path, heading: str) -> None:
    code = JAVASCRIPT[heading]
    whole = SHIM + code if heading == "File Management" else preamble(JAVASCRIPT["File Management"]) + code
    program = asyncio.create_task(run(tmp_path, "node", "-e", await prepared(scene, whole, tmp_path)))
    if heading == "Video Processing":
        await scene.world.work(scene.world.worker.complete, await _accepted(scene.world))
    printed(await program, code)


async def _accepted(world: World) -> str:
    async def there() -> str | None:
        items = (await world.data("/jobs?status=processing"))["items"]
        return str(items[0]["id"]) if items else None

    return await until(there)
