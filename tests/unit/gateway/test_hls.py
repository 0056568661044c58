"""Playlists whose URIs open without a header, played by ffmpeg. Runs embedded here and on servers in integration."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import m3u8
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from sqlalchemy import update

from gateway import compression, hls
from gateway.auth.local import deployment_key
from gateway.database.tables import jobs
from gateway.signing import Signer
from pipeline.vocabulary import now
from stages.contract import NeverCancelled
from stages.hls import MEDIA_TYPES, package
from tests.unit.gateway.support import API, World, content
from tests.unit.gateway.test_api import UNKNOWN, error
from tests.unit.gateway.test_jobs import delete

SECONDS, RATE = 8, 10
ONE_REQUEST = ("-http_seekable", "0")
"""Per segment: the current ffmpeg asks for adjoining ones together, and then takes the end of the first for the end."""


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """A real HLS folder of two rungs, as encoding leaves it."""
    folder = tmp_path_factory.mktemp("hls")
    rungs = {"720p": "160x90", "1080p": "320x180"}
    for name, size in rungs.items():
        source = f"testsrc=size={size}:rate={RATE}:duration={SECONDS}"
        command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, "-g", str(2 * RATE), "-pix_fmt", "yuv420p"]
        subprocess.run([*command, str(folder / f"{name}.mp4")], check=True, timeout=60)
    names = package({name: folder / f"{name}.mp4" for name in rungs}, folder, NeverCancelled())
    return {name: (folder / name, MEDIA_TYPES[Path(name).suffix]) for name in names}


@pytest.fixture
async def video(world: World, packaged: dict[str, tuple[Path, str]]) -> str:
    """A completed job with that folder."""
    world.worker.more = packaged
    return await world.completed()


async def playlist(world: World, job_id: str, query: str = "format=hls", **headers: str) -> tuple[str, str]:
    """The master playlist and where players find it."""
    response = await world.get(f"/videos/{job_id}/stream?{query}", **headers)
    assert response.status == 200, await response.text()
    assert response.content_type == "application/vnd.apple.mpegurl"
    return await response.text(), response.headers["Content-Location"]


def ffmpeg(*arguments: str, player: str = "") -> subprocess.CompletedProcess[str]:
    """By default a current ffmpeg: 5.1, as Debian has it, seeks wrongly in fragments that byte ranges address."""
    command = [player or get_ffmpeg_exe(), "-v", "error", *arguments, "-fps_mode", "passthrough", "-f", "framemd5", "-"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


async def frames(*arguments: str, player: str = "") -> list[str]:
    """Digests of the frames that ffmpeg plays."""
    played = await asyncio.to_thread(ffmpeg, *arguments, player=player)
    assert played.returncode == 0, played.stderr
    return [line.split(",")[-1].strip() for line in played.stdout.splitlines() if not line.startswith("#")]


async def test_ffmpeg_plays_and_seeks_without_a_header(
    world: World, video: str, packaged: dict[str, tuple[Path, str]]
) -> None:
    _, location = await playlist(world, video)
    url = str(world.client.make_url(location))
    local = await frames("-i", str(packaged["hls/master.m3u8"][0]))
    assert len(local) == SECONDS * RATE
    assert await frames("-i", url, player="ffmpeg") == local
    assert await frames(*ONE_REQUEST, "-i", url) == local
    assert await frames(*ONE_REQUEST, "-ss", "5.5", "-i", url) == local[55:]


async def test_the_playlist_is_the_stored_one_with_a_token_in_its_uris(
    world: World, video: str, packaged: dict[str, tuple[Path, str]]
) -> None:
    text, location = await playlist(world, video)
    stored = m3u8.loads(packaged["hls/master.m3u8"][0].read_text())
    master = m3u8.loads(text)
    folder = location.removeprefix(f"{API}/videos/{video}/").removesuffix("master.m3u8")
    assert [one.uri for one in master.playlists] == [folder + one.uri for one in stored.playlists]
    assert [one.uri for one in master.iframe_playlists] == [folder + one.uri for one in stored.iframe_playlists]
    for one in (*master.playlists, *master.iframe_playlists):
        response = await world.client.get(f"{API}/videos/{video}/{one.uri}")
        assert response.status == 200
        assert m3u8.loads(await response.text()).segments
    ranged = await world.client.get(f"{API}/videos/{video}/{folder}720p.mp4", headers={"Range": "bytes=0-9"})
    assert (ranged.status, len(await ranged.read())) == (206, 10)


async def test_players_that_accept_playlists_get_one_and_others_the_file(world: World, video: str) -> None:
    for accept in ("application/vnd.apple.mpegurl", "text/html, application/x-mpegURL;q=0.9"):
        text, _ = await playlist(world, video, "", Accept=accept)
        assert text.startswith("#EXTM3U")
    refused = "video/mp4, application/vnd.apple.mpegurl;q=0"
    for query, accept in (("", "*/*"), ("", refused), ("?format=mp4", "application/vnd.apple.mpegurl")):
        response = await world.get(f"/videos/{video}/stream{query}", Accept=accept)
        assert response.content_type == "video/mp4"
        assert await response.read() == content(video, "1080p.mp4")


async def test_playlists_are_compressed_and_media_is_not(
    world: World, video: str, packaged: dict[str, tuple[Path, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "LEAST", 1)
    _, location = await playlist(world, video)
    folder, stored = location.removesuffix("master.m3u8"), packaged["hls/720p.m3u8"][0].read_text()
    for accepted, coding in (("gzip, deflate", "gzip"), ("identity", None)):
        headers = {"Accept-Encoding": accepted, "Range": "bytes=0-9"}
        for url in (location, f"{folder}720p.m3u8"):
            response = await world.client.get(url, headers=headers)
            assert (response.status, response.headers.get("Content-Encoding")) == (200, coding)
            assert response.headers["Vary"] == "Accept-Encoding"
        assert await response.text() == stored
        media = await world.client.get(f"{folder}720p.mp4", headers=headers)
        assert (media.status, media.headers.get("Content-Encoding"), media.headers.get("Vary")) == (206, None, None)


async def test_a_player_that_has_a_playlist_is_told_so(world: World, video: str) -> None:
    _, location = await playlist(world, video)
    first = await world.client.head(location)
    assert (first.status, await first.read()) == (200, b"")
    etag = first.headers["ETag"]
    again = await world.client.get(location, headers={"If-None-Match": etag})
    assert (again.status, again.headers["ETag"], again.headers["Vary"]) == (304, etag, "Accept-Encoding")


async def test_a_quality_leaves_one_variant(world: World, video: str) -> None:
    text, _ = await playlist(world, video, "format=hls&quality=720p")
    master = m3u8.loads(text)
    assert [one.uri.split("/")[-1] for one in master.playlists] == ["720p.m3u8"]
    assert [one.uri.split("/")[-1] for one in master.iframe_playlists] == ["720p-iframes.m3u8"]


async def test_a_token_that_was_altered_is_refused(world: World, video: str) -> None:
    _, location = await playlist(world, video)
    token = location.split("/")[-2]
    nonce, _, signature = token.partition(".")
    flipped = ("A" if signature[0] != "A" else "B") + signature[1:]
    other = Signer(deployment_key(world.settings), "another purpose").sign(video, nonce)
    for wrong in (f"{nonce}.{flipped}", f"x{nonce}.{signature}", nonce, f"{nonce}.", f"{nonce}.{other}", "..", "é.é"):
        for name in ("master.m3u8", "720p.mp4"):
            response = await world.client.get(f"{API}/videos/{video}/hls/{wrong}/{name}")
            assert response.status in (401, 404)
            if response.status == 404:
                assert wrong == "..", "the client resolves it"
            else:
                await error(response, 401, "AUTH_INVALID")
    another = await world.completed()
    await error(await world.client.get(f"{API}/videos/{another}/hls/{token}/master.m3u8"), 401, "AUTH_INVALID")
    await error(await world.client.get(f"{API}/videos/{UNKNOWN}/hls/{token}/master.m3u8"), 401, "AUTH_INVALID")


async def expire(world: World, job_id: str, after: timedelta) -> None:
    async with world.gateway.database.write() as connection:
        at = now() + after
        await connection.execute(update(jobs).where(jobs.c.id == job_id).values(stream_expires_at=at))


async def lasting(world: World, job_id: str) -> timedelta:
    """How long its token is still good."""
    async with world.gateway.database.read() as connection:
        stream = await hls.jobs.stream(connection, job_id)
    assert stream is not None
    assert stream.expires_at is not None
    return stream.expires_at - now()


async def test_a_token_is_renewed_while_it_is_good_and_then_replaced(world: World, video: str) -> None:
    _, location = await playlist(world, video)
    await expire(world, video, timedelta(minutes=1))
    assert (await playlist(world, video))[1] == location, "what a paused player holds stays good"
    await expire(world, video, timedelta(seconds=-1))
    await error(await world.client.get(location), 401, "AUTH_EXPIRED")
    _, renewed = await playlist(world, video)
    assert renewed != location
    await error(await world.client.get(location), 401, "AUTH_EXPIRED")
    assert (await world.client.get(renewed)).status == 200
    assert (await asyncio.to_thread(ffmpeg, "-i", str(world.client.make_url(location)))).returncode != 0


async def test_a_token_lasts_a_day_from_the_last_time_it_was_asked_for(world: World, video: str) -> None:
    tokens = world.gateway.stream_tokens
    first = await tokens.issue(video)
    await expire(world, video, timedelta(hours=23))
    assert await tokens.issue(video) == first
    assert timedelta(hours=23.9) < await lasting(world, video) <= timedelta(hours=24)


async def test_only_files_of_the_folder_are_opened(world: World, video: str) -> None:
    _, location = await playlist(world, video)
    folder = location.removesuffix("master.m3u8")
    for name in ("../1080p.mp4", "..%2F1080p.mp4", "none.m3u8", "%00"):
        assert (await world.client.get(folder + name)).status in (401, 404)


async def test_a_deleted_jobs_playlist_is_gone(world: World, video: str) -> None:
    _, location = await playlist(world, video)
    await delete(world, video)
    await error(await world.client.get(location), 404, "RESOURCE_NOT_FOUND")


async def test_there_is_no_playlist_before_the_end_or_for_others(world: World, video: str) -> None:
    waiting = await world.generate()
    await error(await world.get(f"/videos/{waiting}/stream?format=hls"), 404, "RESOURCE_NOT_FOUND")
    await error(await world.get(f"/videos/{video}/stream?format=hls", "bob"), 404, "RESOURCE_NOT_FOUND")
    told = await error(await world.get(f"/videos/{video}/stream?format=dash"), 400, "VALIDATION_ERROR")
    assert list(told["details"]) == ["format"]


SignerOf = Callable[[str], Signer]


def test_signatures_are_of_all_parts_and_one_purpose(world_key: SignerOf) -> None:
    one, other = world_key("a"), world_key("b")
    signature = one.sign("ab", "c")
    assert one.verify(signature, "ab", "c")
    for wrong in (("a", "bc"), ("abc",), ("ab", "c", ""), ("ab\n1:c",)):
        assert not one.verify(signature, *wrong)
    assert not other.verify(signature, "ab", "c")
    assert not one.verify("é", "ab", "c")


@pytest.fixture
def world_key(t2m_settings: Callable[..., object]) -> SignerOf:
    key = deployment_key(t2m_settings())  # type: ignore[arg-type]
    return lambda purpose: Signer(key, purpose)


async def test_players_that_begin_together_get_one_token(world: World, video: str) -> None:
    answers = await asyncio.gather(*(playlist(world, video) for _ in range(12)))
    assert len({address for _, address in answers}) == 1
