"""Entries of a job's log as server-sent events (the WHATWG's text/event-stream)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.database.events import Entry
from gateway.logbook import VERDICTS, event_view
from pipeline.vocabulary import EventKind

HEARTBEAT = b": heartbeat\n\n"
RETRY_MS = 3000
"""How soon clients come back after a lost connection."""
PREAMBLE = f"retry: {RETRY_MS}\n\n".encode()


@dataclass(frozen=True)
class Frame:
    """One event on the wire.

    Attributes:
        last: nothing follows that a watcher waits for.
        picture: only for who may read files.
    """

    seq: int
    data: bytes
    last: bool
    picture: bool = False


def frame(entry: Entry) -> Frame:
    """The event named by its kind, with its number as the id; JSON holds no line break that would need care."""
    text = json.dumps(event_view(entry), ensure_ascii=False)
    kind = entry.event.kind
    data = f"id: {entry.seq}\nevent: {kind}\ndata: {text}\n\n".encode()
    return Frame(entry.seq, data, last=kind in VERDICTS, picture=kind is EventKind.PREVIEW)


def up_to_the_end(frames: Sequence[Frame]) -> Sequence[Frame]:
    """Without what workers still said after the verdict; it is in the log."""
    ends = [number for number, frame in enumerate(frames, 1) if frame.last]
    return frames[: ends[0]] if ends else frames
