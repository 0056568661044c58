"""What is found in files, and that hostile ones are refused or contained."""

from __future__ import annotations

import asyncio
import io
import struct
import sys
import threading
import zipfile
import zlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gateway.files.kinds import ACCEPTED, HEAD_BYTES, detect
from gateway.inspection import sandbox
from gateway.inspection.documents import MAX_TEXT
from gateway.inspection.sandbox import Findings
from pipeline.errors import ObjectMissing, StoreError
from pipeline.store.base import ObjectStore
from pipeline.store.local import FileStore
from pipeline.vocabulary import ArtifactRef
from tests.conformance.scene import pdf
from tests.unit.gateway.support import World
from tests.unit.gateway.uploading import TEXT, clip, inspected, picture, send, upload

WIDTHS = {"small": 320, "medium": 640, "large": 1280}


async def look(store: ObjectStore, data: bytes, media_type: str) -> Findings:
    incoming = store.receive()
    incoming.write(data)
    incoming.finish()
    ref = incoming.publish("x", media_type)
    incoming.discard()
    return await sandbox.inspect(store, ref)


def sizes(findings: Findings) -> dict[str, tuple[int, int]]:
    return {name: Image.open(io.BytesIO(data), formats=["JPEG"]).size for name, data in findings.thumbnails.items()}


async def test_pictures(store: ObjectStore) -> None:
    for kind, media_type in (
        ("PNG", "image/png"),
        ("JPEG", "image/jpeg"),
        ("WEBP", "image/webp"),
        ("GIF", "image/gif"),
    ):
        found = await look(store, picture(kind=kind), media_type)
        assert (found.details["width"], found.details["height"], found.readable) == (1600, 900, True), kind
        assert {name: size[0] for name, size in sizes(found).items()} == WIDTHS
        assert detect(picture(kind=kind)[:HEAD_BYTES], "x") == media_type
    tiny = await look(store, picture((64, 36)), "image/png")
    assert set(sizes(tiny).values()) == {(64, 36)}, "never larger than the picture"
    tall = await look(store, picture((100, 4000)), "image/png")
    assert sizes(tall)["small"] == (32, 1280)


async def test_what_is_transparent_becomes_white(store: ObjectStore) -> None:
    written = io.BytesIO()
    Image.new("RGBA", (400, 400), (255, 0, 0, 0)).save(written, "PNG")
    found = await look(store, written.getvalue(), "image/png")
    shown = Image.open(io.BytesIO(found.thumbnails["small"]))
    assert min(band[0] for band in shown.getextrema()) > 250  # type: ignore[index]


async def test_a_large_picture_is_described_and_shown_if_there_is_room(store: ObjectStore) -> None:
    for size, kind, mode, shown in (((8000, 6000), "PNG", "RGBA", True), ((8000, 8000), "WEBP", "RGB", False)):
        written = io.BytesIO()
        Image.new(mode, size).save(written, kind, compress_level=1, quality=1, method=0)
        found = await look(store, written.getvalue(), f"image/{kind.lower()}")
        assert (found.details["width"], found.details["height"], bool(found.thumbnails)) == (*size, shown)


async def test_exif_turns_the_picture_and_names_the_camera(store: ObjectStore) -> None:
    image, exif, written = Image.new("RGB", (800, 400)), Image.Exif(), io.BytesIO()
    exif[0x0112], exif[0x0110], exif[0x010F] = 6, "Model \x00\x1b[31mX", "Maker"
    image.save(written, "JPEG", exif=exif)
    found = await look(store, written.getvalue(), "image/jpeg")
    assert sizes(found)["small"] == (320, 640)
    assert found.details["camera_make"] == "Maker"
    assert found.details["camera"].isprintable()


