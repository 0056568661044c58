"""What a clip can show, as plain data, and which combinations are kept back for evaluation."""

import hashlib
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "shape", "ball", "sunset", "sunrise", "waves", "moonlit_waves", "snow", "rain", "clouds", "fireworks", "stars"
]

SHAPES = ("circle", "square", "triangle", "star", "heart", "ring")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
SIZES = ("small", "medium", "large")
DIRECTIONS = ("left", "right", "up", "down")
SPEEDS = ("slow", "normal", "fast")
BACKGROUNDS = ("black", "white", "grey", "sky", "meadow", "desert", "night", "sea")
SUN_PLACES = ("mountains", "sea", "desert")
SUN_PALETTES = ("golden", "pink", "purple", "red")
WEATHER_PLACES = ("forest", "city")

# A colour that would hardly stand out from its background is never asked for.
CLASHES = frozenset(
    {
        ("white", "white"),
        ("green", "meadow"),
        ("blue", "sea"),
        ("orange", "desert"),
        ("yellow", "desert"),
        ("blue", "night"),
    }
)

# One in this many combinations of colour, shape, direction and background is never trained on.
HELD_OUT_ONE_IN = 10


@dataclass(frozen=True, slots=True)
class Spec:
    """What one clip shows. Attributes that its kind does not have are empty."""

    kind: Kind
    shape: str = ""
    colour: str = ""
    size: str = ""
    direction: str = ""
    speed: str = ""
    background: str = ""
    place: str = ""
    palette: str = ""


def allowed(colour: str, background: str) -> bool:
    """Whether a thing of this colour stands out from this background."""
    return (colour, background) not in CLASHES


def held_out(colour: str, shape: str, direction: str, background: str) -> bool:
    """Whether this combination is kept for evaluation: decided by a hash, hence the same for ever."""
    text = "/".join((colour, shape, direction, background))
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:4], "big") % HELD_OUT_ONE_IN == 0
