"""Says above each handler what it takes and gives; requests are read by it, and `gateway.openapi` documents it.

    @routes.get("/jobs/{job_id}/logs")
    @operation()
    async def logs(request: web.Request, query: LogsQuery) -> Success[Logs]: ...

`query` and `form` are classes of `gateway.parameters`, `body` is any pydantic class for a JSON body: the handler gets
them read and checked. What it returns says how the answer looks: `Success[…]` in the envelope, `Flat[…]` without it.
Which errors are possible follows from that, from the path and from `gateway.access`.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin, get_type_hints

from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.envelope import Flat, Success
from gateway.parameters import Parameters
from gateway.validation import form, parsed

ATTRIBUTE = "t2m_contract"


@dataclass(frozen=True)
class Header:
    """A request header that changes the answer."""

    name: str
    description: str
    schema: Mapping[str, Any]


@dataclass(frozen=True)
class Contract:
    """What a handler takes and gives.

    Attributes:
        query, form: what is read from the query and from a form.
        body: the type of the JSON body; or a function that has it made by the parts of a gateway.
        multipart: the type of a multipart body, which the handler reads by itself.
        answer: the type of what is answered; None for `events` and `media`.
        enveloped: whether it comes in the envelope.
        events: the type of the data of server-sent events, where those are answered.
        status: of success.
        media: content types of an answer that is neither.
        also: further statuses of success.
        errors: statuses beyond those that follow from the rest.
    """

    query: type[Parameters] | None
    form: type[Parameters] | None
    body: Any
    multipart: Any
    answer: Any
    enveloped: bool
    events: Any
    status: int
    media: tuple[str, ...]
    headers: tuple[Header, ...]
    also: tuple[int, ...]
    errors: tuple[int, ...]


def operation(
    *,
    status: int = 200,
    body: Any = None,  # noqa: ANN401 - a type form
    multipart: Any = None,  # noqa: ANN401 - a type form
    events: Any = None,  # noqa: ANN401 - a type form
    media: Sequence[str] = (),
    headers: Sequence[Header] = (),
    also: Sequence[int] = (),
    errors: Sequence[int] = (),
) -> Callable[[Callable[..., Awaitable[web.StreamResponse]]], Handler]:
    """Make a handler of a function that takes the request and, by name, what is read of it."""

    def mark(function: Callable[..., Awaitable[web.StreamResponse]]) -> Handler:
        hints = get_type_hints(function, include_extras=True)
        given = hints["return"]
        typed = get_origin(given) in (Success, Flat)
        contract = Contract(
            query=hints.get("query"),
            form=hints.get("form"),
            body=body or hints.get("body"),
            multipart=multipart,
            answer=get_args(given)[0] if typed else None,
            enveloped=get_origin(given) is Success,
            events=events,
            status=status,
            media=tuple(media),
            headers=tuple(headers),
            also=tuple(also),
            errors=tuple(errors),
        )

        if not (contract.query or contract.form or "body" in hints):
            setattr(function, ATTRIBUTE, contract)
            return function

        @functools.wraps(function)
        async def handler(request: web.Request) -> web.StreamResponse:
            taken: dict[str, Any] = {}
            if contract.query is not None:
                taken["query"] = contract.query.read(request.query)
            if contract.form is not None:
                taken["form"] = contract.form.read(await form(request))
            if "body" in hints:
                taken["body"] = await parsed(request, hints["body"])
            return await function(request, **taken)

        setattr(handler, ATTRIBUTE, contract)
        return handler

    return mark


def contract(handler: object) -> Contract | None:
    """What was said above the handler."""
    found = getattr(handler, ATTRIBUTE, None)
    assert found is None or isinstance(found, Contract)  # noqa: S101 - for the type checker
    return found
