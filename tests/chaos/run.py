"""One run: deployment, load and faults at the same time, then the checker as a program of its own."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.broker import open_broker
from pipeline.store.factory import open_store
from tests.chaos.deployment import Deployment, Pace
from tests.chaos.evidence import Rows, read_rows
from tests.chaos.faults import KINDS, LANES, Scene, Stakes
from tests.chaos.load import Load, Wish
from tests.chaos.processes import START_S
from tests.chaos.receiver import receiver
from tests.chaos.record import Record
from tests.services import Services

Say = Callable[[str], None]
MAX_TRIES = 300
"""Of one kind of fault, a second apart: other lanes may keep away for minutes what it needs."""
MIN_HITS = 0.7
"""Share of the faults that must hit work in flight, else the run proves little."""


@dataclass(frozen=True)
class Plan:
    """How much of everything.

    Attributes:
        each: faults of every kind at least; more are drawn until there are `faults`.
        settle_s: after the last fault everything must come to its end within this time.
    """

    wish: Wish
    stakes: Stakes
    faults: int
    each: int
    settle_s: float
    kinds: tuple[str, ...] = tuple(KINDS)
    pace: Pace = field(default_factory=Pace)


FULL = Plan(
    wish=Wish(jobs=200, longer=24, seconds=480), stakes=Stakes(away=120, brief=3), faults=108, each=3, settle_s=1200
)
SHORT = Plan(
    wish=Wish(jobs=24, longer=2, seconds=45),
    stakes=Stakes(away=20, brief=2),
    faults=len(KINDS),
    each=1,
    settle_s=900,
)
"""Every kind once; on a busy machine it takes as long as it takes."""


@dataclass(frozen=True)
class Outcome:
    """Of a run.

    Attributes:
        faults: [kind, hit] of each.
        clean: the checker found nothing.
        report: all that it said.
    """

    faults: list[tuple[str, bool]]
    clean: bool
    report: str

    @property
    def hits(self) -> float:
        return sum(hit for _, hit in self.faults) / len(self.faults)


def schedule(plan: Plan, dice: random.Random) -> dict[str, list[str]]:
    """Kinds in their order, for each lane."""
    kinds = list(plan.kinds) * plan.each
    kinds += dice.choices([kind for kind in plan.kinds if kind != "RabbitMQ away"], k=plan.faults - len(kinds))
    dice.shuffle(kinds)
    return {lane: [kind for kind in kinds if kind in its] for lane, its in LANES.items()}


def run(plan: Plan, seed: int, folder: Path, say: Say) -> Outcome:
    """Everything, from servers to the checker's line. Logs and records stay in `folder`."""
    dice = random.Random(seed)
    say(f"seed {seed}, logs in {folder}")
    record = Record(folder / "client.jsonl")
    with (
        Services() as services,
        Deployment(services, folder, plan.pace) as deployment,
        receiver(record, random.Random(dice.random())) as hook,
    ):
        load = Load(deployment.url, deployment.token, plan.wish, random.Random(dice.random()), record)
        client = Client(load.run(hook))
        client.start()
        until_busy(deployment)
        faults = inject(plan, dice, deployment, lambda: set(load.open), folder, say)
        deployment.heal()
        say(f"{len(faults)} faults done, {load.accepted} jobs accepted, {len(load.open)} not ended; settling")
        client.finish(plan.settle_s)
        settle(deployment, plan.settle_s)
        say(f"{checkpointed(deployment)} renders left checkpoints; {restarts(deployment)} processes were started again")
        record.close()
        verdict = judge(deployment, record)
    return Outcome(faults, verdict.clean, verdict.report)


@dataclass(frozen=True)
class Verdict:
    """The checker's: whether it found nothing, and all that it said."""

    clean: bool
    report: str


def judge(deployment: Deployment, record: Record) -> Verdict:
    """Let the checker look, as a program of its own."""
    checked = subprocess.run(
        [
            *(sys.executable, "-m", "tests.chaos.checker", "--database", deployment.database_url),
            *("--store", deployment.store_url, "--record", str(record.path)),
        ],
        capture_output=True,
        text=True,
    )
    return Verdict(not checked.returncode, checked.stdout + checked.stderr)


