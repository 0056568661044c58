"""Fixtures shared by all tests: the real servers, and settings that point at them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import structlog

from config import settings as configuration
from config.settings import Settings
from gateway.database import migrate
from gateway.database.engine import Database
from tests.services import PostgreSQL, RabbitMQ, Redis, SeaweedFS, Services

# Machines are shared: a slow example is no failure.
hypothesis.settings.register_profile("shared-machine", deadline=None)
hypothesis.settings.load_profile("shared-machine")

# Few tests configure logging, and structlog's default draws each traceback with all variables: half a second of a core.
structlog.dev.ConsoleRenderer.get_active().exception_formatter = structlog.dev.plain_traceback

VERSIONS = pytest.StashKey[dict[str, str]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files whose tests mostly wait and files whose tests mostly compute in turns, so that no core is idle for long.

    At the end those that compute: they are shorter, so that no process is left alone with a long one.
    """
    files = {path: list(its) for path, its in groupby(items, key=lambda item: item.path)}
    place: dict[Path, float] = {}
    for computing, share in ((False, 0.7), (True, 1)):
        kind = [path for path in files if ("unit" in path.parts) is computing]
        place |= {path: share * number / len(kind) for number, path in enumerate(kind)}
    items[:] = [item for path in sorted(files, key=place.__getitem__) for item in files[path]]


@pytest.fixture(scope="session")
def services(request: pytest.FixtureRequest) -> Iterator[Services]:
    """All servers; prefer the fixtures below, each starts only its own."""
    with Services() as services:
        yield services
        versions = services.versions
    if hasattr(request.config, "workeroutput"):  # one of several processes, which reports to the first
        request.config.workeroutput["versions"] = versions
    else:
        request.config.stash[VERSIONS] = versions


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Learn from a process that ran tests against which servers it did."""
    known = node.config.stash.setdefault(VERSIONS, {})
    known.update(node.workeroutput.get("versions", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say against which servers the tests ran."""
    for name, version in config.stash.get(VERSIONS, {}).items():
        terminalreporter.write_line(f"real server: {name} {version}")


@pytest.fixture
def rabbitmq(services: Services) -> RabbitMQ:
    """The broker: `.url`, `.vhost()`, `.restart()`, `.kill()`, `.start()`, `.pause()`, `.resume()`."""
    services.rabbitmq.start()
    return services.rabbitmq


@pytest.fixture
def rabbitmq_vhost(rabbitmq: RabbitMQ) -> Iterator[str]:
    """URL of a virtual host of this test's own."""
    url = rabbitmq.vhost()
    yield url
    rabbitmq.start()
    rabbitmq.drop_vhost(url)


@pytest.fixture
def postgres(services: Services) -> PostgreSQL:
    """The database server: `.url` (maintenance database), `.dsn(database)`."""
    services.postgres.start()
    return services.postgres


@pytest.fixture
def postgres_database(postgres: PostgreSQL) -> Iterator[str]:
    """SQLAlchemy URL (asyncpg) of an empty database of this test's own."""
    name = postgres.create_database()
    yield postgres.dsn(name).replace("postgresql://", "postgresql+asyncpg://")
    postgres.start()
    postgres.drop_database(name)


@pytest.fixture
def redis_server(services: Services) -> Redis:
    """Redis, emptied: `.url`."""
    services.redis.start()
    services.redis.flush()
    return services.redis


@pytest.fixture
def s3(services: Services) -> SeaweedFS:
    """The S3 server: `.endpoint`, `.access_key`, `.secret_key`, `.client`."""
    services.s3.start()
    return services.s3


@pytest.fixture
def s3_bucket(s3: SeaweedFS) -> Iterator[str]:
    """Name of an empty bucket of this test's own."""
    name = s3.create_bucket()
    yield name
    s3.start()
    s3.drop_bucket(name)


SettingsFactory = Callable[..., Settings]
LIMITS = ("general", "system", "uploads", "jobs")
"""Few tests are about them."""
SERVER_SETTINGS = {
    "rabbitmq": lambda get: {"broker": {"url": get("rabbitmq_vhost")}},
    "postgres": lambda get: {"database": {"url": get("postgres_database")}},
    "redis": lambda get: {"redis": {"url": get("redis_server").url}},
    "s3": lambda get: {"store": store_settings(get("s3"), get("s3_bucket"))},
}


def store_settings(s3: SeaweedFS, bucket: str) -> dict[str, object]:
    """The `store` section for a bucket of the S3 server."""
    return {
        "kind": "s3",
        "endpoint": s3.endpoint,
        "secure": False,
        "bucket": bucket,
        "access_key": s3.access_key,
        "secret_key": s3.secret_key,
    }


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite database with the gateway's tables."""
    path = tmp_path_factory.mktemp("databases") / "migrated.db"

    async def migrate_it() -> None:
        database = Database(f"sqlite+aiosqlite:///{path}")
        await migrate.upgrade(database)
        await database.close()

    asyncio.run(migrate_it())
    return path


@pytest.fixture
def t2m_settings(request: pytest.FixtureRequest, tmp_path: Path) -> SettingsFactory:
    """Make settings on a data folder of this test's own.

    `t2m_settings()` is embedded; `t2m_settings("rabbitmq", "s3", "postgres", "redis", log={"level": "DEBUG"})` uses the
    named real servers, each with a vhost, bucket or database of this test's own, and sets further keys.
    """

    def make(*servers: str, **overrides: object) -> Settings:
        values: dict[str, object] = {"data_dir": tmp_path / "data", "limits": dict.fromkeys(LIMITS, 100_000)}
        for server in servers:
            values |= SERVER_SETTINGS[server](request.getfixturevalue)
        return configuration.load(**values | overrides)

    return make
