"""A whole T2M in one thread whose steps somebody else orders: real API, dispatcher, broker, runner, store, projector.

Every change that a run makes to the world (a record, a blob, a message, an event) is a point at which its process may
die, lose the store, or stand still while another does the same work. What clients see goes into a record, so that the
checker can judge this world like a real deployment.

`python -m tests.chaos.small_world FOLDER SEED WALKS` walks at random until the checker objects; the seeded bugs use it.
"""

from __future__ import annotations

import asyncio
import io
import json
import random
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import dramatiq
from aiohttp.test_utils import TestClient, TestServer

from config.catalogue import Catalogue
from config.settings import LogSettings, Settings, load
from gateway.app import create_app
from gateway.auth.base import Role
from gateway.auth.local import LocalAuthenticator
from gateway.context import GATEWAY, Gateway
from gateway.dispatcher import Dispatcher
from gateway.projector import Projector
from models.contract import Detail
from pipeline import dispatch, logging
from pipeline.broker import InProcessBroker, declare
from pipeline.bus.base import Item
from pipeline.bus.factory import open_subscriber
from pipeline.bus.memory import MemoryBus
from pipeline.errors import StoreError
from pipeline.hold import Rules
from pipeline.jobs import Jobs
from pipeline.runner import Runner, TryAgain
from pipeline.runtime import all_queues
from pipeline.steps import Function, Made, Work, functions
from pipeline.store.factory import open_store
from pipeline.topology import LANES
from pipeline.vocabulary import Event, Stage, StageMessage, now
from tests.chaos.checker import Report, check
from tests.chaos.record import Record
from tests.small_stages import SMALL

API = "/api/v1"
CHANGES = {"create", "replace", "put_file", "delete"}
"""Methods by which the store is changed."""
ROUNDS = 60
"""In which everything must come to its end once nothing goes wrong any more; a job needs ten."""
EVERY_STEP = Rules(every_s=0, steps=1)
"""When renders leave checkpoints."""
STEPS = 6
POINTS = 40
"""More than the changes of a run of small stages, so that some runs are spared."""
UNHARMED = 10_000
"""A point that no run gets to, nor a real render that leaves a checkpoint at every step."""
SWEPT = 12
"""Points of a run that a sweep tries; no stage has more between its start and its last message."""
TWINS = 2
"""Requests that come again and again and must give equal files; others are made once, so no blob hides another."""


class Crash(BaseException):
    """The process is gone: nothing that handles errors runs."""


class Trap:
    """Does something at the n-th of the points between the changes of a run."""

    def __init__(self) -> None:
        self._left, self._act = 0, None

    def set(self, point: int, act: Callable[[], None] | None) -> None:
        self._left, self._act = point, act

    def point(self) -> None:
        act = self._act
        if act is None:
            return
        self._left -= 1
        if self._left < 0:
            self._act = None
            act()


class TrappedStore:
    """A store with a point before and after each change."""

    def __init__(self, store: Any, trap: Trap) -> None:
        self._store, self._trap = store, trap

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name not in CHANGES:
            return method

        def trapped(*arguments: Any, **named: Any) -> Any:
            self._trap.point()
            result = method(*arguments, **named)
            self._trap.point()
            return result

        return trapped


class TrappedBroker(InProcessBroker):
    """The embedded broker with a point before and after each message that is sent."""

    def __init__(self, trap: Trap) -> None:
        super().__init__()
        self._trap = trap

    def enqueue(self, message: dramatiq.Message[Any], *, delay: int | None = None) -> dramatiq.Message[Any]:
        self._trap.point()
        sent = super().enqueue(message)  # a retry waits for its turn, not for its time
        self._trap.point()
        return sent


class Outbox:
    """An `EventPublisher` whose events lie here until somebody projects them."""

    def __init__(self, trap: Trap) -> None:
        self.events: list[Event] = []
        self._trap = trap

    def publish(self, event: Item) -> None:
        self._trap.point()
        if isinstance(event, Event):
            self.events.append(event)
        self._trap.point()

    def publish_soon(self, event: Item) -> Future[None]:
        self.publish(event)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def on_cancel(self, listener: Callable[[str], None]) -> None:
        """Cancellations are found in the store."""

    def close(self) -> None:
        """Nothing to release."""


