"""Section "File Management"."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from http import HTTPStatus
from typing import Annotated, Any, Literal, cast

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, StrictBool, create_model
from typing_extensions import TypedDict

from gateway import idempotency, ids, lifecycle, media
from gateway.access import public, requires
from gateway.auth.base import Permission
from gateway.context import GATEWAY, PRINCIPAL, Gateway
from gateway.contract import operation
from gateway.database import accesses, allowances, files
from gateway.database.accesses import Day, Kind
from gateway.database.files import Criteria, Inspection
from gateway.envelope import Problem, Success, Time, success, timestamp
from gateway.errors import ApiError, Code, forbidden, invalid, not_found
from gateway.files import library, names, uploads
from gateway.files.intake import Arrived, received
from gateway.files.kinds import FileType
from gateway.files.library import File
from gateway.files.serving import DownloadQuery, StreamQuery, ThumbnailQuery, send
from gateway.files.uploads import Form, UploadedFile, Wishes
from gateway.idempotency import Answer, Attempt
from gateway.limits.policy import WINDOW, Limit
from gateway.links import asked, link
from gateway.middleware import explained
from gateway.pagination import Listing, Paged, paginated
from gateway.parameters import OneOf, Parameters
from gateway.routes.jobs import Deleted
from pipeline.requests import INTEGRAL
from pipeline.vocabulary import ArtifactRef, now

routes = web.RouteTableDef()

LISTED = 1000
"""Ids a cleanup names at most."""
INSPECTED_S = 2.0
"""How long an upload's answer waits at most for what is found in the file."""
FILE = "/files/{file_id:(?!(?:upload|batch-upload|cleanup|stats)$)[^/]+}"
"""Not what has a meaning of its own: a wrong method there is 405, not an unknown file."""
ANY = ["*/*"]
"""Files are served as what they are."""
SIGNED = media.RANGED | {"errors": [401, 416]}


class Body(BaseModel):
    """Base of what these endpoints take."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class UrlWish(Body):
    """How long a URL is good, and what it shows: the file, with `size` its thumbnail, with `quality` its stream."""

    expires_in: Annotated[int, Field(ge=1, strict=True), INTEGRAL] = 3600
    inline: StrictBool = False
    size: Literal["small", "medium", "large"] | None = None
    quality: Literal["auto", "720p", "1080p"] | None = None


def _url_wish(gateway: Gateway) -> type[UrlWish]:
    """As this deployment takes it."""
    longest = gateway.settings.files.signed_url_max_s
    seconds: Any = (Annotated[int, Field(ge=1, le=longest)], UrlWish.model_fields["expires_in"].default)
    return create_model("UrlWish", __base__=UrlWish, expires_in=seconds)


Days = Annotated[float, Field(ge=0, le=36_500, strict=True)]


class Cleanup(Body):
    """Which uploaded files to remove: those that meet all criteria given; without any, none."""

    file_type: FileType | None = None
    subdirectory: Annotated[str, Field(max_length=names.MAX_PATH, pattern=r"^[^\x00]*$")] | None = None
    older_than_days: Days | None = None
    not_accessed_days: Days | None = None
    larger_than_bytes: Annotated[int, Field(ge=0, lt=2**63, strict=True), INTEGRAL] | None = None
    dry_run: StrictBool = False

    def criteria(self) -> Criteria:
        """In the database's terms."""
        at = now()
        before = {
            name: None if days is None else at - timedelta(days=days)
            for name, days in (("created", self.older_than_days), ("accessed", self.not_accessed_days))
        }
        return Criteria(
            self.file_type, self.subdirectory, before["created"], before["accessed"], self.larger_than_bytes
        )


class UploadForm(Form):
    """A file and what is said of it."""

    file: bytes


class BatchForm(Form):
    """Files and what is said of all of them."""

    files: list[bytes]


class FilesQuery(Paged):
    """Which files to list."""

    file_type: Annotated[str, OneOf(tuple(FileType))] | None = None


class SecureQuery(Parameters):
    """What a signed URL says; none of it can be changed."""

    user_id: str
    expires: str
    signature: str
    file_type: str | None = None
    inline: str | None = None
    size: str | None = None
    quality: str | None = None


