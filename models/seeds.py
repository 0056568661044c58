"""Where the noise of a window comes from."""

from __future__ import annotations

import numpy as np
import torch


def window_generator(seed: int, window: int) -> torch.Generator:
    """The CPU generator of window `window` (from 0) of a clip with `seed` (0 to 2**32 − 1).

    The first window uses the seed itself, so that stock diffusers with the same seed draws the same noise. Later ones
    use a hash: torch's CPU generator reads the low 32 bits of a seed only, so no window number fits in beside it.
    Noise is always drawn on the CPU: the same seed gives the same noise on every device.
    """
    if window:
        seed = int(np.random.SeedSequence((seed, window)).generate_state(1)[0])
    return torch.Generator(device="cpu").manual_seed(seed)