class SmallWorld:
    """Close it when done; evidence for the checker lies in `folder`.

    Args:
        rendering: the bundled model draws for real; else all stages are small.
    """

    def __init__(self, folder: Path, *, rendering: bool = False) -> None:
        self.folder, self._rendering = folder, rendering
        self.settings = _settings(folder)
        self.trap = Trap()
        self.outbox, self.broker = Outbox(self.trap), TrappedBroker(self.trap)
        self._plain_store = open_store(self.settings)
        self.store = TrappedStore(self._plain_store, self.trap)
        self.record = Record(folder / "client.jsonl")
        self.jobs: list[str] = []
        self.dies_at_step: int | None = None
        self._keys = 0
        self._sent: list[tuple[str, dramatiq.Message[Any]]] = []
        self._delivered: set[str] = set()
        self._loop = asyncio.new_event_loop()
        self._catalogue = Catalogue.load()
        self.queues = all_queues(("tiny",))
        declare(self.broker, self.queues)
        self._run(self._open())

    # The client

    def accept(self, twin: int) -> None:
        """Ask for a video, and once more with the same key as if the answer had been lost."""
        self._keys += 1
        key, body = (
            f"key-{self._keys}",
            {"prompt": "a red ball", "duration": 1, "quality": "720p", "steps": STEPS, "seed": twin},
        )
        self.record.note("attempt", key=key)
        for _ in range(2):
            status, answer = self._ask("POST", "/videos/generate", json=body, headers={"Idempotency-Key": key})
            assert status == 202, answer
            job_id = answer["data"]["job_id"]
            self.record.note("accepted", key=key, job_id=job_id, request=str(twin), webhook=False)
        self.jobs.append(job_id)

    def poll(self, job_id: str) -> None:
        _, answer = self._ask("GET", f"/videos/{job_id}/status")
        self.record.note("status", job_id=job_id, status=answer["data"]["status"], progress=answer["data"]["progress"])

    def cancel(self, job_id: str) -> None:
        status, answer = self._ask("POST", f"/jobs/{job_id}/cancel")
        told = answer["data"]["status"] if status == 200 else answer["error"]["details"]["status"]
        self.record.note("cancel", job_id=job_id, answer=told)

    # The pipeline

    def dispatch(self, point: int = UNHARMED) -> None:
        """One pass; the dispatcher may die at that point."""
        self.trap.set(point, crash)
        try:
            self._run(self._dispatcher.dispatch())
        except Crash:
            self._dispatcher = self._new_dispatcher()
        finally:
            self.trap.set(0, None)

    def work(
        self, queue: str, point: int = UNHARMED, act: Callable[[], None] | None = None, *, lost: bool = False
    ) -> bool:
        """Handle the next message of a queue; whether there was one.

        Args:
            act: done at that point of the run, `crash` by default.
            lost: the run goes well, and its acknowledgement is lost.
        """
        consumer = self.broker.consume(queue, timeout=1)
        try:
            message = next(consumer)
            if message is None:
                return False
            self._sent.append((queue, message._message))
            self.trap.set(point, act or crash)
            if self._handled(message) and not lost:
                consumer.ack(message)
            return True
        finally:
            self.trap.set(0, None)
            consumer.close()

    def duplicate(self, number: int) -> None:
        """A message that was delivered once comes again."""
        if self._sent:
            _, message = self._sent[number % len(self._sent)]
            self.broker.enqueue(message)

    def project(self, count: int, dice: random.Random | None = None, *, lost: bool = False) -> None:
        """Store up to `count` events, in any order; with `lost`, they come again."""
        batch = self.outbox.events[:count]
        if not lost:
            del self.outbox.events[:count]
        if dice is not None:
            batch += dice.choices(batch, k=2) if batch else []
            dice.shuffle(batch)
        self._run(self._projector.project(batch))

    def repair(self) -> None:
        """Look for verdicts that nobody told, as if a long time had passed."""
        self._run(self._projector.repair_once(now() + timedelta(hours=1)))

    def drain(self) -> None:
        """Handle all messages, and store all events."""
        while any(self.work(queue) for queue in self.queues):
            continue
        self.project(len(self.outbox.events))

    def settle(self) -> None:
        """Nothing goes wrong any more: everything comes to its end, if it can."""
        for _ in range(ROUNDS):
            self.dispatch()
            busy = [self.work(queue) for queue in self.queues]
            self.project(len(self.outbox.events))
            if not any(busy):
                self.repair()
        for job_id in self.jobs:
            self.poll(job_id)

    # The judge

    def judge(self) -> Report:
        """What the checker says now; the files of the small stages are no videos, so none is played."""
        return check(
            self.settings.database_url, str(self.settings.data_dir / "store"), self.record.path, lambda *_: None
        )

    def close(self) -> None:
        self._run(self._client.close())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
        self.record.close()

    def _handled(self, message: Any) -> bool:
        """Run one delivery; False if its process died. A failed one is sent again as the actors do."""
        body = StageMessage.model_validate(message.args[0])
        redelivered, retries = message.message_id in self._delivered, message.options.get("retries", 0)
        self._delivered.add(message.message_id)
        runner = self._runner()
        try:
            runner.run(body, max(0, LANES[body.stage].max_retries - retries), redelivered)
        except TryAgain:
            self.trap.set(0, None)
            self.broker.enqueue(message._message.copy(options={"retries": retries + 1}))
        except Crash:
            return False
        finally:
            runner._uploads.shutdown()  # what it cleans up in the background is part of the run here
        return True

    def _runner(self) -> Runner:
        """Of a process with an empty memory."""

        def send(message: StageMessage, model: str) -> None:
            dispatch.send(self.broker, message, model)

        made = SMALL
        if self._rendering:
            made = SMALL | {Stage.RENDER: self._mortal(functions(self.settings, self._catalogue)[Stage.RENDER])}
        return Runner(Jobs(self.store), self.outbox, send, made, self.folder / "scratch", rules=EVERY_STEP)

    def _mortal(self, render: Function) -> Function:
        """The render, whose process dies when it tells of that step."""

        def until_death(work: Work) -> Made:
            def report(fraction: float, message: str = "", **details: Detail) -> None:
                work.report(fraction, message, **details)
                if self.dies_at_step is not None and details.get("step") == self.dies_at_step:
                    raise Crash

            return render(replace(work, report=report))

        return until_death

    async def _open(self) -> None:
        bus = MemoryBus()
        app = create_app(
            self.settings,
            store=self._plain_store,
            broker=self.broker,
            subscribe=lambda: open_subscriber(self.settings, memory=bus),
            catalogue=self._catalogue,
        )
        self._client = TestClient(TestServer(app))
        await self._client.start_server()
        self._gateway: Gateway = app[GATEWAY]
        self._dispatcher = self._new_dispatcher()
        gateway = self._gateway
        self._projector = Projector(
            gateway.database, gateway.store, lambda: gateway.control, gateway.ledger, gateway.metrics, gateway.wake
        )
        token = LocalAuthenticator.open(self.settings).issue("ada", Role.USER, timedelta(hours=1))
        self._headers = {"Authorization": f"Bearer {token}"}

    def _new_dispatcher(self) -> Dispatcher:
        gateway = self._gateway
        return Dispatcher(self.settings, self._catalogue, gateway.database, self.broker, gateway.metrics, gateway.wake)

    def _ask(self, method: str, path: str, **options: Any) -> tuple[int, dict[str, Any]]:
        async def ask() -> tuple[int, dict[str, Any]]:
            headers = self._headers | options.pop("headers", {})
            async with self._client.request(method, API + path, headers=headers, **options) as answer:
                return answer.status, await answer.json()

        return self._run(ask())

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(coroutine)