class FileItem(TypedDict):
    """A file in a list."""

    id: str
    filename: str
    size: int
    content_type: str
    file_type: str
    created_at: Time


class Technical(TypedDict):
    """What a file is, by its content; `metadata` is there once `inspection` is ready."""

    content_type: str
    size: int
    checksum: str
    inspection: Inspection
    metadata: dict[str, Any]


class FileDetails(FileItem, Technical):
    """Everything about a file."""

    subdirectory: str | None
    description: str | None
    updated_at: Time
    expires_at: Time | None
    download_count: int


class BatchResult(TypedDict):
    """What became of one of several files."""

    filename: str
    success: bool
    file: UploadedFile | None
    error: Problem | None


class Batch(TypedDict):
    """What became of several files, in their order."""

    results: list[BatchResult]
    total: int
    uploaded: int
    failed: int


class Stored(TypedDict):
    """Files of one type; bytes."""

    files: int
    size: int


class Storage(TypedDict):
    """What is used of a quota; bytes."""

    used: int
    quota: int
    left: int


class Accesses(TypedDict):
    """How often files were fetched, by the way."""

    downloads: int
    streams: int
    thumbnails: int


class FileStatistics(TypedDict):
    """What a user has stored, and how often it was fetched."""

    total_files: int
    total_size: int
    by_type: dict[str, Stored]
    storage: Storage
    accesses: Accesses
    uploads_last_hour: int


class Cleaned(TypedDict):
    """What was removed, or would be; `file_ids` names the first of them."""

    dry_run: bool
    files: int
    size: int
    file_ids: list[str]


class SignedUrl(TypedDict):
    """A URL that opens a file until it expires."""

    url: str
    expires_in: int
    expires_at: Time


class Moved(TypedDict):
    """Where it is now."""

    location: str


class Daily(Accesses):
    """How often a file was fetched on a day."""

    date: str


class Analytics(Accesses):
    """How often a file was fetched, and when."""

    file_id: str
    total_accesses: int
    by_signed_url: int
    last_accessed_at: Time | None
    daily: list[Daily]


@routes.post("/files/upload")
@requires(Permission.UPLOAD_FILES)
@operation(status=201, multipart=UploadForm, headers=[idempotency.KEY])
async def upload(request: web.Request) -> Success[UploadedFile]:
    """Take in one file."""
    gateway, user_id = request.app[GATEWAY], request[PRINCIPAL].user_id
    keyed = idempotency.read(request, user_id, None)  # a malformed key is refused before a byte is read
    bounds = await uploads.bounds(gateway, user_id, 1, keyed)
    async with received(request, gateway.store.store, ("file",), bounds) as parcel:
        wished = uploads.wishes(parcel.fields)
        attempt = idempotency.read(request, user_id, _content(parcel.files, parcel.fields))
        answer = await uploads.accept(gateway, user_id, parcel.files[0], wished, attempt)
    await gateway.inspector.finished(answer.data["id"], INSPECTED_S)
    return answer.response()


@routes.post("/files/batch-upload")
@requires(Permission.UPLOAD_FILES)
@operation(multipart=BatchForm, headers=[idempotency.KEY], also=[201])
async def batch_upload(request: web.Request) -> Success[Batch]:
    """Take in several files; each has a result of its own."""
    gateway, user_id = request.app[GATEWAY], request[PRINCIPAL].user_id
    keyed = idempotency.read(request, user_id, None)
    bounds = await uploads.bounds(gateway, user_id, gateway.settings.files.max_batch, keyed)
    async with received(request, gateway.store.store, ("files", "files[]"), bounds) as parcel:
        wished = uploads.wishes(parcel.fields)
        attempt = idempotency.read(request, user_id, _content(parcel.files, parcel.fields))
        await idempotency.bind(gateway.database, attempt)
        answers = await _answers(request, parcel.files, wished, attempt)
    gateway.inspector.look()
    results = [_result(arrived, answer) for arrived, answer in zip(parcel.files, answers, strict=True)]
    stored = sum(result["success"] for result in results)
    last = answers[-1]
    if not stored and isinstance(last, ApiError) and last.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise last
    status = HTTPStatus.CREATED if stored else HTTPStatus.OK
    replayed = all(isinstance(answer, Answer) and answer.replayed for answer in answers)
    headers = {idempotency.REPLAYED: "true"} if replayed else {}
    data: Batch = {"results": results, "total": len(results), "uploaded": stored, "failed": len(results) - stored}
    return success(data, f"{stored} of {len(results)} files uploaded", status=status, headers=headers)


