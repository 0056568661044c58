"""The documented endpoints, envelopes and errors, asked over HTTP. Runs embedded here and on servers in integration."""

from __future__ import annotations

import subprocess
from datetime import datetime, timedelta
from typing import Any

import aiohttp
import pytest
from yarl import URL

from gateway.database.engine import Database
from gateway.validation import MAX_DEPTH
from pipeline.vocabulary import EventKind, Stage
from tests.unit.gateway.support import API, MEDIA, World, until

UNKNOWN = "job_0190163d8694739b8aea0006e1fd3b7b"


async def error(response: aiohttp.ClientResponse, status: int, code: str) -> dict[str, Any]:
    """The error of an answer, whose form is checked."""
    assert response.status == status, await response.text()
    body = await response.json()
    assert set(body) == {"success", "error"}
    assert body["success"] is False
    assert set(body["error"]) == {"code", "message", "details"}
    assert body["error"]["code"] == code
    assert body["error"]["message"]
    assert response.headers["X-Request-ID"]
    return dict(body["error"])


async def test_a_job_is_accepted_with_all_defaults_and_kept_in_the_store(world: World) -> None:
    body = {"prompt": "A beautiful sunset over mountains", "duration": 10, "quality": "1080p"}
    response = await world.client.post(f"{API}/videos/generate", json=body, headers=world.headers())
    answer = await response.json()
    assert (response.status, answer["success"], bool(answer["message"])) == (202, True, True)
    data = answer["data"]
    assert (data["status"], data["stage"], data["progress"]) == ("processing", "queued", 0)
    assert data["job_id"].startswith("job_")
    assert response.headers["Location"] == f"{API}/videos/{data['job_id']}/status"
    request = world.stored_request(data["job_id"])
    assert (request.prompt, request.duration_s, request.quality, request.user_id) == (*body.values(), "ada")


async def test_status_follows_the_events(world: World) -> None:
    job_id = await world.generate()
    assert (await world.data(f"/videos/{job_id}/status"))["stage"] == "queued"
    await world.work(world.worker.render_half, job_id)

    async def rendering() -> dict[str, Any] | None:
        data = await world.data(f"/videos/{job_id}/status")
        return data if data["progress"] else None

    data = await until(rendering)
    assert (data["job_id"], data["status"], data["stage"], data["progress"]) == (job_id, "processing", "rendering", 35)
    assert data["started_at"].endswith("Z")
    assert data["completed_at"] is None


async def test_a_completed_job_in_full(world: World) -> None:
    job_id = await world.generate(prompt="a red ball", duration=10, quality="1080p", seed=5)
    await world.work(world.worker.complete, job_id)
    await world.reached(job_id, "completed")
    job = await world.data(f"/jobs/{job_id}")
    documented = "id type status progress created_at started_at completed_at duration parameters result error"
    assert set(documented.split()) <= set(job)
    assert (job["id"], job["type"], job["status"], job["progress"]) == (job_id, "video_generation", "completed", 100)
    offsets = [datetime.fromisoformat(job[name]).utcoffset() for name in ("created_at", "completed_at")]
    assert offsets == [timedelta(0)] * 2
    asked = {"prompt": "a red ball", "duration": 10, "quality": "1080p", "seed": 5, "model": "tiny"}
    assert asked.items() <= job["parameters"].items()
    assert job["result"] == {
        "file_id": job_id.replace("job_", "video_"),
        "file_size": MEDIA["1080p.mp4"][1],
        "thumbnail_url": f"/videos/{job_id}/thumbnail",
    }
    assert job["error"] is None
    assert job["duration"] >= 0


async def test_metadata_is_that_of_the_verdict(world: World) -> None:
    job_id = await world.completed()
    data = await world.data(f"/videos/{job_id}/metadata")
    assert data == {"job_id": job_id, "video": {"width": 1920, "height": 1080}, "audio": None}


async def test_a_failed_job_says_why(world: World) -> None:
    job_id = await world.generate()
    await world.work(world.worker.fail, job_id)
    data = await world.reached(job_id, "failed")
    why = {"stage": "render", "code": "OutOfMemory", "message": "The GPU is full.", "remedy": "Ask for less."}
    assert data["error"] == why
    job = await world.data(f"/jobs/{job_id}")
    assert (job["status"], job["error"], job["result"]) == ("failed", why, None)
    told = await error(await world.get(f"/videos/{job_id}/download"), 404, "RESOURCE_NOT_FOUND")
    assert "failed" in told["message"]


