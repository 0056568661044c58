"""Signed URLs: they open what was signed, for as long as was signed, and nothing else."""

from __future__ import annotations

import time
from ipaddress import ip_network
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from config.settings import Settings
from gateway.limits.policy import Limit
from tests.unit.gateway.fixtures import OpenWorld
from tests.unit.gateway.support import API, World, content
from tests.unit.gateway.test_api import error
from tests.unit.gateway.uploading import TEXT, inspected, picture, upload


async def sign(world: World, file_id: str, user: str = "ada", **body: Any) -> str:
    response = await world.client.post(f"{API}/files/{file_id}/signed-url", json=body, headers=world.headers(user))
    told = await response.json()
    assert response.status == 200, told
    assert told["data"]["expires_at"].endswith("Z")
    return str(told["data"]["url"])


def altered(url: str, **query: str | None) -> str:
    parts = urlsplit(url)
    changed = dict(parse_qsl(parts.query, keep_blank_values=True)) | query
    return parts._replace(query=urlencode({k: v for k, v in changed.items() if v is not None})).geturl()


async def test_a_url_opens_the_file_without_a_token_and_is_counted(world: World) -> None:
    made = await upload(world)
    url = await sign(world, made["id"], expires_in=3600)
    assert url.startswith(str(world.client.make_url("/")))
    response = await world.client.session.get(url)
    assert (response.status, await response.read()) == (200, TEXT)
    assert response.headers["Content-Disposition"].startswith("attachment")
    part = await world.client.session.get(url, headers={"Range": "bytes=3-5", "Authorization": "Bearer nonsense"})
    assert (part.status, await part.read()) == (206, TEXT[3:6])
    told = await world.data(f"/files/{made['id']}/analytics")
    assert (told["downloads"], told["by_signed_url"]) == (1, 1)
    assert "RateLimit" not in response.headers


async def test_options_are_signed_along(world: World) -> None:
    made = await upload(world, picture(), "a.png")
    await inspected(world, made["id"])
    inline = await world.client.session.get(await sign(world, made["id"], inline=True))
    assert inline.headers["Content-Disposition"].startswith("inline")
    small = await world.client.session.get(await sign(world, made["id"], size="small"))
    assert small.content_type == "image/jpeg"
    job_id = await world.completed()
    stream = await world.client.session.get(await sign(world, job_id.replace("job", "video"), quality="720p"))
    assert await stream.read() == content(job_id, "720p.mp4")


async def test_whatever_is_altered_is_refused(world: World) -> None:
    made, other = await upload(world, picture(), "a.png"), await upload(world, user="eve")
    url = await sign(world, made["id"], size="small")
    bad = [
        altered(url, expires=str(int(time.time()) + 10**6)),
        altered(url, user_id="eve"),
        altered(url, signature=""),
        altered(url, signature="ä"),
        altered(url, size="large"),
        altered(url, size=None),
        altered(url, quality="auto"),
        altered(url, inline="true"),
        altered(url, file_type="video"),
        altered(url, file_type=None),
        altered(url, expires="٣"),
        url.replace(made["id"], other["id"]),
        url.replace(made["id"], "file_123456"),
        url + "A",
    ]
    for one in bad:
        told = await error(await world.client.session.get(one), 401, "AUTH_INVALID")
        assert "signature" in told["message"].lower()
    assert (await world.client.session.get(altered(url, colour="red"))).status in (200, 404), (
        "what means nothing is not signed"
    )


async def test_what_a_url_lacks_is_named(world: World) -> None:
    url = await sign(world, (await upload(world))["id"])
    for missing in (["user_id"], ["expires", "signature"]):
        bare = altered(url, **dict.fromkeys(missing))
        told = await error(await world.client.session.get(bare), 400, "VALIDATION_ERROR")
        assert told["details"] == {name: [f"{name.replace('_', ' ').capitalize()} is required"] for name in missing}


async def test_an_old_url_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    url = await sign(world, (await upload(world))["id"], expires_in=60)
    assert (await world.client.session.get(url)).status == 200
    later = time.time() + 60
    monkeypatch.setattr("gateway.files.signed.time.time", lambda: later)
    await error(await world.client.session.get(url), 401, "AUTH_EXPIRED")


async def test_a_deleted_files_url_opens_nothing(world: World) -> None:
    made = await upload(world)
    url = await sign(world, made["id"])
    await world.client.delete(f"{API}/files/{made['id']}", headers=world.headers())
    await error(await world.client.session.get(url), 404, "RESOURCE_NOT_FOUND")


async def test_wishes_that_are_wrong_are_named(world: World) -> None:
    made = await upload(world)
    for body in (
        {"expires_in": 0},
        {"expires_in": -5},
        {"expires_in": 10**9},
        {"expires_in": "soon"},
        {"size": "huge"},
        {"quality": "4k"},
        {"inline": "perhaps"},
        {"colour": 1},
    ):
        response = await world.client.post(f"{API}/files/{made['id']}/signed-url", json=body, headers=world.headers())
        told = await error(response, 400, "VALIDATION_ERROR")
        assert set(told["details"]) == set(body)


async def test_signed_media_does_not_count(open_world: OpenWorld, settings: Settings) -> None:
    limits = settings.limits.model_copy(update={Limit.GENERAL.value: 3})
    world = await open_world(settings.model_copy(update={"limits": limits}))
    url = await sign(world, (await upload(world))["id"])
    for _ in range(5):
        assert (await world.client.session.get(url)).status == 200


async def test_the_public_url_is_where_it_leads(open_world: OpenWorld, settings: Settings) -> None:
    there = settings.gateway.model_copy(update={"public_url": "https://video.example.com/"})
    world = await open_world(settings.model_copy(update={"gateway": there}))
    made = await upload(world)
    url = await sign(world, made["id"])
    assert url.startswith(f"https://video.example.com{API}/files/secure/{made['id']}?user_id=ada&expires=")


async def test_only_a_trusted_proxy_says_that_clients_came_by_tls(open_world: OpenWorld, settings: Settings) -> None:
    behind = settings.gateway.model_copy(update={"trusted_proxies": (ip_network("127.0.0.0/8"),)})
    for gateway, scheme in ((settings.gateway, "http"), (behind, "https")):
        world = await open_world(settings.model_copy(update={"gateway": gateway}))
        made = await upload(world)
        path, headers = f"{API}/files/{made['id']}/signed-url", world.headers(**{"X-Forwarded-Proto": "https"})
        response = await world.client.post(path, json={}, headers=headers)
        assert (await response.json())["data"]["url"].startswith(f"{scheme}://127.0.0.1:")
