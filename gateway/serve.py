"""Runs the gateway as a process, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.log import server_logger

from config.catalogue import Catalogue
from config.settings import Settings
from gateway.app import create_app
from gateway.context import GATEWAY
from gateway.errors import AddressError
from pipeline import heap
from pipeline.broker import open_broker
from pipeline.bus.factory import open_subscriber
from pipeline.store.factory import open_store

GRACE_S = 15.0
"""How long answers and uploads under way may take after the signal."""

LOOK_S, CUT_S = 0.05, 1.0
"""How often to look whether they are done, and how long those have that are cut off."""

IDLE_S = 75.0
"""How long a connection may wait for a request, and for the rest of its headers; proxies that keep connections open for
60 s, as most do, are never cut off in between."""

THREADS = 16
"""Calls that may wait for the store at a time, uploads apart. How many asyncio would allow depends on the cores."""

TRIM_EVERY_S = 30.0

WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - to be recognised, not bound

Ready = Callable[[str], None]

log = structlog.get_logger(__name__)


class Unreadable(logging.Filter):
    """Of requests that cannot be read, what they hold is not logged: it may be a token."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Leave the line, without the error that quotes the request."""
        if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
            record.msg, record.exc_info = "unreadable request from %s", None
            record.levelno, record.levelname = logging.INFO, "INFO"
        return True


UNREADABLE = Unreadable()


def run_gateway(settings: Settings, catalogue: Catalogue, ready: Ready | None = None) -> None:
    """A gateway of its own on the store, broker and database of the settings; returns after the signal.

    Args:
        ready: told the gateway's URL once it answers.

    Raises:
        T2MError: a setting is wrong, the store does not honour conditional writes, the database cannot be used or the
            address is taken; says which.
    """
    heap.share_heap()
    if settings.gateway.public_url is None and settings.gateway.host in WILDCARDS:
        log.warning("links in webhooks lead nowhere: set gateway.public_url", host=settings.gateway.host)
    store, broker = open_store(settings), open_broker(settings)
    store.probe()
    app = create_app(
        settings, store=store, broker=broker, subscribe=lambda: open_subscriber(settings), catalogue=catalogue
    )
    try:
        run(app, settings, ready)
    finally:
        broker.close()


def run(app: web.Application, settings: Settings, ready: Ready | None = None) -> None:
    """Serve `app` on this thread's own event loop until the signal, then let answers under way finish."""
    asyncio.run(_serve(app, settings, ready))


async def _serve(app: web.Application, settings: Settings, ready: Ready | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(_threads())
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server_logger.addFilter(UNREADABLE)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=CUT_S, keepalive_timeout=IDLE_S)
    await runner.setup()
    tidying = asyncio.create_task(_tidy())
    try:
        url = await _listen(runner, settings)
        if ready is not None:
            ready(url)
        await stop.wait()
    finally:
        tidying.cancel()
        await _finish(runner)
        await runner.cleanup()


async def _finish(runner: web.AppRunner) -> None:
    """Take no more connections, and answer what is under way: aiohttp's own shutdown reads no further into uploads."""
    for site in tuple(runner.sites):
        await site.stop()
    traffic = runner.app[GATEWAY].traffic
    traffic.ending = True
    await runner.shutdown()  # the streams end
    with suppress(TimeoutError):
        async with asyncio.timeout(GRACE_S):
            while traffic.under_way:
                await asyncio.sleep(LOOK_S)


async def _tidy() -> None:
    while True:
        await asyncio.sleep(TRIM_EVERY_S)
        heap.trim()


def _threads() -> ThreadPoolExecutor:
    """All started at once: what a gateway holds does not depend on what it has met."""
    pool, met = ThreadPoolExecutor(THREADS, "blocking"), threading.Barrier(THREADS)
    for _ in range(THREADS):
        pool.submit(met.wait)
    return pool


async def _listen(runner: web.AppRunner, settings: Settings) -> str:
    host, port = settings.gateway.host, settings.gateway.port
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        remedy = "Stop what listens there, or set `gateway.port` (T2M_GATEWAY__PORT)."
        raise AddressError(f"Cannot listen on {host}:{port}: {error.strerror}.", remedy=remedy) from error
    bound_host, bound_port = runner.addresses[0][:2]
    return f"http://{bound_host}:{bound_port}"
