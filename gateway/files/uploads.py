"""Makes files of what has arrived."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

import structlog
from pydantic import BaseModel, Field
from sqlalchemy.exc import SQLAlchemyError
from typing_extensions import TypedDict

from gateway import idempotency
from gateway.context import Gateway
from gateway.database import blobs, files
from gateway.database.files import Upload
from gateway.envelope import Time, timestamp
from gateway.errors import ApiError, Code, invalid, unavailable
from gateway.files import library, names
from gateway.files.intake import Arrived, Bounds, accepted, blocking
from gateway.files.kinds import ACCEPTED, FileType
from gateway.idempotency import Answer, Attempt, KeyTaken
from gateway.limits.policy import Limit
from gateway.links import link
from gateway.retention import shortest_s
from gateway.sidecars import keep_upload
from pipeline import keys
from pipeline.errors import StoreError
from pipeline.store.base import ObjectStore
from pipeline.vocabulary import ArtifactRef, new_id, now

log = structlog.get_logger(__name__)

MAX_EXPIRES_S = 10 * 365 * 24 * 3600


class Form(BaseModel):
    """The fields that may come with files."""

    file_type: FileType | None = None
    subdirectory: str | None = None
    description: str | None = None
    expires_in: Annotated[int, Field(ge=1, le=MAX_EXPIRES_S)] | None = None


FIELDS = tuple(Form.model_fields)


class UploadedFile(TypedDict):
    """A file as it was uploaded."""

    id: str
    filename: str
    size: int
    content_type: str
    file_type: FileType
    subdirectory: str | None
    description: str | None
    checksum: str
    created_at: Time
    updated_at: Time
    expires_at: Time | None


@dataclass(frozen=True)
class Wishes:
    """What a client says of its files."""

    file_type: FileType | None = None
    subdirectory: str | None = None
    description: str | None = None
    expires_in: int | None = None


def wishes(fields: Mapping[str, str]) -> Wishes:
    """The fields of a form; those that are empty count as left out.

    Raises:
        ApiError: 400 with all that is wrong, by field.
    """
    given = {name: value for name, value in fields.items() if value}
    wrong = {name: [f"Unknown field. Known fields: {', '.join(FIELDS)}"] for name in given if name not in FIELDS}
    if (kind := given.get("file_type")) is not None and kind not in tuple(FileType):
        wrong["file_type"] = [f"Invalid file type. Must be one of: {', '.join(FileType)}"]
    for name, check in (("subdirectory", names.path_problem), ("description", names.description_problem)):
        if name in given and (problem := check(given[name])):
            wrong[name] = [problem]
    seconds = given.get("expires_in")
    if seconds is not None and not (seconds.isascii() and seconds.isdigit() and 0 < int(seconds[:12]) <= MAX_EXPIRES_S):
        wrong["expires_in"] = [f"Must be a whole number of seconds between 1 and {MAX_EXPIRES_S}"]
    if wrong:
        raise invalid(wrong)
    return Wishes(
        FileType(given["file_type"]) if "file_type" in given else None,
        given.get("subdirectory"),
        given.get("description"),
        int(seconds) if seconds else None,
    )


async def bounds(gateway: Gateway, user_id: str, most: int, attempt: Attempt | None) -> Bounds:
    """What a user may send now: with a key that was used, the same once more, however little is left.

    Raises:
        ApiError: 429 if nothing, before a byte of it is read.
    """
    settings = gateway.settings.files
    if await idempotency.used(gateway.database, attempt):
        return Bounds(user_id, gateway.repeated, settings.max_bytes, settings.quota_bytes, most)
    await gateway.limiter.foresee(Limit.UPLOADS, user_id)
    async with gateway.database.read() as connection:
        used = await files.used(connection, user_id)
    return Bounds(user_id, gateway.arriving, settings.max_bytes, max(settings.quota_bytes - used, 0), most)


async def accept(
    gateway: Gateway, user_id: str, arrived: Arrived, wished: Wishes, attempt: Attempt | None = None
) -> Answer:
    """Make a file, once per `attempt`.

    The file's row refers to the blob before the blob is in its place, so that no sweep comes in between; it is shown,
    counted and answered when the blob is there, and beside it the record that outlives the database.

    Raises:
        ApiError: 400 its name or content is refused, or the attempt's key was used for something else; 413 the quota is
            used up; 415 nothing that may be uploaded; 429.
    """
    if (answer := await idempotency.earlier(gateway.database, attempt)) is not None:
        return answer
    upload = _upload(gateway, user_id, arrived, wished)
    await _claim(gateway, upload)
    placing = asyncio.ensure_future(blocking(_place, gateway.store.store, arrived, upload))
    try:
        await asyncio.shield(placing)
        return await _show(gateway, upload, attempt)
    except KeyTaken:
        await library.remove(gateway, [upload.id])
        answer = await idempotency.earlier(gateway.database, attempt)
        if answer is None:
            raise
        return answer
    except BaseException:
        await asyncio.shield(_withdraw(gateway, upload, placing))
        raise


async def _claim(gateway: Gateway, upload: Upload) -> None:
    quota = gateway.settings.files.quota_bytes
    async with gateway.database.write() as connection:
        await gateway.database.lock(connection, f"quota:{upload.user_id}")
        left = quota - await files.used(connection, upload.user_id)
        if upload.ref.size > left:
            details = {"storage": [f"{max(left, 0)} bytes are left of your quota"]}
            raise ApiError(Code.VALIDATION_ERROR, "Content Too Large", details, status=413)
        await blobs.guard(gateway.database, connection, upload.ref.key)
        await files.claim(connection, upload)


async def _show(gateway: Gateway, upload: Upload, attempt: Attempt | None) -> Answer:
    location = {"Location": link(gateway.settings, f"/files/{upload.id}")}
    answer = Answer(201, view(upload), "File uploaded successfully", location)
    async with gateway.database.write() as connection:
        await idempotency.keep(connection, attempt, answer)
        await gateway.limiter.charge(connection, Limit.UPLOADS, upload.user_id)
        if not await files.show(connection, upload.id):  # taken for one whose gateway had died
            raise unavailable("Storing the file took too long. Send it again.")
    return answer


async def _withdraw(gateway: Gateway, upload: Upload, placing: asyncio.Future[None]) -> None:
    """When nothing more is written of it, and unless it is shown: the answer to a commit may be lost. What cannot be
    removed now goes with what gateways leave that died.
    """
    await asyncio.wait([placing])
    try:
        async with gateway.database.read() as connection:
            shown = await files.find(connection, upload.id, upload.user_id) is not None
        if not shown:
            await library.remove(gateway, [upload.id])
    except (StoreError, SQLAlchemyError, OSError) as error:
        log.warning("upload not withdrawn", file_id=upload.id, error=str(error))


def _place(store: ObjectStore, arrived: Arrived, upload: Upload) -> None:
    arrived.incoming.publish(upload.ref.name, upload.ref.media_type)
    keep_upload(store, upload)


def _upload(gateway: Gateway, user_id: str, arrived: Arrived, wished: Wishes) -> Upload:
    """Raises `ApiError` 400, 415."""
    if problem := names.problem(arrived.filename):
        raise invalid({"file": [f"The file's name: {problem}"]})
    if not arrived.size:
        raise invalid({"file": ["The file is empty"]})
    media_type = accepted(arrived.head, arrived.filename)
    types = ACCEPTED[media_type]
    if wished.file_type is not None and wished.file_type not in types:
        raise invalid({"file_type": [f"The file's content is {media_type}, which is of type {' or '.join(types)}"]})
    at = now()
    ref = ArtifactRef(
        name=arrived.filename,
        digest=arrived.digest,
        key=keys.blob(arrived.digest),
        size=arrived.size,
        media_type=media_type,
    )
    return Upload(
        id=new_id("file"),
        user_id=user_id,
        ref=ref,
        file_type=wished.file_type or types[0],
        subdirectory=wished.subdirectory,
        description=wished.description,
        created_at=at,
        updated_at=at,
        expires_at=_expires_at(gateway, wished, at),
    )


def _expires_at(gateway: Gateway, wished: Wishes, at: datetime) -> datetime | None:
    seconds = shortest_s(wished.expires_in, gateway.settings.files.retention_days)
    return None if seconds is None else at + timedelta(seconds=seconds)


def view(upload: Upload) -> UploadedFile:
    """A file without what is found in it later."""
    return {
        "id": upload.id,
        "filename": upload.ref.name,
        "size": upload.ref.size,
        "content_type": upload.ref.media_type,
        "file_type": FileType(upload.file_type),
        "subdirectory": upload.subdirectory,
        "description": upload.description,
        "checksum": upload.ref.digest,
        "created_at": timestamp(upload.created_at),
        "updated_at": timestamp(upload.updated_at),
        "expires_at": timestamp(upload.expires_at),
    }
