"""Renders in processes of their own, which can be killed at any moment and taken up by a fresh one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from config.catalogue import Catalogue, ModelEntry
from config.settings import load
from models.contract import Take
from pipeline import runner, steps
from pipeline.hold import USUAL, Hold
from pipeline.vocabulary import JobRequest, Stage
from tests.unit.pipeline.recording import Bench, message

LIMIT_S = 300.0
"""For a render on a busy machine."""
PRELOADED = [__name__, "models.model", "models.families.wan", "models.families.cogvideox"]
PRELOADED += ["models.families.hunyuan15", "models.families.ltx2", "models.families.tiny"]

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(PRELOADED)


@dataclass(frozen=True)
class Note:
    """When a step was done, by the fast clock."""

    done: int
    at: float


@dataclass(frozen=True)
class Shop:
    """What the processes of one model share.

    Attributes:
        folder: with the store, in which all that they know of each other is.
        weights: of models that are not bundled.
        entries: the catalogue.
        speed: a second of the clock by which checkpoints are due passes in the `speed`-th part of one.
    """

    folder: Path
    weights: Path
    entries: dict[str, ModelEntry]
    speed: float = 1.0


class Worker:
    """A process that renders and encodes; it goes on from whatever the one before it left.

    Checkpoints are due by production's rule.
    """

    def __init__(self, shop: Shop, request: JobRequest, name: str) -> None:
        self._notes = shop.folder / f"{request.job_id}-{name}"
        self._notes.touch()
        self._process: ForkServerProcess = processes.Process(target=_work, args=(shop, request, name, self._notes))
        self._process.start()

    @property
    def notes(self) -> list[Note]:
        """The steps it has done; a line that is being written is left out."""
        lines = self._notes.read_text().split("\n")[:-1]
        return [Note(int(done), float(at)) for done, at in map(str.split, lines)]

    def kill_at(self, step: int, then_s: float) -> None:
        """SIGKILL `then_s` after that step."""
        deadline = time.monotonic() + LIMIT_S
        while len(self.notes) < step:
            assert time.monotonic() < deadline and self._process.is_alive(), f"{len(self.notes)} steps were done"
            time.sleep(0.001)
        time.sleep(then_s)
        assert self._process.pid is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.join(LIMIT_S)

    def finish(self) -> None:
        """Wait for its end."""
        self._process.join(LIMIT_S)
        assert self._process.exitcode == 0


def _work(shop: Shop, request: JobRequest, name: str, notes: Path) -> None:
    os.setpgid(0, 0)
    runner.Hold = _holding(shop.speed, notes)  # type: ignore[misc]  # a test's own clock
    settings = load(data_dir=shop.folder, models={"device": "cpu", "weights": str(shop.weights)})
    bench = Bench(shop.folder)
    rules = replace(USUAL, lease_s=float("inf"))  # loading weights would take too long by the fast clock
    worker = bench.another(steps.functions(settings, Catalogue(shop.entries)), name, rules)
    for stage in (Stage.RENDER, Stage.ENCODE):
        worker.run(message(request, stage), redelivered=True)


def _holding(speed: float, notes: Path) -> Callable[..., Hold]:
    """`Hold` with a fast clock, which notes each step before it does anything about it."""

    class Holding(Hold):
        def __init__(self, *parts: Any) -> None:
            self._noted: list[float] = []
            super().__init__(*parts, clock=lambda: self._noted.pop() if self._noted else speed * time.monotonic())

        def offer(self, done: int, total: int, take: Take) -> None:
            at = self._clock()
            with notes.open("a") as file:
                file.write(f"{done} {at!r}\n")
            self._noted.append(at)  # what is noted is what it goes by, however long the writing took
            super().offer(done, total, take)

    return Holding
