"""Uploads: what goes in comes out, is described, listed, counted, and removed."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import ClientError, ClientResponse, FormData, web
from sqlalchemy import update

from config.settings import Settings
from gateway import housekeeping
from gateway.database import accesses
from gateway.database.accesses import Kind
from gateway.database.files import ABANDONED
from gateway.database.tables import files
from gateway.files import intake, uploads
from pipeline.errors import StoreError
from pipeline.vocabulary import now
from tests.unit.gateway.fixtures import OpenWorld
from tests.unit.gateway.support import API, World, content, until
from tests.unit.gateway.test_api import error
from tests.unit.gateway.uploading import TEXT, batch, inspected, picture, send, send_batch, upload

UNKNOWN = "file_0190163d8694739b8aea0006e1fd3b7b"


def limited(settings: Settings, **files: Any) -> Settings:
    return settings.model_copy(update={"files": settings.files.model_copy(update=files)})


async def test_what_goes_in_comes_out(world: World) -> None:
    made = await upload(world, TEXT, subdirectory="uploads/2024", description="Important", file_type="document")
    digest = hashlib.sha256(TEXT).hexdigest()
    assert made["id"].startswith("file_")
    assert made | {"id": "", "created_at": "", "updated_at": ""} == {
        "id": "",
        "filename": "example.txt",
        "size": len(TEXT),
        "content_type": "text/plain",
        "file_type": "document",
        "subdirectory": "uploads/2024",
        "description": "Important",
        "checksum": f"sha256:{digest}",
        "created_at": "",
        "updated_at": "",
        "expires_at": None,
    }
    response = await world.get(f"/files/{made['id']}/download")
    assert await response.read() == TEXT
    assert response.headers["ETag"] == f'"{digest}"'
    assert response.headers["Content-Disposition"] == 'attachment; filename="example.txt"'
    part = await world.get(f"/files/{made['id']}/stream", Range="bytes=3-9")
    assert (part.status, await part.read()) == (206, TEXT[3:10])


async def test_files_of_all_sizes_are_stored_once_by_digest(world: World) -> None:
    for size in (1, intake.CHUNK_BYTES, intake.PIECE_BYTES + 1, 20 * intake.PIECE_BYTES + 7):
        data = (b"t%d" % size * size)[:size]
        made = await upload(world, data, "a.txt")
        assert made["size"] == size
        digest = hashlib.sha256(data).hexdigest()
        key = f"blobs/sha256/{digest[:2]}/{digest}"
        assert [info.key for info in world.store.list("") if info.size == size] == [key]
        response = await world.get(f"/files/{made['id']}/download")
        assert hashlib.sha256(await response.read()).hexdigest() == digest


async def test_the_same_content_is_stored_once_and_each_file_lives_for_itself(world: World) -> None:
    first, second = await upload(world, name="a.txt"), await upload(world, name="b.txt", user="eve")
    assert first["checksum"] == second["checksum"]
    assert len([info for info in world.store.list("blobs/") if info.size == len(TEXT)]) == 1
    response = await world.client.delete(f"{API}/files/{first['id']}", headers=world.headers())
    assert (await response.json())["data"] == {"id": first["id"], "deleted": True}
    await error(await world.get(f"/files/{first['id']}"), 404, "RESOURCE_NOT_FOUND")
    again = await world.get(f"/files/{second['id']}/download", "eve")
    assert await again.read() == TEXT


PATHS = ("", "/info", "/metadata", "/download", "/stream", "/thumbnail", "/analytics")


async def test_an_unknown_file_and_another_users_look_the_same(world: World) -> None:
    made = await upload(world)
    for path in PATHS:
        for file_id in (UNKNOWN, made["id"], "file_123456", "video_x", "%00", UNKNOWN.replace("file", "video")):
            told = await error(await world.get(f"/files/{file_id}{path}", "eve"), 404, "RESOURCE_NOT_FOUND")
            assert told["message"] == "File not found"
    for method, tail in (("DELETE", ""), ("POST", "/signed-url")):
        response = await world.client.request(method, f"{API}/files/{made['id']}{tail}", headers=world.headers("eve"))
        await error(response, 404, "RESOURCE_NOT_FOUND")
    assert (await world.get(f"/files/{made['id']}")).status == 200


async def test_version_1_is_led_on(world: World) -> None:
    made = await upload(world)
    details = await world.data(f"/files/{made['id']}/info")
    assert details["id"] == made["id"]


WRONG: list[tuple[str, dict[str, str], str]] = [
    ("../evil.txt", {}, "file"),
    ("a\\b.txt", {}, "file"),
    ("..", {}, "file"),
    ("a\u202etxt.exe", {}, "file"),
    ("ä" * 128, {}, "file"),
    ("a.txt", {"file_type": "image"}, "file_type"),
    ("a.txt", {"subdirectory": "../up"}, "subdirectory"),
    ("a.txt", {"subdirectory": "/etc"}, "subdirectory"),
    ("a.txt", {"subdirectory": "a//b"}, "subdirectory"),
    ("a.txt", {"subdirectory": "a/\x00"}, "subdirectory"),
    ("a.txt", {"description": "a\x00b"}, "description"),
    ("a.txt", {"description": "x" * 2001}, "description"),
    ("a.txt", {"description": "x" * 20_000}, "description"),
    ("a.txt", {"expires_in": "0"}, "expires_in"),
    ("a.txt", {"expires_in": "-1"}, "expires_in"),
    ("a.txt", {"expires_in": "9" * 5000}, "expires_in"),
    ("a.txt", {"colour": "red"}, "colour"),
]


async def test_what_is_wrong_is_named_and_leaves_nothing(world: World) -> None:
    for name, fields, wrong in WRONG:
        told = await error(await send(world, TEXT, name, **fields), 400, "VALIDATION_ERROR")
        assert wrong in told["details"], (name, fields)
    assert list(world.store.list("")) == []
    assert (await world.data("/files"))["items"] == []


async def test_the_file_types_are_refused_in_the_documents_words(world: World) -> None:
    told = await error(await send(world, TEXT, file_type="films"), 400, "VALIDATION_ERROR")
    assert told["details"]["file_type"] == ["Invalid file type. Must be one of: document, image, video, audio"]


async def test_any_unicode_name_comes_back(world: World) -> None:
    for name in ("Übung 1.txt", "日本語.txt", 'quo"te;.txt', "a b.txt", "%41.txt", "👩‍🚀.txt"):
        made = await upload(world, TEXT, name)
        assert made["filename"] == name
        downloaded = await world.get(f"/files/{made['id']}/download")
        assert downloaded.content_disposition is not None
        assert downloaded.content_disposition.filename == name
        assert downloaded.headers["Content-Disposition"].isascii()


async def test_too_large_is_refused_at_the_first_byte_too_many(open_world: OpenWorld, settings: Settings) -> None:
    world = await open_world(limited(settings, max_bytes=100_000, quota_bytes=150_000))
    await upload(world, b"a" * 100_000)
    told = await error(await send(world, b"b" * 50_001), 413, "VALIDATION_ERROR")
    assert "storage" in told["details"]
    await upload(world, b"b" * 50_000)

    async def endless() -> Any:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
        while True:
            yield b"t" * 65_536

    headers = world.headers("eve") | {"Content-Type": "multipart/form-data; boundary=x"}
    response = await world.client.post(f"{API}/files/upload", data=endless(), headers=headers)
    told = await error(response, 413, "VALIDATION_ERROR")
    assert told["details"] == {"file": ["Must be at most 100000 bytes"]}
    assert {info.size for info in world.store.list("blobs/")} == {100_000, 50_000}


async def test_what_arrives_at_once_is_within_the_quota(open_world: OpenWorld, settings: Settings) -> None:
    """Of two uploads of which either would fit alone, whether the second one tells its length or not."""
    world = await open_world(limited(settings, quota_bytes=1_300_000))

    async def second() -> Any:
        yield body

    body = BEGIN + b"\r\n" + b"b" * 1_250_000 + b"\r\n--x--\r\n"
    async with arriving(world, b"t" * 100_000, world.gateway.arriving):
        for data in (body, second()):
            headers = world.headers() | MULTIPART
            response = await world.client.post(f"{API}/files/upload", data=data, headers=headers)
            told = await error(response, 413, "VALIDATION_ERROR")
            left = "1300000 bytes are left of your quota, for all that you are sending"
            assert told["details"] == {"storage": [left]}
        assert (await send(world, b"b" * 100_000, user="eve")).status == 201
    await upload(world, b"b" * 1_200_000)
    assert not world.gateway.arriving


async def test_what_is_repeated_leaves_the_quota_to_others(open_world: OpenWorld, settings: Settings) -> None:
    world = await open_world(limited(settings, quota_bytes=1_300_000))
    stored = b"t" * 700_000
    await send(world, stored, "a.txt", key="k")
    async with arriving(world, stored, world.gateway.repeated, key="k"):
        await upload(world, b"b" * 500_000)
    assert not world.gateway.repeated


@asynccontextmanager
async def arriving(world: World, content: bytes, counted: Counter[str], key: str = "") -> AsyncIterator[None]:
    """Most of an upload of Ada's has arrived; its end comes at the end of the block."""
    enough = asyncio.Event()

    async def slowly() -> Any:
        yield BEGIN + b"\r\n" + content
        await enough.wait()
        yield b"\r\n--x--\r\n"

    async def arrived() -> bool | None:
        return counted["ada"] > len(content) / 2 or None

    headers = world.headers() | MULTIPART | ({"Idempotency-Key": key} if key else {})
    sent = asyncio.create_task(world.client.post(f"{API}/files/upload", data=slowly(), headers=headers))
    await until(arrived)
    yield
    enough.set()
    assert (await sent).status == 201


