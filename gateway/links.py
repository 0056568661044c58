"""How clients reach the gateway, and how it sees them, through proxies."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from urllib.parse import quote

from aiohttp import web

from config.settings import Settings

BASE_PATH = "/api/v1"


def link(settings: Settings, path: str) -> str:
    """Where an endpoint is: under the public URL if one is set, else on the host that was asked."""
    root = "" if settings.gateway.public_url is None else str(settings.gateway.public_url).rstrip("/")
    return f"{root}{BASE_PATH}{path}"


def absolute(settings: Settings, path: str) -> str:
    """Where an endpoint is, for who did not ask: without a public URL, at the address the gateway listens on."""
    own = f"http://{settings.gateway.host}:{settings.gateway.port}"
    return link(settings, path) if settings.gateway.public_url else own + link(settings, path)


def asked(request: web.BaseRequest, settings: Settings, path: str) -> str:
    """Where an endpoint is, for who must take the URL elsewhere: without a public URL, on the host that was asked."""
    own = "" if settings.gateway.public_url else f"{_scheme(request, settings)}://{_host(request)}"
    return own + link(settings, path)


def client_address(request: web.BaseRequest, proxies: Sequence[IPv4Network | IPv6Network]) -> str:
    """The nearest address that is no trusted proxy, from X-Forwarded-For read backwards; never what a client claims."""
    address, told = request.remote or "", request.headers.getall("X-Forwarded-For", [])
    hops = [hop.strip() for hop in ",".join(told).split(",")] if told else []
    while hops and _trusted(address, proxies):
        nearer = hops.pop()
        if not _is_address(nearer):
            break
        address = nearer
    return address


def _host(request: web.BaseRequest) -> str:
    """As a URL has it, whatever bytes the client sent."""
    return quote(request.host, safe=":[]", errors="surrogateescape")


def _scheme(request: web.BaseRequest, settings: Settings) -> str:
    told = request.headers.get("X-Forwarded-Proto", "").strip().lower()
    believed = told in ("http", "https") and _trusted(request.remote or "", settings.gateway.trusted_proxies)
    return told if believed else request.scheme


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _trusted(address: str, proxies: Sequence[IPv4Network | IPv6Network]) -> bool:
    return _is_address(address) and any(ip_address(address) in network for network in proxies)
