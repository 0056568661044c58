"""Each row of what is promised about MP4s, read from the files."""

from __future__ import annotations

import resource
import subprocess
from itertools import pairwise
from pathlib import Path

import av
import ffmpeg as ffmpeg_python
import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.contract import Interrupted
from stages import ffmpeg, transcode
from stages.encode import EncodeSpec, encode, ladder
from stages.errors import DiskFull, FfmpegFailed, FfmpegMissing, MediaUnreadable
from stages.ladder import RATES
from stages.transcode import probe, retimed
from tests.unit.stages.clips import Painted, decode, rendered
from tests.unit.stages.conftest import COLOUR, LONG, SAME_RATE, SHORT, SLOWER, Made, Maker, make
from tests.unit.stages.media import IDR, boxes, red_centre, samples


def test_every_rung_has_its_size_and_every_frame(made: Made) -> None:
    for rung in ladder(made.case.quality, made.case.aspect_ratio):
        pictures = decode(made.mp4s[rung.name])
        assert len(pictures) == made.case.output_frames
        assert {picture.shape for picture in pictures} == {(rung.height, rung.width, 3)}


def test_frames_are_evenly_spaced_from_zero(made: Made) -> None:
    for path in made.mp4s.values():
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
            assert stream.average_rate == made.case.fps
            assert stream.duration * stream.time_base == pytest.approx(made.case.output_frames / made.case.fps)
        assert [time * made.case.fps for time in times] == list(range(made.case.output_frames))


def test_is_h264_high_420_tagged_bt709_with_square_pixels(made: Made) -> None:
    for path in made.mp4s.values():
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            codec = stream.codec_context
            assert (codec.name, codec.profile, codec.pix_fmt) == ("h264", "High", "yuv420p")
            assert (codec.color_range, codec.colorspace, codec.color_primaries, codec.color_trc) == (1, 1, 1, 1)
            assert stream.sample_aspect_ratio == 1


def test_the_index_comes_first(made: Made) -> None:
    for path in made.mp4s.values():
        types = boxes(path)
        assert types.index("moov") < types.index("mdat")


def test_keyframes_are_idr_every_two_seconds_at_the_same_times_in_all_rungs(made: Made) -> None:
    expected = [float(second) for second in range(0, int(np.ceil(made.case.seconds)), 2)]
    for path in made.mp4s.values():
        packets = samples(path)
        assert [packet.pts for packet in packets if packet.keyframe] == expected
        assert all((IDR in packet.nal_types) == packet.keyframe for packet in packets)


def test_gops_are_closed(made: Made) -> None:
    """No packet after a keyframe, in decoding order, shows before it."""
    for path in made.mp4s.values():
        keyframe = 0.0
        for packet in samples(path):
            keyframe = packet.pts if packet.keyframe else keyframe
            assert packet.pts >= keyframe


@pytest.mark.parametrize("case", [LONG, SHORT, SAME_RATE, SLOWER], ids=lambda case: case.name)
def test_things_are_where_the_model_drew_them_at_each_moment(maker: Maker, case: object) -> None:
    """The disc crosses the picture in 4 s; a lost, repeated or shifted frame moves it by more than a native pixel."""
    made = maker(case)
    last_drawn = (made.case.frames - 1) / made.case.native_fps
    places = {}
    for index, picture in enumerate(decode(made.mp4s["720p"])):
        second = index / made.case.fps
        if 0.7 <= second <= min(3.4, last_drawn):  # wholly in the picture, and drawn by the model
            places[second] = red_centre(picture)
    drawn_at = made.case.native_fps if made.case.fps < made.case.native_fps else 1e9
    for second, place in places.items():
        assert place == pytest.approx(np.floor(second * drawn_at + 1e-6) / drawn_at / 4, abs=1.2 / 112)
    assert all(after > before for before, after in pairwise(places.values()))


def test_the_first_frame_is_the_models_first(made: Made) -> None:
    first = decode(made.rendered.mezzanine.path)[0]
    shown = decode(made.mp4s["720p"])[0]
    height, width = shown.shape[:2]
    for across, down in ((0.9, 0.1), (0.9, 0.9), (0.6, 0.5)):
        native = first[int(down * first.shape[0]), int(across * first.shape[1])]
        assert np.abs(shown[int(down * height), int(across * width)].astype(int) - native).max() <= 6


def test_a_colour_comes_back_as_it_was_drawn(maker: Maker) -> None:
    made = maker(COLOUR)
    for picture in decode(made.mp4s["720p"]):
        assert np.abs(picture.astype(int) - (200, 60, 30)).max() <= 3