async def _answers(
    request: web.Request, all_arrived: list[Arrived], wished: Wishes, attempt: Attempt | None
) -> list[Answer | ApiError]:
    """One for each file. Once a part of the service is away the rest is not tried: each might take its time limit."""
    answers: list[Answer | ApiError] = []
    for number, arrived in enumerate(all_arrived):
        if answers and _away(answers[-1]):
            answers.append(answers[-1])
        else:
            answers.append(await _answer(request, arrived, wished, attempt and attempt.part(number)))
    return answers


async def _answer(request: web.Request, arrived: Arrived, wished: Wishes, attempt: Attempt | None) -> Answer | ApiError:
    try:
        return await uploads.accept(request.app[GATEWAY], request[PRINCIPAL].user_id, arrived, wished, attempt)
    except Exception as error:  # noqa: BLE001 - what was stored of the other files must be told
        return explained(request, error)


def _away(answer: Answer | ApiError) -> bool:
    return answer.status == HTTPStatus.SERVICE_UNAVAILABLE


def _result(arrived: Arrived, answer: Answer | ApiError) -> BatchResult:
    if isinstance(answer, ApiError):
        told: Problem = {"code": answer.code, "message": answer.message, "details": answer.details}
        name = arrived.filename.encode(errors="replace").decode()  # refused, perhaps because it is not UTF-8
        return {"filename": name, "success": False, "file": None, "error": told}
    return {"filename": arrived.filename, "success": True, "file": cast(UploadedFile, answer.data), "error": None}


def _content(arrived: list[Arrived], fields: dict[str, str]) -> dict[str, Any]:
    """What an upload asks for, for its `Idempotency-Key`."""
    return {"files": [[one.filename, one.digest] for one in arrived], "fields": fields}


@routes.get("/files")
@requires(Permission.READ_FILES)
@operation()
async def listing(request: web.Request, query: FilesQuery) -> Success[Listing[FileItem]]:
    """A page of the user's files, the newest first: uploads, and the videos of completed jobs."""
    page = query.wanted
    async with request.app[GATEWAY].database.read() as connection:
        found, total = await library.page(connection, request[PRINCIPAL].user_id, query.file_type, page)
    return success(paginated([_item(file) for file in found], page, total))


@routes.get("/files/stats")
@requires(Permission.READ_FILES)
@operation()
async def statistics(request: web.Request) -> Success[FileStatistics]:
    """What the user has stored, and how often it was fetched."""
    gateway, user_id = request.app[GATEWAY], request[PRINCIPAL].user_id
    async with gateway.database.read() as connection:
        by_type = await library.totals(connection, user_id)
        used = await files.used(connection, user_id)
        fetched = await accesses.of_user(connection, user_id)
        uploaded = await allowances.used(connection, [user_id], Limit.UPLOADS, now() - WINDOW)
    quota = gateway.settings.files.quota_bytes
    return success(
        {
            "total_files": sum(count for count, _ in by_type.values()),
            "total_size": sum(size for _, size in by_type.values()),
            "by_type": {kind: {"files": count, "size": size} for kind, (count, size) in by_type.items()},
            "storage": {"used": used, "quota": quota, "left": max(quota - used, 0)},
            "accesses": _accesses(fetched),
            "uploads_last_hour": uploaded[user_id].count,
        }
    )


@routes.post("/files/cleanup")
@requires(Permission.UPLOAD_FILES)
@operation()
async def cleanup(request: web.Request, body: Cleanup) -> Success[Cleaned]:
    """Remove the uploaded files that meet criteria, or with `dry_run` say which they are."""
    gateway, user_id = request.app[GATEWAY], request[PRINCIPAL].user_id
    criteria = body.criteria()
    async with gateway.database.read() as connection:
        found = [] if criteria.empty else await files.matching(connection, user_id, criteria)
    if not body.dry_run:
        await library.remove(gateway, files.ids(found))
    data: Cleaned = {
        "dry_run": body.dry_run,
        "files": len(found),
        "size": sum(one.ref.size for one in found),
        "file_ids": files.ids(found)[:LISTED],
    }
    return success(data, "Nothing was removed: this was a dry run" if body.dry_run else f"{len(found)} files removed")


