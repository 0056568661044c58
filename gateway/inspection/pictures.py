"""Pictures: what they say of themselves, and thumbnails."""

from __future__ import annotations

import io
from typing import Any

from PIL import ExifTags, Image, ImageOps

from gateway.inspection.protocol import SIZES
from gateway.inspection.wording import clean

MAX_PIXELS = 64_000_000
"""More is no photograph but a bomb, or at least nothing to be opened for a thumbnail."""
QUALITY = 85
"""Of JPEG: no visible blocks at the size it is shown."""
TALLEST = 4
"""A thumbnail is at most so many times as high as it is wide."""

FORMATS = {
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    "image/gif": "GIF",
    "image/webp": "WEBP",
    "image/avif": "AVIF",
    "image/bmp": "BMP",
    "image/tiff": "TIFF",
}
TAGS = {"camera_make": ExifTags.Base.Make, "camera": ExifTags.Base.Model, "taken_at": ExifTags.Base.DateTime}


def preload() -> None:
    """Import what Pillow would import when it is needed."""
    Image.init()
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    picture = Image.new("RGBA", (8, 8)).convert("RGB")
    for name in FORMATS.values():
        written = io.BytesIO()
        picture.save(written, name)
        Image.open(written, formats=[name]).load()
    thumbnails(picture)


def picture(file: io.BufferedReader, media_type: str) -> tuple[dict[str, Any], Image.Image | None]:
    """A picture of exactly that type; without it if there is not the memory to show it.

    Raises:
        whatever Pillow does with a picture that is none, or is too large.
    """
    image = Image.open(file, formats=[FORMATS[media_type]])
    if image.width * image.height > MAX_PIXELS:
        raise ValueError("too many pixels")
    details: dict[str, Any] = {"width": image.width, "height": image.height, "format": FORMATS[media_type].lower()}
    details["animated"] = bool(getattr(image, "is_animated", False))
    found = image.getexif()
    details |= {name: text for name, tag in TAGS.items() if (text := clean(found.get(tag)))}
    image.draft("RGB", (max(SIZES.values()), max(SIZES.values())))  # JPEG: decode no more than is needed
    try:
        ImageOps.exif_transpose(image, in_place=True)
        return details, _flat(image)
    except MemoryError:
        return details, None


def thumbnails(image: Image.Image) -> dict[str, bytes]:
    """JPEGs in the widths of `SIZES`, or as wide as the picture if it is smaller."""
    return {name: _jpeg(_within(image, width)) for name, width in SIZES.items()}


def _flat(image: Image.Image) -> Image.Image:
    """RGB, as large as the largest thumbnail; what is transparent becomes white."""
    opaque = image.mode in ("RGB", "L", "CMYK", "YCbCr")
    shrunk = _within(image if opaque else image.convert("RGBA"), max(SIZES.values()))
    if opaque:
        return shrunk.convert("RGB")
    ground = Image.new("RGBA", shrunk.size, "white")
    ground.alpha_composite(shrunk)
    return ground.convert("RGB")


def _within(image: Image.Image, width: int) -> Image.Image:
    scale = min(width / image.width, TALLEST * width / image.height, 1.0)
    size = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _jpeg(image: Image.Image) -> bytes:
    written = io.BytesIO()
    image.save(written, "JPEG", quality=QUALITY, optimize=True)
    return written.getvalue()