async def test_documents(store: ObjectStore) -> None:
    found = await look(store, pdf(), "application/pdf")
    assert found.details == {"pages": 10, "author": "John Doe", "creation_date": "2024-01-15"}
    assert {name: size[0] for name, size in sizes(found).items()} == WIDTHS
    found = await look(store, TEXT, "text/plain")
    assert found.details == {"lines": 2, "words": 5, "encoding": "utf-8"}
    core = (
        '<cp:coreProperties xmlns:cp="http://schemas.openxmlformats.org/package/2006/metadata/core-properties" '
        'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:dcterms="http://purl.org/dc/terms/">'
        "<dc:title>A title</dc:title><dc:creator>Ada</dc:creator>"
        "<dcterms:created>2024-01-15T10:30:00Z</dcterms:created></cp:coreProperties>"
    )
    office = office_file({"[Content_Types].xml": "<Types/>", "docProps/core.xml": core})
    assert detect(office, "a.docx") == "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
    found = await look(store, office, "application/vnd.openxmlformats-officedocument.wordprocessingml.document")
    assert found.details == {"title": "A title", "author": "Ada", "creation_date": "2024-01-15"}


async def test_of_a_long_text_the_encoding_is_told_and_no_half_counts(store: ObjectStore) -> None:
    for character, encoding in (("я".encode(), "utf-8"), ("я".encode("cp1251"), None)):
        long = character * (MAX_TEXT // len(character) + 1)  # it is cut within the last one
        found = await look(store, long, "text/plain")
        assert (found.details["lines"], found.details.get("words"), found.details["encoding"]) == (None, None, encoding)
    found = await look(store, "я".encode()[:1], "text/plain")
    assert found.details == {"lines": 1, "encoding": None}, "nothing is cut here"


def office_file(entries: dict[str, str]) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in entries.items():
            archive.writestr(name, text)
    return written.getvalue()


CLIPS = {
    "video/mp4": ("mp4", "-c:v", "libx264", "-pix_fmt", "yuv420p"),
    "video/webm": ("webm", "-c:v", "libvpx", "-b:v", "200k"),
    "video/x-matroska": ("matroska", "-c:v", "libx264", "-pix_fmt", "yuv420p"),
    "video/x-msvideo": ("avi", "-c:v", "mpeg4"),
}


async def test_videos_show_a_frame(store: ObjectStore) -> None:
    for media_type, arguments in CLIPS.items():
        data = clip(*arguments)
        assert detect(data[:HEAD_BYTES], "x") == media_type
        found = await look(store, data, media_type)
        assert (found.details["width"], found.details["height"]) == (320, 180), media_type
        assert found.details["fps"] == 10
        assert found.details["audio"] is None
        assert sizes(found)["small"] == (320, 180)
        extrema = Image.open(io.BytesIO(found.thumbnails["small"])).convert("L").getextrema()
        assert extrema[1] - extrema[0] > 100, "a test picture, not an empty one"  # type: ignore[operator]


async def test_a_codec_nobody_knows_hides_nothing_else(store: ObjectStore) -> None:
    data = clip("mp4", "-f", "lavfi", "-i", "sine=duration=2", "-c:v", "mpeg4", "-c:a", "aac")
    for known, unknown in ((b"mp4v", b"zzzz"), (b"mp4a", b"zzzz"), (b"esds", b"free")):
        data = data.replace(known, unknown)
    for media_type in ("video/mp4", "audio/mp4"):
        found = await look(store, data, media_type)
        assert (found.readable, round(found.details["duration"]), found.details["codec"]) == (True, 2, None)
        assert found.thumbnails == {}


async def test_sounds_show_their_waveform(store: ObjectStore) -> None:
    loud_then_silent = "aevalsrc='sin(440*2*PI*t)*lt(t,1)':d=2"
    for media_type, arguments in {
        "audio/mpeg": ("mp3", "-metadata", "title=A song", "-metadata", "artist=Ada"),
        "audio/wav": ("wav",),
        "audio/flac": ("flac",),
        "audio/ogg": ("ogg", "-c:a", "libvorbis"),
    }.items():
        data = clip(*arguments, source=loud_then_silent)
        assert detect(data[:HEAD_BYTES], "x") == media_type
        found = await look(store, data, media_type)
        assert found.readable, found.details
        assert found.details["channels"] == 1
        assert found.details["sample_rate"] == 44100
        wave = Image.open(io.BytesIO(found.thumbnails["large"])).convert("L")
        width, height = wave.size
        quarter = height // 4
        assert wave.getpixel((width // 4, quarter)) < 200 < wave.getpixel((3 * width // 4, quarter))  # type: ignore[operator]
    titled = await look(store, clip("mp3", "-metadata", "title=A song", source=loud_then_silent), "audio/mpeg")
    assert titled.details["title"] == "A song"


async def test_an_upload_is_described_and_shown(world: World) -> None:
    made = await upload(world, picture(), "photo.png", file_type="image")
    details = await inspected(world, made["id"])
    assert details["inspection"] == "ready"
    assert details["metadata"]["width"] == 1600
    for size, width in WIDTHS.items():
        response = await world.get(f"/files/{made['id']}/thumbnail?size={size}")
        assert response.headers["Content-Type"] == "image/jpeg"
        assert Image.open(io.BytesIO(await response.read())).width == width
    assert (await world.get(f"/files/{made['id']}/thumbnail?size=huge")).status == 400
    text = await upload(world)
    await inspected(world, text["id"])
    assert (await world.get(f"/files/{text['id']}/thumbnail")).status == 404


async def test_a_file_that_could_not_be_fetched_is_looked_into_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []
    real = sandbox.inspect

    async def at_first_away(store: ObjectStore, ref: ArtifactRef) -> Findings:
        tries.append(ref.name)
        if len(tries) < 3:
            raise StoreError("The store is away.")
        return await real(store, ref)

    monkeypatch.setattr(sandbox, "inspect", at_first_away)
    monkeypatch.setattr("gateway.inspection.inspector.PAUSE", timedelta(0))
    made = await upload(world, picture(), "photo.png")
    assert (await inspected(world, made["id"]))["inspection"] == "ready"
    assert len(tries) == 3


async def test_an_upload_stands_though_nobody_can_tell_what_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise OSError("The database is away.")

    monkeypatch.setattr("gateway.inspection.inspector.files.some", away)
    made = await upload(world, picture(), "photo.png")
    monkeypatch.undo()
    assert (await inspected(world, made["id"]))["inspection"] == "ready"


async def test_a_lost_file_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lost(*_: object) -> Findings:
        raise ObjectMissing("There is no such object.")

    monkeypatch.setattr(sandbox, "inspect", lost)
    monkeypatch.setattr("gateway.inspection.inspector.PAUSE", timedelta(0))
    made = await upload(world, picture(), "photo.png")
    assert (await inspected(world, made["id"]))["inspection"] == "unreadable"


async def test_a_store_that_is_away_for_long_leaves_files_readable(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = sandbox.inspect, []

    async def away(*of: Any) -> Findings:
        asked.append(of)
        if len(asked) < 20:
            raise StoreError("The store is away.")
        return await real(*of)

    monkeypatch.setattr(sandbox, "inspect", away)
    monkeypatch.setattr("gateway.inspection.inspector.PAUSE", timedelta(0))
    monkeypatch.setattr("gateway.inspection.inspector.POLL_S", 0.05)
    made = await upload(world, picture(), "photo.png")
    assert (await inspected(world, made["id"]))["inspection"] == "ready"


async def test_a_store_that_does_not_answer_in_time_is_not_the_files_fault(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await upload(world, picture(), "photo.png")
    ref = ArtifactRef(name="photo.png", digest=made["checksum"], key="k", size=made["size"], media_type="image/png")
    answered = threading.Event()

    class Slow(FileStore):
        def read(self, *of: Any) -> Iterator[bytes]:
            answered.wait(20)
            yield b""

    monkeypatch.setattr(sandbox, "READ_S", 0.3)
    try:
        with pytest.raises(StoreError):
            await sandbox.inspect(Slow(world.settings.data_dir / "store"), ref)
    finally:
        answered.set()


# Hostile files


def png_of(width: int, height: int, rows: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXTINF:1,\nhttp://127.0.0.1:1/x\n#EXT-X-ENDLIST\n"
CONCAT = b"ffconcat version 1.0\nfile /etc/passwd\n"


async def test_bombs_are_not_opened(store: ObjectStore) -> None:
    for name, data, media_type in (
        ("pixels", png_of(60_000, 60_000), "image/png"),
        ("decompression", png_of(30_000, 30_000, bytes(30_000 * 2_000)), "image/png"),
        ("text", office_file({"docProps/core.xml": " " * 200_000_000}), "application/vnd.oasis.opendocument.text"),
        ("entities", office_file({"docProps/core.xml": laughs()}), "application/vnd.oasis.opendocument.text"),
        ("gif", picture(kind="GIF")[:6] + b"\xff\xff\xff\xff" + picture(kind="GIF")[10:], "image/gif"),
    ):
        found = await look(store, data, media_type)
        assert not found.readable, name
        assert found.thumbnails == {}
        assert found.details == {"error": f"It cannot be read as {media_type}"}


def laughs() -> str:
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    return f'<!DOCTYPE x [<!ENTITY l0 "lol">{entities}]><x>&l11;</x>'


@pytest.mark.parametrize("media_type", ["video/mp4", "video/x-matroska", "video/x-msvideo", "audio/mpeg", "audio/wav"])
@pytest.mark.parametrize("trick", [PLAYLIST, CONCAT])
async def test_a_playlist_in_a_containers_clothing_opens_nothing(
    store: ObjectStore, tmp_path: Path, media_type: str, trick: bytes
) -> None:
    """It leads to a clip that could be read."""
    (tmp_path / "clip").write_bytes(clip("mp4", "-c:v", "mpeg4"))
    found = await look(store, trick.replace(b"/etc/passwd", bytes(tmp_path / "clip")) * 200, media_type)
    assert not found.readable


async def test_a_playlist_is_text_whatever_it_is_called(world: World) -> None:
    for name, trick in (("a.mp4", PLAYLIST), ("a.m3u8", PLAYLIST), ("a.mkv", CONCAT)):
        assert (await send(world, trick, name, file_type="video")).status == 400
        made = await upload(world, trick, name)
        assert (made["content_type"], made["file_type"]) == ("text/plain", "document")


def dref() -> bytes:
    """A QuickTime file whose samples are said to lie in another file."""
    data = bytearray(clip("mov", "-c:v", "mpeg4"))
    at = data.find(b"url \x00\x00\x00\x01")
    assert at > 0
    data[at : at + 8] = b"url \x00\x00\x00\x00"  # not in this file
    return bytes(data)


async def test_a_reference_to_another_file_is_not_followed(store: ObjectStore) -> None:
    found = await look(store, dref(), "video/quicktime")
    assert b"root:" not in repr(found).encode()


async def test_polyglots_are_what_their_first_bytes_say_and_no_more(world: World) -> None:
    page = b"<html><script>alert(1)</script></html>"
    gif = picture((8, 8), "GIF") + page
    made = await upload(world, gif, "a.html")
    assert made["content_type"] == "image/gif"
    shown = await world.get(f"/files/{made['id']}/download?inline=true")
    assert shown.headers["Content-Type"] == "image/gif"
    assert shown.headers["X-Content-Type-Options"] == "nosniff"
    archive = pdf() + office_file({"a": "b"})
    both = await upload(world, archive, "a.zip")
    assert both["content_type"] == "application/pdf"
    for data, name in ((office_file({"a": "b"}) + page, "a.html"), (b"MZ" + bytes(100) + page, "a.pdf")):
        assert (await send(world, data, name)).status == 415


async def test_a_broken_file_is_kept_and_called_unreadable(world: World) -> None:
    made = await upload(world, picture()[:3000], "broken.png")
    details = await inspected(world, made["id"])
    assert details["inspection"] == "unreadable"
    assert details["metadata"] == {"error": "It cannot be read as image/png"}
    told = await world.get(f"/files/{made['id']}/thumbnail")
    assert told.status == 404
    assert await (await world.get(f"/files/{made['id']}/download")).read() == picture()[:3000]


# The sandbox itself: code that is taken over can do nothing with it

PROBE = """
import io, os, socket, sys
from gateway.inspection import child
child.documents.preload(); child.pictures.preload(); child.moving.preload()
child.confine()
def tried(action):
    try:
        action()
    except (OSError, MemoryError, ValueError) as error:
        return type(error).__name__
    return "done"
print(
    tried(lambda: os.open("/etc/passwd", os.O_RDONLY)),
    tried(lambda: socket.socket()),
    tried(lambda: socket.socketpair()),
    tried(lambda: os.pipe()),
    tried(lambda: os.dup(0)),
    tried(lambda: bytearray(2 << 30)),
)
"""


async def test_confined_code_opens_no_file_and_no_socket_and_has_little_memory() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-c", PROBE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert out.decode().split() == ["OSError"] * 5 + ["MemoryError"], err.decode()


async def test_a_child_has_none_of_the_gateways_secrets(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T2M_STORE__SECRET_KEY", "secret")
    seen: dict[str, Any] = {}
    real = sandbox.asyncio.create_subprocess_exec

    async def spy(*arguments: Any, **named: Any) -> Any:
        seen.update(named["env"])
        return await real(*arguments, **named)

    monkeypatch.setattr(sandbox.asyncio, "create_subprocess_exec", spy)
    assert (await look(store, TEXT, "text/plain")).readable
    assert set(seen) == {"PATH", "LC_ALL"}


async def test_a_child_that_hangs_or_talks_nonsense_is_ended(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ref = ArtifactRef(name="x", digest=f"sha256:{'0' * 64}", key="x", size=10, media_type="image/png")
    monkeypatch.setattr(sandbox, "LIMIT_S", 2.0)
    for script, error in {
        "sleep 60": "It takes too long to read",
        "yes": "It takes too long to read",
        "exit 3": "It cannot be read as image/png",
        "kill -SEGV $$": "It cannot be read as image/png",
        "echo nonsense": "It cannot be read as image/png",
        'echo \'{"details": {}, "thumbnails": {"../x": 3}}\'': "It cannot be read as image/png",
        'echo \'{"details": {}, "thumbnails": {"small": 3}}\'; printf abc': "It cannot be read as image/png",
        'echo \'{"details": 5, "thumbnails": {}}\'': "It cannot be read as image/png",
    }.items():
        program = tmp_path / "python"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sandbox.sys, "executable", str(program))
        found = await sandbox.inspect(store, ref)
        assert (found.readable, found.details) == (False, {"error": error}), script


PROLOGUE = b'\xef\xbb\xbf \n<?xml version="1.0"?><!-- <html> --><!DOCTYPE svg PUBLIC "-//W3C" [<!ENTITY a "b>">]>\n'
TEXTS = [
    (PROLOGUE + b"<SVG xmlns=", "a.txt", "image/svg+xml"),
    (b"<!-- Mine --><!doctype\nHTML>", "a.json", "text/html"),
    (b"<script>1</script>", "a.csv", "text/html"),
    (b'{"html": "<svg>"}', "a.json", "application/json"),
    (b"# Title\n<svg></svg>", "README", "text/plain"),
    (b"# Notes\n<script>1</script>", "notes.md", "text/markdown"),
    (b"<!-- a --> text --> <svg>", "a.txt", "text/plain"),
    (b"<?xml version='1.0'?><rss><html>", "a.xml", "application/xml"),
]


@pytest.mark.parametrize(("head", "name", "media_type"), TEXTS)
def test_markup_is_what_begins_as_markup(head: bytes, name: str, media_type: str) -> None:
    assert detect(head, name) == media_type


@given(st.binary(max_size=300), st.sampled_from(["a", "a.html", "a.docx", "a.doc", "a.png", ".", "a.csv"]))
def test_any_bytes_are_something_or_nothing(data: bytes, name: str) -> None:
    for head in (data, b"PK\x03\x04" + data, b"RIFF" + data, b"\x00\x00\x00\x20ftyp" + data, b"\x1aE\xdf\xa3" + data):
        assert detect(head, name) in {*ACCEPTED, None}
