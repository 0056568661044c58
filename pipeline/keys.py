"""Where things lie in the object store."""

from __future__ import annotations

from pipeline.vocabulary import Stage

JOBS, UPLOADS, BLOBS = "jobs/", "uploads/", "blobs/"
"""What `list` finds the jobs, the records of uploads, and all bytes under."""
INCOMING = "incoming/"
"""Objects whose digest is not known yet; sweeps remove old ones."""


def blob(digest: str) -> str:
    """Key of the blob with `digest` ("sha256:…"), fanned out by its first byte."""
    algorithm, value = digest.split(":", 1)
    return f"{BLOBS}{algorithm}/{value[:2]}/{value}"


def job(job_id: str) -> str:
    """All objects of a job lie under it."""
    return f"{JOBS}{job_id}/"


def request(job_id: str) -> str:
    """The accepted `JobRequest`."""
    return f"{job(job_id)}request.json"


def record(job_id: str, stage: Stage) -> str:
    """The `StageRecord` of a finished stage."""
    return f"{job(job_id)}{stage}.json"


def final(job_id: str) -> str:
    """The `Final` verdict."""
    return f"{job(job_id)}final"


def log(job_id: str) -> str:
    """The log of a job that has ended."""
    return f"{job(job_id)}log.json"


def takers(job_id: str, stage: Stage) -> str:
    """Workers that took up a delivery whose worker before them was lost, and that have not ended it yet."""
    return f"{job(job_id)}{stage}.takers"


def upload(file_id: str) -> str:
    """What is known of an uploaded file, beside the blob that holds its bytes."""
    return f"{UPLOADS}{file_id}.json"


def render_folder(job_id: str) -> str:
    """What a render in progress keeps; nothing once it has its record."""
    return f"{job(job_id)}render/"


def head(job_id: str) -> str:
    """The `Head` of a render in progress."""
    return f"{render_folder(job_id)}head"


def checkpoint(job_id: str, name: str) -> str:
    """A snapshot of a render in progress."""
    return f"{render_folder(job_id)}{name}.safetensors"
