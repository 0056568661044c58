"""CMAF HLS from finished MP4s: Shaka Packager repacks their packets, nothing is encoded again.

Each rung becomes one fragmented MP4 that its playlist addresses by byte range, so that a rung is one stored object.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import av

from stages.contract import Artifact, Cancellation
from stages.errors import PackagerFailed
from stages.ffmpeg import packager_binary
from stages.process import run
from stages.transcode import GOP_S

FOLDER = "hls"
MASTER = "hls/master.m3u8"

SEGMENT_S = 2 * GOP_S
"""Whole GOPs. Apple's 6 s is an upper bound here: a segment of sound ends with a whole AAC frame, and so may run up to
21 ms over; 4 s keeps all under 6 and lets players change rungs sooner in clips of a few seconds."""

TIME_LIMIT_S = 60.0
"""Packaging copies bytes: a fraction of a second for a minute of video."""

IO_CACHE_BYTES = 2 * 1024 * 1024
"""Per file. The packager's default of 32 MiB is cleared for each file and costs ten times the packaging of a clip; 0
(no cache) was seen to hang."""

MEDIA_TYPES = {".m3u8": "application/vnd.apple.mpegurl", ".mp4": "video/mp4"}
"""RFC 8216 section 4 for playlists."""


def package(renditions: Mapping[str, Path], work: Path, cancellation: Cancellation) -> tuple[str, ...]:
    """Write `work`/hls/: "master.m3u8", and per rung "<rung>.m3u8", "<rung>-iframes.m3u8" and "<rung>.mp4".

    Sound, if there is any, becomes "audio.m3u8" and "audio.mp4", taken from the highest rung (all have the same).

    Args:
        renditions: MP4 of each rung by name, lowest first.

    Returns:
        Names relative to `work`, the master playlist first.

    Raises:
        PackagerFailed: with its last words.
        ChildTimeout, DiskFull, FfmpegMissing, Interrupted: see `stages.process.run`.
    """
    folder = work / FOLDER
    folder.mkdir()
    run(
        _command(renditions, work),
        failure=PackagerFailed,
        cancellation=cancellation,
        time_limit_s=TIME_LIMIT_S,
        cwd=folder,
    )
    names = (f"{FOLDER}/{path.name}" for path in sorted(folder.iterdir()))
    return (MASTER, *(name for name in names if name != MASTER))


def artifact(name: str, out: Path) -> Artifact:
    """The published file `name` of this stage in the folder `out`."""
    return Artifact(name, out / name, MEDIA_TYPES[Path(name).suffix])


def _command(renditions: Mapping[str, Path], work: Path) -> list[str]:
    top = list(renditions.values())[-1]
    return [
        packager_binary(),
        *(_descriptor(rung, path) for rung, path in renditions.items()),
        *([_audio_descriptor(top)] if _has_audio(top) else []),
        *("--hls_master_playlist_output", "master.m3u8"),
        *("--hls_playlist_type", "VOD"),  # complete, never reloaded
        *("--segment_duration", str(SEGMENT_S)),
        *("--fragment_duration", str(GOP_S)),  # one IDR per fragment: each gets its entry in the I-frame playlist
        *("--temp_dir", str(work)),  # its scratch files share our disk and our clean-up
        *("--io_cache_size", str(IO_CACHE_BYTES)),
        "--use_fake_clock_for_muxer",  # no creation date in the files: equal jobs give equal bytes
        "--quiet",  # errors only
    ]


def _descriptor(rung: str, path: Path) -> str:
    return _joined(
        {
            "in": str(path.resolve()),
            "stream": "video",
            "output": f"{rung}.mp4",
            "playlist_name": f"{rung}.m3u8",
            "iframe_playlist_name": f"{rung}-iframes.m3u8",  # for scrubbing
        }
    )


def _audio_descriptor(path: Path) -> str:
    return _joined(
        {
            "in": str(path.resolve()),
            "stream": "audio",
            "output": "audio.mp4",
            "playlist_name": "audio.m3u8",
            "hls_group_id": "audio",
            "hls_name": "main",
        }
    )


def _joined(fields: Mapping[str, str]) -> str:
    """The packager's own syntax for one stream: "key=value,key=value"."""
    return ",".join(f"{key}={value}" for key, value in fields.items())


def _has_audio(path: Path) -> bool:
    with av.open(str(path)) as container:
        return bool(container.streams.audio)
