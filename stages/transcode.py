"""The one ffmpeg command of the encode stage: one decode, one retiming, one encode per rung."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import ffmpeg

from stages import colour
from stages.ladder import RATES, Rung
from stages.mezzanine import rate

GOP_S = 2
"""Seconds from one IDR frame to the next: HLS segments and seeking need it short, compression wants it long
(Apple's authoring specification: "key frames SHOULD be present every two seconds")."""

THREADS = 4
"""Of each video encoder. Fixed, because x264's decisions depend on it and equal jobs must give equal bytes; with two
rungs this fills eight cores, and costs nothing measurable on fewer."""

BIDIRECTIONAL_PAD_FRAMES = 3
"""Native frames repeated at the end: the interpolation filter holds back the last two, and a clip whose length is not a
whole number of native frames needs one more."""

SMALL_BLOCK_BELOW = 360
"""Short side in pixels below which motion is searched in blocks of 8 instead of 16: objects of so small a picture are
hardly larger than a block of 16."""

AAC_BITRATE = "192k"
"""Of the stereo track: FFmpeg's AAC encoder is transparent for most material there."""

AUDIO_RATE = 48_000
"""Samples per second of the track, whatever the model made: the rate of all video gear."""


@dataclass(frozen=True)
class Source:
    """What the mezzanine holds.

    Attributes:
        width, height: in pixels.
        fps: native rate.
        audio: whether it has a sound track.
    """

    width: int
    height: int
    fps: Fraction
    audio: bool


def probe(path: Path) -> Source:
    """Read a mezzanine's header."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        fps = rate(float(video.average_rate or video.base_rate or 0))
        return Source(video.width, video.height, fps, bool(container.streams.audio))


def command(
    binary: str, mezzanine: Path, rungs: Sequence[Rung], fps: int, frames: int, encoder: str, out: Path
) -> list[str]:
    """The argv that makes `out`/<rung>.mp4 for every rung.

    Args:
        fps, frames: of every rendition.
        encoder: "libx264", "h264_nvenc" or "libsvtav1".
    """
    source = probe(mezzanine)
    opened = ffmpeg.input(str(mezzanine))
    pictures = retimed(opened.video, source, fps, frames).filter_multi_output("split", len(rungs))
    sounds = _sound(opened.audio, frames / fps).filter_multi_output("asplit", len(rungs))
    outputs = [
        ffmpeg.output(
            scaled(pictures.stream(index), rung),
            *([sounds.stream(index)] if source.audio else []),
            str(out / f"{rung.name}.mp4"),
            **_container_options(),
            **_video_options(encoder, rung, fps),
            **(_audio_options() if source.audio else {}),
        )
        for index, rung in enumerate(rungs)
    ]
    argv: list[str] = ffmpeg.merge_outputs(*outputs).global_args(*_global_options()).compile(cmd=binary)
    return argv


def retimed(video: Any, source: Source, fps: int, frames: int) -> Any:  # noqa: ANN401 - ffmpeg-python has no types
    """Exactly `frames` frames at `fps`, at native size, where interpolation is cheap.

    Frames between native ones are interpolated along the motion (`minterpolate`); when the output is slower, the
    nearest earlier frames are kept. Options were chosen by eye and by PSNR against a scene drawn at 24 fps from its
    8 fps version, 112×63: frame repetition 36.0 dB, blending 38.3, defaults 39.4, these 40.8.
    """
    padded = video.filter("tpad", stop=BIDIRECTIONAL_PAD_FRAMES, stop_mode="clone")
    if fps > source.fps:
        padded = _interpolated(padded, source, fps)
    elif fps < source.fps:
        padded = padded.filter("fps", fps=fps, round="up")  # frame n shows what was drawn at or before n / fps
    return padded.filter("trim", end_frame=frames)


def _interpolated(video: Any, source: Source, fps: int) -> Any:  # noqa: ANN401 - ffmpeg-python has no types
    """More frames along the motion.

    The picture is filled up to whole blocks, its last pixels repeated, and cut again: where a block sticks out of the
    picture, `minterpolate` reads memory it never wrote, and equal inputs give unequal frames (FFmpeg 9.0).
    """
    block = 8 if min(source.width, source.height) < SMALL_BLOCK_BELOW else 16
    across, down = -source.width % block, -source.height % block
    return (
        video.filter("pad", source.width + across, source.height + down)
        .filter("fillborders", right=across, bottom=down, mode="smear")
        .filter(
            "minterpolate",
            fps=fps,
            mi_mode="mci",  # motion-compensated, not blended
            mc_mode="aobmc",  # overlapping blocks weighted by how well they fit: no block edges
            me_mode="bilat",  # search both ways from the frame to be made: no holes behind moving things
            mb_size=block,
            scd="none",  # one prompt makes one shot; a false alarm would repeat frames and judder
        )
        .filter("crop", source.width, source.height, 0, 0)
    )


def scaled(video: Any, rung: Rung) -> Any:  # noqa: ANN401 - ffmpeg-python has no types
    """One rung's picture: scaled to fill it, what sticks out cut evenly, limited-range BT.709, 4:2:0."""
    return (
        video.filter(
            "scale",
            rung.width,
            rung.height,
            force_original_aspect_ratio="increase",  # fill, never stretch
            force_divisible_by=2,  # 4:2:0 has no odd sides
            # lanczos: sharpest of the usual kernels; accurate_rnd and the full_chroma pair: no fast paths whose
            # rounding shifts colours
            flags="lanczos+accurate_rnd+full_chroma_int+full_chroma_inp",
            in_color_matrix="bt709",  # say both sides, so that nothing is guessed from the picture's height
            out_color_matrix="bt709",
            in_range="tv",
            out_range="tv",
        )
        .filter("crop", rung.width, rung.height)
        .filter("setsar", 1)  # square pixels, whatever rounding the scale did
        .filter("format", "yuv420p")  # what every player and hardware decoder takes
    )


def _sound(audio: Any, seconds: float) -> Any:  # noqa: ANN401 - ffmpeg-python has no types
    """The sound as long as the picture: cut, or padded with silence."""
    return audio.filter("apad", whole_dur=seconds).filter("atrim", end=seconds)


def _global_options() -> list[str]:
    return [
        "-hide_banner",
        "-nostdin",  # never read the terminal
        "-y",  # the folder is our own
        *("-loglevel", "error"),  # stderr keeps nothing but last words
        *("-nostats", "-progress", "pipe:1"),  # figures for programs on stdout
        *("-stats_period", "0.5"),  # seconds between them
    ]


def _container_options() -> dict[str, str]:
    return {
        "movflags": "+faststart",  # index first, so that playing starts before the download ends
        "fflags": "+bitexact",  # no library versions and dates: equal packets, equal files
        "map_metadata": "-1",  # nothing of the mezzanine's
        "f": "mp4",
    }


def _audio_options() -> dict[str, Any]:
    return {
        "c:a": "aac",  # what every player takes
        "b:a": AAC_BITRATE,
        "ar": AUDIO_RATE,
        "flags:a": "+bitexact",  # no encoder version in the stream
    }


def _video_options(encoder: str, rung: Rung, fps: int) -> dict[str, Any]:
    gop = GOP_S * fps
    common = {
        "c:v": encoder,
        "g": gop,  # an IDR every GOP_S seconds, in frames, so at the same times in all rungs
        "fps_mode": "passthrough",  # frames as the filters made them, none repeated or dropped
        **colour.FFMPEG,
    }
    return common | _ENCODERS[encoder](rung, gop)


def _x264(rung: Rung, gop: int) -> dict[str, Any]:
    spend = RATES[rung.name]
    return {
        "preset": "medium",  # x264's own balance of time and size: encoded once, watched often
        "profile:v": "high",
        "keyint_min": gop,  # with g: exactly every `gop` frames
        "sc_threshold": 0,  # no extra keyframes at scene cuts: rungs would differ
        "flags:v": "+cgop+bitexact",  # closed GOP: no frame refers across an IDR
        "threads:v": THREADS,
        "crf": spend.crf,
        "maxrate": f"{spend.cap_kbps}k",
        "bufsize": f"{spend.buffer_kb}k",
    }


def _nvenc(rung: Rung, gop: int) -> dict[str, Any]:
    spend = RATES[rung.name]
    return {
        "preset": "p5",  # "slow, good quality": still many times real time
        "tune": "hq",
        "profile:v": "high",
        "rc": "vbr",
        "cq": spend.crf,  # NVENC's nearest thing to CRF
        "b:v": 0,  # no target rate: the quality decides under the cap
        "maxrate": f"{spend.cap_kbps}k",
        "bufsize": f"{spend.buffer_kb}k",
        "no-scenecut": 1,  # as sc_threshold 0
        "forced-idr": 1,  # keyframes are IDR
        "strict_gop": 1,
        "flags:v": "+cgop+bitexact",
    }


def _svt(rung: Rung, gop: int) -> dict[str, Any]:
    spend = RATES[rung.name]
    return {
        "preset": 8,  # the fast half of SVT's scale, meant for VOD on CPUs
        "crf": spend.crf + 12,  # SVT's scale ends at 63, x264's at 51: about equal quality
        "svtav1-params": f"scd=0:enable-overlays=0:lp={THREADS}:irefresh-type=2:mbr={spend.cap_kbps}",
        "flags:v": "+cgop+bitexact",
        # svtav1-params: no scene cuts; no overlay frames (they upset some parsers); fixed parallelism for equal bytes;
        # irefresh-type 2 is a closed GOP; mbr caps the rate in kb/s
    }


_ENCODERS = {"libx264": _x264, "h264_nvenc": _nvenc, "libsvtav1": _svt}
