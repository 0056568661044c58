"""Which frame stands for a clip.

The frame with the highest RMS contrast wins: the standard deviation of its luma over the whole picture (Peli, "Contrast
in complex images", J. Opt. Soc. Am. A 7, 1990). A black or evenly coloured frame has none. Fading to or from black or
white multiplies every deviation by the same factor below 1, and a cross-fade averages two pictures, so a frame in
mid-fade loses to the same scene unfaded. Among frames of about equal contrast the one nearest the middle wins: there a
clip has shown what it is about.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CENTRE_WEIGHT = 0.1
"""How much of its score a frame at either end loses: enough to order frames that look alike, too little to prefer a
faded frame in the middle."""


def score(luma: NDArray[np.uint8], position: float) -> float:
    """How well a frame stands for its clip; higher is better.

    Args:
        luma: of a small version of the frame, shape (height, width).
        position: in the clip, 0 to 1.
    """
    return float(luma.std()) * (1 - CENTRE_WEIGHT * abs(2 * position - 1))