@routes.get("/files/secure/{file_id}")
@public
@operation(media=ANY, **SIGNED)
async def secure(request: web.Request, query: SecureQuery) -> web.StreamResponse:
    """A file, its stream or its thumbnail, for whoever has a signed URL."""
    gateway, file_id = request.app[GATEWAY], request.match_info["file_id"]
    user_id = gateway.signed_urls.check(file_id, query.model_dump(exclude_none=True))
    file = await library.find(gateway, user_id, file_id)
    if file is None:
        raise not_found("File", file_id)
    if query.size is not None:
        return await _thumbnail(request, file, query.size, signed=True)
    if query.quality is not None:
        ref = file.rendition(query.quality)
        return await _serve(request, file, ref, Kind.STREAM, inline=True, signed=True)
    return await _serve(request, file, file.ref, Kind.DOWNLOAD, inline=query.inline is not None, signed=True)


@routes.post("/files/{file_id}/signed-url")
@requires(Permission.READ_FILES)
@operation(body=_url_wish)
async def signed_url(request: web.Request, body: UrlWish) -> Success[SignedUrl]:
    """A URL that opens a file without a token."""
    gateway, file = request.app[GATEWAY], await _owned(request)
    longest = gateway.settings.files.signed_url_max_s
    if body.expires_in > longest:
        raise invalid({"expires_in": [f"Must be at most {longest} seconds"]})
    expires = int(time.time()) + body.expires_in
    options = {"file_type": file.file_type}
    options |= {"inline": "true"} if body.inline else {}
    options |= {name: value for name in ("size", "quality") if (value := getattr(body, name)) is not None}
    query = gateway.signed_urls.query(file.id, file.user_id, expires, options)
    url = f"{asked(request, gateway.settings, f'/files/secure/{file.id}')}?{query}"
    at = now().fromtimestamp(expires, now().tzinfo)
    return success({"url": url, "expires_in": body.expires_in, "expires_at": timestamp(at)}, "Signed URL created")


@routes.get(FILE)
@requires(Permission.READ_FILES)
@operation()
async def details(request: web.Request) -> Success[FileDetails]:
    """Everything about a file."""
    file = await _owned(request)
    async with request.app[GATEWAY].database.read() as connection:
        downloads = await library.downloads(connection, file)
    return success(
        {
            **_item(file),
            "subdirectory": file.subdirectory,
            "description": file.description,
            "updated_at": timestamp(file.updated_at),
            "expires_at": timestamp(file.expires_at),
            "download_count": downloads,
            **_technical(file),
        }
    )


@routes.get("/files/{file_id}/info")
@requires(Permission.READ_FILES)
@operation(status=308)
async def info(request: web.Request) -> Success[Moved]:
    """Where version 1.0 had the details."""
    location = link(request.app[GATEWAY].settings, f"/files/{(await _owned(request)).id}")
    moved: Moved = {"location": location}
    return success(moved, "Moved", status=HTTPStatus.PERMANENT_REDIRECT, headers={"Location": location})


@routes.get("/files/{file_id}/metadata")
@requires(Permission.READ_FILES)
@operation()
async def metadata(request: web.Request) -> Success[Technical]:
    """What a file is, by its content."""
    return success(_technical(await _owned(request)))


@routes.get("/files/{file_id}/download")
@requires(Permission.READ_FILES)
@operation(media=ANY, **media.RANGED)
async def download(request: web.Request, query: DownloadQuery) -> web.StreamResponse:
    """The file."""
    file = await _owned(request)
    return await _serve(request, file, file.ref, Kind.DOWNLOAD, inline=query.inline)


@routes.get("/files/{file_id}/stream")
@requires(Permission.READ_FILES)
@operation(media=ANY, **media.RANGED)
async def stream(request: web.Request, query: StreamQuery) -> web.StreamResponse:
    """The file for playing, a video in the quality asked for."""
    file = await _owned(request)
    return await _serve(request, file, file.rendition(query.quality), Kind.STREAM, inline=True)


