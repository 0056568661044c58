"""Landscapes with one thing that moves: suns, waves, weather, clouds, fireworks and stars."""

from collections.abc import Callable

import numpy as np

from models.tiny.training.data.attributes import Spec
from models.tiny.training.data.canvas import (
    HEIGHT,
    WIDTH,
    Array,
    Curve,
    Field,
    Rng,
    Stop,
    X,
    Y,
    blobs,
    full,
    glow,
    inside,
    jitter,
    mix,
    rgb,
    vertical,
)

WHITE = rgb("ffffff")

# Sky colours top, middle, low: with the sun high, then with the sun gone.
SUN_SKIES = {
    "golden": (("4a7fc0", "f5c06a", "ffe39a"), ("232b5c", "a8543a", "f08a3c")),
    "pink": (("6a7fd0", "f2a0b8", "ffd0c0"), ("2c2560", "a04a86", "f07a90")),
    "purple": (("5a5cc8", "b78ae0", "f7bfd0"), ("1a1450", "5a2f8a", "c05a9a")),
    "red": (("5a6ab0", "ee7a55", "ffb070"), ("2a1540", "8a2030", "e8502a")),
}


def _low_sun(spec: Spec, rng: Rng, t: Array, u: Array) -> Array:
    """Sky, clouds and sun; `u` (frames, 1, 1) runs from a high sun (0) to one below the horizon (1)."""
    high, low = SUN_SKIES[spec.palette]
    at = (0.0, 0.38, 0.66)
    day = vertical([Stop(a, jitter(rgb(c), rng, 0.03)) for a, c in zip(at, high, strict=True)])
    dusk = vertical([Stop(a, jitter(rgb(c), rng, 0.03)) for a, c in zip(at, low, strict=True)])
    image = full(mix(day, dusk, (u**1.3) * np.ones_like(X)))
    cloud = Field(rng, 9, 5)(X + rng.choice([-1.0, 1.0]) * 1.2 * t, Y)
    cloud = np.clip(cloud - 0.35, 0, 1) * inside(Y - 34, 16) * 0.55
    tint = mix(rgb("fff0d8"), jitter(rgb(low[2]), rng), u * np.ones_like(X) * np.ones_like(Y))
    image = mix(image, tint, cloud)
    x, y = rng.uniform(34, 78), 11 + 37 * u
    shine = 1 - 0.55 * u
    image = mix(image, rgb("ffd890"), glow(x, y, 20) * 0.65 * shine)
    image = mix(image, rgb("fff0b8"), glow(x, y, 10) * 0.6)
    disc = mix(rgb("fffbe0"), rgb("ffa040"), u * np.ones_like(X) * np.ones_like(Y))
    radius = 6.5 * rng.uniform(0.9, 1.2)
    return mix(image, disc, inside(np.sqrt((X - x) ** 2 + (Y - y) ** 2) - radius, 1.6)), np.float32(x), y


def _ridges(image: Array, rng: Rng, u: Array, palette: str) -> Array:
    """Three ranges of mountains, the near ones darker; they darken as the sun goes."""
    haze = rgb(SUN_SKIES[palette][1][1])
    near = rgb("140f24")
    for depth, base, amount in ((0.30, 50, 22), (0.60, 57, 18), (0.92, 66, 18)):
        top = base - amount * Curve(rng, 70, 3, 0.45).peaked(X) + rng.uniform(-2, 2)
        colour = mix(mix(haze, near, depth), near, 0.45 * u * np.ones_like(X) * np.ones_like(Y))
        mist = np.clip((Y - top) / 26, 0, 1) * 0.25 * (1 - depth)
        colour = mix(colour, rgb(SUN_SKIES[palette][0][2]), mist * np.ones_like(u))
        image = mix(image, colour, inside(top - Y, 1.4) * np.ones_like(u))
    return image


