"""Choose what a clip shows and draw it. Equal seeds give equal clips."""

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from models.tiny.training.data import attributes as attr
from models.tiny.training.data.attributes import Kind, Spec, allowed, held_out
from models.tiny.training.data.canvas import FPS, FRAMES, Rng, finish, times
from models.tiny.training.data.scenes import SCENES
from models.tiny.training.data.shapes import CYCLE_S, ball_clip, shape_clip

PHASES = 16  # number of phase tokens

# How often each kind is drawn.
KIND_WEIGHTS = {
    "shape": 0.575,
    "ball": 0.04,
    "sunset": 0.13,
    "sunrise": 0.05,
    "waves": 0.03,
    "moonlit_waves": 0.02,
    "snow": 0.03,
    "rain": 0.025,
    "clouds": 0.06,
    "fireworks": 0.02,
    "stars": 0.02,
}
SUN_CYCLE_S = (8.0, 20.0)  # seconds a sunset or sunrise takes
LIGHT = (0.55, 1.08)  # how bright a scene is; brighter, a sun would be lost in its sky
SHAPES_LIGHT = (0.82, 1.1)  # darker, purple would look blue, and a sky like a sea
IDLE_CYCLE_S = 10.0  # scenes whose phase has no meaning


@dataclass(frozen=True, slots=True)
class Clip:
    """A captionless clip: what it shows, at which part of its scene it starts, and its frames.

    Attributes:
        phase: part of the scene, 0..1, that has passed at the first frame.
        cycle_s: seconds that the whole scene takes; for shapes, the way across and round.
        usual: whether a caption without a phase may describe it (its subject is well in view).
        frames: (frames, 64, 112, 3) bytes.
    """

    spec: Spec
    phase: float
    cycle_s: float
    usual: bool
    frames: NDArray[np.uint8]


def _pick(rng: Rng, options: tuple[str, ...]) -> str:
    return str(rng.choice(options))


def random_spec(rng: Rng, kind: str | None = None, evaluation: bool = False) -> Spec:
    """Draw what a clip shows. Shapes are taken from the trained or, if asked, only from the held-out combinations."""
    kind = kind or str(
        rng.choice(list(KIND_WEIGHTS), p=np.array(list(KIND_WEIGHTS.values())) / sum(KIND_WEIGHTS.values()))
    )
    if kind in ("shape", "ball"):
        while True:
            spec = Spec(
                kind=cast(Kind, kind),
                shape=_pick(rng, attr.SHAPES) if kind == "shape" else "circle",
                colour=_pick(rng, attr.COLOURS),
                size=_pick(rng, attr.SIZES),
                direction=_pick(rng, attr.DIRECTIONS) if kind == "shape" else "",
                speed=_pick(rng, attr.SPEEDS) if kind == "shape" else "",
                background=_pick(rng, attr.BACKGROUNDS),
            )
            kept_back = held_out(spec.colour, spec.shape, spec.direction, spec.background)
            if allowed(spec.colour, spec.background) and kept_back == evaluation:
                return spec
    if kind in ("sunset", "sunrise"):
        place = str(rng.choice(attr.SUN_PLACES, p=[0.5, 0.28, 0.22]))
        return Spec(kind=cast(Kind, kind), place=place, palette=_pick(rng, attr.SUN_PALETTES))
    if kind in ("snow", "rain"):
        return Spec(kind=cast(Kind, kind), place=_pick(rng, attr.WEATHER_PLACES))
    if kind == "clouds":
        return Spec(kind=cast(Kind, kind), direction=_pick(rng, ("left", "right")))
    if kind == "fireworks":
        return Spec(kind=cast(Kind, kind), colour=_pick(rng, (*attr.COLOURS, "", "", "", "")))
    return Spec(kind=cast(Kind, kind))


def cycle_s(spec: Spec, rng: Rng) -> float:
    """Seconds that phase 0 to 1 takes."""
    if spec.kind == "shape":
        return CYCLE_S[spec.speed]
    if spec.kind in ("sunset", "sunrise"):
        return float(rng.uniform(*SUN_CYCLE_S))
    return IDLE_CYCLE_S


def usual_start(spec: Spec, rng: Rng, whole_s: float) -> float:
    """A phase at which the subject is in view for the whole clip."""
    if spec.kind == "shape":
        middle = (FRAMES - 1) / FPS / whole_s / 2
        slack = max(0.0, 0.5 - middle - 0.26)
        return 0.5 - middle + float(rng.uniform(-slack, slack))
    if spec.kind in ("sunset", "sunrise"):
        return float(rng.uniform(0.03, 0.62))
    return float(rng.uniform(0, 1))


def light(spec: Spec, rng: Rng) -> np.float32:
    """How bright a clip is, so that seeds of one caption differ. White and grey are told apart by it, and stay."""
    if spec.background in ("white", "grey"):
        return np.float32(1)
    return np.float32(rng.uniform(*(SHAPES_LIGHT if spec.background else LIGHT)))


def draw(spec: Spec, seed: int, usual: bool | None = None, phase: float | None = None, frames: int = FRAMES) -> Clip:
    """Draw `spec` with everything else chosen by `seed`."""
    rng = np.random.default_rng([seed, 1])
    whole_s = cycle_s(spec, rng)
    usual = bool(rng.random() < 0.8) if usual is None else usual
    if phase is None:
        phase = usual_start(spec, rng, whole_s) if usual else float(rng.uniform(0, 1))
    look = np.random.default_rng([seed, 2])
    t = times(float(look.uniform(0, 60)), frames)
    part = (phase + (t - t[0]) / whole_s).astype(np.float32)
    painter = {"shape": shape_clip, "ball": ball_clip}.get(spec.kind) or SCENES[spec.kind]
    image = painter(spec, look, t, part) * light(spec, np.random.default_rng([seed, 4]))
    return Clip(spec, phase, whole_s, usual, finish(image))


def clip(seed: int, kind: str | None = None, evaluation: bool = False, frames: int = FRAMES) -> Clip:
    """The clip of a seed: what it shows and how it looks both follow from it."""
    spec = random_spec(np.random.default_rng([seed, 0]), kind, evaluation)
    return draw(spec, seed, frames=frames)
