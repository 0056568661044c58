"""The identity provider of a deployment."""

from __future__ import annotations

from config.settings import Settings
from gateway.auth.base import Authenticator
from gateway.auth.clerk import ClerkAuthenticator
from gateway.auth.local import LocalAuthenticator
from gateway.auth.oidc import OidcAuthenticator


def open_authenticator(settings: Settings) -> Authenticator:
    """The one the settings name; to be called on the event loop. Raises `ConfigError` for an unusable key file."""
    match settings.auth.provider:
        case "clerk":
            return ClerkAuthenticator(settings.auth)
        case "oidc":
            return OidcAuthenticator(settings.auth)
    return LocalAuthenticator.open(settings)
