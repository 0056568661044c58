"""Workers that are cut off from RabbitMQ and the store for a minute and a half, in the middle of their work."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.deployment import Deployment, Pace
from tests.chaos.load import SHORT, Load, Wish
from tests.chaos.network import Network
from tests.chaos.proxy import Weather
from tests.chaos.record import Record, lines
from tests.chaos.run import Client, judge, settle
from tests.services import Services

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]  # four minutes each on two idle cores

CUT_S = 90.0
"""RabbitMQ gives workers up that are silent for a minute, and delivers their messages again."""
LIMIT_S = 600.0
"""For anything to happen, on a busy machine."""
INTERVAL = 20
"""Steps between two checkpoints: some seconds."""
WORKERS = {
    "render": "render.tiny",
    "other-render": "render.tiny",
    "middle": "encode,thumbnails,metadata",
    "publish": "publish",
}
LONG = {"prompt": "a blue square", "duration": 5, "quality": "720p", "steps": 100, "seed": 7}


class Partitioned:
    """A deployment whose workers can be cut off, and a client that asks for the same video twice."""

    def __init__(self, network: Network, deployment: Deployment, body: dict[str, Any], folder: Path) -> None:
        self.network, self.deployment, self._body = network, deployment, body
        self._asked = 0
        self._record = Record(folder / "client.jsonl")
        wish = Wish(jobs=1, longer=0, seconds=1, cancelled=0, hooked=0)
        self._load = Load(deployment.url, deployment.token, wish, random.Random(0), self._record)

    def undisturbed(self) -> None:
        """The first video."""
        client = self._client()
        client.finish(LIMIT_S)

    def disturbed(self, when: Callable[[], bool]) -> None:
        """The second, cut off as soon as `when`."""
        client = self._client()
        wait_until(when)
        self.network.cut()
        time.sleep(CUT_S)
        assert self._load.open, "it ended while its workers were cut off"
        assert not any(worker.ready for worker in self.deployment.workers.values()), "they can be reached"
        self.network.mend()
        client.finish(LIMIT_S)
        settle(self.deployment, LIMIT_S)

    @property
    def steps(self) -> int:
        """Denoising steps that were run: measured from one to the next, so the first of each video is added."""
        renders = [worker for name, worker in self.deployment.workers.items() if "render" in name]
        return self._asked + round(sum(w.measured("t2m_denoising_step_duration_seconds_count") for w in renders))

    def check(self) -> None:
        """Both videos were delivered, are the same to the bit, and nothing is lost, doubled or left behind."""
        self._record.close()
        verdict = judge(self.deployment, self._record)
        assert verdict.clean and "accepted 2 / completed 2" in verdict.report, verdict.report
        digests = [line["sha256"] for line in lines(self._record.path) if line["what"] == "download"]
        assert len(digests) == 2 and len(set(digests)) == 1
        assert all(worker.starts == 1 for worker in self.deployment.workers.values()), "a worker died of it"

    def _client(self) -> Client:
        self._asked += 1
        client = Client(self._load.want(self._body))
        client.start()
        return client


def wait_until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def partitioned(services: Services, body: dict[str, Any], folder: Path) -> Iterator[Partitioned]:
    pace = Pace(checkpoint_s=0, checkpoint_steps=INTERVAL, lease_s=600)
    with Network() as network, Deployment(services, folder, pace, WORKERS, network) as deployment:
        yield Partitioned(network, deployment, body, folder)


def test_a_cut_in_the_middle_of_a_render(services: Services, tmp_path: Path) -> None:
    with partitioned(services, LONG, tmp_path) as scene:
        scene.undisturbed()
        steps = scene.steps
        scene.disturbed(lambda: scene.steps > 1.3 * steps)
        repeated = scene.steps - 2 * steps
        print(f"{repeated} of {steps} steps were run twice")
        assert 0 <= repeated <= INTERVAL
        scene.check()


def test_a_cut_in_the_middle_of_publishing(services: Services, tmp_path: Path) -> None:
    with partitioned(services, SHORT | {"seed": 7}, tmp_path) as scene:
        scene.undisturbed()
        steps = scene.steps
        scene.deployment.proxies["worker-s3"].set(Weather(latency_s=0.3))  # so that publishing takes seconds
        scene.disturbed(lambda: scene.deployment.workers["publish"].runs > 0)
        assert scene.steps == 2 * steps
        scene.check()
