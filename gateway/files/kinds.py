"""Decides by its content what a file is."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import PurePath

import puremagic

HEAD_BYTES = 8192
"""Of the file; enough for every signature, and for `word/` in the directory of most office documents."""


class FileType(StrEnum):
    """The document's four categories."""

    DOCUMENT = "document"
    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"


_D, _I, _V, _A = FileType
OPENXML = "application/vnd.openxmlformats-officedocument."
OPENDOCUMENT = "application/vnd.oasis.opendocument."

ACCEPTED: dict[str, tuple[FileType, ...]] = {
    "application/pdf": (_D,),
    "application/rtf": (_D,),
    "application/msword": (_D,),
    "application/vnd.ms-excel": (_D,),
    "application/vnd.ms-powerpoint": (_D,),
    f"{OPENXML}wordprocessingml.document": (_D,),
    f"{OPENXML}spreadsheetml.sheet": (_D,),
    f"{OPENXML}presentationml.presentation": (_D,),
    f"{OPENDOCUMENT}text": (_D,),
    f"{OPENDOCUMENT}spreadsheet": (_D,),
    f"{OPENDOCUMENT}presentation": (_D,),
    "application/epub+zip": (_D,),
    "application/json": (_D,),
    "application/xml": (_D,),
    "text/plain": (_D,),
    "text/csv": (_D,),
    "text/html": (_D,),
    "text/markdown": (_D,),
    "text/vtt": (_D,),
    "image/jpeg": (_I,),
    "image/png": (_I,),
    "image/gif": (_I,),
    "image/webp": (_I,),
    "image/avif": (_I,),
    "image/bmp": (_I,),
    "image/tiff": (_I,),
    "image/svg+xml": (_I, _D),
    "video/mp4": (_V, _A),
    "video/quicktime": (_V, _A),
    "video/3gpp": (_V, _A),
    "video/webm": (_V, _A),
    "video/x-matroska": (_V, _A),
    "video/x-msvideo": (_V,),
    "video/mpeg": (_V,),
    "video/ogg": (_V, _A),
    "audio/ogg": (_A,),
    "audio/mp4": (_A,),
    "audio/mpeg": (_A,),
    "audio/aac": (_A,),
    "audio/flac": (_A,),
    "audio/wav": (_A,),
    "audio/aiff": (_A,),
}
"""What may be uploaded, and as which categories; the first one where none is named. Containers hold either."""

INLINE = frozenset(
    media_type
    for media_type, types in ACCEPTED.items()
    if types[0] is not FileType.DOCUMENT and media_type != "image/svg+xml"
) | {"application/pdf", "text/plain", "text/csv", "text/vtt"}
"""What browsers show without running anything of it in the page's name."""

SYNONYMS = {
    "image/x-ms-bmp": "image/bmp",
    "video/avi": "video/x-msvideo",
    "video/dvd": "video/mpeg",
    "application/x-matroska": "video/x-matroska",
    "audio/wave": "audio/wav",
    "audio/x-wav": "audio/wav",
    "audio/x-aiff": "audio/aiff",
    "audio/x-flac": "audio/flac",
}
"""Other names in use, as `puremagic` has them."""

ZIPPED = {
    ".docx": f"{OPENXML}wordprocessingml.document",
    ".xlsx": f"{OPENXML}spreadsheetml.sheet",
    ".pptx": f"{OPENXML}presentationml.presentation",
}
OLD_OFFICE = {
    ".doc": "application/msword",
    ".xls": "application/vnd.ms-excel",
    ".ppt": "application/vnd.ms-powerpoint",
}
TEXTS = {
    ".csv": "text/csv",
    ".md": "text/markdown",
    ".json": "application/json",
    ".xml": "application/xml",
    ".vtt": "text/vtt",
    ".html": "text/html",
    ".htm": "text/html",
}
"""What text is by its name alone; no name makes text something that is shown and run."""

BINARY = bytes({*range(0x20), 0x7F} - {*b"\t\n\f\r\x1b"})
"""Bytes that no text has, by the rules browsers sniff with (WHATWG, MIME Sniffing)."""
MARKUP = re.compile(
    rb"(?>\xef\xbb\xbf|\s+|<!--.*?-->|<\?.*?\?>|<!doctype(?!\s+html\b)[^>\[]*(?:\[.*?\]\s*)?>)*"
    rb"<(?:(?P<svg>svg)|html|!doctype\s+html|script)\b",
    re.DOTALL | re.IGNORECASE,
)
"""What begins with one of these, behind what may precede it; atomic, so that no comment is read past its end."""


def detect(head: bytes, filename: str) -> str | None:
    """The media type of a file, None if it is none that may be uploaded.

    Args:
        head: the first `HEAD_BYTES` bytes, or all.
        filename: chooses among types that share a signature; it never makes something of what is something else.
    """
    suffix = PurePath(filename).suffix.lower()
    if head.startswith(b"%PDF-"):
        return "application/pdf"
    if head.startswith(b"{\\rtf"):
        return "application/rtf"
    if not head.strip(b"\t\n\f\r ") or not set(head) & set(BINARY) or head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _text(head, suffix)
    if head.startswith(b"PK\x03\x04"):
        return _zipped(head, suffix)
    if head.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        return OLD_OFFICE.get(suffix)
    if head.startswith(b"OggS"):
        return "video/ogg" if b"theora" in head else "audio/ogg"
    if head[4:11] in (b"ftypM4A", b"ftypM4B"):
        return "audio/mp4"
    return _by_signature(head)


def _by_signature(head: bytes) -> str | None:
    try:
        guesses = puremagic.magic_string(head)
    except (puremagic.PureError, ValueError):  # nothing known
        return None
    named = (SYNONYMS.get(guess.mime_type, guess.mime_type) for guess in guesses)
    return next((name for name in named if name in ACCEPTED and not name.startswith(("text/", "application/"))), None)


def _text(head: bytes, suffix: str) -> str:
    """What begins as markup is markup, whatever its name: browsers would run it. As plain text they run nothing."""
    if (markup := MARKUP.match(head)) is not None:
        return "image/svg+xml" if markup["svg"] else "text/html"
    return TEXTS.get(suffix, "text/plain")


def _zipped(head: bytes, suffix: str) -> str | None:
    """OpenDocument and EPUB say what they are in their first entry; the three of Office differ by name alone."""
    if head[30:38] == b"mimetype":
        named = head[38:118].decode("ascii", "replace")
        return next((one for one in sorted(ACCEPTED, key=len, reverse=True) if named.startswith(one)), None)
    return ZIPPED.get(suffix) if b"[Content_Types].xml" in head else None