async def test_what_is_not_accepted_is_refused_by_its_beginning(world: World) -> None:
    async def endless() -> Any:
        yield BEGIN + b"\r\n\x7fELF"
        while True:
            yield bytes(65_536)

    headers = world.headers() | {"Content-Type": "multipart/form-data; boundary=x"}
    async with asyncio.timeout(20):
        response = await world.client.post(f"{API}/files/upload", data=endless(), headers=headers)
    await error(response, 415, "VALIDATION_ERROR")
    assert list(world.store.list("")) == []


async def test_a_slow_body_is_let_go(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "CHUNK_S", 0.3)

    async def slow() -> Any:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
        for _ in range(100):
            await asyncio.sleep(0.1)
            yield b"t"

    headers = world.headers() | {"Content-Type": "multipart/form-data; boundary=x"}
    response = await world.client.post(f"{API}/files/upload", data=slow(), headers=headers)
    await error(response, 408, "VALIDATION_ERROR")
    assert list(world.store.list("")) == []


MULTIPART = {"Content-Type": "multipart/form-data; boundary=x"}
BEGIN = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n'


MALFORMED = [
    (b"", 400),
    (b"--x--\r\n", 400),
    (b"no multipart", 400),
    (BEGIN + b"\r\ntext", 400),
    (BEGIN + b"Content-Transfer-Encoding: base64\r\n\r\nQUJD\r\n--x--\r\n", 400),
    (BEGIN + b"Content-Encoding: gzip\r\n\r\nQUJD\r\n--x--\r\n", 400),
    (BEGIN + b"\r\n\r\n--x--\r\n", 400),
    (b"--x\r\n\r\nnameless\r\n--x--\r\n", 400),
    (BEGIN + b"\r\na\r\n" + BEGIN + b"\r\nb\r\n--x--\r\n", 400),
    (b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nno file\r\n--x--\r\n', 400),
    (BEGIN + b"\r\n\x7fELF\x02\x01\x01\x00\r\n--x--\r\n", 415),
    (BEGIN + b"\r\nPK\x03\x04" + bytes(60) + b"\r\n--x--\r\n", 415),
    (BEGIN.replace(b"a.txt", b"caf\xe9.txt") + b"\r\na\r\n--x--\r\n", 400),
    (BEGIN.replace(b"a.txt", b"caf\xed\xa0\x80.txt") + b"\r\na\r\n--x--\r\n", 400),
    (BEGIN + b'\r\na\r\n--x\r\nContent-Disposition: form-data; name="f\xe9"\r\n\r\na\r\n--x--\r\n', 400),
    (b'--x\r\nContent-Disposition: form-data; name="_charset_"\r\n\r\n' + b"x" * 40 + b"\r\n--x--\r\n", 400),
]


async def test_a_file_may_say_that_it_is_not_encoded(world: World) -> None:
    headers = world.headers() | {"Content-Type": "multipart/form-data; boundary=x"}
    body = BEGIN + b"Content-Transfer-Encoding: binary\r\n\r\nABC\r\n--x--\r\n"
    response = await world.client.post(f"{API}/files/upload", data=body, headers=headers)
    assert (await response.json())["data"]["size"] == 3


async def test_a_text_is_sent_with_its_charset(world: World) -> None:
    for raw, told in (("Grüße".encode(), "text/plain; charset=utf-8"), ("Grüße".encode("latin-1"), "text/plain")):
        file = await inspected(world, (await upload(world, raw))["id"])
        response = await world.get(f"/files/{file['id']}/download?inline=True")
        assert response.headers["Content-Type"] == told
        assert response.headers["Content-Disposition"].startswith("inline")


async def test_malformed_bodies(world: World) -> None:
    headers = world.headers() | {"Content-Type": "multipart/form-data; boundary=x"}
    for body, status in MALFORMED:
        response = await world.client.post(f"{API}/files/upload", data=body, headers=headers)
        await error(response, status, "VALIDATION_ERROR")
    assert list(world.store.list("")) == []


async def test_a_name_that_is_not_utf8_costs_its_file_only(world: World) -> None:
    good, bad = (BEGIN.replace(b'"file"', b'"files"').replace(b"a.txt", name) for name in (b"a.txt", b"caf\xe9.txt"))
    headers = world.headers() | {"Content-Type": "multipart/form-data; boundary=x"}
    body = b"".join(begin + b"\r\nABC\r\n" for begin in (good, bad, good)) + b"--x--\r\n"
    response = await world.client.post(f"{API}/files/batch-upload", data=body, headers=headers)
    results = (await response.json())["data"]["results"]
    assert [(result["filename"], result["success"]) for result in results] == [
        ("a.txt", True),
        ("caf?.txt", False),
        ("a.txt", True),
    ]
    assert "UTF-8" in str(results[1]["error"]["details"])


@pytest.mark.parametrize(("path", "right", "wrong"), [("upload", "file", "files"), ("batch-upload", "files", "file")])
async def test_a_file_in_a_wrong_field_learns_the_right_one(world: World, path: str, right: str, wrong: str) -> None:
    form = FormData()
    form.add_field(wrong, picture(), filename="a.png")
    response = await world.client.post(f"{API}/files/{path}", data=form, headers=world.headers())
    told = await error(response, 400, "VALIDATION_ERROR")
    assert told["details"] == {wrong: [f'Must not have a file name. Send files as "{right}"']}


async def test_another_content_type_is_415(world: World) -> None:
    response = await world.client.post(f"{API}/files/upload", json={}, headers=world.headers())
    await error(response, 415, "VALIDATION_ERROR")


async def test_a_client_that_leaves_in_the_middle_leaves_nothing(world: World) -> None:
    async def broken() -> Any:
        yield BEGIN + b"\r\n" + b"t" * 3_000_000
        while not world.gateway.traffic.under_way:
            await asyncio.sleep(0.01)
        raise OSError("gone")

    headers = world.headers() | {"Content-Type": "multipart/form-data; boundary=x"}
    with pytest.raises((ClientError, OSError)):
        await world.client.post(f"{API}/files/upload", data=broken(), headers=headers)
    for _ in range(100):
        if not list(world.store.list("")) and not list((world.settings.data_dir / "store").rglob("incoming/*")):
            return
        await asyncio.sleep(0.1)
    raise AssertionError(list(world.store.list("")))


async def test_what_cannot_be_cleared_away_does_not_spoil_the_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = world.store.receive

    def receive() -> Any:
        incoming = real()
        monkeypatch.setattr(incoming, "discard", lambda: (_ for _ in ()).throw(StoreError("The store is away.")))
        return incoming

    monkeypatch.setattr(world.store, "receive", receive)
    made = await upload(world)
    assert await (await world.get(f"/files/{made['id']}/download")).read() == TEXT


async def test_a_batch_has_a_result_for_each_file(world: World) -> None:
    await batch(world, ("a.txt", b"A"), ("d.txt", b"D"), name="files[]")
    files = ("a.txt", b"A"), ("../b.txt", b"B"), ("c.exe", b"\x7fELF\0\0"), ("d.txt", b"D")
    told = await batch(world, *files)
    assert (told["total"], told["uploaded"], told["failed"]) == (4, 2, 2)
    assert [result["success"] for result in told["results"]] == [True, False, False, True]
    assert [result["filename"] for result in told["results"]] == ["a.txt", "../b.txt", "c.exe", "d.txt"]
    assert [(result["error"] or {}).get("code") for result in told["results"]][1:3] == ["VALIDATION_ERROR"] * 2
    assert {item["filename"] for item in (await world.data("/files"))["items"]} == {"a.txt", "d.txt"}
    for result in (told["results"][0], told["results"][3]):
        response = await world.get(f"/files/{result['file']['id']}/download")
        assert await response.read() == result["filename"][0].upper().encode()


def failing(world: World, patch: pytest.MonkeyPatch, number: int, fault: Exception) -> None:
    """From now on, the `number`-th file cannot be put in its place."""
    real, received = world.store.receive, list[Any]()

    def fail(*_: object) -> None:
        raise fault

    def receive() -> Any:
        received.append(real())
        if len(received) == number:
            patch.setattr(received[-1], "publish", fail)
        return received[-1]

    patch.setattr(world.store, "receive", receive)


AWAY = StoreError("The store is away.")
THREE = ("a.txt", b"A"), ("b.txt", b"B"), ("c.txt", b"C")


@pytest.mark.parametrize(
    ("fault", "codes"),
    [
        (AWAY, [None, "SERVICE_UNAVAILABLE", "SERVICE_UNAVAILABLE"]),
        (OSError("The database is away."), [None, "SERVICE_UNAVAILABLE", "SERVICE_UNAVAILABLE"]),
        (KeyError("of this file alone"), [None, "SERVER_ERROR", None]),
    ],
    ids=["store", "database", "unforeseen"],
)
async def test_a_fault_midway_hides_nothing_that_was_stored(
    world: World, monkeypatch: pytest.MonkeyPatch, fault: Exception, codes: list[str | None]
) -> None:
    with monkeypatch.context() as patch:
        failing(world, patch, 2, fault)
        first = await batch(world, *THREE, key="k")
    assert [(result["error"] or {}).get("code") for result in first["results"]] == codes
    stored = {result["filename"] for result in first["results"] if result["success"]}
    assert {item["filename"] for item in (await world.data("/files"))["items"]} == stored
    again = await batch(world, *THREE, key="k")
    assert (again["uploaded"], again["results"][0]) == (3, first["results"][0])
    assert (await world.data("/files/stats"))["uploads_last_hour"] == 3


async def test_a_batch_of_which_nothing_can_be_stored_is_503(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(world, monkeypatch, 1, AWAY)
    response = await send_batch(world, *THREE)
    await error(response, 503, "SERVICE_UNAVAILABLE")
    assert response.headers["Retry-After"]
    assert list(world.store.list("blobs/")) == []


async def test_a_batch_of_which_nothing_was_stored_for_no_known_reason_is_500(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(world, monkeypatch, 1, KeyError("unforeseen"))
    await error(await send_batch(world, *THREE[:1]), 500, "SERVER_ERROR")


async def test_a_batch_has_at_most_so_many_files(open_world: OpenWorld, settings: Settings) -> None:
    world = await open_world(limited(settings, max_batch=2))
    form = FormData()
    for n in range(3):
        form.add_field("files", b"x", filename=f"{n}.txt")
    response = await world.client.post(f"{API}/files/batch-upload", data=form, headers=world.headers())
    await error(response, 400, "VALIDATION_ERROR")
    assert (await world.data("/files"))["items"] == []


async def test_an_upload_is_done_once_for_each_key(world: World) -> None:
    answers = await asyncio.gather(*(send(world, TEXT, key="k") for _ in range(5)))
    made = [(await answer.json())["data"]["id"] for answer in answers]
    assert len(set(made)) == 1
    assert (await world.data("/files"))["pagination"]["total_items"] == 1
    again = await send(world, TEXT, key="k")
    assert again.headers["Idempotent-Replayed"] == "true"
    for other in (await send(world, b"other", key="k"), await send(world, TEXT, key="k", description="d")):
        await error(other, 400, "VALIDATION_ERROR")
    await error(await send(world, TEXT, key="no key"), 400, "VALIDATION_ERROR")


async def test_a_batch_is_done_once_for_each_key(world: World) -> None:
    files = ("a.txt", b"A"), ("b.txt", b"B")
    first = await send_batch(world, *files, key="k")
    assert "Idempotent-Replayed" not in first.headers
    again = await send_batch(world, *files, key="k")
    assert again.headers["Idempotent-Replayed"] == "true"
    assert await again.json() == await first.json()
    for other in (await send_batch(world, *files, ("c.txt", b"C"), key="k"), await send(world, b"A", "a.txt", key="k")):
        await error(other, 400, "VALIDATION_ERROR")
    assert (await world.data("/files"))["pagination"]["total_items"] == 2


async def test_what_is_repeated_takes_nothing_of_limit_and_quota(open_world: OpenWorld, settings: Settings) -> None:
    limits = settings.limits.model_copy(update={"uploads": 2})
    world = await open_world(limited(settings, quota_bytes=100_000).model_copy(update={"limits": limits}))
    large = b"t" * 99_000
    first = [await send(world, large, key="one"), await send_batch(world, ("a.txt", b"A"), key="some")]
    await error(await send(world, b"B"), 429, "RATE_LIMIT_EXCEEDED")
    again = [await send(world, large, key="one"), await send_batch(world, ("a.txt", b"A"), key="some")]
    for before, after in zip(first, again, strict=True):
        assert (after.status, await after.json()) == (201, await before.json())
    await error(await send_batch(world, ("b.txt", b"B"), key="some"), 400, "VALIDATION_ERROR")


async def test_a_batch_tells_where_it_stands_with_each_limit_once(world: World) -> None:
    response = await send_batch(world, ("a.txt", b"A"), ("b.txt", b"B"))
    assert response.headers["RateLimit-Policy"].count('"uploads"') == 1
    assert '"uploads";r=99998;' in response.headers["RateLimit"]


async def test_uploads_are_limited_by_the_hour(open_world: OpenWorld, settings: Settings) -> None:
    world = await open_world(settings.model_copy(update={"limits": settings.limits.model_copy(update={"uploads": 3})}))
    told = await batch(world, ("a.txt", b"A"), ("b.txt", b"B"))
    assert told["uploaded"] == 2
    answers = await asyncio.gather(*(send(world, b"c%d" % n) for n in range(4)))
    assert sorted(answer.status for answer in answers) == [201, 429, 429, 429]
    told = await error(await send(world, b"d"), 429, "RATE_LIMIT_EXCEEDED")
    assert told["details"].startswith("You have exceeded the limit of 3 uploads per hour. Try again in ")
    assert (await world.data("/files/stats"))["uploads_last_hour"] == 3
    assert (await world.data("/files"))["pagination"]["total_items"] == 3
    assert (await send(world, TEXT, user="eve")).status == 201


async def test_lists_are_paged_and_filtered_and_have_the_videos_too(world: World) -> None:
    texts = [await upload(world, b"%d" % n, f"{n}.txt") for n in range(3)]
    job_id = await world.completed()
    await upload(world, b"other", "other.txt", user="eve")
    told = await world.data("/files?items_per_page=3")
    assert told["pagination"]["total_items"] == 4
    assert [item["id"] for item in told["items"]] == [
        job_id.replace("job", "video"),
        texts[2]["id"],
        texts[1]["id"],
    ]
    rest = await world.data("/files?items_per_page=3&page=2")
    assert [item["id"] for item in rest["items"]] == [texts[0]["id"]]
    for file_type, count in (("document", 3), ("video", 1), ("image", 0)):
        assert (await world.data(f"/files?file_type={file_type}"))["pagination"]["total_items"] == count
    wrong = await error(await world.get("/files?file_type=films&page=0"), 400, "VALIDATION_ERROR")
    assert set(wrong["details"]) == {"file_type", "page"}


async def test_a_video_is_a_file_of_its_owner(world: World) -> None:
    job_id = await world.completed()
    file_id = (await world.data(f"/jobs/{job_id}"))["result"]["file_id"]
    details = await world.data(f"/files/{file_id}")
    assert details["filename"] == f"{job_id}-1080p.mp4"
    assert details["size"] == len(content(job_id, "1080p.mp4"))
    assert details["metadata"] == {"job_id": job_id, "width": 1920, "height": 1080, "audio": None}
    for path, name in {
        "download": "1080p.mp4",
        "stream": "1080p.mp4",
        "stream?quality=720p": "720p.mp4",
        "thumbnail?size=small": "poster-small.jpg",
    }.items():
        response = await world.get(f"/files/{file_id}/{path}")
        assert await response.read() == content(job_id, name)
    assert (await world.data(f"/files/{file_id}/analytics"))["total_accesses"] == 4
    await (await world.get(f"/videos/{job_id}/download")).read()
    assert (await world.data(f"/files/{file_id}"))["download_count"] == 2, "by whichever route"
    assert (await world.data("/files/stats"))["by_type"]["video"]["files"] == 1
    limited = world.token(permissions=["read_files", "upload_files"])
    response = await world.client.delete(f"{API}/files/{file_id}", headers={"Authorization": f"Bearer {limited}"})
    await error(response, 403, "PERMISSION_DENIED")
    assert (await world.client.delete(f"{API}/files/{file_id}", headers=world.headers())).status == 200
    await error(await world.get(f"/jobs/{job_id}"), 404, "RESOURCE_NOT_FOUND")


async def test_fetches_are_counted_each_once(world: World) -> None:
    file_id = (await upload(world))["id"]
    etag = (await world.get(f"/files/{file_id}/download")).headers["ETag"]
    await world.get(f"/files/{file_id}/download", method="HEAD")
    await world.get(f"/files/{file_id}/download", If_None_Match=etag)
    await world.get(f"/files/{file_id}/stream", Range="bytes=0-3")
    await world.get(f"/files/{file_id}/stream", Range="bytes=4-")
    await asyncio.gather(*(world.get(f"/files/{file_id}/download") for _ in range(5)))
    told = await world.data(f"/files/{file_id}/analytics")
    assert (told["downloads"], told["streams"], told["thumbnails"], told["total_accesses"]) == (6, 1, 0, 7)
    assert told["by_signed_url"] == 0
    assert [(day["downloads"], day["streams"]) for day in told["daily"]] == [(6, 1)]
    assert (await world.data(f"/files/{file_id}"))["download_count"] == 6
    assert (await world.data("/files/stats"))["accesses"] == {"downloads": 6, "streams": 1, "thumbnails": 0}


async def test_statistics_move_with_the_files(world: World) -> None:
    before = await world.data("/files/stats")
    assert (before["total_files"], before["total_size"], before["storage"]["used"]) == (0, 0, 0)
    made = await upload(world)
    after = await world.data("/files/stats")
    assert (after["total_files"], after["total_size"], after["storage"]["used"]) == (1, len(TEXT), len(TEXT))
    assert after["by_type"]["document"] == {"files": 1, "size": len(TEXT)}
    assert after["storage"]["left"] == after["storage"]["quota"] - len(TEXT)
    await world.client.delete(f"{API}/files/{made['id']}", headers=world.headers())
    assert (await world.data("/files/stats"))["storage"]["used"] == 0


async def cleanup(world: World, **body: Any) -> dict[str, Any]:
    response = await world.client.post(f"{API}/files/cleanup", json=body, headers=world.headers())
    told = await response.json()
    assert response.status == 200, told
    return dict(told["data"])


async def test_a_cleanup_removes_what_meets_all_criteria_and_a_dry_run_nothing(world: World) -> None:
    small = await upload(world, b"s", "s.txt", subdirectory="old")
    large = await upload(world, b"l" * 5000, "l.txt", subdirectory="old")
    await upload(world, b"m" * 5000, "m.txt")
    await upload(world, b"x" * 5000, "x.txt", user="eve", subdirectory="old")
    assert (await cleanup(world))["files"] == (await cleanup(world, dry_run=True))["files"] == 0
    assert (await cleanup(world, older_than_days=1))["files"] == 0
    criteria = {"subdirectory": "old", "larger_than_bytes": 1000}
    told = await cleanup(world, dry_run=True, **criteria)
    assert told == {"dry_run": True, "files": 1, "size": 5000, "file_ids": [large["id"]]}
    assert (await world.data("/files"))["pagination"]["total_items"] == 3
    assert await cleanup(world, **criteria) == told | {"dry_run": False}
    async with world.gateway.database.write() as connection:
        await connection.execute(update(files).values(created_at=now() - timedelta(days=2)))
    unread = {"not_accessed_days": 1, "dry_run": True}
    assert small["id"] in (await cleanup(world, **unread))["file_ids"]
    await world.get(f"/files/{small['id']}/download")
    assert small["id"] not in (await cleanup(world, **unread))["file_ids"]
    assert (await cleanup(world, file_type="document", older_than_days=0))["files"] == 2
    assert (await world.data("/files"))["items"] == []
    assert (await world.data("/files", "eve"))["pagination"]["total_items"] == 1


async def test_criteria_that_are_wrong_remove_nothing(world: World) -> None:
    await upload(world)
    wrong = {"older_than_days": -1, "file_type": "films", "colour": 1, "dry_run": "perhaps", "larger_than_bytes": -1}
    for name, value in [*wrong.items(), ("subdirectory", "a\x00")]:
        response = await world.client.post(f"{API}/files/cleanup", json={name: value}, headers=world.headers())
        told = await error(response, 400, "VALIDATION_ERROR")
        assert set(told["details"]) == {name}
    assert (await world.data("/files"))["pagination"]["total_items"] == 1


async def test_files_expire(open_world: OpenWorld, settings: Settings) -> None:
    world = await open_world(limited(settings, retention_days=1))
    short = await upload(world, b"short", expires_in="1")
    kept = await upload(world, b"kept", expires_in=str(10 * 24 * 3600))
    assert short["expires_at"] < kept["expires_at"]
    assert kept["expires_at"][:10] > kept["created_at"][:10], "a day, not ten"
    await asyncio.sleep(1.1)
    assert await housekeeping.expire(world.gateway) == (0, 1)
    assert [item["id"] for item in (await world.data("/files"))["items"]] == [kept["id"]]


@asynccontextmanager
async def placing(
    world: World, patch: pytest.MonkeyPatch, **fields: str
) -> AsyncIterator[asyncio.Task[ClientResponse]]:
    """An upload whose bytes are put in their place when the block ends."""
    real, begun, go = world.store.receive, asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def receive() -> Any:
        incoming = real()
        publish = incoming.publish

        def held(*of: Any) -> Any:
            loop.call_soon_threadsafe(begun.set)
            go.wait(60)
            return publish(*of)

        patch.setattr(incoming, "publish", held)
        return incoming

    patch.setattr(world.store, "receive", receive)
    sent = asyncio.create_task(send(world, TEXT, **fields))
    try:
        await begun.wait()
        yield sent
    finally:
        go.set()


async def set_back(world: World, **columns: Any) -> None:
    async with world.gateway.database.write() as connection:
        await connection.execute(update(files).values(columns))


async def test_a_file_does_not_expire_before_it_is_stored(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with placing(world, monkeypatch, expires_in="60") as sent:
        await set_back(world, expires_at=now() - timedelta(minutes=1))
        assert (await housekeeping.expire(world.gateway)).files == 0
    file_id = (await (await sent).json())["data"]["id"]
    assert (await world.get(f"/files/{file_id}/download")).status == 200
    assert (await housekeeping.expire(world.gateway)).files == 1
    assert list(world.store.list("uploads/")) == []


async def test_an_upload_that_was_given_up_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with placing(world, monkeypatch) as sent:
        await set_back(world, created_at=now() - ABANDONED)
        assert (await housekeeping.expire(world.gateway)).files == 1
    await error(await sent, 503, "SERVICE_UNAVAILABLE")
    assert list(world.store.list("uploads/")) == []
    assert (await world.data("/files/stats"))["uploads_last_hour"] == 0


async def test_a_fetch_that_meets_a_deletion_leaves_nothing(world: World) -> None:
    made, job_id = await upload(world), await world.completed()
    for file_id in (made["id"], job_id.replace("job_", "video_")):
        await (await world.get(f"/files/{file_id}/download")).read()
        await world.client.delete(f"{API}/files/{file_id}", headers=world.headers())
        async with world.gateway.database.write() as connection:
            await accesses.note(connection, file_id, "ada", Kind.DOWNLOAD, signed=False)
    assert set((await world.data("/files/stats"))["accesses"].values()) == {0}


NEEDED = [
    ("POST", "/files/upload", "upload_files"),
    ("POST", "/files/batch-upload", "upload_files"),
    ("POST", "/files/cleanup", "upload_files"),
    ("GET", "/files", "read_files"),
    ("GET", "/files/stats", "read_files"),
    *(("GET", f"/files/{UNKNOWN}{path}", "read_files") for path in PATHS),
    ("POST", f"/files/{UNKNOWN}/signed-url", "read_files"),
]


async def test_a_permission_decides(world: World) -> None:
    for method, path, permission in NEEDED:
        others = [one for one in ("read_files", "upload_files", "generate_videos") if one != permission]
        headers = {"Authorization": f"Bearer {world.token(permissions=others)}"}
        told = await error(await world.client.request(method, API + path, headers=headers), 403, "PERMISSION_DENIED")
        assert permission in told["details"]
        await error(await world.client.request(method, API + path), 401, "AUTH_REQUIRED")


async def test_what_browsers_would_run_is_never_shown_inline(world: World) -> None:
    page, drawing = b"<!DOCTYPE html><script>1</script>", b'<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>'
    for data, name, media_type in (
        (page, "a.html", "text/html"),
        (page, "a.txt", "text/html"),
        (page, "a.png", "text/html"),
        (drawing, "a.svg", "image/svg+xml"),
        (drawing, "a.txt", "image/svg+xml"),
        (b"<p>1</p><script>1</script>", "a.html", "text/html"),
    ):
        made = await upload(world, data, name)
        assert made["content_type"] == media_type
        for path in ("download?inline=true", "stream"):
            response = await world.get(f"/files/{made['id']}/{path}")
            assert response.headers["Content-Disposition"].startswith("attachment")
            assert response.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
            assert response.headers["X-Content-Type-Options"] == "nosniff"
    shown = await upload(world)
    response = await world.get(f"/files/{shown['id']}/download?inline=true")
    assert response.headers["Content-Disposition"].startswith("inline")


async def test_every_route_of_files_is_there(world: World) -> None:
    app = world.client.app
    assert isinstance(app, web.Application)
    found = {route.resource.canonical for route in app.router.routes() if route.resource is not None}
    assert {f"{API}/files/{{file_id}}{path}" for path in PATHS} <= found


async def test_an_upload_whose_commit_was_not_answered_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = uploads._show

    async def unanswered(*of: Any) -> None:
        await real(*of)
        raise OSError("The connection broke.")

    with monkeypatch.context() as patch:
        patch.setattr(uploads, "_show", unanswered)
        await error(await send(world, TEXT, key="k"), 503, "SERVICE_UNAVAILABLE")
    again = await send(world, TEXT, key="k")
    assert again.headers["Idempotent-Replayed"] == "true"
    file_id = (await again.json())["data"]["id"]
    assert await (await world.get(f"/files/{file_id}/download")).read() == TEXT
