"""Read colour, direction, shape and background off a clip by plain image processing. Nothing here was trained.

The background of a clip is taken to be the median of each row over time and width: a shape covers less than half of
any row. What differs from it clearly, as one connected piece, is the shape.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from models.tiny.training.data import attributes as attr
from models.tiny.training.data.canvas import X, Y, rgb, times
from models.tiny.training.data.shapes import COLOUR_CODES, distance

DIFFERENT = 24.0  # CIELAB distance from the background that counts as the shape
SMALLEST = 24  # pixels of the smallest piece that counts
# Linear sRGB to XYZ under D65 (IEC 61966-2-1), and the white it is measured against.
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE_POINT = TO_XYZ.sum(axis=1)

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def lab(image: NDArray) -> Floats:
    """sRGB in 0..1 (..., 3) to CIELAB, where equal distances look about equally large."""
    image = np.asarray(image, dtype=np.float64)
    linear = np.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4)
    xyz = linear @ TO_XYZ.T / WHITE_POINT
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack(
        [116 * root[..., 1] - 16, 500 * (root[..., 0] - root[..., 1]), 200 * (root[..., 1] - root[..., 2])], -1
    )


def largest_pieces(mask: Mask) -> Mask:
    """Keep the largest connected piece of every frame of (frames, height, width)."""
    frames, height, width = mask.shape
    labels = np.where(mask, np.arange(1, height * width + 1).reshape(1, height, width), 0)
    while True:
        padded = np.pad(labels, ((0, 0), (1, 1), (1, 1)))
        around = np.maximum.reduce(
            [
                padded[:, 1:-1, 1:-1],
                padded[:, :-2, 1:-1],
                padded[:, 2:, 1:-1],
                padded[:, 1:-1, :-2],
                padded[:, 1:-1, 2:],
            ]
        )
        spread = np.where(mask, around, 0)
        if np.array_equal(spread, labels):
            break
        labels = spread
    kept = np.zeros_like(mask)
    for frame in range(frames):
        names, counts = np.unique(labels[frame][labels[frame] > 0], return_counts=True)
        if len(names) and counts.max() >= SMALLEST:
            kept[frame] = labels[frame] == names[counts.argmax()]
    return kept


def segment(clip: Floats) -> tuple[Mask, Floats]:
    """The shape's mask (frames, height, width) and the clip's rows of background in CIELAB (height, 3)."""
    colours = lab(clip)
    rows = np.median(colours, axis=(0, 2))
    far = np.linalg.norm(colours - rows[None, :, None, :], axis=-1)
    return largest_pieces(far > DIFFERENT), rows


@cache
def _colour_table() -> Floats:
    return lab(np.stack([rgb(COLOUR_CODES[name]) for name in attr.COLOURS]))


def colour(clip: Floats, mask: Mask) -> str:
    """The taught colour nearest to the shape's median; lightness counts half, since shapes are shaded."""
    if mask.sum() < SMALLEST:
        return ""
    middle = np.median(lab(clip[mask]), axis=0)
    difference = (_colour_table() - middle) * np.array([0.5, 1, 1])
    return attr.COLOURS[int(np.linalg.norm(difference, axis=-1).argmin())]


def direction(mask: Mask) -> str:
    """Where the centroid goes, from the frames in which the shape does not touch the border where there are enough."""
    inner = ~(mask[:, 0].any(-1) | mask[:, -1].any(-1) | mask[:, :, 0].any(-1) | mask[:, :, -1].any(-1))
    seen = mask.any(axis=(1, 2))
    frames = np.flatnonzero(seen & inner) if (seen & inner).sum() >= 6 else np.flatnonzero(seen)
    if len(frames) < 4:
        return ""
    weight = mask[frames].sum(axis=(1, 2))
    x = (mask[frames] * X).sum(axis=(1, 2)) / weight
    y = (mask[frames] * Y).sum(axis=(1, 2)) / weight
    dx, dy = (float(np.median(values[-3:]) - np.median(values[:3])) for values in (x, y))
    if max(abs(dx), abs(dy)) < 3:
        return ""
    return ("right" if dx > 0 else "left") if abs(dx) > abs(dy) else ("down" if dy > 0 else "up")


def shape(mask: Mask) -> str:
    """The taught outline that overlaps the mask best (intersection over union), over a few frames and sizes."""
    inner = ~(mask[:, 0].any(-1) | mask[:, -1].any(-1) | mask[:, :, 0].any(-1) | mask[:, :, -1].any(-1))
    frames = np.flatnonzero(mask.any(axis=(1, 2)) & inner)
    if len(frames) == 0:
        frames = np.flatnonzero(mask.any(axis=(1, 2)))
    if len(frames) == 0:
        return ""
    score = dict.fromkeys(attr.SHAPES, 0.0)
    for frame in frames[np.linspace(0, len(frames) - 1, min(5, len(frames))).astype(int)]:
        seen = mask[frame]
        ys, xs = np.nonzero(seen)
        cx, cy = (xs.min() + xs.max() + 1) / 2, (ys.min() + ys.max() + 1) / 2
        reach = max(xs.max() - xs.min(), ys.max() - ys.min()) / 2 + 0.5
        for name in attr.SHAPES:
            best = 0.0
            for scale in (0.8, 0.87, 0.94, 1.0, 1.08, 1.16):
                for shift in (-0.1 * reach, 0.0, 0.1 * reach):
                    form = distance(name, X - cx, Y - cy - shift, reach * scale)[0] < 0.3
                    best = max(best, (form & seen).sum() / max((form | seen).sum(), 1))
            score[name] += best
    return max(score, key=score.__getitem__)


def _bands(rows: Floats) -> Floats:
    """Mean colour of eight bands of rows: (8, 3)."""
    return rows.reshape(8, -1, 3).mean(axis=1)


@cache
def _background_table() -> Floats:
    from models.tiny.training.data.backgrounds import background

    table = []
    for name in attr.BACKGROUNDS:
        drawn = [background(name, np.random.default_rng(seed), times(0.0)) for seed in range(6)]
        table.append(np.mean([_bands(np.median(lab(np.clip(one, 0, 1)), axis=(0, 2))) for one in drawn], axis=0))
    return np.stack(table)


def background(rows: Floats) -> str:
    """The taught background whose bands of colour are nearest."""
    return attr.BACKGROUNDS[int(np.linalg.norm(_background_table() - _bands(rows), axis=-1).mean(axis=-1).argmin())]


def read(clip: Floats) -> dict[str, str]:
    """All four attributes of a clip (frames, height, width, 3) in 0..1; an empty word where nothing can be said."""
    mask, rows = segment(clip)
    return {
        "colour": colour(clip, mask),
        "direction": direction(mask),
        "shape": shape(mask),
        "background": background(rows),
    }


def light_centre(clip: Floats) -> Floats:
    """Height (row) of the centre of the brightest warm light in every frame: where a sun is."""
    warm = clip[..., 0] + 0.7 * clip[..., 1]
    top = warm[:, :48]
    weight = np.clip(top - np.quantile(top, 0.97, axis=(1, 2), keepdims=True), 0, None) + 1e-6
    return (weight * Y[:, :48]).sum(axis=(1, 2)) / weight.sum(axis=(1, 2))