def _settings(folder: Path) -> Settings:
    return load(
        data_dir=folder / "data",
        gateway={"roles": ("api",)},
        limits={"jobs": 100_000, "general": 100_000},
    )


def crash() -> None:
    raise Crash


def store_away() -> None:
    raise StoreError("The store is away.")


def walk(world: SmallWorld, dice: random.Random, steps: int) -> None:
    """Take so many steps at random, then let everything come to its end."""
    for _ in range(steps):
        point = dice.randrange(POINTS // 4)
        queue = dice.choice(world.queues)
        act: Callable[[], None] = dice.choice([crash, crash, store_away, lambda queue=queue: twin_of(world, queue)])
        step: Callable[[], object] = dice.choices(
            [
                lambda: world.accept(dice.choice([*range(TWINS), 100 + len(world.jobs)])),
                lambda: world.dispatch(dice.randrange(6)),
                lambda queue=queue, point=point, act=act: world.work(queue, point, act),
                lambda queue=queue: world.work(queue, lost=True),
                lambda: world.duplicate(dice.randrange(1000)),
                lambda: world.project(dice.randrange(1, 12), dice, lost=dice.random() < 0.3),
                lambda: world.jobs and world.poll(dice.choice(world.jobs)),
                lambda: world.jobs and dice.random() < 0.5 and world.cancel(dice.choice(world.jobs)),
            ],
            weights=[2, 3, 12, 2, 1, 5, 3, 1],
        )[0]
        step()
    world.settle()


def sweep(world: SmallWorld) -> None:
    """A job for every point of every stage; its worker dies there, and another one goes on."""
    for dying in world.queues:
        for point in range(SWEPT):
            world.accept(100 + len(world.jobs))
            world.dispatch()
            for queue in world.queues:
                world.work(queue, point if queue == dying else UNHARMED)
            world.drain()
    world.settle()


def resume(world: SmallWorld) -> None:
    """Two equal jobs: one is drawn at once; the worker of the other dies between two steps, and another goes on."""
    for _ in range(2):
        world.accept(0)
    world.dispatch()
    (queue,) = (name for name in world.queues if name.startswith("render"))
    world.work(queue)
    world.dies_at_step = STEPS - 2
    world.work(queue)
    world.dies_at_step = None
    world.settle()


def twin_of(world: SmallWorld, queue: str) -> None:
    """The message was delivered to another worker too, which does all of its work while this one stands still."""
    if world._sent and world._sent[-1][0] == queue:
        world.broker.enqueue(world._sent[-1][1])
        while world.work(queue):
            continue


def main(folder: str, seed: str, walks: str, rendering: str = "") -> int:
    """Sweep, then walk until the checker objects; 1 if it did. With a fourth word, a real render is resumed instead."""
    logging.configure(LogSettings(level="ERROR", format="console"), (), io.StringIO())
    for number in range(int(walks) + 1):
        place = Path(folder) / str(number)
        place.mkdir(parents=True)
        world = SmallWorld(place, rendering=bool(rendering))
        if rendering:
            resume(world)
        elif number == 0:
            sweep(world)
        else:
            walk(world, random.Random(int(seed) + number), 120)
        report = world.judge()
        world.close()
        if not report.clean:
            print(json.dumps(report.violations), report.line, sep="\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
