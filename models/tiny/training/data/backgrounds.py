"""The eight calm backgrounds that shapes and balls move over."""

import numpy as np

from models.tiny.training.data.canvas import (
    HEIGHT,
    Array,
    Curve,
    Field,
    Rng,
    Stop,
    X,
    Y,
    blobs,
    full,
    inside,
    jitter,
    mix,
    rgb,
    vertical,
)

# Top and bottom colour of each background.
PLAIN = {
    "black": ("0a0a0c", "1a1a1e"),
    "white": ("fbfbfb", "e6e6ea"),
    "grey": ("8c8c90", "6c6c72"),
    "sky": ("4f9be8", "bfe0fa"),
    "night": ("050a2a", "1c2860"),
    "sea": ("0b6f94", "043a5c"),
}


def plain(name: str, rng: Rng) -> Array:
    """A soft vertical gradient."""
    top, bottom = (jitter(rgb(code), rng, 0.03) for code in PLAIN[name])
    return full(vertical([Stop(0, top), Stop(1, bottom)]))


def sky(rng: Rng, t: Array) -> Array:
    """Blue with a few faint, slow clouds."""
    image = plain("sky", rng)
    cloud = np.clip(Field(rng, 42, 2.0)(X - 1.5 * t, Y) - 0.35, 0, 1) * 0.5
    return mix(image, rgb("ffffff"), cloud)


def night(rng: Rng, t: Array) -> Array:
    """Dark blue with a handful of soft stars that breathe slowly."""
    image = plain("night", rng)
    count = 12
    x, y = rng.uniform(4, 108, count), rng.uniform(3, 60, count)
    weight = 0.4 + 0.3 * np.sin(rng.uniform(1, 3, count) * t[:, :, 0] + rng.uniform(0, 6, count))
    ones = np.ones_like(weight)
    return mix(image, rgb("dfe6ff"), np.clip(blobs(x * ones, y * ones, 1.2 * ones, 1.2 * ones, weight), 0, 1))


def sea(rng: Rng, t: Array) -> Array:
    """Deep water with broad bands of light."""
    image = plain("sea", rng)
    light = np.clip(Field(rng, 12, 4)(X + 3 * t, Y + 1.0 * np.sin(t)), 0, 1) * 0.22
    return mix(image, rgb("7fd6e8"), light)


def meadow(rng: Rng, t: Array) -> Array:
    """A green field below a pale sky."""
    horizon = rng.uniform(14, 20)
    image = full(vertical([Stop(0, rgb("a9d4f5")), Stop(horizon / HEIGHT, rgb("e2f2fb"))]))
    field = vertical([Stop(0.2, jitter(rgb("86c455"), rng)), Stop(1, jitter(rgb("3d8a32"), rng))])
    shade = 1 + 0.06 * Field(rng, 14, 3)(X, Y)
    ground = full(field) * shade[..., None]
    return mix(image, ground, inside(horizon - Y + 2 * Curve(rng, 90, 2)(X), 1.5) * np.ones_like(t))


def desert(rng: Rng, t: Array) -> Array:
    """Pale dunes below a hazy sky."""
    image = full(vertical([Stop(0, rgb("9cc6e0")), Stop(0.35, rgb("f2e6cf"))]))
    for base, light, dark in ((18, "e6cf9f", "d3b67f"), (32, "dcc08a", "c4a26a"), (48, "d2b27a", "b48f58")):
        ridge = base + rng.uniform(-2, 2) + 4 * Curve(rng, 80, 2)(X)
        depth = np.clip((Y - ridge) / 22, 0, 1) * np.ones_like(t)
        image = mix(image, mix(rgb(light), rgb(dark), depth), inside(ridge - Y, 1.5) * np.ones_like(t))
    return image


MOVING = {"sky": sky, "night": night, "sea": sea, "meadow": meadow, "desert": desert}


def background(name: str, rng: Rng, t: Array) -> Array:
    """Paint background `name` for the times `t` (frames, 1, 1): (frames, height, width, 3)."""
    return MOVING[name](rng, t) if name in MOVING else plain(name, rng)
