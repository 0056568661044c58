"""The ids that paths name: their forms, and reading them."""

from __future__ import annotations

import re

from aiohttp import web

from gateway.errors import not_found

FORMS = {name: rf"{name.removesuffix('_id')}_[0-9a-f]{{32}}" for name in ("job_id", "webhook_id", "delivery_id")} | {
    "file_id": "(file|video)_[0-9a-f]{32}"  # a finished video is a file of its owner
}
"""By the name of the path's variable, as regular expressions."""
COMPILED = {name: re.compile(form) for name, form in FORMS.items()}


def given(request: web.Request, name: str) -> str:
    """The id in the path. Raises `ApiError` 404 for what cannot be one, which a database may not be able to compare."""
    identifier = request.match_info[name]
    if COMPILED[name].fullmatch(identifier) is None:
        raise not_found(name.removesuffix("_id").capitalize(), identifier)
    return identifier


def job_of(file_id: str) -> str:
    """The job whose video has this id."""
    return file_id.replace("video_", "job_", 1)


def video_of(job_id: str) -> str:
    """The id of a job's video."""
    return job_id.replace("job_", "video_", 1)
