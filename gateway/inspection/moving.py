"""Video and audio: streams and tags, a frame, the shape of the sound."""

from __future__ import annotations

import array
import io
from collections.abc import Iterator
from importlib import import_module
from pkgutil import walk_packages
from typing import Any

import av
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream
from PIL import Image, ImageDraw

from gateway.inspection.pictures import MAX_PIXELS
from gateway.inspection.wording import clean

DEMUXERS = {
    "video/mp4": "mp4",
    "video/quicktime": "mov",
    "video/3gpp": "3gp",
    "video/webm": "matroska",
    "video/x-matroska": "matroska",
    "video/x-msvideo": "avi",
    "video/mpeg": "mpeg",
    "video/ogg": "ogg",
    "audio/ogg": "ogg",
    "audio/mp4": "mp4",
    "audio/mpeg": "mp3",
    "audio/aac": "aac",
    "audio/flac": "flac",
    "audio/wav": "wav",
    "audio/aiff": "aiff",
}
"""The one that reads a type; a file is never probed, so that it cannot pass for a playlist or a list of other files."""
OPTIONS = {"protocol_whitelist": "none", "max_streams": "32", "probesize": "5000000", "analyzeduration": "5000000"}
DECODERS = frozenset(
    """
    h264 hevc vp8 vp9 av1 libdav1d mpeg4 mpeg2video mpeg1video mjpeg prores theora h263
    aac mp3 mp3float mp2 opus libopus vorbis flac alac ac3 eac3 amrnb
    pcm_s16le pcm_s16be pcm_s24le pcm_s24be pcm_s32le pcm_f32le pcm_u8
    """.split()  # noqa: SIM905 - shorter than a list
)
"""In wide use, and well tested for it. Of other streams only what the container says is told."""
SHOWN_AT = 0.1
"""Of a video's duration: past titles that fade in."""

TAGS = ("title", "artist", "album", "date", "genre", "comment")
WAVE = (1280, 320)
COLUMNS = 640
RATE = 8000
"""Hz; enough for the shape of a sound."""
WHOLE_S = 600
"""Of longer sounds one frame per column is decoded, to bound the time."""
GROUND, INK = "#f3f4f6", "#2563eb"


def preload() -> None:
    """Load what PyAV and the codecs would load when they need it."""
    for module in walk_packages(av.__path__, "av."):
        if not module.name.endswith(("__main__", "datasets")):  # which are programs
            import_module(module.name)
    _waveform([0.0])
    frame = av.AudioFrame(format="s16", layout="mono", samples=16)
    frame.sample_rate = RATE
    AudioResampler("s16", "mono", RATE).resample(frame)
    av.VideoFrame(16, 16, "yuv420p").to_image()


def media(file: io.BufferedReader, media_type: str) -> tuple[dict[str, Any], Image.Image | None]:
    """Streams and tags, and a frame or else a waveform. Raises what PyAV does with a file that is none of the type."""
    with av.open(file, format=DEMUXERS[media_type], options=OPTIONS, metadata_errors="replace") as container:
        if not container.streams.video and not container.streams.audio:
            raise ValueError("no stream of pictures or sound")
        details = _details(container, sound_only=media_type.startswith("audio/"))
        try:
            return details, _picture(container, sound_only=media_type.startswith("audio/"))
        except (av.FFmpegError, ValueError, MemoryError, StopIteration):
            return details, None  # it is what it says it is, and part of it is broken


def _details(container: InputContainer, *, sound_only: bool) -> dict[str, Any]:
    tags = {**container.metadata}
    for stream in container.streams.audio:
        tags = {**stream.metadata, **tags}
    lowered = {key.lower(): value for key, value in tags.items()}
    details: dict[str, Any] = {"duration": _seconds(container), "bitrate": container.bit_rate or None}
    details |= {} if sound_only else _video(container)
    sound = _audio(container)
    details |= sound or {} if sound_only or "width" not in details else {"audio": sound}
    return details | {name: text for name in TAGS if (text := clean(lowered.get(name)))}


