"""What is really in an output file, read with PyAV."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
from av.audio.stream import AudioStream
from av.container import InputContainer

from stages.errors import FrameMismatch, MediaUnreadable
from stages.files import media


@dataclass(frozen=True)
class VideoFacts:
    """Of one rendition, in the words of the API.

    Attributes:
        duration: seconds of the picture.
        fps: frames per second, whole when it is.
        bitrate: of the picture in bits per second.
        codec: "h264" or "av1".
        format: of the file, "mp4".
        file_size: bytes.
    """

    duration: float
    width: int
    height: int
    fps: float
    bitrate: int
    codec: str
    format: str
    file_size: int


@dataclass(frozen=True)
class AudioFacts:
    """Of one sound track; `bitrate` in bits per second, `sample_rate` in Hz."""

    codec: str
    bitrate: int
    sample_rate: int
    channels: int


@dataclass(frozen=True)
class Facts:
    """What one file holds."""

    video: VideoFacts
    audio: AudioFacts | None

    def as_json(self) -> dict[str, Any]:
        """Both as JSON values."""
        return {"video": asdict(self.video), "audio": asdict(self.audio) if self.audio else None}


def probe(path: Path) -> Facts:
    """Read a rendition's header and the sizes of its packets.

    Raises:
        MediaUnreadable: it is no readable video.
    """
    with media(path.name), av.open(str(path)) as container:
        sizes = _bytes_by_stream(container)
        return Facts(_video(container, sizes, path), _audio(container, sizes))


def check_frames(path: Path, expected: int) -> None:
    """Count the frames of an MP4 by its index.

    Raises:
        FrameMismatch: there are not `expected`.
        MediaUnreadable: it is no readable video.
    """
    with media(path.name), av.open(str(path)) as container:
        actual = container.streams.video[0].frames
    if actual != expected:
        raise FrameMismatch(path.name, expected, actual)


def _bytes_by_stream(container: InputContainer) -> Counter[int]:
    sizes: Counter[int] = Counter()
    for packet in container.demux():
        sizes[packet.stream.index] += packet.size
    return sizes


def _video(container: InputContainer, sizes: Counter[int], path: Path) -> VideoFacts:
    stream = container.streams.video[0]
    if not stream.duration or not stream.time_base:
        raise MediaUnreadable(f"{path.name} does not say how long it is.")
    duration = stream.duration * stream.time_base
    fps = stream.frames / duration
    return VideoFacts(
        duration=round(float(duration), 6),
        width=stream.width,
        height=stream.height,
        fps=int(fps) if fps.denominator == 1 else round(float(fps), 3),
        bitrate=round(8 * sizes[stream.index] / duration),
        codec=stream.codec_context.codec.canonical_name,
        format=path.suffix.removeprefix("."),
        file_size=path.stat().st_size,
    )


def _audio(container: InputContainer, sizes: Counter[int]) -> AudioFacts | None:
    if not container.streams.audio:
        return None
    stream: AudioStream = container.streams.audio[0]
    seconds = float((stream.duration or 0) * (stream.time_base or 0))
    return AudioFacts(
        codec=stream.codec_context.codec.canonical_name,
        bitrate=round(8 * sizes[stream.index] / seconds) if seconds else 0,
        sample_rate=stream.rate,
        channels=stream.channels,
    )
