"""schemathesis against a running gateway, with the gateway's own document and all its checks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.auth.base import Role
from tests.unit.gateway.no_op import NoOp, serving

COMMAND = Path(sys.executable).with_name("schemathesis")
HERE, ROOT = Path(__file__).parent, Path(__file__).parents[3]
CONFIGURATION = """
seed = 20261124
hooks = "tests.unit.gateway.fuzz_hooks"

[auth.openapi.bearer]
bearer = "${TOKEN}"

# 416: where a file ends is for no schema to say.
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", "401", "403", "404", "409", "416", "429"]

# What is right by its form and yet refused: a job that has ended, a webhook too many or not active, bytes that are no
# file of an accepted type.
[[operations]]
include-operation-id = [
    "jobs_cancel", "jobs_delete", "files_delete",
    "webhooks_create", "webhooks_test", "webhooks_redeliver",
    "files_upload", "files_batch_upload",
]
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "404", "413", "415"]
"""


def fuzzed(gateway: NoOp, folder: Path, *options: str) -> int:
    """How many cases were tried; none may have failed a check."""
    configuration = folder / "schemathesis.toml"
    configuration.write_text(CONFIGURATION)
    known = ["--config-file", configuration, "run", f"{gateway.url}/openapi.json", "--checks", "all", "--no-shrink"]
    told = subprocess.run(
        [COMMAND, *known, "--continue-on-failure", *options],
        cwd=folder,
        env=os.environ | {"TOKEN": gateway.token(role=Role.ADMIN), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    counted = re.search(r"(\d+) generated", told.stdout)
    assert counted is not None, told.stdout
    return int(counted[1])


def test_what_a_schema_allows_and_forbids(tmp_path: Path) -> None:
    with serving(tmp_path / "data", tmp_path / "log") as gateway:
        assert fuzzed(gateway, tmp_path, "--phases", "fuzzing", "--max-examples", "12") >= 500


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_it_at_length(tmp_path: Path) -> None:
    with serving(tmp_path / "data", tmp_path / "log") as gateway:
        phases = "examples,coverage,fuzzing,stateful"
        assert fuzzed(gateway, tmp_path, "--phases", phases, "--max-examples", "40") >= 5_000
