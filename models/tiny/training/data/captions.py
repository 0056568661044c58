"""Say in many ways what a clip shows, in words of `models.tiny.words` only."""

from models.tiny.training.data.attributes import Spec
from models.tiny.training.data.canvas import Rng
from models.tiny.words import phase_token

SCENE_WORDS = ("beautiful", "stunning", "cinematic", "peaceful", "calm", "gorgeous", "magical", "colourful", "quiet")
LEADS = (
    "a video of",
    "a view of",
    "a shot of",
    "footage of",
    "a scene of",
    "a cinematic shot of",
    "a clip of",
    "a film of",
)


def _pick(rng: Rng, *options: str) -> str:
    return str(rng.choice(options))


def _article(text: str, rng: Rng) -> str:
    if rng.random() < 0.2:
        return text
    return f"an {text}" if text[0] in "aeiou" else f"{_pick(rng, 'a', 'a', 'a', 'the')} {text}"


def _background(name: str, rng: Rng) -> str:
    if name in ("black", "white", "grey"):
        return _pick(
            rng,
            f"on a {name} background",
            f"over a {name} background",
            f"against a {name} background",
            f"on a plain {name} background",
            f"on {name}",
        )
    if name == "sky":
        return _pick(rng, "in the sky", "in the blue sky", "against the sky", "across the sky", "over a sky background")
    if name == "night":
        return _pick(rng, "at night", "in the night sky", "in the dark night sky", "against the night sky")
    return _pick(
        rng,
        f"over the {name}",
        f"over a {name}",
        f"above the {name}",
        f"across the {name}",
        f"over a {name} background",
    )


def _shape(spec: Spec, rng: Rng) -> str:
    size = spec.size if spec.size != "medium" or rng.random() < 0.2 else ""
    size = "big" if size == "large" and rng.random() < 0.4 else size
    noun = "ball" if spec.shape == "circle" and rng.random() < 0.3 else spec.shape
    subject = _article(" ".join(part for part in (size if rng.random() < 0.75 else "", spec.colour, noun) if part), rng)
    verb = _pick(rng, "moving", "moving", "flying", "going", "moves", "flies", "drifting")
    way = {"up": _pick(rng, "up", "upwards"), "down": _pick(rng, "down", "downwards")}.get(spec.direction)
    way = way or _pick(rng, spec.direction, f"to the {spec.direction}")
    if spec.direction in ("up", "down") and rng.random() < 0.2:
        verb = "rising" if spec.direction == "up" else "falling"
    pace = {"slow": "slowly", "fast": _pick(rng, "quickly", "fast"), "normal": ""}[spec.speed]
    pace = pace if rng.random() < 0.75 else ""
    motion = " ".join(part for part in _order((verb + " " + way, pace), rng) if part)
    place = _background(spec.background, rng)
    return f"{subject} {place} {motion}" if rng.random() < 0.2 else f"{subject} {motion} {place}"


def _order(parts: tuple[str, str], rng: Rng) -> tuple[str, str]:
    return parts if rng.random() < 0.75 else (parts[1], parts[0])


def _ball(spec: Spec, rng: Rng) -> str:
    size = spec.size if spec.size != "medium" and rng.random() < 0.7 else ""
    words = " ".join(part for part in (size, spec.colour) if part)
    place = _background(spec.background, rng)
    return _pick(
        rng, f"a {words} ball bouncing {place}", f"a bouncing {words} ball {place}", f"{words} ball bounces {place}"
    )


def _sun(spec: Spec, rng: Rng) -> str:
    place = {
        "mountains": ("mountains", "the mountains"),
        "sea": ("the sea", "the sea", "sea"),
        "desert": ("the desert", "a desert", "desert dunes"),
    }[spec.place]
    place = _pick(rng, *place)
    tint = _pick(rng, spec.palette, "", "", "")
    if spec.kind == "sunset":
        said = _pick(
            rng,
            f"sunset over {place}",
            f"sunset over {place}",
            f"sunset behind {place}",
            f"sunset in {place}",
            f"evening sun setting over {place}",
            f"sun sinking behind {place}",
            f"sun setting over {place} at dusk",
        )
    else:
        said = _pick(
            rng,
            f"sunrise over {place}",
            f"sunrise over {place}",
            f"sunrise behind {place}",
            f"morning sun rising over {place}",
            f"sun rising behind {place} at dawn",
        )
    if tint and rng.random() < 0.3:
        return f"{said} with a {tint} sky"
    return f"{tint} {said}".strip()


def _scene(spec: Spec, rng: Rng) -> str:
    if spec.kind in ("sunset", "sunrise"):
        return _sun(spec, rng)
    if spec.kind == "waves":
        return _pick(
            rng,
            "waves rolling on the sea",
            "sea waves by day",
            "waves on the sea in the morning",
            "waves on the blue sea",
            "waves roll across the sea",
            "sea with rolling waves",
            "waves",
            "the sea",
        )
    if spec.kind == "moonlit_waves":
        return _pick(
            rng,
            "waves on the sea by moonlit night",
            "moonlit waves",
            "waves at night under the moon",
            "the moon over the sea at night",
            "moonlit sea at night",
            "dark waves rolling under the moon",
        )
    if spec.kind in ("snow", "rain"):
        falling = _pick(rng, f"{spec.kind} falling on", f"{spec.kind} over", f"{spec.kind} in", f"{spec.kind}ing in")
        return f"{falling} {_pick(rng, 'a', 'the')} {spec.place}"
    if spec.kind == "clouds":
        way = _pick(rng, f" {spec.direction}", f" to the {spec.direction}", "")
        hills = _pick(rng, "green hills", "the green hills", "the hills", "hills")
        return _pick(
            rng,
            f"clouds drifting{way} over {hills}",
            f"white clouds moving{way} over {hills}",
            f"clouds drift{way} above {hills}",
            f"clouds over {hills}",
        )
    if spec.kind == "fireworks":
        return _pick(
            rng,
            f"{spec.colour} fireworks at night",
            f"{spec.colour} fireworks in the night sky",
            f"{spec.colour} fireworks exploding over the city",
            f"{spec.colour} fireworks",
        ).strip()
    return _pick(
        rng,
        "stars over a lake",
        "stars twinkling over the lake at night",
        "night sky with stars over a lake",
        "stars above a quiet lake",
        "twinkling stars over the lake",
    )


def caption(spec: Spec, rng: Rng, phase: float | None = None) -> str:
    """One random way of saying what `spec` shows; with a phase, that comes first as a token."""
    if spec.kind == "shape":
        text = _shape(spec, rng)
    elif spec.kind == "ball":
        text = _ball(spec, rng)
    else:
        text = _scene(spec, rng)
        if rng.random() < 0.55:
            text = f"{_pick(rng, *SCENE_WORDS)} {text}"
        if rng.random() < 0.4 and text[0] != "t" and spec.kind in ("sunset", "sunrise"):
            text = f"a {text}"
    if rng.random() < 0.15:
        text = f"{_pick(rng, *LEADS)} {text}"
    return text if phase is None else f"{phase_token(phase)} {text}"