def _seconds(container: InputContainer) -> float | None:
    return None if container.duration is None else round(container.duration / av.time_base, 3)


def _video(container: InputContainer) -> dict[str, Any]:
    if not container.streams.video:
        return {}
    stream = container.streams.video[0]
    rate = stream.average_rate
    details = _told(stream, width="width", height="height", codec="name")
    return details | {"fps": round(float(rate), 3) if rate else None}


def _audio(container: InputContainer) -> dict[str, Any] | None:
    if not container.streams.audio:
        return None
    stream = container.streams.audio[0]
    return _told(stream, codec="name", sample_rate="sample_rate", channels="channels", audio_bitrate="bit_rate")


def _told(stream: VideoStream | AudioStream, **attributes: str) -> dict[str, Any]:
    """What the codec tells, by our names; nothing but None of a codec that FFmpeg does not know."""
    return {name: getattr(stream.codec_context, attribute, None) or None for name, attribute in attributes.items()}


def _picture(container: InputContainer, *, sound_only: bool) -> Image.Image | None:
    if container.streams.video and not sound_only:
        return _frame(container)
    if container.streams.audio and _decodable(container.streams.audio[0]):
        return _waveform(_peaks(container))
    return None


def _decodable(stream: VideoStream | AudioStream) -> bool:
    return getattr(stream.codec_context, "name", None) in DECODERS


def _frame(container: InputContainer) -> Image.Image | None:
    stream = container.streams.video[0]
    context = stream.codec_context
    if not _decodable(stream) or not 0 < stream.width * stream.height <= MAX_PIXELS:
        return None
    context.options = {"max_pixels": str(MAX_PIXELS)}
    context.thread_count = 1
    if container.duration:
        container.seek(int(SHOWN_AT * container.duration))
    frame = next(container.decode(stream), None)
    if frame is None:
        container.seek(0)
        frame = next(container.decode(stream))
    shown: Image.Image = frame.to_image()  # type: ignore[no-untyped-call]
    return shown


def _peaks(container: InputContainer) -> list[float]:
    """The loudness of each part of the sound, 0 to 1."""
    seconds = _seconds(container)
    if seconds is not None and seconds > WHOLE_S:
        return [_loudness(sample) for sample in _spread(container)]
    samples: array.array[int] = array.array("h")
    for part in _samples(container):
        samples.extend(part)
        if len(samples) > RATE * WHOLE_S:
            break
    width = max(len(samples) // COLUMNS, 1)
    return [_loudness(samples[start : start + width]) for start in range(0, len(samples), width)]


def _spread(container: InputContainer) -> Iterator[array.array[int]]:
    """A little sound from `COLUMNS` places."""
    for column in range(COLUMNS):
        container.seek(int((container.duration or 0) * column / COLUMNS))
        yield next(_samples(container), array.array("h"))


def _samples(container: InputContainer) -> Iterator[array.array[int]]:
    resampler = AudioResampler("s16", "mono", RATE)
    for frame in container.decode(audio=0):
        for sampled in resampler.resample(frame):
            found = array.array("h")
            found.frombytes(bytes(sampled.planes[0])[: 2 * sampled.samples])
            yield found


def _loudness(samples: array.array[int]) -> float:
    return max(max(samples), -min(samples)) / 32768 if samples else 0.0


def _waveform(peaks: list[float]) -> Image.Image:
    width, height = WAVE
    image = Image.new("RGB", WAVE, GROUND)
    draw = ImageDraw.Draw(image)
    step = width / max(len(peaks), 1)
    for column, peak in enumerate(peaks):
        half = max(peak * height * 0.45, 1)
        left = column * step
        draw.rectangle((left, height / 2 - half, left + max(step - 1, 1), height / 2 + half), fill=INK)
    return image
