"""A client that a generator of PyPI makes from the API's own document."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.unit.gateway.no_op import NoOp, serving

GENERATOR = Path(sys.executable).with_name("openapi-python-client")
MEDIA = ("video/mp4", "image/jpeg", "*/*", "image/png", "application/vnd.apple.mpegurl")
CONFIGURATION = {"content_type_overrides": dict.fromkeys(MEDIA, "application/octet-stream"), "post_hooks": []}
"""The generator knows a file by this type only."""
PATIENCE_S = 60


def generated(gateway: NoOp, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The client's modules by name; what the generator warns of is a failure."""
    document, configuration = folder / "openapi.json", folder / "configuration.json"
    with urllib.request.urlopen(f"{gateway.url}/openapi.json") as answer:
        document.write_bytes(answer.read())
    configuration.write_text(json.dumps(CONFIGURATION))
    command = [GENERATOR, "generate", "--path", document, "--config", configuration, "--meta", "none"]
    made = subprocess.run(
        [*command, "--output-path", folder / "t2m_client", "--fail-on-warning"], capture_output=True, text=True
    )
    assert made.returncode == 0, made.stdout + made.stderr
    monkeypatch.syspath_prepend(folder)
    return lambda name: importlib.import_module(f"t2m_client.{name}")


def test_it_generates_waits_and_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path / "data", tmp_path / "log") as gateway:
        made = generated(gateway, tmp_path, monkeypatch)
        models = made("models")
        client = made("client").AuthenticatedClient(base_url=gateway.url, token=gateway.token())
        with client:
            body = models.GenerateWithTiny(prompt="A beautiful sunset", duration=2, seed=7)
            accepted = made("api.videos.videos_generate").sync(client=client, body=body)
            assert isinstance(accepted, models.VideosGenerateResponse202), accepted
            job_id = accepted.data.job_id
            status = waited(made("api.videos.videos_status"), client, job_id)
            assert (status.status, status.progress) == (models.Status.COMPLETED, 100)
            video = made("api.videos.videos_download").sync(job_id, client=client)
            assert video.payload.read() == b"video" * 1000
            listed = made("api.jobs.jobs_listing").sync(client=client, status=models.JobsListingStatus.COMPLETED)
            assert [(job.id, job.parameters.seed) for job in listed.data.items] == [(job_id, 7)]
            refused = made("api.videos.videos_status").sync("job_1", client=client)
            assert refused.error.code == models.Code.RESOURCE_NOT_FOUND


def waited(status: Any, client: Any, job_id: str) -> Any:
    """The last status of a job."""
    deadline = time.monotonic() + PATIENCE_S
    while (told := status.sync(job_id, client=client).data).status == "processing":
        assert time.monotonic() < deadline, told
        time.sleep(0.05)
    return told