def test_nothing_is_stretched(tmp_path: Path) -> None:
    """A picture of another shape than the rung is cut to fit: a disc stays round."""
    clip = rendered(tmp_path, Painted(), 160, 64, 17)  # 20:8, wider than 16:9
    encode(clip.mezzanine.path, EncodeSpec(ladder("720p", "16:9"), 8, 17, encoder="libx264"), tmp_path)

    picture = decode(tmp_path / "720p.mp4")[16].astype(int)
    red = (picture[..., 0] > 170) & (picture[..., 1] < 110)
    rows, columns = np.nonzero(red)
    assert np.ptp(columns) == pytest.approx(np.ptp(rows), rel=0.04)


def test_sound_lasts_as_long_as_the_picture(long: Made) -> None:
    for path in long.mp4s.values():
        with av.open(str(path)) as container:
            track = container.streams.audio[0]
            heard = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
        assert (track.codec_context.name, track.rate, track.channels) == ("aac", 48_000, 2)
        assert heard.shape[1] / 48_000 == pytest.approx(5.1, abs=2 * 1024 / 48_000)  # whole AAC frames
        spectrum = np.abs(np.fft.rfft(heard[0, 48_000:96_000]))
        assert spectrum.argmax() == pytest.approx(440, abs=1)


def test_silent_clips_have_no_track(short: Made) -> None:
    with av.open(str(short.mp4s["720p"])) as container:
        assert not container.streams.audio


def test_the_same_mezzanine_gives_the_same_bytes(maker: Maker, tmp_path: Path) -> None:
    first, again = maker(LONG), make(LONG, tmp_path)

    assert [artifact.name for artifact in again.artifacts] == [artifact.name for artifact in first.artifacts]
    for one, other in zip(first.artifacts, again.artifacts, strict=True):
        assert one.path.read_bytes() == other.path.read_bytes(), one.name


def test_frames_in_between_never_depend_on_what_memory_held(tmp_path: Path) -> None:
    """Grain in a picture that is not whole blocks: FFmpeg's filter alone gave 22 different results in 22 runs."""
    noise = np.random.default_rng(1)
    model = Painted(lambda t, width, height: noise.integers(0, 256, (height, width, 3), dtype=np.uint8))
    clip = rendered(tmp_path, model, 112, 63, 5).mezzanine.path
    video = retimed(ffmpeg_python.input(str(clip)).video, probe(clip), fps=24, frames=15)
    argv = ffmpeg_python.output(video, "-", f="framemd5").compile(cmd=ffmpeg.ffmpeg_binary())

    assert len({subprocess.run(argv, check=True, capture_output=True).stdout for _ in range(6)}) == 1


def test_the_rate_stays_under_the_cap_on_the_worst_content(tmp_path: Path) -> None:
    """Noise cannot be compressed; the cap and its buffer (VBV) must hold all the same."""
    noise = np.random.default_rng(1)
    model = Painted(lambda t, width, height: noise.integers(0, 256, (height, width, 3), dtype=np.uint8), fps=12)
    clip = rendered(tmp_path, model, 320, 180, 48)
    encode(clip.mezzanine.path, EncodeSpec(ladder("720p", "16:9"), 12, 48, encoder="libx264"), tmp_path)

    kilobits = (tmp_path / "720p.mp4").stat().st_size * 8 / 1000
    assert kilobits <= 4 * RATES["720p"].cap_kbps + RATES["720p"].buffer_kb
    assert kilobits >= 2 * RATES["720p"].cap_kbps


