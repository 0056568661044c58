"""Each row of what is promised about HLS, read from playlists and bytes."""

from __future__ import annotations

import io
from pathlib import Path

import av
import m3u8
import pytest

from tests.unit.stages.conftest import Made
from tests.unit.stages.media import IDR, nal_types, streamhash


def playlist(path: Path) -> m3u8.M3U8:
    return m3u8.loads(path.read_text())


def byte_range(text: str, follows: int) -> tuple[int, int]:
    """(start, length) of "length@start", or of "length" right after the byte `follows`."""
    length, _, start = text.partition("@")
    return (int(start) if start else follows), int(length)


def segments(path: Path) -> list[tuple[float, bytes]]:
    """(seconds, bytes with the initialisation in front) of each segment of a media playlist."""
    parts, follows = [], 0
    media = playlist(path)
    header = media.segment_map[0]
    start, length = byte_range(header.byterange, 0)
    init = (path.parent / header.uri).read_bytes()[start : start + length]
    for segment in media.segments:
        start, length = byte_range(segment.byterange, follows)
        parts.append((segment.duration, init + (path.parent / segment.uri).read_bytes()[start : start + length]))
        follows = start + length
    return parts


def test_the_master_lists_every_rung_with_what_a_player_needs(made: Made) -> None:
    text = (made.out / "hls/master.m3u8").read_text()
    master = m3u8.loads(text)

    assert "#EXT-X-INDEPENDENT-SEGMENTS" in text
    assert [variant.uri for variant in master.playlists] == [f"{rung}.m3u8" for rung in made.rungs]
    for rung, variant in zip(made.rungs, master.playlists, strict=True):
        with av.open(str(made.mp4s[rung])) as container:
            stream = container.streams.video[0]
            info = variant.stream_info
            assert info.resolution == (stream.width, stream.height)
            assert info.frame_rate == made.case.fps
            assert info.codecs.split(",")[0] == avc1(stream.codec_context.extradata)
        assert ("mp4a.40.2" in info.codecs) == bool(made.case.sample_rate)


def avc1(configuration: bytes) -> str:
    """The codecs parameter of RFC 6381 from an AVCDecoderConfigurationRecord: its bytes 1 to 3 in hex."""
    return f"avc1.{configuration[1:4].hex()}"


def test_bandwidths_are_those_of_the_real_segments(made: Made) -> None:
    master = playlist(made.out / "hls/master.m3u8")
    sound = rates(made.out / "hls/audio.m3u8") if made.case.sample_rate else (0, 0)
    for variant in master.playlists:
        average, peak = rates(made.out / "hls" / variant.uri)
        assert variant.stream_info.average_bandwidth == pytest.approx(average + sound[0], rel=0.02)
        assert variant.stream_info.bandwidth == pytest.approx(peak + sound[1], rel=0.02)


def rates(path: Path) -> tuple[float, float]:
    """(average, highest) bits per second of the segments a playlist lists."""
    media, sizes, durations = playlist(path), [], []
    for segment in media.segments:
        sizes.append(8 * int(segment.byterange.partition("@")[0]))
        durations.append(segment.duration)
    return sum(sizes) / sum(durations), max(size / seconds for size, seconds in zip(sizes, durations, strict=True))


def test_media_playlists_are_complete_and_short_enough(made: Made) -> None:
    names = [*made.rungs, *(["audio"] if made.case.sample_rate else [])]
    for name in names:
        media = playlist(made.out / f"hls/{name}.m3u8")
        durations = [segment.duration for segment in media.segments]
        assert media.playlist_type == "vod"
        assert media.is_endlist
        assert max(durations) <= 6
        assert max(durations) <= media.target_duration
        assert sum(durations) == pytest.approx(made.case.output_frames / made.case.fps, abs=0.05)


def test_segments_start_with_an_idr_and_can_be_decoded_alone(made: Made) -> None:
    for rung in made.rungs:
        frames = 0
        for seconds, data in segments(made.out / f"hls/{rung}.m3u8"):
            with av.open(io.BytesIO(data)) as container:
                first = next(packet for packet in container.demux(video=0) if packet.size)
                assert IDR in nal_types(bytes(first))
            with av.open(io.BytesIO(data)) as container:
                count = len(list(container.decode(video=0)))
            assert count == round(seconds * made.case.fps)
            frames += count
        assert frames == made.case.output_frames


def test_hls_holds_the_very_packets_of_the_mp4(made: Made) -> None:
    for rung in made.rungs:
        assert streamhash(made.out / f"hls/{rung}.m3u8", "v") == streamhash(made.mp4s[rung], "v")
    if made.case.sample_rate:
        assert streamhash(made.out / "hls/audio.m3u8", "a") == streamhash(made.mp4s[made.rungs[-1]], "a")


def test_every_keyframe_can_be_scrubbed_to(made: Made) -> None:
    """Each entry of the I-frame playlist, with the initialisation in front, decodes to one picture."""
    master = playlist(made.out / "hls/master.m3u8")
    assert [entry.uri for entry in master.iframe_playlists] == [f"{rung}-iframes.m3u8" for rung in made.rungs]
    for rung in made.rungs:
        path = made.out / f"hls/{rung}-iframes.m3u8"
        assert "#EXT-X-I-FRAMES-ONLY" in path.read_text()
        with av.open(str(made.mp4s[rung])) as container:
            keyframes = sum(packet.is_keyframe for packet in container.demux(video=0) if packet.size)
        pictures = segments(path)
        assert len(pictures) == keyframes
        for _, data in pictures:
            with av.open(io.BytesIO(data)) as container:
                picture = next(packet for packet in container.demux(video=0) if packet.size)
                assert IDR in nal_types(bytes(picture))


def test_artifacts_are_all_files_there_are(made: Made) -> None:
    found = {str(path.relative_to(made.out)) for path in made.out.rglob("*") if path.is_file()}
    assert {artifact.name for artifact in made.artifacts} | {"mezzanine.mov"} == found
    for artifact in made.artifacts:
        assert artifact.media_type == (
            "video/mp4" if artifact.name.endswith(".mp4") else "application/vnd.apple.mpegurl"
        )
