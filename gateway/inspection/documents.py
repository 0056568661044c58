"""Documents: PDF, office files, text."""

from __future__ import annotations

import codecs
import io
import re
import zipfile
from typing import Any
from xml.etree import ElementTree

import pypdfium2
from PIL import Image

from gateway.inspection.protocol import SIZES
from gateway.inspection.wording import clean

PDF_FIELDS = {"title": "Title", "author": "Author", "subject": "Subject", "keywords": "Keywords", "creator": "Creator"}
PDF_DATES = {"creation_date": "CreationDate", "modification_date": "ModDate"}
PDF_DATE = re.compile(r"D:(\d{4})(\d\d)?(\d\d)?")
TALLEST = 4
"""A page is drawn at most so many times as high as it is wide."""

CORE = {
    "title": "{http://purl.org/dc/elements/1.1/}title",
    "author": "{http://purl.org/dc/elements/1.1/}creator",
    "subject": "{http://purl.org/dc/elements/1.1/}subject",
    "language": "{http://purl.org/dc/elements/1.1/}language",
    "creation_date": "{http://purl.org/dc/terms/}created",
    "modification_date": "{http://purl.org/dc/terms/}modified",
}
"""Dublin Core, as Office's `docProps/core.xml` and OpenDocument's `meta.xml` use it."""
DESCRIBED_IN = ("docProps/core.xml", "meta.xml")
MAX_XML = 1 << 20
MAX_TEXT = 32 << 20
"""Of a longer text only this much is read."""


def preload() -> None:
    """Load what the libraries would load when they need it."""
    blank, written = pypdfium2.PdfDocument.new(), io.BytesIO()
    blank.new_page(72, 72)
    blank.save(written)
    pdf(io.BufferedReader(written), "application/pdf")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(DESCRIBED_IN[0], "<core/>")
    office(io.BufferedReader(packed), "")


def pdf(file: io.BufferedReader, media_type: str) -> tuple[dict[str, Any], Image.Image | None]:
    """Pages, what it says of itself, and the first page drawn. Raises `PdfiumError` for what is no PDF."""
    document = pypdfium2.PdfDocument(file)
    told = document.get_metadata_dict(skip_empty=True)
    details: dict[str, Any] = {"pages": len(document)}
    details |= {name: text for name, key in PDF_FIELDS.items() if (text := clean(told.get(key)))}
    dates = {name: PDF_DATE.match(told.get(key, "")) for name, key in PDF_DATES.items()}
    details |= {
        name: "-".join(part for part in match.groups() if part) for name, match in dates.items() if match is not None
    }
    return details, _first_page(document)


def _first_page(document: pypdfium2.PdfDocument) -> Image.Image | None:
    try:
        page = document[0]
        widest = max(SIZES.values())
        scale = min(widest / page.get_width(), TALLEST * widest / page.get_height())
        drawn: Image.Image = page.render(scale=scale).to_pil()
        return drawn.convert("RGB")
    except (pypdfium2.PdfiumError, ValueError, ZeroDivisionError, MemoryError):
        return None  # a document without pages, or whose first page cannot be drawn


def office(file: io.BufferedReader, media_type: str) -> tuple[dict[str, Any], None]:
    """What an office document of this century says of itself; older ones say nothing here."""
    if not zipfile.is_zipfile(file):
        return {}, None
    with zipfile.ZipFile(file) as archive:
        names = set(archive.namelist())
        for name in DESCRIBED_IN:
            if name in names:
                with archive.open(name) as described:
                    return _core(described.read(MAX_XML)), None
    return {}, None


def _core(xml: bytes) -> dict[str, Any]:
    root = ElementTree.fromstring(xml)  # noqa: S314 - memory and time of this process are limited
    found = {name: next(root.iter(tag), None) for name, tag in CORE.items()}
    texts = {name: clean(element.text) for name, element in found.items() if element is not None}
    return {name: text[:10] if name.endswith("_date") else text for name, text in texts.items() if text}


def text(file: io.BufferedReader, media_type: str) -> tuple[dict[str, Any], None]:
    """How long a text is, None of one that is too long to be counted."""
    data = file.read(MAX_TEXT + 1)
    whole = len(data) <= MAX_TEXT
    try:
        decoded = codecs.getincrementaldecoder("utf-8")().decode(data, final=whole)
    except UnicodeDecodeError:
        return {"lines": len(data.splitlines()) if whole else None, "encoding": None}, None
    lines, words = (len(decoded.splitlines()), len(decoded.split())) if whole else (None, None)
    return {"lines": lines, "words": words, "encoding": "utf-8"}, None
