"""Structured logs, of structlog and of the standard library alike: JSON for machines or coloured lines for people.

Every line of a stage run carries `job_id`, `trace_id` and `stage` (bound by the runner). Secrets are cut out of
whatever is logged: the values of the settings' secrets, passwords and signatures in URLs, tokens.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, Iterator
from typing import TextIO, cast

import structlog
from pydantic import BaseModel, SecretStr
from structlog.typing import EventDict, Processor, WrappedLogger

from config.settings import LogSettings

BY_FORM = re.compile(
    r"(?<=://)[^/\s:@]*:[^@\s/]+(?=@)|(?<=X-Amz-Signature=)\w+|(?<=X-Amz-Security-Token=)[^&\s]+"
    r"|(?<=signature=)[\w-]+|\beyJ[\w-]+\.[\w-]+\.[\w-]*|whsec_[\w+/=]+"
)
"""Passwords and signatures in URLs, tokens (JWT), secrets of webhooks."""
HIDDEN = "[hidden]"
SHORTEST_SECRET = 6
"""Shorter values ("guest") would cut holes into ordinary words."""

QUIET = {
    # pika tells every detail of a lost connection in a dozen lines; what follows from it is logged where it is handled.
    "pika": logging.CRITICAL,
    "aio_pika": logging.ERROR,
    "aiormq": logging.ERROR,
    "urllib3": logging.ERROR,
    "aiosqlite": logging.INFO,  # below that it tells every statement with its values, secrets and prompts among them
    # A retry is no error; the runner has logged why. Failures of Dramatiq itself still show.
    "dramatiq.middleware.retries.Retries": logging.ERROR,
    "dramatiq": logging.WARNING,
}


def configure(settings: LogSettings, secrets: Iterable[str] = (), stream: TextIO = sys.stderr) -> None:
    """Send all logs of this process to `stream`, one line each.

    Args:
        secrets: values that must never show (see `secrets_of`).
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared[:3],
            shared[-1],
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendering(settings.format, Hide(secrets), stream),
            ],
        )
    )
    logging.basicConfig(level=settings.level, handlers=[handler], force=True)
    for name, level in QUIET.items():
        logging.getLogger(name).setLevel(max(level, logging.getLevelNamesMapping()[settings.level]))


def _rendering(form: str, hide: Hide, stream: TextIO) -> list[Processor]:
    if form == "console":
        renderer = structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        return [renderer, hide]
    return [structlog.processors.format_exc_info, hide, structlog.processors.JSONRenderer(default=str)]


class Hide:
    """A processor that cuts secrets out of a rendered line, or out of all strings of an event."""

    def __init__(self, secrets: Iterable[str]) -> None:
        known = sorted({secret for secret in secrets if len(secret) >= SHORTEST_SECRET}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def __call__(self, logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
        """Clean one event or line."""
        return cast(EventDict, self._clean(event))

    def _clean(self, value: object) -> object:
        if isinstance(value, str):
            value = BY_FORM.sub(HIDDEN, value)
            return self._known.sub(HIDDEN, value) if self._known else value
        if isinstance(value, dict):
            return {key: self._clean(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._clean(inner) for inner in value]
        return value


def secrets_of(settings: BaseModel) -> Iterator[str]:
    """The values of all `SecretStr` in a tree of settings."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            yield value.get_secret_value()
        elif isinstance(value, BaseModel):
            yield from secrets_of(value)