def _sea_below(image: Array, rng: Rng, t: Array, u: Array, sun_x: Array, palette: str) -> Array:
    """Water that mirrors the sky, with a glittering road of light below the sun."""
    horizon = 40.0
    depth = np.clip((Y - horizon) / (HEIGHT - horizon), 0, 1)
    near = mix(rgb("2a5f8c"), rgb("120f38"), u * np.ones_like(X) * np.ones_like(Y))
    far = mix(rgb(SUN_SKIES[palette][0][1]), rgb(SUN_SKIES[palette][1][2]), u * np.ones_like(X) * np.ones_like(Y))
    water = mix(far * 0.85, near, np.sqrt(depth) * np.ones_like(X) * np.ones_like(u))
    ripple = np.sin(2 * np.pi * (Y - horizon) / (4.5 + 5 * depth) - 2.4 * t + 1.5 * Field(rng, 14, 2)(X, Y))
    water = water * (1 + 0.09 * ripple)[..., None]
    road = np.exp(-((X - sun_x) ** 2) / (2 * (5 + 12 * depth) ** 2)) * (0.55 + 0.35 * ripple) * (1 - 0.5 * u)
    water = mix(water, rgb("ffdca0"), np.clip(road, 0, 1))
    return mix(image, water, inside(horizon - Y, 1.4) * np.ones_like(X) * np.ones_like(u))


def _dunes(image: Array, rng: Rng, u: Array, palette: str) -> Array:
    """Smooth dunes lit from behind."""
    for base, light in ((42, "d09a5a"), (49, "b87a42"), (57, "94582e")):
        ridge = base + rng.uniform(-1.5, 1.5) + 4.5 * Curve(rng, 85, 2)(X)
        colour = mix(rgb(light), rgb("3a1c28"), (0.25 + 0.55 * u) * np.ones_like(X) * np.ones_like(Y))
        shade = np.clip((Y - ridge) / 18, 0, 1) * 0.5
        colour = mix(colour, colour * 0.45, shade * np.ones_like(u))
        image = mix(image, colour, inside(ridge - Y, 1.4) * np.ones_like(u))
    return image


def sun_clip(spec: Spec, rng: Rng, t: Array, phase: Array) -> Array:
    """A sunset or sunrise over mountains, the sea or a desert; the phase is the part of it that has passed."""
    u = np.clip(phase, 0, 1)
    if spec.kind == "sunrise":
        u = 1 - u
    image, sun_x, _ = _low_sun(spec, rng, t, u)
    if spec.place == "mountains":
        return _ridges(image, rng, u, spec.palette)
    if spec.place == "sea":
        return _sea_below(image, rng, t, u, sun_x, spec.palette)
    return _dunes(image, rng, u, spec.palette)


def waves_clip(spec: Spec, rng: Rng, t: Array, phase: Array) -> Array:
    """Rows of waves rolling by, under the sun or the moon."""
    moonlit = spec.kind == "moonlit_waves"
    top, low = ("060a26", "1f2f66") if moonlit else ("4f9be8", "d4ecfa")
    image = full(vertical([Stop(0, jitter(rgb(top), rng)), Stop(0.42, jitter(rgb(low), rng))]))
    moon_x = rng.uniform(28, 84)
    if moonlit:
        moon_y = rng.uniform(9, 14)
        image = mix(image, rgb("b8c8ff"), glow(moon_x, moon_y, 14) * 0.45)
        disc = inside(np.sqrt((X - moon_x) ** 2 + (Y - moon_y) ** 2) - 5.5, 1.6)
        image = mix(image, rgb("f6f4e4"), disc * np.ones_like(t))
    else:
        cloud = np.clip(Field(rng, 12, 3)(X - 2 * t, Y) - 0.3, 0, 1) * inside(Y - 22, 12) * 0.8
        image = mix(image, WHITE, cloud)
    way = rng.choice([-1.0, 1.0])
    far, near = ("24406e", "0a1636") if moonlit else ("3aa0c0", "0c5580")
    foam = rgb("9fb4e0") if moonlit else WHITE
    for row in range(4):
        s = row / 3
        base = 27 + 31 * s**1.15
        length = 26 + 34 * s
        swell = np.sin(2 * np.pi * X / length - way * (2.6 - 0.8 * s) * t + rng.uniform(0, 6.3))
        slow = np.sin(2 * np.pi * X / (2.3 * length) + way * 0.9 * t + rng.uniform(0, 6.3))
        crest = base - (1.0 + 2.6 * s) * swell - (0.6 + 1.0 * s) * slow
        below = np.clip((Y - crest) / (5 + 9 * s), 0, 1)
        colour = mix(rgb(far), rgb(near), s)
        water = mix(colour * 1.2, colour * 0.8, below)
        lip = np.exp(-((Y - crest - 1.4) ** 2) / (2 * (1.0 + 0.7 * s) ** 2)) * (0.25 + 0.45 * np.clip(swell, 0, 1))
        water = mix(water, foam, lip.astype(np.float32) * (0.45 if moonlit else 0.8))
        if moonlit:
            road = np.exp(-((X - moon_x) ** 2) / (2 * (6 + 10 * s) ** 2)) * (1 - below) * 0.55
            water = mix(water, rgb("dfe6ff"), road.astype(np.float32))
        image = mix(image, water, inside(crest - Y, 2.0))
    return image


