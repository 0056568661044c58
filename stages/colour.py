"""The one colour description of every video here: BT.709 primaries, transfer and matrix, limited ("tv") range.

It is what HD players assume when nothing is said, so a player that ignores tags shows the same picture
(ITU-R BT.709-6; code points of ITU-T H.273). RGB of the models is taken as sRGB-like display values and not re-graded.
"""

from __future__ import annotations

from av import VideoCodecContext
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

FFMPEG = {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709", "color_range": "tv"}
"""The same as options of an ffmpeg output."""


def tag(codec: VideoCodecContext) -> None:
    """Write the description into an encoder's stream header."""
    codec.colorspace = Colorspace.ITU709
    codec.color_primaries = ColorPrimaries.BT709
    codec.color_trc = ColorTrc.BT709
    codec.color_range = ColorRange.MPEG
