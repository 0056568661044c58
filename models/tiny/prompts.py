"""Turn any prompt into words the bundled model was trained on, and say what was understood.

The model knows a hundred-odd words and the sentences they were taught in. A prompt is read word by word: known words
as they are, others through a table of synonyms, their stem, or their nearest spelling; what remains is ignored. From
what was found a sentence of the taught form is built. Nothing here is learnt and nothing can fail.
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from models.tiny.words import GRAMMAR, WORDS

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")

FALLBACK = "clouds drifting over green hills"

_SYNONYM_LINES = """
red: crimson scarlet ruby maroon cherry vermilion
orange: amber tangerine apricot
yellow: lemon canary
green: emerald lime olive jade mint
blue: navy azure cobalt sapphire indigo cyan turquoise teal
purple: violet lilac lavender plum
pink: magenta rose fuchsia salmon
white: ivory snowy pale
grey: gray silver
golden: gold glowing
black: ebony
circle: disc disk dot round
square: box cube block rectangle
triangle: pyramid wedge cone
heart: hearts love
ring: donut doughnut hoop circlet
ball: sphere orb balloon football basketball
small: little mini miniature
large: huge giant enormous massive great
left: leftward leftwards west
right: rightward rightwards east
up: upward above ascending climbing rise rises
down: downward descending sinks dropping drops falls
slowly: gently leisurely lazily gradual gradually calmly
quickly: rapidly swiftly speeding rapid swift racing speedily
sky: heaven air
meadow: grass field lawn pasture prairie grassland garden park
desert: sand sandy sahara dune
night: midnight nighttime nocturnal nightfall
sea: ocean water beach coast shore seaside bay pacific atlantic harbour harbor marine
mountains: mountain peaks peak alps ridges ridge himalayas summit summits cliffs
forest: woods wood trees tree jungle pines woodland conifers
city: town skyline buildings streets street skyscrapers urban village downtown houses rooftops
hills: hill countryside valley
lake: pond lagoon reservoir
sunset: sundown twilight
sunrise: daybreak
waves: wave surf tide swell
snow: snowfall snowflakes snowstorm blizzard snowflake winter
rain: rainfall rainy drizzle storm downpour raindrops thunderstorm
clouds: cloud cloudy overcast
fireworks: firework pyrotechnics
stars: starry constellation constellations galaxy
moon: moonlight lunar
bouncing: bounce bouncy jumping hopping
moving: move traveling travelling sliding gliding floating crossing rolls
beautiful: pretty lovely wonderful picturesque scenic
stunning: breathtaking spectacular amazing epic dramatic majestic
cinematic: film-like movie
peaceful: serene tranquil relaxing
video: movie animation
"""
SYNONYMS = {
    word: known
    for line in _SYNONYM_LINES.strip().splitlines()
    for known, _, rest in [line.partition(":")]
    for word in rest.split()
}
PHRASES = {
    "golden hour": "golden sunset",
    "starry night": "stars night",
    "milky way": "stars",
    "goes down": "setting",
    "going down": "setting",
    "comes up": "rising",
    "coming up": "rising",
    "night sky": "night stars",
}

KNOWN = frozenset(word for word in WORDS if word.isalpha())
# Little words carry no meaning: they neither count as understood nor as missed.
LITTLE = frozenset(GRAMMAR) | {"it", "its", "this", "that", "there", "as", "for", "while", "then", "near", "some", "my"}

_SHAPES = ("square", "triangle", "star", "heart", "ring", "circle", "ball")
_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
_PALETTES = {
    "golden": "golden",
    "orange": "golden",
    "yellow": "golden",
    "pink": "pink",
    "purple": "purple",
    "red": "red",
}
_BACKGROUNDS = {
    "sky": "in the sky",
    "meadow": "over the meadow",
    "desert": "over the desert",
    "night": "in the night sky",
    "sea": "over the sea",
    "hills": "over the meadow",
    "dunes": "over the desert",
}
_WORDS_OF_PRAISE = (
    "beautiful",
    "stunning",
    "cinematic",
    "peaceful",
    "calm",
    "gorgeous",
    "magical",
    "colourful",
    "quiet",
)


@dataclass(frozen=True, slots=True)
class Understood:
    """What the bundled model makes of a prompt.

    Attributes:
        text: the sentence given to the model, of taught words and form.
        kind: the kind of scene, as `phases.phase` wants it ("shape", "sunset", ...).
        words: words of the prompt that were understood, in its own spelling and order.
        ignored: words that were not, little words left out.
        replaced: of the understood words those read as another: prompt's word to taught word.
    """

    text: str
    kind: str
    words: tuple[str, ...]
    ignored: tuple[str, ...]
    replaced: dict[str, str]

    @property
    def part(self) -> float:
        """The part of the prompt's words, 0..1, that was understood."""
        total = len(self.words) + len(self.ignored)
        return len(self.words) / total if total else 0.0

    def sentence(self) -> str:
        """One plain line for people."""
        if not self.words:
            return f"The bundled model understood nothing of this prompt and shows “{self.text}” instead."
        missed = f"; not understood: {', '.join(self.ignored)}" if self.ignored else ""
        return f"The bundled model read this as “{self.text}”{missed}."


def _stems(word: str) -> Iterable[str]:
    yield word
    for ending, instead in (
        ("'s", ""),
        ("ies", "y"),
        ("es", ""),
        ("s", ""),
        ("ing", ""),
        ("ing", "e"),
        ("ed", ""),
        ("y", ""),
    ):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            yield word[: len(word) - len(ending)] + instead
    yield word + "s"


