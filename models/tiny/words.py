"""The words the bundled model knows. Everything it was ever told is made of these, lower case, one token a word.

The training captions and the understanding of prompts both read this list; it must only grow at its end, since a
word's place is its token number.
"""

PHASES = 16
PHASE_TOKENS = tuple(f"<p{index}>" for index in range(PHASES))
SPECIAL_TOKENS = ("<pad>", "</s>", "<unk>")

SHAPES = ("circle", "square", "triangle", "star", "heart", "ring", "ball")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "black", "grey", "golden")
SIZES = ("small", "medium", "large")
DIRECTIONS = ("left", "right", "up", "down", "upwards", "downwards", "rising", "falling")
SPEEDS = ("slowly", "quickly", "slow", "fast")
PLACES = (
    "background",
    "sky",
    "meadow",
    "desert",
    "night",
    "sea",
    "mountains",
    "forest",
    "city",
    "hills",
    "lake",
    "dunes",
)
EVENTS = (
    "sunset",
    "sunrise",
    "sun",
    "waves",
    "snow",
    "rain",
    "clouds",
    "fireworks",
    "stars",
    "moon",
    "moonlit",
    "bouncing",
    "setting",
    "sinking",
    "dawn",
    "dusk",
    "evening",
    "morning",
    "day",
    "exploding",
    "twinkling",
    "rolling",
    "drifting",
    "moving",
    "flying",
    "going",
    "moves",
    "flies",
    "snowing",
    "raining",
    "bounces",
    "drift",
    "fall",
    "roll",
    "twinkle",
)
GRAMMAR = (
    "a",
    "an",
    "the",
    "over",
    "on",
    "in",
    "of",
    "at",
    "to",
    "above",
    "across",
    "against",
    "with",
    "behind",
    "by",
    "and",
    "from",
    "into",
    "under",
    "is",
    "are",
)
FILLERS = (
    "beautiful",
    "stunning",
    "cinematic",
    "peaceful",
    "calm",
    "gorgeous",
    "quiet",
    "bright",
    "dark",
    "soft",
    "video",
    "shot",
    "scene",
    "view",
    "footage",
    "clip",
    "film",
    "colourful",
    "magical",
    "realistic",
    "detailed",
    "hd",
    "plain",
    "big",
    "tiny",
    "light",
    "distant",
)

WORDS = (
    *SPECIAL_TOKENS,
    *PHASE_TOKENS,
    *SHAPES,
    *COLOURS,
    *SIZES,
    *DIRECTIONS,
    *SPEEDS,
    *PLACES,
    *EVENTS,
    *GRAMMAR,
    *FILLERS,
)

# Room for words that later versions may add without changing the shape of the embedding.
VOCABULARY_SIZE = 256


def phase_token(phase: float) -> str:
    """The token that asks for a part 0..1 of a scene's course; one and beyond is the end."""
    return PHASE_TOKENS[min(max(int(phase * PHASES), 0), PHASES - 1)]
