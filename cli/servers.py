"""The long-running commands: everything in one process, the gateway, and the worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli import console
from config.catalogue import Catalogue
from config.errors import ConfigError
from config.settings import Settings, load
from pipeline import logging

if TYPE_CHECKING:
    from aiohttp import web

    from pipeline.embedded import EmbeddedRuntime

RENDER = "render."


def serve_all(data: Path | None, host: str | None, port: int | None) -> None:
    """Run the HTTP API and all stages in this process until SIGINT or SIGTERM; takes up unfinished jobs.

    Raises:
        T2MError: a setting, the store, the database or the address cannot be used; says which.
    """
    from gateway.serve import run
    from pipeline.embedded import EmbeddedRuntime

    address = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = _settings(data_dir=data, broker={"url": "memory://"}, gateway=address)
    catalogue = Catalogue.load(settings.models.catalogue)
    runtime = EmbeddedRuntime(settings, catalogue)
    app = embedded_app(settings, catalogue, runtime, settings.worker.grace_s)
    run(app, settings, _announcer(f"t2m token --data {settings.data_dir} --user me"))


def embedded_app(settings: Settings, catalogue: Catalogue, runtime: EmbeddedRuntime, grace_s: float) -> web.Application:
    """The gateway of a runtime, which starts and stops with it."""
    from gateway.app import create_app
    from pipeline.bus.factory import open_subscriber

    async def stages(app: web.Application) -> AsyncIterator[None]:
        await asyncio.to_thread(runtime.start)
        yield
        await asyncio.to_thread(runtime.stop, grace_s)

    app = create_app(
        settings,
        store=runtime.store,
        broker=runtime.broker,
        subscribe=lambda: open_subscriber(settings, runtime.bus),
        catalogue=catalogue,
    )
    app.cleanup_ctx.append(stages)
    return app


def serve_gateway() -> None:
    """Run the HTTP API until SIGINT or SIGTERM.

    Raises:
        ConfigError: the broker is in memory.
        T2MError: see `gateway.serve.run_gateway`.
    """
    from gateway.serve import run_gateway

    settings = _settings()
    if settings.embedded:
        raise ConfigError(
            "`broker.url` is memory://, which no worker can reach.",
            remedy="Set `broker.url` (T2M_BROKER__URL) to the amqp:// URL of a RabbitMQ server, or use `t2m serve`.",
        )
    run_gateway(settings, Catalogue.load(settings.models.catalogue), _announcer("t2m token --user me"))


def work(queues: Sequence[str], data: Path | None) -> int:
    """Run stages until SIGINT or SIGTERM; fetches weights first where they lie in a store. Returns the exit code.

    Raises:
        T2MError: a queue is unknown, or the broker, the store or the weights cannot be used.
    """
    from cli.models import fetch
    from pipeline.worker import supervise

    settings = _settings(data_dir=data)
    catalogue = Catalogue.load(settings.models.catalogue)
    fetch(rendered(queues), catalogue, settings)
    return supervise(settings, catalogue, queues)


def rendered(queues: Sequence[str]) -> list[str]:
    """The models that a worker of these queues renders with."""
    return [queue.removeprefix(RENDER) for queue in queues if queue.startswith(RENDER)]


def _settings(**overrides: object) -> Settings:
    """The settings, with this process's logs set up by them."""
    settings = load(**overrides)
    logging.configure(settings.log, logging.secrets_of(settings))
    return settings


def _announcer(token: str) -> Callable[[str], None]:
    def announce(url: str) -> None:
        console.note(f"T2M listens on {url}/api/v1. A token for it: {token}")

    return announce
