"""A coloured shape that crosses a background, and a ball that bounces on it.

The path of a shape closes: having left the frame on one side it comes back on the other. Its phase is the part of
that path it has gone, so a long film can ask for any moment of it.
"""

import numpy as np

from models.tiny.training.data.attributes import Spec
from models.tiny.training.data.backgrounds import background
from models.tiny.training.data.canvas import HEIGHT, WIDTH, Array, Rng, X, Y, inside, mix, rgb

COLOUR_CODES = {
    "red": "e01b1b",
    "orange": "ff8a12",
    "yellow": "ffdf1e",
    "green": "1fb53a",
    "blue": "1c4fe0",
    "purple": "8a2be2",
    "pink": "ff6fb5",
    "white": "ffffff",
}
RADII = {"small": 13.0, "medium": 16.5, "large": 20.0}  # pixels
CYCLE_S = {"slow": 14.0, "normal": 9.0, "fast": 6.0}  # seconds for the whole path, off-screen part included
ASIDE = 7.0  # pixels that a path may lie above or below the middle; twice that to its left or right
MARGIN = 27.0  # pixels beyond the frame before a shape comes back on the other side


def _polygon(dx: Array, dy: Array, points: Array) -> Array:
    """Signed distance to a closed polygon (count, 2), by the nearest edge and the crossing parity."""
    nearest = np.full(np.broadcast_shapes(dx.shape, dy.shape), 1e9, dtype=np.float32)
    odd = np.zeros(nearest.shape, dtype=bool)
    for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, axis=0), strict=True):
        ex, ey = bx - ax, by - ay
        along = np.clip(((dx - ax) * ex + (dy - ay) * ey) / (ex * ex + ey * ey), 0, 1)
        nearest = np.minimum(nearest, (dx - ax - along * ex) ** 2 + (dy - ay - along * ey) ** 2)
        crosses = (dy >= min(ay, by)) & (dy < max(ay, by))
        odd ^= crosses & (dx < ax + (dy - ay) / (ey if ey else 1e-9) * ex)
    return np.where(odd, -1, 1) * np.sqrt(nearest)


def _regular(count: int, inner: float, turn: float) -> Array:
    """Corners of a star with `count` arms; `inner` is the radius of its notches, 1 for none."""
    angle = turn + np.arange(2 * count) * np.pi / count
    radius = np.where(np.arange(2 * count) % 2 == 0, 1.0, inner)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


def distance(shape: str, dx: Array, dy: Array, r: float) -> Array:
    """Signed distance in pixels from the outline of `shape` with radius `r`; x to the right, y downwards."""
    if shape == "circle":
        return np.sqrt(dx**2 + dy**2) - r
    if shape == "ring":
        return np.abs(np.sqrt(dx**2 + dy**2) - 0.88 * r) - 0.22 * r
    if shape == "square":
        return np.maximum(np.abs(dx), np.abs(dy)) - 0.86 * r
    if shape == "triangle":
        corners = np.array([[0, -1.05], [1.08, 0.82], [-1.08, 0.82]]) * r
        return _polygon(dx, dy, corners)
    if shape == "star":
        return _polygon(dx, dy, _regular(5, 0.43, -np.pi / 2) * 1.25 * r)
    lobes = np.sqrt((np.abs(dx) - 0.48 * r) ** 2 + (dy + 0.36 * r) ** 2) - 0.56 * r
    tip = _polygon(dx, dy, np.array([[-0.98, -0.1], [0, -0.3], [0.98, -0.1], [0, 1.08]]) * r)
    return np.minimum(lobes, tip)


def paint(image: Array, shape: str, colour: Array, x: Array, y: Array, r: float, shadow: float = 0.25) -> Array:
    """Paint a softly lit shape with centre (x, y), arrays (frames, 1, 1), and its faint shadow."""
    dx, dy = X - x, Y - y
    dark = inside(distance(shape, dx - 1.5, dy - 2.5, r), 4.0) * shadow
    image = mix(image, image * 0.3, dark)
    light = 1.0 - 0.16 * np.clip((dx + dy) / (1.6 * r), -0.6, 1)
    gleam = np.clip(-(dx + dy) / (2.2 * r), 0, 0.5) * 0.30
    body = mix(np.clip(colour * light[..., None], 0, 1), rgb("ffffff"), gleam)
    return mix(image, body, inside(distance(shape, dx, dy, r)))


def path(spec: Spec, rng: Rng, phase: Array) -> tuple[Array, Array]:
    """Centre of the shape for the phases (frames, 1, 1) of its closed path."""
    there = np.mod(phase, 1.0)
    if spec.direction in ("left", "right"):
        x = -MARGIN + there * (WIDTH + 2 * MARGIN)
        y = np.full_like(phase, HEIGHT / 2 + rng.uniform(-ASIDE, ASIDE))
        return (x if spec.direction == "right" else WIDTH - x), y
    y = -MARGIN + there * (HEIGHT + 2 * MARGIN)
    x = np.full_like(phase, WIDTH / 2 + rng.uniform(-2 * ASIDE, 2 * ASIDE))
    return x, (y if spec.direction == "down" else HEIGHT - y)


def shape_clip(spec: Spec, rng: Rng, t: Array, phase: Array) -> Array:
    """A shape crossing its background: (frames, height, width, 3)."""
    image = background(spec.background, rng, t)
    x, y = path(spec, rng, phase)
    radius = RADII[spec.size] * rng.uniform(0.94, 1.06)
    colour = np.clip(rgb(COLOUR_CODES[spec.colour]) + rng.uniform(-0.03, 0.03, 3), 0, 1).astype(np.float32)
    return paint(image, spec.shape, colour, x, y, radius)


def ball_clip(spec: Spec, rng: Rng, t: Array, phase: Array) -> Array:
    """A ball that bounces in place over a soft floor shadow; one bounce takes about 1.2 s."""
    image = background(spec.background, rng, t)
    radius = RADII[spec.size] * 0.8
    floor = rng.uniform(52, 58)
    beat = np.mod(t / rng.uniform(1.0, 1.3) + rng.uniform(0, 1), 1.0)
    top = (floor - 2 * radius) * rng.uniform(0.6, 0.95)
    height = 4 * beat * (1 - beat) * top
    x = np.full_like(t, rng.uniform(30, WIDTH - 30))
    y = floor - radius - height
    near = 1 - height / (1.2 * top)
    spot = np.exp(-((X - x) ** 2) / (2 * (radius * 0.9) ** 2) - (Y - floor) ** 2 / (2 * 2.2**2)) * 0.45 * near
    image = mix(image, image * 0.2, spot.astype(np.float32))
    return paint(image, "circle", rgb(COLOUR_CODES[spec.colour]), x, y, radius, shadow=0.0)
