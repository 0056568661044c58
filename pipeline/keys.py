"""Where things lie in the object store."""

from __future__ import annotations

from pipeline.vocabulary import Stage


def blob(digest: str) -> str:
    """Key of the blob with `digest` ("sha256:…"), fanned out by its first byte."""
    algorithm, value = digest.split(":", 1)
    return f"blobs/{algorithm}/{value[:2]}/{value}"


def request(job_id: str) -> str:
    """The accepted `JobRequest`."""
    return f"jobs/{job_id}/request.json"


def record(job_id: str, stage: Stage) -> str:
    """The `StageRecord` of a finished stage."""
    return f"jobs/{job_id}/{stage}.json"


def final(job_id: str) -> str:
    """The `Final` verdict."""
    return f"jobs/{job_id}/final"


def losses(job_id: str, stage: Stage) -> str:
    """How often a worker was lost while it ran this stage, as a decimal number."""
    return f"jobs/{job_id}/{stage}.losses"
