"""The seeded bugs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bug:
    """One line of one file made wrong.

    Attributes:
        what: goes wrong for the user.
        file: relative to the repository.
        right, wrong: the text that is replaced, found exactly once, and what replaces it.
        tests: that are to catch it, relative to tests/unit/stages.
    """

    what: str
    file: str
    right: str
    wrong: str
    tests: tuple[str, ...]


BUGS = (
    Bug(
        "renditions are one frame short",
        "stages/transcode.py",
        'filter("trim", end_frame=frames)',
        'filter("trim", end_frame=frames - 1)',
        ("test_encode.py::test_every_rung_has_its_size_and_every_frame[short]",),
    ),
    Bug(
        "the mezzanine has the matrix of SD video",
        "stages/mezzanine.py",
        "dst_colorspace=Colorspace.ITU709",
        "dst_colorspace=Colorspace.ITU601",
        ("test_render.py::test_keeps_colours", "test_encode.py::test_a_colour_comes_back_as_it_was_drawn"),
    ),
    Bug(
        "keyframes of the rungs are at different times",
        "stages/transcode.py",
        "gop = GOP_S * fps",
        "gop = GOP_S * fps * 720 // min(rung.width, rung.height)",
        ("test_encode.py::test_keyframes_are_idr_every_two_seconds_at_the_same_times_in_all_rungs[long]",),
    ),
    Bug(
        "playing starts only after the whole download",
        "stages/transcode.py",
        '"movflags": "+faststart"',
        '"movflags": "+write_colr"',
        ("test_encode.py::test_the_index_comes_first[short]",),
    ),
    Bug(
        "the seek bar shows other tiles than the sheet has there",
        "stages/storyboard.py",
        "#xywh={x},{y},",
        "#xywh={x + width},{y},",
        ("test_thumbnails.py::test_each_tile_shows_the_frame_at_the_start_of_its_cue[short]",),
    ),
    Bug(
        "black is grey and white is dull: the range is taken for full",
        "stages/transcode.py",
        'in_range="tv"',
        'in_range="pc"',
        ("test_encode.py::test_a_colour_comes_back_as_it_was_drawn",),
    ),
    Bug(
        "the long side of a rung is two pixels off",
        "stages/ladder.py",
        "long = 2 * round(",
        "long = 2 + 2 * round(",
        ("test_encode.py::test_the_ladder_rises_to_the_quality_with_even_sides_of_the_asked_shape",),
    ),
    Bug(
        "the clip begins a native frame late",
        "stages/mezzanine.py",
        "picture.pts = self.frames",
        "picture.pts = self.frames + 1",
        ("test_render.py::test_holds_every_frame_at_the_native_rate",),
    ),
    Bug(
        "the metadata gives bytes per second as the bitrate",
        "stages/probe.py",
        "bitrate=round(8 * sizes[stream.index] / duration)",
        "bitrate=round(sizes[stream.index] / duration)",
        ("test_metadata.py::test_describes_the_top_rung_and_its_sound",),
    ),
    Bug(
        "the manifest lacks an artifact",
        "stages/publish.py",
        "for file in sorted(files, key=lambda file: file.name)]",
        "for file in sorted(files, key=lambda file: file.name)[1:]]",
        ("test_publish.py::test_what_the_stages_make_is_what_is_expected",),
    ),
)