def until_busy(deployment: Deployment) -> None:
    """Wait for the first stage that runs: faults before it would hit nothing."""
    deadline = time.monotonic() + START_S
    while not deployment.busy and time.monotonic() < deadline:
        time.sleep(0.1)


class Client(threading.Thread):
    """What a client does, on an event loop of its own."""

    def __init__(self, work: Coroutine[Any, Any, None]) -> None:
        super().__init__(name="client", daemon=True)
        self._work = work
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._task = self._loop.create_task(self._work)
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            return
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            self.error = error

    def finish(self, timeout_s: float) -> None:
        """Wait for it; one that waits for stuck jobs is ended. Raises what it did."""
        self.join(timeout_s)
        if self.is_alive() and self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)
            self.join()
        if self.error is not None:
            raise self.error


def inject(
    plan: Plan, dice: random.Random, deployment: Deployment, waiting: Callable[[], set[str]], folder: Path, say: Say
) -> list[tuple[str, bool]]:
    """All faults; returns kind and hit of each."""
    done: list[tuple[str, bool]] = []
    notes = Record(folder / "faults.jsonl")
    settings = deployment.settings
    lanes = schedule(plan, dice)

    def lane(kinds: list[str], seed: float) -> None:
        scene = Scene(
            deployment, random.Random(seed), plan.stakes, waiting, open_store(settings), open_broker(settings)
        )
        for kind in kinds:
            started = time.monotonic()
            try:
                hit, whom = KINDS[kind](scene)
            except Exception as error:  # noqa: BLE001 - another lane has broken what this one needs: once more later
                notes.note("not done", kind=kind, error=repr(error))
                assert kinds.count(kind) < MAX_TRIES, f"{kind}: {error!r}"
                kinds.append(kind)
                time.sleep(1)
                continue
            done.append((kind, hit))
            notes.note("fault", kind=kind, hit=hit, whom=whom, seconds=round(time.monotonic() - started, 1))
            say(f"{len(done):3} {kind}: {whom}{'' if hit else ' (nothing in flight)'}")

    with ThreadPoolExecutor(len(lanes), "faults") as threads:
        for ended in [threads.submit(lane, kinds, dice.random()) for kinds in lanes.values()]:
            ended.result()
    return done


def settle(deployment: Deployment, timeout_s: float) -> None:
    """Wait until no message is under way and no working file is left, however long the checker would find them."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not deployment.busy and not _pending(asyncio.run(read_rows(deployment.database_url))):
            return
        time.sleep(1)


def checkpointed(deployment: Deployment) -> int:
    """Jobs whose render left a checkpoint, by the workers' logs."""
    logs = [worker.log.read_text(errors="replace") for worker in deployment.workers.values()]
    kept = [line for log in logs for line in log.splitlines() if '"event": "checkpoint kept"' in line]
    return len({json.loads(line)["job_id"] for line in kept if line.endswith("}")})


def restarts(deployment: Deployment) -> int:
    """How often the suite had to start a process again."""
    return sum(process.starts - 1 for process in deployment.processes.values())


def _pending(rows: Rows) -> bool:
    statuses = Counter(row["status"] for row in rows.jobs.values())
    return bool(statuses["processing"]) or any(
        d["status"] == "pending" for its in rows.deliveries.values() for d in its
    )


def main(plan: Plan, seed: int | None, folder: Path | None) -> int:
    """`python -m tests.chaos`."""
    seed = seed if seed is not None else random.SystemRandom().randrange(10**6)
    started = time.monotonic()
    folder = folder or Path(tempfile.mkdtemp(prefix="t2m-chaos-"))
    outcome = run(plan, seed, folder, lambda text: print(f"[{time.monotonic() - started:5.0f} s] {text}", flush=True))
    print(outcome.report, end="")
    print(json.dumps({"seed": seed, "faults": Counter(kind for kind, _ in outcome.faults)}, indent=1))
    print(f"{len(outcome.faults)} faults, {outcome.hits:.0%} hit work in flight; {time.monotonic() - started:.0f} s")
    return 0 if outcome.clean and outcome.hits >= MIN_HITS else 1