@routes.get("/files/{file_id}/thumbnail")
@requires(Permission.READ_FILES)
@operation(media=["image/jpeg"], **media.RANGED)
async def thumbnail(request: web.Request, query: ThumbnailQuery) -> web.StreamResponse:
    """A picture of the file."""
    return await _thumbnail(request, await _owned(request), query.size)


@routes.get("/files/{file_id}/analytics")
@requires(Permission.READ_FILES)
@operation()
async def analytics(request: web.Request) -> Success[Analytics]:
    """How often a file was fetched, in which way, and when."""
    file = await _owned(request)
    async with request.app[GATEWAY].database.read() as connection:
        days = await accesses.of_file(connection, file.id)
    return success(
        {
            "file_id": file.id,
            "total_accesses": _count(days),
            **_accesses({kind: _count([day for day in days if day.kind is kind]) for kind in Kind}),
            "by_signed_url": _count([day for day in days if day.signed]),
            "last_accessed_at": timestamp(max((day.last_at for day in days), default=None)),
            "daily": _daily(days),
        }
    )


@routes.delete(FILE)
@operation(errors=[403])
async def delete(request: web.Request) -> Success[Deleted]:
    """Delete a file; a video goes with its job."""
    gateway, file = request.app[GATEWAY], await _owned(request)
    needed = Permission.UPLOAD_FILES if file.job is None else Permission.GENERATE_VIDEOS
    if needed not in request[PRINCIPAL].permissions:
        raise forbidden(f"This needs the permission {needed}")
    if file.job is not None:
        await lifecycle.delete(gateway, file.job.id)
    else:
        await library.remove(gateway, [file.id])
    return success({"id": file.id, "deleted": True}, "File deleted successfully")


async def _owned(request: web.Request) -> File:
    """The file of the path. Raises `ApiError` 404 if there is none or it is another user's."""
    file_id = ids.given(request, "file_id")
    file = await library.find(request.app[GATEWAY], request[PRINCIPAL].user_id, file_id)
    if file is None:
        raise not_found("File", file_id)
    return file


async def _thumbnail(request: web.Request, file: File, size: str, *, signed: bool = False) -> web.StreamResponse:
    ref = await library.thumbnail(request.app[GATEWAY], file, size)
    if ref is None:
        pending = file.inspection is Inspection.PENDING
        text = "Thumbnail is not ready: the file is being looked into" if pending else "There is no thumbnail"
        details = {"file_id": file.id, "inspection": file.inspection, "content_type": file.ref.media_type}
        raise ApiError(Code.RESOURCE_NOT_FOUND, text, details)
    named = ref.model_copy(update={"name": f"{file.id}-{size}.jpg"})
    return await _serve(request, file, named, Kind.THUMBNAIL, inline=True, signed=signed)


async def _serve(
    request: web.Request, file: File, ref: ArtifactRef, kind: Kind, *, inline: bool, signed: bool = False
) -> web.StreamResponse:
    charset = file.details.get("encoding") if ref.media_type.startswith("text/") else None
    return await send(
        request, ref, kind, file_id=file.id, user_id=file.user_id, inline=inline, signed=signed, charset=charset
    )


def _item(file: File) -> FileItem:
    return {
        "id": file.id,
        "filename": file.ref.name,
        "size": file.ref.size,
        "content_type": file.ref.media_type,
        "file_type": file.file_type,
        "created_at": timestamp(file.created_at),
    }


def _technical(file: File) -> Technical:
    return {
        "content_type": file.ref.media_type,
        "size": file.ref.size,
        "checksum": file.ref.digest,
        "inspection": file.inspection,
        "metadata": dict(file.details),
    }


def _count(days: list[Day]) -> int:
    return sum(day.count for day in days)


def _accesses(counts: Mapping[Kind, int]) -> Accesses:
    return {
        "downloads": counts[Kind.DOWNLOAD],
        "streams": counts[Kind.STREAM],
        "thumbnails": counts[Kind.THUMBNAIL],
    }


def _daily(days: list[Day]) -> list[Daily]:
    found: dict[str, dict[Kind, int]] = {}
    for day in days:
        found.setdefault(day.day.isoformat(), dict.fromkeys(Kind, 0))[day.kind] += day.count
    return [{"date": date, **_accesses(counts)} for date, counts in found.items()]