def test_av1_is_an_option(short: Made, tmp_path: Path) -> None:
    spec = EncodeSpec(ladder("720p", "16:9"), 24, 24, codec="av1")

    encode(short.rendered.mezzanine.path, spec, tmp_path)

    with av.open(str(tmp_path / "720p.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.codec.canonical_name, codec.pix_fmt, codec.colorspace) == ("av1", "yuv420p", 1)
        assert len(list(container.decode(video=0))) == 24
    assert 'CODECS="av01.' in (tmp_path / "hls/master.m3u8").read_text()


def test_progress_rises_to_one_with_figures(long: Made, tmp_path: Path) -> None:
    told: list[tuple[float, dict[str, object]]] = []
    spec = EncodeSpec(ladder("720p", "16:9"), 24, 122, encoder="libx264")

    encode(
        long.rendered.mezzanine.path,
        spec,
        tmp_path,
        lambda fraction, message="", **details: told.append((fraction, details)),
    )

    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert any(details.get("frame") == 122 and details.get("frames") == 122 for _, details in told)


def ffmpeg_children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "ffmpeg" in child.name()]


class Later:
    """Cancels when the child runs."""

    def check(self) -> None:
        if ffmpeg_children():
            raise Interrupted("cancelled")


def test_a_cancelled_encode_leaves_neither_file_nor_child(long: Made, tmp_path: Path) -> None:
    spec = EncodeSpec(ladder("1080p", "16:9"), 24, 122, encoder="libx264")

    with pytest.raises(Interrupted):
        encode(long.rendered.mezzanine.path, spec, tmp_path, cancellation=Later())

    assert list(tmp_path.iterdir()) == []
    assert ffmpeg_children() == []


def test_a_file_that_is_no_video_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "mezzanine.mov"
    broken.write_bytes(b"not a video at all" * 100)

    with pytest.raises(MediaUnreadable, match=r"mezzanine\.mov"):
        encode(broken, EncodeSpec(ladder("720p", "16:9"), 24, 24, encoder="libx264"), tmp_path / "out")

    assert list((tmp_path / "out").iterdir()) == []


def test_an_encoder_that_does_not_work_here_fails_with_ffmpegs_last_words(short: Made, tmp_path: Path) -> None:
    spec = EncodeSpec(ladder("720p", "16:9"), 24, 24, encoder="libx264")
    with pytest.raises(FfmpegFailed) as raised:
        encode(_cut(short.rendered.mezzanine.path, tmp_path), spec, tmp_path / "out")

    assert raised.value.exit_code != 0
    assert raised.value.stderr_tail
    assert "-filter_complex" in raised.value.argv


def _unlucky(monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder that passes its trial and fails in earnest, as NVENC does when its sessions or its memory run out."""
    monkeypatch.setitem(ffmpeg.CODECS, "h264", ("unlucky", "libx264"))
    monkeypatch.setitem(transcode._ENCODERS, "unlucky", lambda rung, gop: {})
    monkeypatch.setattr(ffmpeg, "works", lambda encoder: True)


def test_an_encoder_that_was_chosen_and_fails_gives_way_to_the_software_one(
    short: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _unlucky(monkeypatch)

    encode(short.rendered.mezzanine.path, EncodeSpec(ladder("720p", "16:9"), 24, 24), tmp_path)

    assert (tmp_path / "720p.mp4").read_bytes() == short.mp4s["720p"].read_bytes()
    assert "unlucky failed, encoding once more with libx264" in caplog.text


def test_an_encoder_that_was_asked_for_and_fails_is_an_error(
    short: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _unlucky(monkeypatch)
    spec = EncodeSpec(ladder("720p", "16:9"), 24, 24, encoder="unlucky")

    with pytest.raises(FfmpegFailed, match="ffmpeg failed"):
        encode(short.rendered.mezzanine.path, spec, tmp_path / "out")


def _cut(mezzanine: Path, folder: Path) -> Path:
    """The mezzanine with its pictures overwritten by zeros: the header is right, no frame can be decoded."""
    data = bytearray(mezzanine.read_bytes())
    start = data.index(b"mdat") + 4
    end = data.index(b"moov") - 4
    data[start:end] = bytes(end - start)
    path = folder / "cut.mov"
    path.write_bytes(data)
    return path


def test_a_full_disk_is_told_and_leaves_nothing(long: Made, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(DiskFull, match="Free some disk space"):
            encode(
                long.rendered.mezzanine.path, EncodeSpec(ladder("720p", "16:9"), 24, 122, encoder="libx264"), tmp_path
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_ffmpeg_is_told_with_a_remedy(short: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "nowhere"))
    ffmpeg.ffmpeg_binary.cache_clear()
    try:
        with pytest.raises(FfmpegMissing) as raised:
            encode(
                short.rendered.mezzanine.path, EncodeSpec(ladder("720p", "16:9"), 24, 24, encoder="libx264"), tmp_path
            )
    finally:
        ffmpeg.ffmpeg_binary.cache_clear()
    assert "imageio-ffmpeg" in raised.value.remedy


def test_doctor_can_ask_for_the_encoders() -> None:
    found = ffmpeg.encoders()

    assert found["libx264"]
    assert found["libsvtav1"]
    assert ffmpeg.choose("h264", "auto") == ("h264_nvenc" if found["h264_nvenc"] else "libx264")


@given(
    quality=st.sampled_from(["720p", "1080p"]),
    across=st.integers(1, 21),
    down=st.integers(1, 21),
)
def test_the_ladder_rises_to_the_quality_with_even_sides_of_the_asked_shape(
    quality: str, across: int, down: int
) -> None:
    rungs = ladder(quality, f"{across}:{down}")

    assert [rung.name for rung in rungs] == (["720p"] if quality == "720p" else ["720p", "1080p"])
    for rung in rungs:
        assert min(rung.width, rung.height) == int(rung.name[:-1])
        assert rung.width % 2 == rung.height % 2 == 0
        assert max(rung.width, rung.height) == pytest.approx(
            min(rung.width, rung.height) * max(across, down) / min(across, down), abs=1
        )
        assert (rung.width >= rung.height) == (across >= down)
