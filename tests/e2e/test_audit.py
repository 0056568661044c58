"""`make audit` against a database of our own: what the real ones know of the locked packages changes by the day."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.local_http import Handler, serving

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "deploy/worker.lock", "deploy/gateway.lock")


@contextmanager
def osv(vulnerable: str) -> Iterator[tuple[str, set[tuple[str, str]]]]:
    """A database that knows of one vulnerable package: its URL, and the releases that it was asked about."""
    asked: set[tuple[str, str]] = set()

    class Database(Handler):
        def handle_any(self) -> None:
            query = json.loads(self.body())
            name, version = query["package"]["name"], query["version"]
            asked.add((name, version))
            affected = [
                {
                    "package": {"name": name, "ecosystem": "PyPI"},
                    "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9999"}]}],
                }
            ]
            known = {"vulns": [{"id": "PYSEC-2026-1", "summary": "Reads too far.", "affected": affected}]}
            self.answer(200, json.dumps(known if name == vulnerable else {}).encode())

    with serving(Database) as address:
        yield f"http://{address}/v1/query", asked


def audit(url: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """`make audit`, asking the database at `url`."""
    outside = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    ours = {"PIP_AUDIT_VULNERABILITY_SERVICE": "osv", "PIP_AUDIT_OSV_URL": url, "XDG_CACHE_HOME": str(cache)}
    return subprocess.run(
        ["make", "audit"], cwd=ROOT, env=outside | ours, capture_output=True, text=True, timeout=240, check=False
    )


def test_every_locked_release_is_looked_up_and_a_known_vulnerability_fails_the_audit_by_name(tmp_path: Path) -> None:
    locked = {
        (name, version)
        for lock in LOCKS
        for name, version in re.findall(r"^([\w-]+)==(\S+)", (ROOT / lock).read_text(), re.MULTILINE)
    }

    with osv(vulnerable="aiohttp") as (url, asked):
        done = audit(url, tmp_path)

    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "Found 1 known vulnerability in 1 package" in said, said
    assert re.search(r"^aiohttp +\S+ +PYSEC-2026-1 +9999", said, re.MULTILINE), said
    assert asked == locked
