"""Fixtures of all gateway tests. `servers` decides what they run on; the integration tests override it."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import dramatiq
import pytest
from aiohttp.test_utils import TestClient, TestServer
from sqlalchemy import make_url

from config.catalogue import Catalogue
from config.settings import Settings
from gateway.app import create_app
from pipeline.broker import open_broker
from pipeline.bus.factory import open_publisher, open_subscriber
from pipeline.bus.memory import MemoryBus
from pipeline.store.base import ObjectStore
from pipeline.store.factory import open_store
from tests.unit.gateway.documented import Documented
from tests.unit.gateway.support import Worker, World

OpenWorld = Callable[..., Awaitable[World]]


@pytest.fixture
def servers() -> tuple[str, ...]:
    return ()


@pytest.fixture
def settings(t2m_settings: Callable[..., Settings], servers: tuple[str, ...], migrated: Path) -> Settings:
    """With a database that is migrated already, where that is a file: a copy is made ten times as fast."""
    settings = t2m_settings(*servers)
    if "postgres" not in servers:
        settings.data_dir.mkdir(exist_ok=True)
        shutil.copy(migrated, make_url(settings.database_url).database or "")
    return settings


@pytest.fixture
def store(settings: Settings) -> ObjectStore:
    return open_store(settings)


@pytest.fixture
def broker(settings: Settings) -> Iterator[dramatiq.Broker]:
    broker = open_broker(settings)
    yield broker
    broker.close()


@pytest.fixture
def bus() -> MemoryBus:
    return MemoryBus()


@pytest.fixture
async def open_world(
    settings: Settings, store: ObjectStore, broker: dramatiq.Broker, bus: MemoryBus, tmp_path: Path
) -> AsyncIterator[OpenWorld]:
    """Starts gateways on the same servers, each stopped at the end of the test; all they answer must be documented."""
    catalogue, documented = Catalogue.load(), list[Documented]()
    async with AsyncExitStack() as stack:

        async def start(settings: Settings = settings) -> World:
            app = create_app(
                settings,
                store=store,
                broker=broker,
                subscribe=lambda: open_subscriber(settings, memory=bus),
                catalogue=catalogue,
            )
            documented.append(Documented(app))
            client = await stack.enter_async_context(TestClient(TestServer(app)))
            publisher = open_publisher(settings, memory=bus)
            stack.callback(publisher.close)
            return World(settings, catalogue, store, broker, Worker(store, publisher, tmp_path), client)

        yield start
    assert [wrong for one in documented for wrong in one.wrong] == []


@pytest.fixture
async def world(open_world: OpenWorld) -> World:
    return await open_world()
