"""The API document's own examples of Video Processing, changed in nothing but host and token."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest
from sqlalchemy import select

from gateway.database.tables import jobs
from tests.unit.gateway.support import PATIENCE_S, World, content, until

HOST, TOKEN = "https://api.example.com", "your-token-here"

PYTHON = """
import requests

headers = {"Authorization": "Bearer your-token-here"}
base_url = "https://api.example.com/api/v1"

# Generate video
job_data = {
    "prompt": "A beautiful sunset over mountains",
    "duration": 10,
    "quality": "1080p"
}
response = requests.post(f"{base_url}/videos/generate", headers=headers, json=job_data)
job = response.json()
job_id = job['data']['job_id']
print(f"Video generation started: {job_id}")

# Check status
response = requests.get(f"{base_url}/videos/{job_id}/status", headers=headers)
status = response.json()
print(f"Job status: {status['data']['status']} ({status['data']['progress']}%)")
"""

JAVASCRIPT = """
const headers = {
  Authorization: "Bearer your-token-here",
};
const baseUrl = "https://api.example.com/api/v1";

// Generate video
const jobData = {
  prompt: "A beautiful sunset over mountains",
  duration: 10,
  quality: "1080p",
};

fetch(`${baseUrl}/videos/generate`, {
  method: "POST",
  headers: { ...headers, "Content-Type": "application/json" },
  body: JSON.stringify(jobData),
})
  .then((response) => response.json())
  .then((data) => {
    const jobId = data.data.job_id;
    console.log("Video generation started:", jobId);

    // Poll for status
    const checkStatus = () => {
      fetch(`${baseUrl}/videos/${jobId}/status`, { headers })
        .then((response) => response.json())
        .then((status) => {
          console.log(
            `Status: ${status.data.status} (${status.data.progress}%)`
          );
          if (status.data.status === "processing") {
            setTimeout(checkStatus, 5000); // Check again in 5 seconds
          }
        });
    };
    checkStatus();
  });
"""

PYTHON_JOBS = """
import requests

headers = {"Authorization": "Bearer your-token-here"}
base_url = "https://api.example.com/api/v1"

# Get job logs
job_id = "job_789012"
response = requests.get(f"{base_url}/jobs/{job_id}/logs", headers=headers, params={"limit": 50, "level": "INFO"})
logs = response.json()
print(f"Retrieved {len(logs['data']['logs'])} log entries")

# Cancel job
response = requests.post(f"{base_url}/jobs/{job_id}/cancel", headers=headers)
if response.json()['success']:
    print("Job cancelled successfully")
"""

JAVASCRIPT_LOGS = """
const headers = {
  Authorization: "Bearer your-token-here",
};
const baseUrl = "https://api.example.com/api/v1";

// Get job logs
const jobId = "job_789012";
fetch(`${baseUrl}/jobs/${jobId}/logs?limit=50&level=INFO`, {
  headers: headers,
})
  .then((response) => response.json())
  .then((data) =>
    console.log(`Retrieved ${data.data.logs.length} log entries`)
  );
"""

JAVASCRIPT_CANCEL = """
const headers = {
  Authorization: "Bearer your-token-here",
};
const baseUrl = "https://api.example.com/api/v1";
const jobId = "job_789012";

// Cancel job
fetch(`${baseUrl}/jobs/${jobId}/cancel`, {
  method: "POST",
  headers: headers,
})
  .then((response) => response.json())
  .then((data) => {
    if (data.success) console.log("Job cancelled successfully");
  });
"""

CURL_GENERATE = """
curl -X POST "https://api.example.com/api/v1/videos/generate" \\
  -H "Authorization: Bearer your-token-here" \\
  -H "Content-Type: application/json" \\
  -d '{
    "prompt": "A beautiful sunset over mountains",
    "duration": 10,
    "quality": "1080p"
  }'
"""

CURL_JOB = """
curl -X GET "https://api.example.com/api/v1/jobs/job_789012" \\
  -H "Authorization: Bearer your-token-here"
"""

CURL_STREAM = """
curl "https://api.example.com/api/v1/videos/job_789012/stream?quality=720p" \\
  -H "Authorization: Bearer your-token-here"
"""

CURL_THUMBNAIL = """
curl "https://api.example.com/api/v1/videos/job_789012/thumbnail?size=large" \\
  -H "Authorization: Bearer your-token-here"
"""

CURL_HEALTH = 'curl "https://api.example.com/api/v1/system/health"'


async def started(world: World, *command: str, job_id: str = "job_789012") -> asyncio.subprocess.Process:
    """Run an example (the last word of `command`) against the gateway."""
    host = str(world.client.make_url("/")).rstrip("/")
    example = command[-1].replace(HOST, host).replace(TOKEN, world.token()).replace("job_789012", job_id)
    return await asyncio.create_subprocess_exec(
        *command[:-1], example, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )


async def output(process: asyncio.subprocess.Process) -> bytes:
    async with asyncio.timeout(2 * PATIENCE_S):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out


async def curl(world: World, example: str, job_id: str = "job_789012") -> bytes:
    return await output(await started(world, "bash", "-c", example, job_id=job_id))


async def the_only_job(world: World) -> str:
    async def accepted() -> str | None:
        async with world.gateway.database.read() as connection:
            return (await connection.execute(select(jobs.c.id))).scalar_one_or_none()

    return await until(accepted)


async def test_the_python_example(world: World) -> None:
    out = await output(await started(world, sys.executable, "-c", PYTHON))
    begun, status = out.decode().splitlines()
    assert begun == f"Video generation started: {await the_only_job(world)}"
    assert status == "Job status: processing (0%)"


async def test_the_javascript_example_polls_until_the_end(world: World) -> None:
    process = await started(world, "node", "-e", JAVASCRIPT)
    job_id = await the_only_job(world)
    await world.work(world.worker.complete, job_id)
    lines = (await output(process)).decode().splitlines()
    assert lines[0] == f"Video generation started: {job_id}"
    assert lines[-1] == "Status: completed (100%)"


async def rendering(world: World) -> str:
    """A job with two lines in its log."""
    job_id = await world.generate()
    await world.work(world.worker.render_half, job_id)

    async def logged() -> bool | None:
        return (await world.data(f"/jobs/{job_id}/logs"))["total_logs"] == 2 or None

    await until(logged)
    return job_id


async def test_the_python_example_of_job_management(world: World) -> None:
    job_id = await rendering(world)
    out = await output(await started(world, sys.executable, "-c", PYTHON_JOBS, job_id=job_id))
    assert out.decode().splitlines() == ["Retrieved 2 log entries", "Job cancelled successfully"]
    assert (await world.data(f"/jobs/{job_id}"))["status"] == "cancelled"


async def test_the_javascript_examples_of_job_management(world: World) -> None:
    job_id = await rendering(world)
    for example, says in (
        (JAVASCRIPT_LOGS, "Retrieved 2 log entries"),
        (JAVASCRIPT_CANCEL, "Job cancelled successfully"),
    ):
        assert (await output(await started(world, "node", "-e", example, job_id=job_id))).decode().strip() == says
    assert (await world.data(f"/jobs/{job_id}"))["status"] == "cancelled"


async def test_the_curl_examples(world: World) -> None:
    answer: dict[str, Any] = json.loads(await curl(world, CURL_GENERATE))
    assert answer["success"] is True
    job_id = str(answer["data"]["job_id"])
    await world.work(world.worker.complete, job_id)
    await world.reached(job_id, "completed")
    job = json.loads(await curl(world, CURL_JOB, job_id))["data"]
    assert (job["id"], job["status"], job["parameters"]["duration"]) == (job_id, "completed", 10)
    assert await curl(world, CURL_STREAM, job_id) == content(job_id, "720p.mp4")
    assert await curl(world, CURL_THUMBNAIL, job_id) == content(job_id, "poster-large.jpg")


@pytest.mark.parametrize("example", [CURL_HEALTH])
async def test_the_curl_example_of_the_health_check(world: World, example: str) -> None:
    assert json.loads(await curl(world, example))["data"]["status"] == "healthy"
