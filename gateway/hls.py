"""Playlists for players, which send no bearer token: one signed token in the path opens all files of a job's folder.

The token is named in the job's row with the time until which it is good, so that it can be renewed: a player that was
paused goes on with the URIs it has. URIs within the folder are relative, so only the master playlist that is answered
outside of it is written anew.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from datetime import timedelta

from gateway.database import jobs
from gateway.database.engine import Database
from gateway.errors import ApiError, Code, not_found
from gateway.negotiation import accepted
from gateway.signing import Signer
from pipeline.vocabulary import now

FOLDER = "hls/"
MASTER = "master.m3u8"
MEDIA_TYPE = "application/vnd.apple.mpegurl"
MEDIA_TYPES = (MEDIA_TYPE, "application/x-mpegurl", "audio/mpegurl")
URI = re.compile(r'URI="([^"]*)"')


class StreamTokens:
    """Opens the HLS folder of a job to whoever has its token.

    Args:
        seconds: how long a token is good after it was made or last renewed.
    """

    def __init__(self, database: Database, signer: Signer, seconds: float) -> None:
        self._database, self._signer, self._lasting = database, signer, timedelta(seconds=seconds)

    async def issue(self, job_id: str) -> str:
        """The job's token, renewed; a new one where the last has expired."""
        async with self._database.write() as connection:
            stream = await jobs.stream(connection, job_id, to_change=True)
            at = now()
            nonce = (stream and stream.valid_nonce(at)) or secrets.token_urlsafe(12)
            await jobs.open_stream(connection, job_id, nonce, at + self._lasting)
        return f"{nonce}.{self._signer.sign(job_id, nonce)}"

    async def check(self, job_id: str, token: str) -> None:
        """Raises `ApiError`: 401, the token is not of this job, or its time is over; 404, the job was deleted."""
        nonce, _, signature = token.partition(".")
        if not self._signer.verify(signature, job_id, nonce):
            raise ApiError(Code.AUTH_INVALID, "Invalid stream token", "The URL was altered or is of another video")
        async with self._database.read() as connection:
            stream = await jobs.stream(connection, job_id)
        if stream is None:
            raise not_found("Job", job_id)
        if stream.valid_nonce(now()) != nonce:
            raise ApiError(Code.AUTH_EXPIRED, "Stream token expired", "Ask for the playlist again")


def master(playlist: str, folder: str, rung: str | None) -> str:
    """The master playlist for a place outside its folder.

    Args:
        folder: where the files are, seen from there, with "/" at the end.
        rung: the only variant to offer ("720p"); None for all.
    """
    lines = (line for line in _variants(playlist.splitlines(), rung))
    moved = (URI.sub(lambda match: f'URI="{folder}{match[1]}"', line) for line in lines)
    return "\n".join(folder + line if line and not line.startswith("#") else line for line in moved) + "\n"


def accepts_playlist(accept: str) -> bool:
    """Whether an Accept header names the type of a playlist."""
    named = accepted(accept)
    return any(named.get(media_type) for media_type in MEDIA_TYPES)


def _variants(lines: list[str], rung: str | None) -> Iterator[str]:
    held = ""
    for line in lines:
        if line.startswith("#EXT-X-STREAM-INF"):
            held = line
        elif held:
            if rung in (None, line.removesuffix(".m3u8")):
                yield from (held, line)
            held = ""
        elif rung is None or not line.startswith("#EXT-X-I-FRAME") or f'"{rung}-' in line:
            yield line
