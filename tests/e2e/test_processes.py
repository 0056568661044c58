"""Gateway, render worker and encode worker as separate processes on RabbitMQ, PostgreSQL, Redis and S3."""

from __future__ import annotations

import asyncio
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import av
import pytest
import requests
from PIL import Image

from config.settings import load
from pipeline.bus.factory import open_subscriber
from pipeline.vocabulary import Event, EventKind, Stage
from tests.e2e.commands import running, t2m, token, wait_for
from tests.services import Services, free_port

EXAMPLES = Path(__file__).with_name("examples")
QUEUES = {"render": "render.tiny", "encode": "encode,thumbnails,metadata,publish"}
JOB_S = 840
"""A ten-second job takes 40 s on two idle cores."""
pytestmark = pytest.mark.timeout(900)


@dataclass
class Deployment:
    url: str
    token: str
    settings: dict[str, str]
    metrics: tuple[str, ...]

    def example(self, name: str, job_id: str = "") -> str:
        """An example of the documentation for this host, token and job."""
        text = (EXAMPLES / name).read_text()
        text = text.replace("https://api.example.com", self.url).replace("your-token-here", self.token)
        return text.replace("job_789012", job_id) if job_id else text

    def get(self, path: str, **options: object) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token}"}
        return requests.get(f"{self.url}/api/v1{path}", headers=headers, timeout=30, **options)  # type: ignore[arg-type]

    def cancel(self, job_id: str) -> dict[str, object]:
        headers = {"Authorization": f"Bearer {self.token}"}
        answer = requests.post(f"{self.url}/api/v1/jobs/{job_id}/cancel", headers=headers, timeout=30)
        return dict(answer.json()["data"])

    def wait(self, job_id: str) -> dict[str, object]:
        """The status once it is final."""
        deadline = time.monotonic() + JOB_S
        while (status := self.get(f"/videos/{job_id}/status").json()["data"])["status"] == "processing":
            assert time.monotonic() < deadline, status
            time.sleep(0.5)
        return status


