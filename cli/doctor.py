"""`t2m doctor`: does each thing T2M depends on work here, and what to do if not."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from cli import console
from cli.servers import rendered
from config.catalogue import Catalogue
from config.errors import T2MError
from config.settings import LogSettings, Settings, load
from pipeline import logging
from pipeline.errors import BrokerError

LOW_SPACE_BYTES = 2_000_000_000
"""A minute of 1080p with its mezzanine takes about 1.5 GB."""

Check = Callable[[Settings], str]
"""Says in a few words what works; raises a T2MError where something does not."""


class Unusable(T2MError):
    """A dependency does not work."""


def diagnose(data: Path | None, queues: Sequence[str] = ()) -> int:
    """Run the checks of a worker with these queues, or all this installation has parts for; 0 if all passed.

    Raises:
        ConfigError: there is no such queue.
    """
    from pipeline.runtime import by_class

    settings = load(data_dir=data)
    logging.configure(LogSettings(level="ERROR"), logging.secrets_of(settings))
    if queues:
        by_class(queues, Catalogue.load(settings.models.catalogue).names)
    results = [_report(name, check, settings, bool(queues)) for name, check in checks(queues)]
    return 0 if all(results) else console.EXIT_FAILED


def checks(queues: Sequence[str] = ()) -> Iterator[tuple[str, Check]]:
    """Checks by the name they are shown with: what a worker with these queues needs, or all."""
    models = rendered(queues)
    yield "ffmpeg", ffmpeg
    yield "packager", packager
    if models or not queues:
        yield "gpu", gpu
        yield "weights", partial(weights, models)
    yield "broker", broker
    yield "store", store
    if not queues:
        yield "database", database
        yield "redis", redis
    yield "disk", disk


def _report(name: str, check: Check, settings: Settings, needed: bool) -> bool:
    try:
        text, good = check(settings), True
    except ModuleNotFoundError as error:
        text, good = f"not part of this installation ({error.name})", not needed
    except Exception as error:  # noqa: BLE001 - a check that breaks is a finding, and the next ones still count
        text, good = console.explain(error)[0], False
    console.out.print(f"[{'green' if good else 'red'}]{'ok  ' if good else 'FAIL'}[/] {name:<9}", end=" ")
    console.say(text)
    return good


def ffmpeg(settings: Settings) -> str:
    """Every encoder, tried."""
    from stages.ffmpeg import choose, encoders, versions

    chosen = choose(settings.encode.codec, settings.encode.encoder)
    found = encoders()
    if not found[chosen]:
        raise Unusable(f"The encoder {chosen} does not work here.", remedy="Set encode.encoder to auto.")
    return f"{versions()['ffmpeg']}, uses {chosen}; " + ", ".join(
        f"{name} {'works' if works else 'does not work'}" for name, works in found.items()
    )


def packager(settings: Settings) -> str:
    """Shaka Packager runs."""
    from stages.ffmpeg import packager_binary

    try:
        done = subprocess.run([packager_binary(), "--version"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise Unusable("Shaka Packager does not run.", remedy="Install T2M again on a supported platform.") from error
    return done.stdout.strip().splitlines()[0]


def gpu(settings: Settings) -> str:
    """What renders: the GPU, or the CPU where the settings allow it."""
    import torch

    from pipeline.gpu import gpu_state

    state = gpu_state()
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory
        return f"{torch.cuda.get_device_name(0)}, {memory / 2**30:.0f} GiB"
    if settings.models.device == "cuda" or state:
        found = state["name"] if state else "no GPU"
        raise Unusable(
            f"torch {torch.__version__} cannot use CUDA ({found} found).",
            remedy="Install a CUDA build of torch and its driver, or set models.device to cpu.",
        )
    return f"none; the CPU renders (torch {torch.__version__})"


def weights(models: Sequence[str], settings: Settings) -> str:
    """The weights of these models, or of the default one, digests checked."""
    from models.weights import check, folder_of

    catalogue, found = Catalogue.load(settings.models.catalogue), []
    for name in models or [settings.models.default]:
        entry = catalogue.get(name)
        folder = folder_of(entry, settings.models)
        check(entry, folder)
        found.append(f"{name} at {folder}, sha256 checked")
    return "; ".join(found)


def broker(settings: Settings) -> str:
    """RabbitMQ takes a connection."""
    from pipeline.broker import RabbitBroker, explain, open_broker

    opened = open_broker(settings)
    if not isinstance(opened, RabbitBroker):
        return "in this process"
    try:
        connection = opened.connection
        version = connection._impl.server_properties.get("version", "?")
    except BrokerError:
        raise
    except Exception as error:
        raise explain(error, "the configured address") from error
    opened.close()
    return f"RabbitMQ {version}"


def store(settings: Settings) -> str:
    """The store can be written and honours both conditions."""
    from pipeline.store.factory import open_store

    open_store(settings).probe()
    where = settings.store.endpoint if settings.store.kind == "s3" else str(settings.data_dir / "store")
    return f"{settings.store.kind} at {where}; conditional writes are honoured"


def database(settings: Settings) -> str:
    """The database answers."""
    from sqlalchemy import make_url, text
    from sqlalchemy.ext.asyncio import create_async_engine

    async def ask() -> None:
        engine = create_async_engine(settings.database_url)
        try:
            async with asyncio.timeout(10), engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
        finally:
            await engine.dispose()

    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite":
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    shown = url.render_as_string(hide_password=True)
    try:
        asyncio.run(ask())
    except Exception as error:
        raise Unusable(
            f"The database at {shown} does not answer: {type(error).__name__}.",
            remedy="Check that it runs and that `database.url` is right.",
        ) from error
    return shown


def redis(settings: Settings) -> str:
    """Redis answers, if it is set."""
    from redis import Redis, RedisError

    url = settings.redis.url.get_secret_value()
    if not url:
        return "not set; memory of the process is used"
    try:
        with Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5) as client:
            version = client.info("server")["redis_version"]
    except RedisError as error:
        raise Unusable(
            f"Redis does not answer: {type(error).__name__}.",
            remedy="Check that it runs and that `redis.url` is right.",
        ) from error
    return f"Redis {version}"


def disk(settings: Settings) -> str:
    """Free space where the data folder lies."""
    from cli.export import check_space, check_writable

    check_writable(settings.data_dir, "--data")
    check_space(settings.data_dir, LOW_SPACE_BYTES)
    return f"{settings.data_dir.absolute()}, {shutil.disk_usage(settings.data_dir).free / 1e9:.0f} GB free"
