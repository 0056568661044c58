"""The API document held against one gateway on PostgreSQL, RabbitMQ, Redis and S3."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.scene import Scene
from tests.conformance.test_endpoints import ENDPOINTS, check
from tests.conformance.test_examples import CURL, JAVASCRIPT, PYTHON, check_curl, check_javascript, check_python
from tests.unit.gateway.fixtures import broker, bus, open_world, settings, store, world
from tests.unit.gateway.support import World

__all__ = ["broker", "bus", "open_world", "settings", "store", "world"]


@pytest.fixture
def servers() -> tuple[str, ...]:
    return ("rabbitmq", "s3", "postgres", "redis")


async def test_every_endpoint_and_every_example(world: World, tmp_path: Path) -> None:
    scene = Scene(world)
    for heading in JAVASCRIPT:  # first, while there is no other job that runs
        await check_javascript(scene, tmp_path, heading)
    for heading in PYTHON:
        await check_python(scene, tmp_path, heading)
    for code in CURL.values():
        await check_curl(scene, tmp_path, code)
    for name in ENDPOINTS:
        await check(scene, name)