def nearest(word: str) -> str | None:
    """The taught word for `word`: itself, a synonym, through its stem, or by spelling; None where nothing is near."""
    for stem in _stems(word):
        if stem in KNOWN:
            return stem
        if stem in SYNONYMS:
            return SYNONYMS[stem]
    if len(word) >= 5:
        close = difflib.get_close_matches(word, [*KNOWN, *SYNONYMS], n=1, cutoff=0.84)
        if close and abs(len(close[0]) - len(word)) <= 2:
            return SYNONYMS.get(close[0], close[0])
    return None


def _first(found: list[str], options: Iterable[str], default: str = "") -> str:
    options = tuple(options)
    return next((word for word in found if word in options), default)


def _shape_sentence(found: list[str]) -> tuple[str, str]:
    shape = _first(found, _SHAPES)
    colour = _first(found, _COLOURS) or ("yellow" if "golden" in found else "red")
    size = "small" if {"small", "tiny"} & set(found) else "large" if {"large", "big"} & set(found) else ""
    rest = found[found.index(shape) :] if shape in found else found
    plain = _first([word for word in (*rest, *found) if word != colour], ("black", "white", "grey"))
    place = _first(found, _BACKGROUNDS)
    where = _BACKGROUNDS[place] if place else f"on a {plain or 'grey'} background"
    thing = " ".join(word for word in (size, colour, shape) if word)
    way = _first(found, ("left", "right", "up", "down", "upwards", "downwards"))
    way = way or ("up" if "rising" in found else "down" if "falling" in found or "fall" in found else "")
    if shape == "ball" and not way:
        return f"a {thing} bouncing {where}", "ball"
    pace = " slowly" if {"slowly", "slow"} & set(found) else " quickly" if {"quickly", "fast"} & set(found) else ""
    return f"a {thing} moving {way or 'right'}{pace} {where}", "shape"


def _sun_sentence(found: list[str], kind: str) -> str:
    place = _first(found, ("mountains", "sea", "desert", "waves", "dunes"), "mountains")
    place = {
        "mountains": "mountains",
        "sea": "the sea",
        "waves": "the sea",
        "desert": "the desert",
        "dunes": "the desert",
    }[place]
    tint = next((_PALETTES[word] for word in found if word in _PALETTES), "")
    return " ".join(word for word in (tint, kind, "over", place) if word)


def _bare_place(found: list[str]) -> tuple[str, str]:
    """A scene for a prompt that only names where it is."""
    if set(found) & {"sun", "mountains", "desert", "dunes"}:
        return _sun_sentence(found, "sunset"), "sunset"
    if set(found) & {"forest", "city"}:
        return f"rain falling on the {_first(found, ('forest', 'city'))}", "rain"
    return "", ""


def _scene(found: list[str]) -> tuple[str, str]:
    words = set(found)
    dark = words & {"night", "moon", "moonlit", "dark"}
    if words & {"sunset", "dusk", "evening", "setting", "sinking"}:
        return _sun_sentence(found, "sunset"), "sunset"
    if words & {"sunrise", "dawn", "morning"} or {"sun", "rising"} <= words:
        return _sun_sentence(found, "sunrise"), "sunrise"
    if "fireworks" in words:
        return f"{_first(found, _COLOURS)} fireworks in the night sky".strip(), "fireworks"
    for kind, place in (("snow", "forest"), ("rain", "city")):
        if kind in words or f"{kind}ing" in words:
            return f"{kind} falling on the {_first(found, ('forest', 'city'), place)}", kind
    if words & {"sea", "waves", "rolling", "roll"}:
        return ("waves at night under the moon", "moonlit_waves") if dark else ("waves rolling on the sea", "waves")
    if words & {"stars", "lake"} or dark:
        return "stars over a lake", "stars"
    if words & {"clouds", "hills", "sky", "meadow", "day"}:
        way = _first(found, ("left", "right"))
        return f"clouds drifting {way + ' ' if way else ''}over green hills", "clouds"
    return _bare_place(found)


def understand(prompt: str) -> Understood:
    """Read a prompt; see the module's text."""
    lowered = prompt.lower()
    words = _WORD.findall(lowered)
    for phrase, meaning in PHRASES.items():
        lowered = lowered.replace(phrase, meaning)
    found = [known for word in _WORD.findall(lowered) if (known := nearest(word))]
    named = {word: nearest(word) for word in words if word not in LITTLE}
    for phrase in PHRASES:
        if phrase in prompt.lower():
            named |= {word: word for word in phrase.split() if named.get(word) is None and word in named}
    understood = tuple(dict.fromkeys(word for word in words if named.get(word)))
    ignored = tuple(dict.fromkeys(word for word in words if word in named and not named[word]))
    replaced = {word: known for word, known in named.items() if known and known != word and word in understood}
    scene_first = set(found) & {"sunset", "sunrise", "fireworks", "snow", "rain", "waves", "clouds", "setting"}
    if set(found) & set(_SHAPES) and not scene_first:
        text, kind = _shape_sentence(found)
    else:
        text, kind = _scene(found)
    if not text:
        return Understood(FALLBACK, "clouds", (), tuple(dict.fromkeys((*understood, *ignored))), {})
    praise = _first(found, _WORDS_OF_PRAISE)
    if praise and kind not in ("shape", "ball"):
        text = f"a {praise} {text}" if kind in ("sunset", "sunrise") else f"{praise} {text}"
    return Understood(text, kind, understood, ignored, replaced)