def _forest(image: Array, rng: Rng, snowy: bool) -> Array:
    """Three rows of conifers, far ones pale."""
    white = rgb("e8eef4")
    for depth, base, height, width in ((0.3, 44, 15, 13), (0.6, 54, 19, 18), (1.0, 66, 24, 25)):
        offset, lean = rng.uniform(0, width), Curve(rng, 60, 2)(X)
        tooth = 1 - np.abs(np.mod(X + offset, width) / width * 2 - 1)
        top = base - height * tooth * (0.8 + 0.25 * lean)
        colour = mix(rgb("8fa6a2"), rgb("16332a"), depth)
        if snowy:
            cover = np.clip(1 - (Y - top) / 7, 0, 1) * 0.75
            colour = mix(colour, white, cover)
        image = mix(image, full(colour, image.shape[0]), inside(top - Y, 1.6) * np.ones((image.shape[0], 1, 1)))
    return image


def _city(image: Array, rng: Rng, snowy: bool) -> Array:
    """Two rows of houses with softly lit windows, three pixels and more."""
    frames = image.shape[0]
    for depth, base, tall, wide in ((0.4, 46, 22, 13.0), (1.0, 60, 24, 18.0)):
        edges = np.cumsum(rng.uniform(0.75, 1.3, 14) * wide) - rng.uniform(0, wide)
        tops = base - rng.uniform(0.25, 1.0, 15) * tall
        wall = tops[0] + sum((tops[i + 1] - tops[i]) * np.clip((X - edges[i]) / 1.5 + 0.5, 0, 1) for i in range(14))
        colour = mix(rgb("6d7688"), rgb("232838"), depth)
        body = full(colour, 1)
        if depth == 1.0:
            column = np.clip(np.cos(2 * np.pi * X / 14 + rng.uniform(0, 6)) * 1.6 - 0.2, 0, 1)
            row = np.clip(np.cos(2 * np.pi * (Y - 60) / 13) * 1.6 - 0.2, 0, 1)
            chosen = np.clip(Field(rng, 14, 1)(X, Y) * 2 + 0.6, 0, 1)
            lit = column * row * chosen * inside(wall + 5 - Y, 2)
            body = mix(body, rgb("ffd27a"), lit * 0.85)
        if snowy:
            body = mix(body, rgb("eef2f8"), np.clip(1 - (Y - wall) / 4, 0, 1) * 0.9)
        image = mix(image, full(body, frames), inside(wall - Y, 1.4) * np.ones((frames, 1, 1), np.float32))
    return image


