"""Looks into rendered files by decoding them."""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path

import av
import imageio_ffmpeg


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def frame_times(path: Path) -> tuple[list[float], list[float]]:
    """Presentation times in seconds of all decoded frames, and of the key frames."""
    with av.open(path) as container:
        frames = [(float(frame.time), frame.key_frame) for frame in container.decode(video=0)]
    return [time for time, _ in frames], [time for time, key in frames if key]


def boxes(path: Path) -> list[str]:
    """Types of an MP4's top-level boxes in order."""
    found, data, at = [], path.read_bytes(), 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        found.append(data[at + 4 : at + 8].decode())
        at += size or len(data)
    return found


def stream_hash(source: Path) -> str:
    """sha256 of the video packets, as `-c copy -f streamhash` gives it; an HLS playlist is followed."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(source), "-map", "0:v", "-c", "copy"]
    done = subprocess.run([*command, "-f", "streamhash", "-"], capture_output=True, text=True, check=True, timeout=120)
    found = re.search(r"0,v,SHA256=(\w+)", done.stdout)
    assert found, done.stdout
    return found[1]
