"""No receiver leads into the gateway's own network: checked at submit and again when connecting."""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator
from ipaddress import ip_address
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from config.settings import WebhookSettings
from gateway.webhooks.client import Client
from gateway.webhooks.guard import Guard
from tests.unit.gateway.receivers import running

PUBLIC = "93.184.216.34"
FORBIDDEN = [
    "127.0.0.1",
    "127.8.9.1",
    "0.0.0.0",
    "10.0.0.7",
    "172.16.3.4",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.0.8",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.7",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
    "2001:0:0:0:0:0:80ff:fffe",
    "fc00::1",
    "fd12::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
]
WRITTEN = [
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0177.0.0.1/",
    "https://127.1/",
    "https://127.0.0.1./",
    "https://[::ffff:7f00:1]/",
    "https://[::1%25lo]/",
    "https://１２７.０.０.１/",
]
"""127.0.0.1 as filters that compare strings do not know it."""


class FakeResolver(AbstractResolver):
    """Answers with the next list of addresses; the last one stays."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        self.asked += 1
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if not found:
            raise OSError("no such name")
        return [self._result(host, port, address) for address in found]

    async def close(self) -> None:
        pass

    def _result(self, host: str, port: int, address: str) -> ResolveResult:
        version = socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6
        return {"hostname": host, "host": address, "port": port, "family": version, "proto": 0, "flags": 0}


CONNECTED: list[Any] = []
WATCHING: list[bool] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if WATCHING and event in ("socket.__new__", "socket.connect"):
        CONNECTED.append(arguments)


sys.addaudithook(_watch)  # Python's own word on every socket of this process


@pytest.fixture
async def connected() -> AsyncIterator[list[Any]]:
    """The sockets this process opened or connected during the test; the event loop has its own already."""
    CONNECTED.clear()
    WATCHING.append(True)
    yield CONNECTED
    WATCHING.clear()


def guard(*answers: list[str], **settings: object) -> Guard:
    resolver = FakeResolver(*answers or ([PUBLIC],))
    return Guard(WebhookSettings.model_validate(settings), resolver=lambda: resolver)


async def post(guard: Guard, url: str) -> str | None:
    async with Client(guard, timeout_s=2) as client:
        return (await client.post(url, b"{}", {})).error


@pytest.mark.parametrize("address", FORBIDDEN)
async def test_a_name_that_leads_inside_is_refused_twice(connected: list[Any], address: str) -> None:
    problems = await guard([address]).problems("https://receiver.example/hook")
    assert problems == ["Must not point to a private, local or reserved address"]
    told = await post(guard([address]), "https://receiver.example/hook")
    assert told is not None
    assert told.startswith("Not called: the address")
    assert connected == []


@pytest.mark.parametrize("address", FORBIDDEN)
async def test_an_address_inside_is_refused_twice(connected: list[Any], address: str) -> None:
    url = f"https://[{address}]:8443/hook" if ":" in address else f"https://{address}:8443/hook"
    assert await guard().problems(url)
    assert str(await post(guard(), url)).startswith("Not called")
    assert connected == []


@pytest.mark.parametrize("url", WRITTEN)
async def test_addresses_in_disguise_are_refused_twice(connected: list[Any], url: str) -> None:
    assert await guard(["127.0.0.1"]).problems(url)
    assert await post(guard(["127.0.0.1"]), url)
    assert connected == []


async def test_a_name_that_changes_its_mind_is_refused_when_connecting(connected: list[Any]) -> None:
    rebinding = guard([PUBLIC], ["127.0.0.1"])
    assert await rebinding.problems("https://receiver.example/") == []
    assert str(await post(rebinding, "https://receiver.example/")).startswith("Not called")
    assert connected == []


async def test_one_bad_address_among_good_ones_is_refused_at_submit_and_never_connected(connected: list[Any]) -> None:
    assert await guard([PUBLIC, "10.0.0.1"]).problems("https://receiver.example/")
    mixed = guard(["10.0.0.1", "192.168.0.1", "fd00::1"])
    assert await post(mixed, "https://receiver.example/")
    assert connected == []


async def test_redirects_are_not_followed() -> None:
    async with running() as receiver, running() as target:
        receiver.behave, receiver.headers = lambda _: 307, {"Location": target.url}
        here = guard(["127.0.0.1"], allow_http=True, allowed_networks=["127.0.0.0/8"])
        told = await post(here, receiver.url)
    assert told == "The receiver answered 307 (redirects are not followed)"
    assert (len(receiver.got), target.got) == (1, [])


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("https://ada:secret@receiver.example/", "credentials"),
        ("https://ada@receiver.example/", "credentials"),
        ("http://receiver.example/", "https://"),
        ("ftp://receiver.example/", "https://"),
        ("file:///etc/passwd", "https://"),
        ("//receiver.example/", "https://"),
        ("receiver.example", "https://"),
        ("https://", "https://"),
        ("https://receiver.example:99999/", "valid URL"),
        ("https://[::1/", "valid URL"),
        ("https://receiver.example/\x00", "valid URL"),
        ("https://receiver.example/a b", "valid URL"),
        ("https://receiver.example/" + "a" * 2048, "2048"),
        ("", ""),
    ],
)
async def test_what_is_no_receiver(connected: list[Any], url: str, problem: str) -> None:
    (told,) = await guard().problems(url)
    assert problem in told
    assert connected == []


async def test_public_receivers_are_accepted_also_while_their_name_cannot_be_resolved() -> None:
    for url in ("https://receiver.example/t2m?token=1", f"https://{PUBLIC}/", "https://[2606:4700::1111]:8443/"):
        assert await guard().problems(url) == []
    assert await guard([]).problems("https://your-app.com/webhooks/t2m") == []
    assert await post(guard([]), "https://your-app.com/webhooks/t2m") == "The host name cannot be resolved"


async def test_the_configuration_can_allow_a_network_and_no_more() -> None:
    intranet = guard(["10.1.2.3"], allowed_networks=["10.0.0.0/8"])
    assert await intranet.problems("https://receiver.intranet/") == []
    assert await guard(["192.168.0.1"], allowed_networks=["10.0.0.0/8"]).problems("https://receiver.intranet/")
    assert intranet.allows(ip_address("::ffff:10.0.0.1"))
    assert await intranet.problems("http://receiver.intranet/")
    assert await guard(allow_http=True).problems("http://receiver.example/") == []