@pytest.fixture(scope="module")
def deployment(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("deployment")
    vhost, bucket, database = (
        services.rabbitmq.vhost(),
        services.s3.create_bucket(),
        services.postgres.create_database(),
    )
    env = {
        "T2M_CONFIG": "production",
        "T2M_DATA_DIR": str(folder / "data"),
        "T2M_BROKER__URL": vhost,
        "T2M_STORE__ENDPOINT": services.s3.endpoint,
        "T2M_STORE__BUCKET": bucket,
        "T2M_STORE__ACCESS_KEY": services.s3.access_key,
        "T2M_STORE__SECRET_KEY": services.s3.secret_key,
        "T2M_DATABASE__URL": services.postgres.dsn(database).replace("postgresql://", "postgresql+asyncpg://"),
        "T2M_REDIS__URL": services.redis.url,
        "T2M_GATEWAY__HOST": "127.0.0.1",
        "T2M_GATEWAY__PORT": str(free_port()),
    }
    doctor = t2m("doctor", env=env)
    assert doctor.returncode == 0, doctor.stdout
    with ExitStack() as stack:
        metrics = []
        for name, queues in QUEUES.items():
            own = env | {"T2M_WORKER__METRICS_PORT": str(free_port())}
            log = folder / f"{name}.log"
            process = stack.enter_context(running(log, "worker", "--queues", queues, env=own))
            base = f"http://127.0.0.1:{own['T2M_WORKER__METRICS_PORT']}"
            wait_for(f"{base}/readyz", process, log)
            metrics.append(f"{base}/metrics")
        log = folder / "gateway.log"
        url = f"http://127.0.0.1:{env['T2M_GATEWAY__PORT']}"
        process = stack.enter_context(running(log, "gateway", env=env))
        wait_for(f"{url}/api/v1/system/health", process, log)
        yield Deployment(url, token("--user", "u", env=env), env, (*metrics, f"{url}/metrics"))


def run_python(deployment: Deployment) -> str:
    code = deployment.example("preamble.py") + deployment.example("video.py")
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


def run_curl(script: str) -> bytes:
    return subprocess.run(["bash", "-c", script], capture_output=True, check=True, timeout=60).stdout


async def run_javascript_and_watch(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[Event]]:
    """Output of the JavaScript example, and the events on the bus while it ran, until the job's end."""
    for name, value in deployment.settings.items():
        monkeypatch.setenv(name, value)
    subscriber = open_subscriber(load(), durable=False)
    await subscriber.start()
    code = deployment.example("preamble.js") + deployment.example("video.js")
    node = await asyncio.create_subprocess_exec("node", "-e", code, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    events: list[Event] = []
    async with asyncio.timeout(JOB_S):
        async for event, acknowledge in subscriber.events():
            await acknowledge()
            if isinstance(event, Event):
                events.append(event)
                if event.kind in (EventKind.COMPLETED, EventKind.FAILED):
                    break
        output = (await node.communicate())[0].decode()
    await subscriber.close()
    return output, events


async def test_the_documented_javascript_example(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    output, events = await run_javascript_and_watch(deployment, monkeypatch)
    first, *polls = output.splitlines()
    assert first.startswith("Video generation started: job_")
    assert polls[-1] == "Status: completed (100%)"
    percentages = [float(line.partition("(")[2].removesuffix("%)")) for line in polls]
    assert percentages == sorted(percentages)
    check_order(events)
    check_files(deployment, first.rpartition(" ")[2])


def check_order(events: list[Event]) -> None:
    """Each stage's events come in the order they were made, and stages in the order of the chain."""
    assert events[-1].kind is EventKind.COMPLETED
    for stage in Stage:
        own = [event for event in events if event.stage is stage]
        assert own[0].kind is EventKind.STARTED
        assert own[-1].kind is (EventKind.COMPLETED if stage is Stage.PUBLISH else EventKind.FINISHED)
        assert [event.order for event in own] == sorted({event.order for event in own})
    at = {(event.stage, event.kind): n for n, event in enumerate(events)}
    for before, after in (
        (Stage.RENDER, Stage.ENCODE),
        (Stage.ENCODE, Stage.THUMBNAILS),
        (Stage.ENCODE, Stage.METADATA),
        (Stage.THUMBNAILS, Stage.PUBLISH),
        (Stage.METADATA, Stage.PUBLISH),
    ):
        assert at[before, EventKind.FINISHED] < at[after, EventKind.STARTED]


def check_files(deployment: Deployment, job_id: str) -> None:
    """What the other documented requests give for a completed job."""
    assert b'"completed"' in run_curl(deployment.example("job.sh", job_id))
    with av.open(io.BytesIO(run_curl(deployment.example("stream.sh", job_id)))) as container:
        assert container.streams.video[0].height == 720
        assert sum(1 for _ in container.decode(video=0)) == 240
    assert Image.open(io.BytesIO(run_curl(deployment.example("thumbnail.sh", job_id)))).width == 1280
    whole = deployment.get(f"/videos/{job_id}/download")
    with av.open(io.BytesIO(whole.content)) as container:
        assert container.streams.video[0].height == 1080
    part = deployment.get(f"/videos/{job_id}/download", stream=False)
    assert part.headers["Content-Disposition"].startswith("attachment")
    metadata = deployment.get(f"/videos/{job_id}/metadata").json()["data"]
    assert (metadata["video"]["height"], metadata["video"]["file_size"]) == (1080, len(whole.content))


def test_the_documented_python_and_curl_examples(deployment: Deployment) -> None:
    """Started as documented, then cancelled: the job above was followed to its end."""
    started, status = run_python(deployment).splitlines()
    assert started.startswith("Video generation started: job_")
    assert status.startswith("Job status: processing (")
    answer = json.loads(run_curl(deployment.example("video.sh")))
    for job_id in (answer["data"]["job_id"], started.rpartition(" ")[2]):
        assert deployment.cancel(job_id)["status"] == "cancelled"


def test_every_metrics_page_is_well_formed(deployment: Deployment) -> None:
    pages = {url: requests.get(url, timeout=30).text for url in deployment.metrics}
    for url, page in pages.items():
        checked = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True)
        assert checked.returncode == 0, f"{url}: {checked.stderr}"
        assert not re.search(r"job_[0-9a-f]{8}", page)
    render_page = pages[deployment.metrics[0]]
    assert 't2m_stage_runs_total{outcome="done",stage="render"}' in render_page
    assert "t2m_denoising_step_duration_seconds_bucket" in render_page


def test_one_process_serves_the_same_example(tmp_path: Path) -> None:
    port, log, data = free_port(), tmp_path / "serve.log", tmp_path / "data"
    with running(log, "serve", "--data", data, "--port", port) as process:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/api/v1/system/health", process, log)
        served = Deployment(url, token("--data", data, "--user", "u"), {}, (f"{url}/metrics",))
        body = {"prompt": "a red ball", "duration": 1, "quality": "720p", "steps": 2}
        headers = {"Authorization": f"Bearer {served.token}"}
        answer = requests.post(f"{url}/api/v1/videos/generate", headers=headers, json=body, timeout=30).json()
        assert served.wait(answer["data"]["job_id"])["status"] == "completed"
        started, status = run_python(served).splitlines()
        assert started.startswith("Video generation started: job_")
        assert status.startswith("Job status: processing (")
        page = requests.get(served.metrics[0], timeout=30).text
        checked = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr
