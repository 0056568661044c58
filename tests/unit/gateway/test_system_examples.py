"""The API document's own examples of System Monitoring and caching, changed in nothing but host and token."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest

from gateway.auth.base import Role
from tests.unit.gateway.support import World

HOST, TOKEN = "https://api.example.com", "your-token-here"

PYTHON = """
import requests

headers = {"Authorization": "Bearer your-token-here"}
base_url = "https://api.example.com/api/v1"

# Get system metrics
response = requests.get(f"{base_url}/system/metrics", headers=headers)
metrics = response.json()
print(f"CPU usage: {metrics['data']['cpu_usage']}%")
print(f"Memory usage: {metrics['data']['memory_usage']}%")

# Get queue status
response = requests.get(f"{base_url}/system/queue", headers=headers)
queue = response.json()
print(f"Jobs in queue: {queue['data']['pending_jobs']}")
"""

JAVASCRIPT = """
const headers = {
  Authorization: "Bearer your-token-here",
};
const baseUrl = "https://api.example.com/api/v1";

// Get system metrics
fetch(`${baseUrl}/system/metrics`, { headers })
  .then((response) => response.json())
  .then((data) => {
    console.log(`CPU usage: ${data.data.cpu_usage}%`);
    console.log(`Memory usage: ${data.data.memory_usage}%`);
  });

// Get queue status
fetch(`${baseUrl}/system/queue`, { headers })
  .then((response) => response.json())
  .then((data) => console.log(`Jobs in queue: ${data.data.pending_jobs}`));
"""

CURL = {
    "metrics": """curl -X GET "https://api.example.com/api/v1/system/metrics" \\
  -H "Authorization: Bearer your-token-here"
""",
    "warm": """# Warm cache for better performance
curl -X POST "https://api.example.com/api/v1/system/cache/warm" \\
  -H "Authorization: Bearer your-token-here"
""",
    "invalidate": """# Invalidate specific cache patterns
curl -X POST "https://api.example.com/api/v1/system/cache/invalidate" \\
  -H "Authorization: Bearer your-token-here" \\
  -d "pattern=user:123:*"
""",
    "health": """# Check overall system health
curl "https://api.example.com/api/v1/system/health"
""",
    "performance": """# Get detailed performance metrics
curl "https://api.example.com/api/v1/system/performance?hours=24" \\
  -H "Authorization: Bearer your-token-here"
""",
}


async def run(world: World, code: str, *command: str) -> str:
    url = str(world.client.make_url("")).rstrip("/")
    code = code.replace(HOST, url).replace(TOKEN, world.token("root", Role.ADMIN))
    process = await asyncio.create_subprocess_exec(
        *command, code, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


@pytest.mark.parametrize(("code", "command"), [(PYTHON, (sys.executable, "-c")), (JAVASCRIPT, ("node", "-e"))])
async def test_the_system_monitoring_examples(world: World, code: str, command: tuple[str, ...]) -> None:
    await world.generate()
    lines = sorted((await run(world, code, *command)).splitlines())
    assert [line.split(":")[0] for line in lines] == ["CPU usage", "Jobs in queue", "Memory usage"]
    assert lines[1] == "Jobs in queue: 1"
    assert all(0 <= float(lines[number].split(": ")[1].rstrip("%")) <= 100 for number in (0, 2))


@pytest.mark.parametrize("name", list(CURL))
async def test_the_curl_examples(world: World, name: str) -> None:
    assert json.loads(await run(world, CURL[name], "bash", "-c"))["success"] is True