@pytest.mark.parametrize("part", ["download", "stream", "thumbnail", "metadata"])
async def test_not_ready_is_404_with_stage_and_percent(world: World, part: str) -> None:
    job_id = await world.generate()
    await world.work(world.worker.render_half, job_id)

    async def started() -> bool | None:
        return (await world.data(f"/videos/{job_id}/status"))["progress"] > 0 or None

    await until(started)
    told = await error(await world.get(f"/videos/{job_id}/{part}"), 404, "RESOURCE_NOT_FOUND")
    assert "rendering" in told["message"]
    assert "35%" in told["message"]


PARTS = ["status", "download", "stream", "metadata", "thumbnail"]
JOB_PATHS = ["/jobs/{}", *(f"/videos/{{}}/{part}" for part in PARTS)]


@pytest.mark.parametrize("path", JOB_PATHS)
async def test_an_unknown_job_and_another_users_look_the_same(world: World, path: str) -> None:
    theirs = await world.generate("bob")
    for job_id in (UNKNOWN, theirs):
        told = await error(await world.get(path.format(job_id)), 404, "RESOURCE_NOT_FOUND")
        assert told["message"] == "Job not found"
        assert told["details"] == f"Job with ID '{job_id}' does not exist or you don't have access"


async def test_what_cannot_be_a_job_id_is_not_found(world: World) -> None:
    for job_id in ("%00", "job_%00", "x" * 3000, "JOB_1", "%F0%9F%8E%AC", "..%2F..", "'--"):
        response = await world.client.get(URL(f"{API}/jobs/{job_id}", encoded=True), headers=world.headers())
        await error(response, 404, "RESOURCE_NOT_FOUND")


@pytest.mark.parametrize("path", ["/nowhere", "/videos", "/jobs/a/b", "/videos/%2e%2e/status/x"])
async def test_an_unknown_path(world: World, path: str) -> None:
    await error(await world.get(path), 404, "RESOURCE_NOT_FOUND")


@pytest.mark.parametrize("method", ["DELETE", "PUT", "PATCH", "POST"])
async def test_a_wrong_method_keeps_405(world: World, method: str) -> None:
    response = await world.get(f"/videos/{UNKNOWN}/status", method=method)
    await error(response, 405, "VALIDATION_ERROR")
    assert "GET" in response.headers["Allow"]


async def post(world: World, body: bytes | str, kind: str = "application/json") -> aiohttp.ClientResponse:
    headers = world.headers() | {"Content-Type": kind}
    return await world.client.post(f"{API}/videos/generate", data=body, headers=headers)


BROKEN = [b"", b"{", b'{"prompt": "x"', b"\xff\xfe", b"[" * 100_000, b'{"prompt": ' + b"9" * 5000 + b"}", b"'a'"]


@pytest.mark.parametrize("body", BROKEN, ids=range(len(BROKEN)))
async def test_malformed_json(world: World, body: bytes) -> None:
    told = await error(await post(world, body), 400, "VALIDATION_ERROR")
    assert set(told["details"]) == {"body"}


@pytest.mark.parametrize("body", ["[]", "null", '"prompt"', "3"])
async def test_json_that_is_no_object(world: World, body: str) -> None:
    told = await error(await post(world, body), 400, "VALIDATION_ERROR")
    assert told["details"] == {"body": ["Must be a JSON object"]}


async def test_a_body_that_is_too_long_or_no_json_keeps_its_status(world: World) -> None:
    await error(await post(world, b'{"prompt": "' + b"x" * (1 << 20) + b'"}'), 413, "VALIDATION_ERROR")
    for kind in ("text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"):
        await error(await post(world, "prompt=x", kind), 415, "VALIDATION_ERROR")


WRONG_FIELDS = [
    ('{"prompt": ""}', {"prompt"}),
    ("{}", {"prompt"}),
    ('{"prompt": "p", "duration": NaN}', {"duration"}),
    ('{"prompt": "p", "duration": 1e999}', {"duration"}),
    ('{"prompt": "p", "guidance": -Infinity}', {"guidance"}),
    ('{"prompt": "p", "duration": true, "fps": false}', {"duration", "fps"}),
    ('{"prompt": "p", "quality": "8k", "aspect_ratio": "2:3"}', {"quality", "aspect_ratio"}),
    ('{"prompt": "p", "seed": 4294967296}', {"seed"}),
    ('{"prompt": "p", "model": "sora", "steps": 0}', {"model", "steps"}),
    ('{"prompt": "p", "user_id": "root"}', {"user_id"}),
    ('{"prompt": "\\ud800"}', {"prompt"}),
    ('{"prompt": "p", "\\ud800": 1}', {"body"}),
    ('{"prompt": "a\\u0000b"}', {"prompt"}),
    ('{"prompt": "p", "metadata": {"\\ud800": 1}}', {"metadata"}),
    ('{"prompt": "p", "metadata": ' + '{"a":' * MAX_DEPTH + "1" + "}" * MAX_DEPTH + "}", {"body"}),
]


