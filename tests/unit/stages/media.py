"""Reading outputs the way a sceptic would: by decoding, not by names."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from stages.ffmpeg import ffmpeg_binary

IDR = 5
"""NAL unit type of an IDR slice (ITU-T H.264, table 7-1)."""


def boxes(path: Path) -> list[str]:
    """Types of an MP4's top-level boxes in file order."""
    data, types, offset = path.read_bytes(), [], 0
    while offset < len(data):
        types.append(data[offset + 4 : offset + 8].decode())
        offset += int.from_bytes(data[offset : offset + 4], "big")
    return types


def streamhash(path: Path, stream: str) -> str:
    """Hash of the packets of a stream ("v", "a") as they lie in the file."""
    argv = [
        ffmpeg_binary(),
        "-v",
        "error",
        "-i",
        str(path),
        "-map",
        f"0:{stream}",
        "-c",
        "copy",
        "-f",
        "streamhash",
        "-",
    ]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


@dataclass(frozen=True)
class Sample:
    """One packet; `pts` in seconds."""

    pts: float
    keyframe: bool
    nal_types: tuple[int, ...]


def samples(path: Path) -> list[Sample]:
    """Video packets in decoding order."""
    with av.open(str(path)) as container:
        return [
            Sample(float(packet.pts * packet.time_base), packet.is_keyframe, nal_types(bytes(packet)))
            for packet in container.demux(video=0)
            if packet.size
        ]


def nal_types(data: bytes) -> tuple[int, ...]:
    """Types of the length-prefixed NAL units of an H.264 packet in an MP4."""
    types, offset = [], 0
    while offset + 4 < len(data):
        types.append(data[offset + 4] & 0x1F)
        offset += 4 + int.from_bytes(data[offset : offset + 4], "big")
    return tuple(types)


def red_centre(picture: NDArray[np.uint8]) -> float:
    """Horizontal centre of what is red, 0 to 1 of the width."""
    red = (picture[..., 0] > 170) & (picture[..., 1] < 110)
    return float(np.nonzero(red)[1].mean() / picture.shape[1])
