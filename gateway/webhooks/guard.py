"""Whom the gateway may call: no address inside its own network, however it is written or resolved."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from aiohttp.abc import AbstractResolver
from aiohttp.resolver import AsyncResolver
from yarl import URL

from config.settings import WebhookSettings

MAX_URL = 2048
RESOLVE_S = 2.0
"""How long the check at submit waits for names; what it misses is checked when connecting."""
PROTOCOLS = IPv4Network("192.0.0.0/24")
"""Reserved for protocols; Python's own table has only parts of it in some versions."""
UNICAST = IPv6Network("2000::/3")
"""The only IPv6 addresses given out for the public Internet."""

Address = IPv4Address | IPv6Address
AddressInfo = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]
"""An entry of `socket.getaddrinfo`."""
OpenSocket = Callable[[int, int, int], socket.socket]


class RefusedAddressError(OSError):
    """The receiver is at an address that must not be called."""


@dataclass(frozen=True)
class Guard:
    """Refuses what the settings do not allow: at submit with a reason, and again at each connection.

    Only the second check counts, as a name may resolve to another address a moment later. It is made on the address
    that is about to be connected, before there is a socket.

    Attributes:
        resolver: makes the resolver of names; called within the event loop. Threads would be taken up by slow names.
    """

    settings: WebhookSettings
    resolver: Callable[[], AbstractResolver] = AsyncResolver
    open_socket: OpenSocket = socket.socket

    async def problems(self, url: str) -> list[str]:
        """What is wrong with a receiver's URL; nothing if it may be stored."""
        try:
            parsed = URL(url)
            host, port = parsed.host, parsed.port
        except ValueError:
            return ["Must be a valid URL"]
        if len(url) > MAX_URL or not url.isprintable() or " " in url:
            return [f"Must be a valid URL of at most {MAX_URL} characters"]
        schemes = ("https", "http") if self.settings.allow_http else ("https",)
        if parsed.scheme not in schemes or not host or not port:
            return [f"Must be an absolute URL that starts with {' or '.join(f'{scheme}://' for scheme in schemes)}"]
        if parsed.user is not None or parsed.password is not None:
            return ["Must not contain credentials"]
        refused = [address for address in await self._addresses(host, port) if not self.allows(address)]
        return ["Must not point to a private, local or reserved address"] if refused else []

    def allows(self, address: Address) -> bool:
        """Whether connections to `address` are permitted."""
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            return self.allows(address.ipv4_mapped)
        if any(address in network for network in self.settings.allowed_networks):
            return True
        public = address.is_global and not address.is_multicast
        return public and (_direct(address) if isinstance(address, IPv6Address) else address not in PROTOCOLS)

    def open(self, info: AddressInfo) -> socket.socket:
        """The socket factory of `aiohttp.TCPConnector`.

        Raises:
            RefusedAddressError: before there is a socket.
        """
        family, kind, protocol, _, place = info
        address = _literal(str(place[0]))
        if address is None or not self.allows(address):
            raise RefusedAddressError(f"the address {place[0]!s} is not allowed")
        return self.open_socket(family, kind, protocol)

    async def _addresses(self, host: str, port: int) -> Sequence[Address]:
        """Where `host` is now; nothing if it cannot be found out."""
        literal = _literal(host)
        if literal is not None:
            return [literal]
        resolver = self.resolver()
        found: Sequence[str] = []
        with suppress(OSError, TimeoutError, UnicodeError):
            async with asyncio.timeout(RESOLVE_S):
                found = [result["host"] for result in await resolver.resolve(host, port, socket.AF_UNSPEC)]
        await resolver.close()
        return [address for address in map(_literal, found) if address is not None]


def _literal(host: str) -> Address | None:
    """The address that `host` writes, also in the decimal, octal and short forms that the C library reads."""
    with suppress(ValueError):
        return ip_address(host.partition("%")[0])
    with suppress(OSError, UnicodeError):
        return IPv4Address(socket.inet_aton(host.rstrip(".")))
    return None


def _direct(address: IPv6Address) -> bool:
    """Whether it belongs to a host of the public Internet, and not to a tunnel (6to4, Teredo) that ends elsewhere."""
    return address in UNICAST and address.sixtofour is None and address.teredo is None
