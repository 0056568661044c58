"""URLs that open one file for whoever has them, for a time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from urllib.parse import urlencode

from gateway.errors import ApiError, Code
from gateway.signing import Signer

OPTIONS = ("file_type", "inline", "size", "quality")
"""What may be signed along; what was not signed cannot be added later."""


class SignedUrls:
    """Makes and checks the query of `/files/secure/{file_id}`."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    def query(self, file_id: str, user_id: str, expires: int, options: Mapping[str, str]) -> str:
        """A query that is good until `expires` (epoch seconds)."""
        signature = self._signer.sign(*_parts(file_id, user_id, str(expires), options))
        return urlencode({"user_id": user_id, "expires": expires, "signature": signature, **options})

    def check(self, file_id: str, query: Mapping[str, str]) -> str:
        """The user whose file a query opens.

        Raises:
            ApiError: 401, it was altered or its time is over.
        """
        options = {name: query[name] for name in OPTIONS if name in query}
        user_id, expires = query["user_id"], query["expires"]
        if not self._signer.verify(query["signature"], *_parts(file_id, user_id, expires, options)):
            raise ApiError(Code.AUTH_INVALID, "Invalid signature", "The URL was altered or is of another file")
        if int(expires) <= time.time():  # its form is that of what was signed
            raise ApiError(Code.AUTH_EXPIRED, "Signed URL expired", "Ask for a new one")
        return user_id


def _parts(file_id: str, user_id: str, expires: str, options: Mapping[str, str]) -> list[str]:
    return [file_id, user_id, expires, *(part for name in OPTIONS if name in options for part in (name, options[name]))]
