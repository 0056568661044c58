"""Where a job stands and how long it will take, from what earlier jobs took."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Generic, TypeVar

from config.catalogue import Catalogue
from config.settings import Settings
from gateway.database import pace, workers
from gateway.database.engine import Database
from gateway.database.jobs import Job
from gateway.database.pace import Measured, Queue
from gateway.dispatcher import alive
from pipeline.vocabulary import PERCENT_RANGE, JobRequest, Stage, now, percent

QUEUE_FRESH_S = 1.0
"""However many ask, the queue of a model is read once a second."""
PACE_FRESH_S = 30.0
MEASURED_JOBS = 30
"""The last completed jobs of a model; their median is what the next one is expected to take."""
BESIDE = (Stage.THUMBNAILS, Stage.METADATA)
"""They run side by side: the slower counts."""

T = TypeVar("T")


@dataclass(frozen=True)
class Forecast:
    """What to expect of an unfinished job.

    Attributes:
        position: in the queue of its model, 1 is next; None once a renderer has begun.
        seconds: until it is completed; None where nothing was measured or no renderer lives.
    """

    position: int | None
    seconds: int | None


@dataclass(frozen=True)
class Pace:
    """Seconds that stages take: the render per frame and step, the others per frame."""

    each: Mapping[Stage, float]

    @classmethod
    def of(cls, jobs: Sequence[Measured]) -> Pace | None:
        """The median over measured jobs; None if there is no render among them."""
        each = {}
        for stage in Stage:
            found = [job.seconds[stage] / _units(stage, job.request) for job in jobs if stage in job.seconds]
            if found:
                each[stage] = median(found)
        return cls(each) if Stage.RENDER in each else None

    def remaining(self, request: JobRequest, stage: Stage | None, progress: float) -> float:
        """Seconds of work left for a job that is in `stage` at `progress` percent."""
        spent = {one: _fraction(one, progress) for one in Stage} if stage is not None else dict.fromkeys(Stage, 0.0)
        left = {one: self.each.get(one, 0.0) * _units(one, request) * (1 - spent[one]) for one in Stage}
        side_by_side = max(left.pop(one) for one in BESIDE)
        return sum(left.values()) + side_by_side

    def rendering(self, work: int, progress: float = 0.0) -> float:
        """Seconds left of a render of that many frames times steps."""
        return self.each[Stage.RENDER] * work * (1 - _fraction(Stage.RENDER, progress))


class Outlook:
    """Forecasts for one gateway's clients."""

    def __init__(self, settings: Settings, catalogue: Catalogue, database: Database) -> None:
        self._settings, self._database = settings, database
        self._queues = {name: Fresh(QUEUE_FRESH_S, self._reader(pace.queue, name)) for name in catalogue.names}
        self._paces = {name: Fresh(PACE_FRESH_S, self._pace_reader(name)) for name in catalogue.names}
        self._renderers = Fresh(QUEUE_FRESH_S, self._count_renderers)

    async def of(self, job: Job) -> Forecast:
        """What to expect of `job`, which has no verdict yet."""
        model, state = job.request.model, job.projection
        if model not in self._queues:  # it left the catalogue
            return Forecast(None, None)
        measured = await self._paces[model].get()
        if state.stage is not None:
            return Forecast(None, _seconds(_left(job, measured)))
        queue = await self._queues[model].get()
        ids = [job_id for job_id, _ in queue.unstarted]
        if job.id not in ids:  # it was accepted, or begun, after the queue was read
            queue = await self._queues[model].renew()
            ids = [job_id for job_id, _ in queue.unstarted]
        if job.id not in ids:
            return Forecast(None, None)
        ahead = ids.index(job.id)
        return Forecast(ahead + 1, _seconds(await self._wait(job, queue, ahead, measured)))

    async def renderers(self, model: str) -> int:
        """How many live workers render with a model."""
        return (await self._renderers.get()).get(model, 0)

    async def _wait(self, job: Job, queue: Queue, ahead: int, measured: Pace | None) -> float | None:
        renderers = await self.renderers(job.request.model)
        if measured is None or not renderers:
            return None
        busy = sum(measured.rendering(work, progress) for work, progress in queue.started)
        before = sum(measured.rendering(work) for _, work in queue.unstarted[:ahead])
        return (busy + before) / renderers + measured.remaining(job.request, None, 0)

    async def _count_renderers(self) -> Mapping[str, int]:
        if self._settings.embedded:
            return dict.fromkeys(self._queues, 1)
        async with self._database.read() as connection:
            consumers = await workers.live(connection, now() - alive(self._settings))
        return {name: consumers[f"render.{name}"] for name in self._queues}

    def _reader(self, read: Callable[..., Awaitable[T]], model: str) -> Callable[[], Awaitable[T]]:
        async def ask() -> T:
            async with self._database.read() as connection:
                return await read(connection, model)

        return ask

    def _pace_reader(self, model: str) -> Callable[[], Awaitable[Pace | None]]:
        async def ask() -> Pace | None:
            async with self._database.read() as connection:
                return Pace.of(await pace.measured(connection, model, MEASURED_JOBS))

        return ask


class Fresh(Generic[T]):
    """An answer that is asked for again when it is older than `seconds`; who asks meanwhile shares the question.

    A question that fails does so for all who waited for its end: one after the other they would wait for ever longer.
    """

    def __init__(self, seconds: float, ask: Callable[[], Awaitable[T]]) -> None:
        self._seconds, self._ask = seconds, ask
        self._lock = asyncio.Lock()
        self._answers: list[T] = []
        self._asked_at = float("-inf")
        self._failed: tuple[float, Exception] | None = None

    async def get(self) -> T:
        """An answer of the last `seconds`."""
        return await self._get(time.monotonic() - self._seconds)

    async def renew(self) -> T:
        """An answer to a question asked after this call."""
        return await self._get(time.monotonic())

    async def _get(self, since: float) -> T:
        came_at = time.monotonic()
        async with self._lock:
            if self._failed is not None and came_at < self._failed[0]:
                raise self._failed[1]
            if self._asked_at < since:
                asked_at = time.monotonic()
                try:
                    self._answers = [await self._ask()]
                except Exception as error:
                    self._failed = time.monotonic(), error
                    raise
                self._asked_at = asked_at
            return self._answers[0]


def _left(job: Job, measured: Pace | None) -> float | None:
    """Seconds left of a job that has begun; by its own progress where nothing else was measured."""
    state = job.projection
    if measured is not None:
        return measured.remaining(job.request, state.stage, state.progress)
    if state.started_at is None or state.progress < 1:
        return None
    return (now() - state.started_at).total_seconds() * (100 - state.progress) / state.progress


def _fraction(stage: Stage, progress: float) -> float:
    """How much of a stage is done when the job is at `progress` percent."""
    low, high = PERCENT_RANGE[stage][0], percent(stage, 1.0)
    return min(max((progress - low) / (high - low), 0.0), 1.0)


def _units(stage: Stage, request: JobRequest) -> int:
    return request.frames * (request.steps if stage is Stage.RENDER else 1)


def _seconds(value: float | None) -> int | None:
    return None if value is None else math.ceil(value)
