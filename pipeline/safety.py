"""The one hook for what a deployment does not want to make: asked before a job is queued, and before it is published.

T2M brings no classifier of its own and asks nobody by default. `safety.hook` names a class, "package.module:Class",
that is made without arguments in each gateway and each worker. A hook that fails refuses for the time being: nothing
passes unchecked.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from config.errors import ConfigError
from config.settings import Settings
from pipeline.errors import ContentRefused, SafetyAway
from pipeline.vocabulary import JobRequest


class Safety(Protocol):
    """Called from several threads; may block."""

    def prompt(self, request: JobRequest) -> str | None:
        """Why this must not be queued, fit to be shown to its owner; None if it may."""

    def video(self, request: JobRequest, video: Path) -> str | None:
        """Why this must not be published, fit to be shown to its owner; None if it may.

        Args:
            video: the MP4 of the highest rendition, with all its frames.
        """


def open_safety(settings: Settings) -> Safety | None:
    """The hook of the settings; None where there is none.

    Raises:
        ConfigError: it cannot be imported or made, or is no hook.
    """
    name = settings.safety.hook
    if not name:
        return None
    module, _, attribute = name.partition(":")
    try:
        hook: Safety = getattr(importlib.import_module(module), attribute)()
    except Exception as error:  # it is not ours, and may fail in any way
        raise ConfigError(
            f"The safety hook {name} cannot be made: {error!r}.", remedy="`safety.hook` is package.module:Class."
        ) from error
    if not callable(getattr(hook, "prompt", None)) or not callable(getattr(hook, "video", None)):
        raise ConfigError(f"The safety hook {name} lacks a method.", remedy="See `pipeline.safety.Safety`.")
    return hook


def refusal(safety: Safety | None, request: JobRequest) -> str | None:
    """Why a request must not be queued. Raises `SafetyAway`."""
    return None if safety is None else _ask(lambda: safety.prompt(request))


def check_video(safety: Safety, request: JobRequest, video: Path) -> None:
    """Raises `ContentRefused`, or `SafetyAway`."""
    reason = _ask(lambda: safety.video(request, video))
    if reason is not None:
        raise ContentRefused(reason, remedy="Ask for something else.")


def _ask(question: Callable[[], str | None]) -> str | None:
    try:
        return question()
    except Exception as error:  # it is not ours, and may fail in any way
        raise SafetyAway("The safety check does not answer.", remedy="See the log for its error.") from error
