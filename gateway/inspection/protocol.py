"""What the child and the gateway agree on. Imported by the child: nothing but the standard library."""

from __future__ import annotations

import struct

REQUEST = struct.Struct("!QQ")
"""What the child sends to read: start and length, in bytes; it gets as many bytes back."""
MAX_PIECE = 1 << 20
SIZES = {"small": 320, "medium": 640, "large": 1280}
"""Widths of thumbnails in pixels, as of the posters."""
