"""Which moment of a scene each window of a long film asks for.

A window is five latents, 17 frames at 8 fps. Window 0 stands for frames 0..16. Every later window repeats the last
two latents of the film so far as its clean prefix and adds three, 12 frames; its first latent stands for the four
frames that begin at `first_frame`.
"""

from models.tiny.words import PHASE_TOKENS, phase_token

FPS = 8
FIRST_FRAMES = 17
NEW_FRAMES = 12  # per later window
PREFIX_LATENTS = 2
WINDOW_LATENTS = 5

SUN_SHORTEST_S = 8.0  # no trained sunset is faster
SUN_FIRST, SUN_LAST = 0.04, 0.90  # phases that a film of a sunset shows: a high sun to its last edge


def windows_for(frames: int) -> int:
    """Windows needed for at least `frames` frames."""
    return 1 + max(0, -(-(frames - FIRST_FRAMES) // NEW_FRAMES))


def first_frame(window: int) -> int:
    """Number of the first frame that a window's first latent stands for."""
    return 0 if window == 0 else 4 * (3 * window) - 3


def phase(kind: str, window: int, film_frames: int) -> float | None:
    """The phase a window asks for, 0..1, or None where the scene has none worth asking for.

    A sun's course is stretched over the whole film, though never made faster than in training; the first window of a
    shape is left free, so that it starts well in view, and a shape's later windows follow from their prefix.
    """
    if kind not in ("sunset", "sunrise"):
        return None
    course_s = max(film_frames / FPS, SUN_SHORTEST_S)
    part = first_frame(window) / FPS / course_s
    return min(SUN_FIRST + (SUN_LAST - SUN_FIRST) * part, 1.0)


def prompt_for(text: str, kind: str, window: int, film_frames: int) -> str:
    """The text with its phase token in front, where there is one."""
    at = phase(kind, window, film_frames)
    bare = " ".join(word for word in text.split() if word not in PHASE_TOKENS)
    return bare if at is None else f"{phase_token(at)} {bare}"
