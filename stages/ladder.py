"""The rungs of the ladder and what bits each may cost."""

from __future__ import annotations

from dataclasses import dataclass

RUNGS = ("720p", "1080p")
"""Rung names by rising quality; the number is the short side in pixels."""


@dataclass(frozen=True)
class Rung:
    """One rendition of the ladder.

    Attributes:
        name: "720p", "1080p": the short side in pixels.
        width, height: in pixels, both even.
    """

    name: str
    width: int
    height: int


@dataclass(frozen=True)
class Rate:
    """How one rung spends bits.

    Attributes:
        crf: constant rate factor of x264; what quality it aims at while the cap allows.
        cap_kbps: highest rate over `buffer_kb`, for VBV.
        buffer_kb: kilobits that may come at once.
    """

    crf: int
    cap_kbps: int
    buffer_kb: int


RATES = {
    "720p": Rate(crf=21, cap_kbps=4500, buffer_kb=9000),
    "1080p": Rate(crf=20, cap_kbps=7800, buffer_kb=15600),
}
"""Caps: the H.264 ladder of Apple's "HLS Authoring Specification for Apple Devices", table 1 (30 fps): 4,500 kb/s for
1280×720 and 7,800 kb/s for 1920×1080. Buffers: two seconds of the cap, one GOP, so that no GOP exceeds 200 % of it as
the same document asks of VOD. CRF: x264's default 23 is visibly soft on gradients; 18 is "visually lossless"
(x264's own documentation calls 17–18 so); 20 and 21 lie between, the smaller picture being seen enlarged less often.
"""


def ladder(quality: str, aspect_ratio: str) -> tuple[Rung, ...]:
    """The rungs up to `quality` ("720p", "1080p") for an aspect ratio ("16:9", "9:16", "1:1"), lowest first.

    The short side is exactly the rung's number, the long side the next even number.
    """
    across, down = (int(part) for part in aspect_ratio.split(":"))
    names = RUNGS[: RUNGS.index(quality) + 1]
    return tuple(Rung(name, *_size(int(name.removesuffix("p")), across, down)) for name in names)


def _size(short: int, across: int, down: int) -> tuple[int, int]:
    long = 2 * round(short * max(across, down) / min(across, down) / 2)
    return (long, short) if across >= down else (short, long)
