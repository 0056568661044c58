"""Drawing on whole clips at once: grids, soft blobs, gradients, ridges and noise.

Sizes are in pixels of the native frame, times in seconds, colours are RGB in 0..1. Arrays over a clip are
(frames, height, width), colours add a last axis of three. Nothing drawn here is finer than about two pixels, because
the autoencoder that reads the clips keeps one latent for every 16 x 16 pixels.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

WIDTH = 112
HEIGHT = 64
FRAMES = 17
FPS = 8

Array = NDArray[np.float32]
Rng = np.random.Generator

X: Array = (np.arange(WIDTH, dtype=np.float32) + 0.5)[None, None, :]
Y: Array = (np.arange(HEIGHT, dtype=np.float32) + 0.5)[None, :, None]


class Stop(NamedTuple):
    """One colour of a gradient at a height from 0 (top) to 1 (bottom)."""

    at: float
    colour: Array


def rgb(code: str) -> Array:
    """Turn "ff8800" into a colour."""
    return np.array([int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)], dtype=np.float32)


def times(start_s: float, frames: int = FRAMES) -> Array:
    """Seconds of each frame, shaped to broadcast over a clip: (frames, 1, 1)."""
    return (start_s + np.arange(frames, dtype=np.float32) / FPS)[:, None, None].astype(np.float32)


def mix(a: Array, b: Array, weight: Array | float) -> Array:
    """Blend colours or images; `weight` 0 gives `a`, 1 gives `b`. A clip-shaped weight gains the colour axis."""
    if isinstance(weight, np.ndarray):
        weight = weight[..., None]
    return a + (b - a) * weight


def jitter(colour: Array, rng: Rng, amount: float = 0.04) -> Array:
    """Shift a colour a little, so that no scene is always the same."""
    return np.clip(colour + rng.uniform(-amount, amount, 3), 0, 1).astype(np.float32)


def vertical(stops: list[Stop]) -> Array:
    """A gradient from top to bottom: (1, height, 1, 3)."""
    at = [stop.at * HEIGHT for stop in stops]
    rows = Y[0, :, 0]
    channels = [np.interp(rows, at, [stop.colour[c] for stop in stops]) for c in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)[None, :, None, :]


def full(image: Array, frames: int | None = None) -> Array:
    """Expand an image to whole frames (frames, height, width, 3); a still image keeps its single frame."""
    frames = image.shape[0] if frames is None else frames
    return np.broadcast_to(image, (frames, HEIGHT, WIDTH, 3)).astype(np.float32, copy=True)


def inside(distance: Array, softness: float = 1.2) -> Array:
    """Coverage 0..1 from a signed distance in pixels, negative inside."""
    return np.clip(0.5 - distance / softness, 0, 1).astype(np.float32)


def glow(x: Array | float, y: Array | float, radius: float) -> Array:
    """A Gaussian light round (x, y), 1 in its middle."""
    gx = np.exp(-((X - x) ** 2) / (2 * radius**2))
    gy = np.exp(-((Y - y) ** 2) / (2 * radius**2))
    return (gx * gy).astype(np.float32)


def blobs(x: Array, y: Array, radius_x: Array, radius_y: Array, weight: Array) -> Array:
    """Sum of many soft spots: arguments (frames, count), result (frames, height, width).

    A Gaussian spot is a product of a row and a column, so the sum is one small matrix product per frame.
    """
    rows = np.exp(-((Y[0, :, 0][None, :, None] - y[:, None, :]) ** 2) / (2 * radius_y[:, None, :] ** 2))
    columns = np.exp(-((X[0, 0, :][None, None, :] - x[:, :, None]) ** 2) / (2 * radius_x[:, :, None] ** 2))
    return np.matmul(rows * weight[:, None, :], columns).astype(np.float32)


class Curve:
    """A smooth random line over x, roughly in -1..1; `drift` in the call shifts it sideways."""

    def __init__(self, rng: Rng, longest: float, octaves: int = 3, falloff: float = 0.5) -> None:
        index = np.arange(octaves)
        self.waves = 2 * np.pi / (longest / 1.9**index * rng.uniform(0.85, 1.15, octaves))
        self.phases = rng.uniform(0, 2 * np.pi, octaves)
        self.weights = falloff**index / np.sum(falloff**index)

    def __call__(self, x: Array) -> Array:
        """Heights of the line over `x` pixels."""
        total = np.zeros_like(x)
        for wave, phase, weight in zip(self.waves, self.phases, self.weights, strict=True):
            total = total + weight * np.sin(wave * x + phase)
        return total.astype(np.float32)

    def peaked(self, x: Array) -> Array:
        """The same line folded into sharp crests, in 0..1: mountains rather than hills."""
        total = np.zeros_like(x)
        for wave, phase, weight in zip(self.waves, self.phases, self.weights, strict=True):
            folded = np.abs(np.mod((wave * x + phase) / np.pi, 2) - 1)
            total = total + weight * folded
        return total.astype(np.float32)


class Field:
    """Smooth random noise over the frame, about -1..1, made of slanted waves longer than six pixels."""

    def __init__(self, rng: Rng, length: float, stretch: float = 2.5, waves: int = 6) -> None:
        self.kx = rng.normal(0, 1, waves) * 2 * np.pi / (length * stretch)
        self.ky = rng.normal(0, 1, waves) * 2 * np.pi / length
        self.phases = rng.uniform(0, 2 * np.pi, waves)

    def __call__(self, x: Array, y: Array) -> Array:
        """Values at (x, y) pixels."""
        total = np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=np.float32)
        for kx, ky, phase in zip(self.kx, self.ky, self.phases, strict=True):
            total += np.sin(np.float32(kx) * x + np.float32(ky) * y + np.float32(phase))
        return total / np.float32(np.sqrt(len(self.phases) * 0.5) * 1.6)


def finish(image: Array) -> NDArray[np.uint8]:
    """Round a clip in 0..1 to bytes (frames, height, width, 3)."""
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
