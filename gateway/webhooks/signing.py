"""Signatures of webhook messages: the documented one, and those of Standard Webhooks 1.0.0."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

PREFIX = "whsec_"
KEY_BYTES = 32
BOTH_SIGN = timedelta(hours=24)
"""For how long the secret before a rotation signs beside the new one."""


def new_secret() -> str:
    """A secret in the form that Standard Webhooks libraries take."""
    return PREFIX + base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def headers(message_id: str, at: datetime, body: bytes, keys: Sequence[str]) -> dict[str, str]:
    """What lets a receiver verify that `body` comes from here.

    Args:
        keys: the secret, then the one before it while that signs too.
    """
    sent_at = int(at.timestamp())
    signed = f"{message_id}.{sent_at}.".encode() + body
    standard = (base64.b64encode(_hmac(_standard_key(key), signed)).decode() for key in keys)
    values = {
        "X-T2M-Signature": _documented(keys[0], body),
        "webhook-id": message_id,
        "webhook-timestamp": str(sent_at),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in standard),
    }
    if len(keys) > 1:  # the documented check compares with one signature, so a second needs a header of its own
        values["X-T2M-Signature-Previous"] = _documented(keys[1], body)
    return values


def _documented(secret: str, body: bytes) -> str:
    return f"sha256={_hmac(secret.encode(), body).hex()}"


def _standard_key(secret: str) -> bytes:
    """The bytes after `whsec_`; a secret of a user's own choice is taken as it is."""
    if secret.startswith(PREFIX):
        try:
            return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
        except binascii.Error:
            pass
    return secret.encode()


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, hashlib.sha256)
