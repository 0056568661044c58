"""The root of every error T2M raises on purpose.

T2MError
├── ConfigError          a setting or a catalogue row is wrong            (config)
├── InvalidRequest       a job asks for what cannot be made               (pipeline.errors)
├── ModelError …         weights missing or corrupt, out of GPU memory    (models.errors)
├── StageError …         ffmpeg failed, a mezzanine cannot be read        (stages.errors)
└── PipelineError …      store, broker, bus, records                      (pipeline.errors)
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Fault(StrEnum):
    """What doing the same again could change."""

    TRANSIENT = "transient"
    """A retry may succeed: a lost connection, a worker that died."""
    PERMANENT = "permanent"
    """A retry fails alike: bad input, corrupt weights."""
    RESOURCE = "resource"
    """A retry may succeed elsewhere or later: out of GPU memory, disk full."""


class T2MError(Exception):
    """Base class; `message` says what is wrong, `remedy` what the reader can do about it.

    Both are one line of plain text that may be shown to users: no secrets, no paths of other users.
    """

    fault: ClassVar[Fault] = Fault.PERMANENT

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".rstrip()


class ConfigError(T2MError):
    """A setting, an environment variable or a catalogue row is wrong or missing."""
