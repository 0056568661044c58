"""`t2m render`: one job on the embedded runtime, followed to its end."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from cli import console
from cli.export import check_space, check_writable, export
from cli.progress import Display, display
from config.catalogue import Catalogue, ModelEntry
from config.errors import T2MError
from config.settings import Settings, load
from pipeline import logging
from pipeline.bus.memory import MemorySubscriber
from pipeline.embedded import EmbeddedRuntime
from pipeline.requests import resolve
from pipeline.vocabulary import Event, EventKind, Failure, Final, JobRequest, Status
from stages.hls import MASTER

USER = "local"
ENDS = {EventKind.COMPLETED, EventKind.FAILED, EventKind.CANCELLED}
LOG_FILE = "t2m.log"
BACKOFF_S = (2.0,)
"""Waits before retries: somebody is waiting, and can free the disk or mend what else is wrong."""

MEZZANINE_BYTES_S = 24_000_000
"""Bytes a second of clip in the data folder: lossless 720p4:2:0 measured 11.5 MB/s, there and in scratch at once."""
RENDITION_BYTES_S = 3_200_000
"""Bytes a second of clip in the results: both rungs at their caps (7.8 + 4.5 Mb/s), as MP4 and as HLS."""


class JobFailedError(T2MError):
    """The job's verdict is a failure; carries its words."""


def render_to(body: Mapping[str, object], out: Path, data: Path | None, *, debug: bool) -> int:
    """Render what `body` asks for (see `pipeline.requests.resolve`) and put its files into `out`; the exit code.

    Raises:
        T2MError: the request, the settings, the machine or a stage is at fault; says what to do.
    """
    settings = embedded_settings(data)
    catalogue = Catalogue.load(settings.models.catalogue)
    request = resolve(body, user_id=USER, catalogue=catalogue, default_model=settings.models.default)
    check_writable(out, "--out")
    check_writable(settings.data_dir, "--data")
    _log(settings, debug)
    check_before(settings, catalogue.get(request.model), request, out)
    runtime = EmbeddedRuntime(settings, catalogue, backoff_s=BACKOFF_S)
    final = run(runtime, request, display(console.err))
    if final.status is Status.CANCELLED:
        console.note(f"Cancelled; nothing was written to {out}.")
        return console.EXIT_INTERRUPTED
    if final.failure:
        raise _failed(final.failure)
    export(runtime.store, final.artifacts, out)
    _tell(out, final, request)
    return 0


def embedded_settings(data: Path | None) -> Settings:
    """The settings with broker and store in this process and its data folder, whatever else is configured."""
    overrides: dict[str, object] = {} if data is None else {"data_dir": data}
    return load(broker={"url": "memory://"}, store={"kind": "file"}, **overrides)


def check_before(settings: Settings, entry: ModelEntry, request: JobRequest, out: Path) -> None:
    """Find out what would stop the job late, before it begins.

    Raises:
        T2MError: OUT or the data folder lack space, ffmpeg does not work, weights are wrong.
    """
    from models.weights import locate
    from stages.ffmpeg import choose

    check_space(out, round(request.duration_s * RENDITION_BYTES_S))
    check_space(settings.data_dir, round(request.duration_s * (RENDITION_BYTES_S + MEZZANINE_BYTES_S)))
    choose(settings.encode.codec, settings.encode.encoder)
    locate(entry, settings.models)


def _log(settings: Settings, debug: bool) -> None:
    """Send logs to a file in the data folder, with `debug` to the terminal; open to the end of the process."""
    stream = sys.stderr if debug else (settings.data_dir / LOG_FILE).open("a", encoding="utf-8")
    logging.configure(settings.log, logging.secrets_of(settings), stream)


def run(runtime: EmbeddedRuntime, request: JobRequest, shown: Display) -> Final:
    """Run one job to its verdict. Ctrl-C and SIGTERM cancel it."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    runtime.start()
    try:
        with shown:
            return asyncio.run(_follow(runtime, request, shown))
    except KeyboardInterrupt:
        return runtime.cancel(request.job_id, USER)
    finally:
        runtime.stop()


async def _follow(runtime: EmbeddedRuntime, request: JobRequest, shown: Display) -> Final:
    subscriber = MemorySubscriber(runtime.bus, durable=False)
    await subscriber.start()
    await asyncio.to_thread(runtime.submit, request)
    async for event, acknowledge in subscriber.events():
        await acknowledge()
        if isinstance(event, Event) and event.job_id == request.job_id:
            shown.show(event)
            if event.kind in ENDS:
                break
    final = await asyncio.to_thread(runtime.jobs.final, request.job_id)
    if final is None:
        raise JobFailedError("The job ended without a verdict.", remedy="Run it again.")
    return final


def _failed(failure: Failure) -> JobFailedError:
    return JobFailedError(f"The {failure.stage} stage failed: {failure.message}", remedy=failure.remedy)


def _tell(out: Path, final: Final, request: JobRequest) -> None:
    for name in sorted(ref.name for ref in final.artifacts):
        if "/" not in name or name == MASTER:
            console.say(f"{out / name}")
    understood = final.metadata.get("generation", {}).get("understood", {})
    if understood and not understood.get("complete", True):
        console.note(f"The model {request.model} read the prompt as: {understood.get('text') or '(nothing it knows)'}")
    console.note(f"Done: seed {request.seed}, files in {out.absolute()}")