def weather_clip(spec: Spec, rng: Rng, t: Array, phase: Array) -> Array:
    """Snow or rain falling on a forest or a city."""
    snowy = spec.kind == "snow"
    sky = ("8fa3bd", "dbe4ee") if snowy else ("4a5566", "8b98a8")
    image = full(vertical([Stop(0, jitter(rgb(sky[0]), rng)), Stop(0.8, jitter(rgb(sky[1]), rng))]))
    image = (_forest if spec.place == "forest" else _city)(image, rng, snowy)
    frames = t[:, :, 0]
    if snowy:
        image = mix(image, rgb("f2f6fa"), inside(58 - Y + 2 * Curve(rng, 60, 2)(X), 4) * np.ones_like(t))
        count = 13
        near = rng.uniform(0, 1, count)
        fall = (7 + 7 * near) * frames + rng.uniform(0, 76, count)
        sway = 2.5 * np.sin(frames * rng.uniform(0.8, 1.6, count) + rng.uniform(0, 6, count))
        y = np.mod(fall, HEIGHT + 12) - 6
        x = np.mod(rng.uniform(0, 120, count) + sway + 2 * frames, WIDTH + 8) - 4
        size = (1.7 + 1.1 * near) * np.ones_like(y)
        return mix(image, WHITE, np.clip(1.1 * blobs(x, y, size, size, np.ones_like(y)), 0, 0.92))
    count = 10
    near = rng.uniform(0, 1, count)
    y0 = np.mod((26 + 8 * near) * frames + rng.uniform(0, 90, count), HEIGHT + 24) - 12
    x0 = np.mod(rng.uniform(0, 124, count) - 4 * frames, WIDTH + 12) - 6
    drops = sum(
        blobs(x0 - 0.4 * k, y0 + 2.6 * k, 1.5 * np.ones_like(y0), 2.6 * np.ones_like(y0), 0.3 * np.ones_like(y0))
        for k in range(4)
    )
    image = mix(image, image * 0.75, inside(56 - Y, 8) * np.ones_like(t))
    return mix(image, rgb("d3e0ee"), np.clip(drops, 0, 0.5))


def clouds_clip(spec: Spec, rng: Rng, t: Array, phase: Array) -> Array:
    """Round clouds drifting over green hills, to the left or to the right."""
    image = full(vertical([Stop(0, jitter(rgb("3f8fe6"), rng)), Stop(0.62, jitter(rgb("cfe8fa"), rng))]))
    way = {"left": -1.0, "right": 1.0}[spec.direction]
    frames = t[:, :, 0]
    for _ in range(3):
        span = WIDTH + 60
        x = np.mod(rng.uniform(0, span) + way * rng.uniform(6, 9) * frames, span) - 30
        y = rng.uniform(9, 24)
        puffs = 5
        dx, dy = np.linspace(-13, 13, puffs), rng.uniform(-2.5, 1.5, puffs) - np.array([0, 2, 4, 2, 0])
        ones = np.ones((t.shape[0], puffs), dtype=np.float32)
        size = rng.uniform(3.6, 5.2, puffs) * ones
        body = np.clip(1.5 * blobs(x + dx * ones, y + dy * ones, size * 1.3, size, ones), 0, 1)
        shade = np.clip((Y - y) / 9, 0, 1) * np.ones_like(X)
        image = mix(image, mix(WHITE, rgb("c3d2e4"), shade), body**1.5)
    for base, light in ((44, "8cc26a"), (50, "6aab4c"), (58, "468a38")):
        ridge = base + rng.uniform(-2, 2) + 5 * Curve(rng, 80, 2)(X)
        depth = np.clip((Y - ridge) / 16, 0, 1)
        colour = mix(jitter(rgb(light), rng, 0.03), rgb("2f6a30"), depth * 0.6)
        image = mix(image, full(colour, t.shape[0]), inside(ridge - Y, 1.4) * np.ones_like(t))
    return image


