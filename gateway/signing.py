"""Signs what clients carry in URLs, so that it can be believed when it comes back."""

from __future__ import annotations

import base64
import hashlib
import hmac

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

SECRET_BYTES = 32


class Signer:
    """Makes and checks signatures with a secret derived from the deployment's key, which all its gateways have.

    Args:
        purpose: signatures of one purpose are worth nothing for another.
    """

    def __init__(self, key: Ed25519PrivateKey, purpose: str) -> None:
        raw = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        self._secret = HKDF(SHA256(), SECRET_BYTES, salt=None, info=f"t2m {purpose}".encode()).derive(raw)

    def sign(self, *parts: str) -> str:
        """A signature of all parts, in characters that need no escape in a URL."""
        message = "\n".join(f"{len(part)}:{part}" for part in parts)  # no two lists of parts read the same
        digest = hmac.new(self._secret, message.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")

    def verify(self, signature: str, *parts: str) -> bool:
        """Whether `sign` made that signature of these parts."""
        return hmac.compare_digest(signature.encode(), self.sign(*parts).encode())