@pytest.mark.parametrize(("body", "fields"), WRONG_FIELDS)
async def test_wrong_fields_are_named_and_nothing_is_queued(world: World, body: str, fields: set[str]) -> None:
    told = await error(await post(world, body), 400, "VALIDATION_ERROR")
    assert told["message"] == "Request validation failed"
    assert set(told["details"]) == fields
    assert all(isinstance(text, str) for texts in told["details"].values() for text in texts)
    assert list(world.store.list("jobs/")) == []


@pytest.mark.parametrize("query", ["stream?quality=4k", "thumbnail?size=huge", "download?inline=maybe"])
async def test_a_wrong_query_parameter_is_named_with_what_is_accepted(world: World, query: str) -> None:
    told = await error(await world.get(f"/videos/{UNKNOWN}/{query}"), 400, "VALIDATION_ERROR")
    name = query.split("?")[1].split("=")[0]
    assert "Must be one of" in told["details"][name][0]


async def test_an_unforeseen_error_tells_the_client_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = await world.generate()
    monkeypatch.setattr("gateway.database.lookup.Lookup.find", None)
    response = await world.client.get(f"{API}/jobs/{job_id}", headers=world.headers() | {"X-Request-ID": "r-1"})
    told = await error(response, 500, "SERVER_ERROR")
    assert "r-1" in told["details"]
    assert "NoneType" not in await response.text()


async def test_request_ids_are_the_clients_if_well_formed(world: World) -> None:
    for given, kept in (("abc-123", True), ("x" * 65, False), ("a b", False), ("", False)):
        response = await world.client.get(f"{API}/system/health", headers={"X-Request-ID": given})
        assert (response.headers["X-Request-ID"] == given) is kept
        assert response.headers["X-Request-ID"]


async def test_health_is_public_and_measured(world: World) -> None:
    response = await world.client.get(f"{API}/system/health")
    body = await response.json()
    assert response.status == 200, body
    assert body["data"]["status"] == "healthy"
    assert {"database", "store"} <= set(body["data"]["dependencies"])
    for part in body["data"]["dependencies"].values():
        assert part["status"] == "healthy"
        assert part["response_time"].endswith("ms")


async def test_metrics_count_requests_jobs_and_events(world: World) -> None:
    await world.completed()
    await world.get("/jobs/" + UNKNOWN)
    await world.get("/nowhere/" + UNKNOWN)
    page = await (await world.client.get("/metrics")).text()
    route = 'method="GET",route="/api/v1/jobs/{job_id}",status="404"'
    assert f"t2m_http_requests_total{{{route}}} 1.0" in page
    assert 't2m_http_requests_total{method="any",route="unknown",status="404"} 1.0' in page
    assert 't2m_jobs_accepted_total{model="tiny"} 1.0' in page
    assert 't2m_jobs_concluded_total{status="completed"} 1.0' in page
    assert f't2m_projector_events_total{{outcome="stored"}} {2 * len(Stage) + 1}.0' in page
    assert 't2m_jobs_waiting{model="tiny"} 0.0' in page
    assert 't2m_jobs_concluded_total{status="failed"} 0.0' in page
    assert "t2m_projector_lag_seconds_bucket" in page
    assert 't2m_database_connections{state="used"}' in page
    assert UNKNOWN not in page


async def test_metrics_tell_of_the_workers_in_the_same_process(world: World) -> None:
    page = await (await world.client.get("/metrics")).text()
    assert 't2m_render_workers{model="tiny"} 1.0' in page
    assert "# TYPE t2m_stage_duration_seconds histogram" in page


async def test_metrics_follow_prometheus_rules(world: World) -> None:
    await world.completed()
    page = await (await world.client.get("/metrics")).read()
    checked = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, timeout=60)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


async def test_metrics_need_no_database(world: World) -> None:
    await world.completed()
    world.gateway.database = Database("postgresql+asyncpg://t2m@127.0.0.1:1/none")
    response = await world.client.get("/metrics")
    page = await response.text()
    assert response.status == 200
    assert "t2m_http_requests_total{" in page
    assert "t2m_jobs_waiting{" not in page


async def test_events_of_unknown_jobs_are_dropped(world: World) -> None:
    await world.work(world.worker.tell, UNKNOWN, EventKind.STARTED, Stage.RENDER)
    await world.completed()
    page = await (await world.client.get("/metrics")).text()
    assert 't2m_projector_events_total{outcome="dropped"} 1.0' in page