def fireworks_clip(spec: Spec, rng: Rng, t: Array, phase: Array) -> Array:
    """Bursts of soft sparks in a night sky over a dark skyline."""
    image = full(vertical([Stop(0, jitter(rgb("060820"), rng, 0.02)), Stop(1, jitter(rgb("24204a"), rng, 0.02))]))
    tops = np.interp(X, np.arange(0, 130, 12), 58 - rng.uniform(0, 9, 11)).astype(np.float32)
    frames = t[:, :, 0]
    codes = {
        "red": "ff4030",
        "orange": "ff9a30",
        "yellow": "ffe060",
        "green": "50f070",
        "blue": "5090ff",
        "purple": "b060ff",
        "pink": "ff70c0",
        "white": "fff6e8",
    }
    arms = 8
    start = float(t[0, 0, 0])
    for slot in range(int(start / 1.1) - 2, int(start / 1.1) + 5):
        own = np.random.default_rng(abs(slot * 7919 + int(rng.bit_generator.state["state"]["state"] % 10**6)))
        age = frames - (slot * 1.1 + own.uniform(0, 0.4))
        colour = rgb(codes[spec.colour] if spec.colour else codes[list(codes)[own.integers(len(codes))]])
        cx, cy, reach = own.uniform(20, 92), own.uniform(14, 32), own.uniform(15, 20)
        angle = own.uniform(0, 6.3) + np.arange(arms) * 2 * np.pi / arms
        alive = np.clip(age / 0.1, 0, 1) * np.clip(1.7 - age, 0, 1)
        spread = reach * (1 - np.exp(-2.6 * np.clip(age, 0, None)))
        x = cx + np.cos(angle) * spread
        y = cy + np.sin(angle) * spread + 4 * np.clip(age, 0, None) ** 2
        size = np.full_like(x, 2.3)
        sparks = blobs(x, y, size, size, alive * np.ones_like(x))
        for trail in (0.72,):
            sparks += 0.5 * blobs(cx + (x - cx) * trail, cy + (y - cy) * trail, size, size, alive * np.ones_like(x))
        flash = glow(cx, cy, 12) * (np.exp(-4 * np.clip(age, 0, None)) * (age > 0))[:, :, None] * 0.5
        image = image + (np.clip(1.2 * sparks, 0, 1) + flash)[..., None].astype(np.float32) * colour
    return mix(np.clip(image, 0, 1), rgb("05060e"), inside(tops - Y, 2) * np.ones_like(t))


def stars_clip(spec: Spec, rng: Rng, t: Array, phase: Array) -> Array:
    """Stars that wander slowly above a lake and shimmer in it."""
    shore = 38.0
    image = full(vertical([Stop(0, jitter(rgb("040720"), rng, 0.02)), Stop(0.6, jitter(rgb("2c3f7c"), rng))]))
    frames = t[:, :, 0]
    count = 14
    x = np.mod(rng.uniform(0, 120, count) + 2.0 * frames, WIDTH + 8) - 4
    y = rng.uniform(2, 36, count) * np.ones_like(x)
    bright = rng.uniform(0.5, 1, count) * (
        0.75 + 0.25 * np.sin(frames * rng.uniform(1.5, 3, count) + rng.uniform(0, 6, count))
    )
    size = rng.uniform(1.5, 2.1, count) * np.ones_like(x)
    image = mix(image, rgb("fdf8e8"), np.clip(1.2 * blobs(x, y, size, size, bright), 0, 1))
    hills = 38 - 13 * Curve(rng, 70, 3, 0.4).peaked(X)
    image = mix(image, rgb("0b0f26"), inside(hills - Y, 1.4) * np.ones_like(t))
    below = np.clip((Y - shore) / 26, 0, 1)
    ripple = np.sin(2 * np.pi * (Y - shore) / 7 - 1.6 * t + 1.2 * Field(rng, 16, 2)(X, Y))
    lake = full(mix(rgb("1a2554"), rgb("070b26"), below * np.ones_like(X)), t.shape[0]) * (1 + 0.12 * ripple)[..., None]
    mirrored = np.clip(blobs(x + 0.6 * np.sin(2 * frames), 2 * shore - y + 1, size * 1.3, size * 1.7, bright), 0, 1)
    lake = mix(lake, rgb("cfd8ff"), mirrored * 0.6)
    return mix(image, lake, inside(shore - Y, 1.4) * np.ones_like(X) * np.ones_like(t))


SCENES: dict[str, Callable[[Spec, Rng, Array, Array], Array]] = {
    "sunset": sun_clip,
    "sunrise": sun_clip,
    "waves": waves_clip,
    "moonlit_waves": waves_clip,
    "snow": weather_clip,
    "rain": weather_clip,
    "clouds": clouds_clip,
    "fireworks": fireworks_clip,
    "stars": stars_clip,
}
