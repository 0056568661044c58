"""What headers accept, and which answers are compressed because of it."""

from __future__ import annotations

import pytest

from gateway.compression import LEAST
from gateway.negotiation import accepted
from tests.unit.gateway.support import API, World


@pytest.mark.parametrize(
    ("header", "named"),
    [
        ("gzip, deflate", {"gzip": True, "deflate": True}),
        ("GZip ; Q=0.000,*", {"gzip": False, "*": True}),
        ("gzip;q=0.001", {"gzip": True}),
        ("a/b;level=0;q=0., c/d;q=1.0", {"a/b": False, "c/d": True}),
        ("gzip;q=00;q=", {"gzip": True}),
    ],
)
def test_a_weight_of_zero_refuses(header: str, named: dict[str, bool]) -> None:
    assert accepted(header) == named


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        ("gzip", "gzip"),
        ("deflate, gzip", "gzip"),
        ("gzip, deflate, br, zstd", "gzip"),
        ("deflate", None),
        ("identity", None),
        ("gzip;q=0", None),
        ("gzip;q=0, *", None),
        ("*", "gzip"),
        ("*;q=0", None),
        ("*;q=0, gzip;q=0.5", "gzip"),
        (None, None),
    ],
)
async def test_long_answers_are_compressed(world: World, header: str | None, coding: str | None) -> None:
    headers, unasked = ({}, ["Accept-Encoding"]) if header is None else ({"Accept-Encoding": header}, [])
    for path, long in (("/system/metrics", False), ("/models", True)):
        asked = world.client.get(API + path, headers=world.headers(**headers), skip_auto_headers=unasked)
        async with asked as response:
            assert (len(await response.read()) >= LEAST) is long
            assert response.headers.get("Content-Encoding") == (coding if long else None)
            assert response.headers["Vary"] == "Accept-Encoding"
            assert (await response.json())["success"] is True
