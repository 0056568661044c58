"""Text that files say of themselves."""

from __future__ import annotations

LONGEST = 300


def clean(value: object) -> str | None:
    """One line of printable text, None if there is none."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        return None
    line = "".join(character if character.isprintable() else " " for character in value[: 10 * LONGEST])
    return " ".join(line.split())[:LONGEST] or None
