"""Which names files may have, and how they are written into headers."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote

MAX_NAME_BYTES = 255
"""Longest name of a file on common systems."""
MAX_PATH, MAX_DEPTH = 255, 10
MAX_DESCRIPTION = 2000

REFUSED = frozenset({"Cc", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories: control characters, halves of surrogate pairs, unassigned, line and paragraph separators."""
BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")
"""Turn the direction of text, so that a name shows another extension than it has."""
PLAIN = re.compile(r"[A-Za-z0-9 !#$&+^_`{}~()\[\]@,.;='-]+")
"""What every client reads alike within quotes."""


def problem(name: str) -> str | None:
    """What is wrong with the name of a file or folder, None if nothing is."""
    if not name or name in (".", ".."):
        return "Must be a file name"
    if "/" in name or "\\" in name:
        return "Must not contain slashes or backslashes"
    if any(unicodedata.category(character) in REFUSED or character in BIDI for character in name):
        return "Must be UTF-8 without control characters"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"Must be at most {MAX_NAME_BYTES} bytes of UTF-8"
    return None


def path_problem(path: str) -> str | None:
    """What is wrong with a subdirectory such as "uploads/2024", None if nothing is."""
    parts = path.split("/")
    if len(path) > MAX_PATH or len(parts) > MAX_DEPTH:
        return f"Must be at most {MAX_PATH} characters and {MAX_DEPTH} folders deep"
    if any(part in ("", ".", "..") for part in parts):
        return 'Must be a relative path without empty parts, "." or ".."'
    return next((found for part in parts if (found := problem(part))), None)


def description_problem(text: str) -> str | None:
    """What is wrong with a description, None if nothing is."""
    if len(text) > MAX_DESCRIPTION:
        return f"Must be at most {MAX_DESCRIPTION} characters"
    if any(unicodedata.category(character) in {"Cc", "Cs"} and character not in "\t\n\r" for character in text):
        return "Must not contain control characters"
    return None


def disposition(filename: str, *, inline: bool) -> str:
    """The Content-Disposition header (RFC 6266); names that are not plain ASCII also as RFC 8187 encodes them."""
    kind = "inline" if inline else "attachment"
    if PLAIN.fullmatch(filename):
        return f'{kind}; filename="{filename}"'
    fallback = "".join(character if PLAIN.fullmatch(character) else "_" for character in filename)
    return f"{kind}; filename=\"{fallback}\"; filename*=UTF-8''{quote(filename, safe='')}"
