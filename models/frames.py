"""From decoded tensors to the frames that are asked for."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_rgb(video: Tensor) -> NDArray[np.uint8]:
    """Decoded video in −1…1, shape (1, 3, n, height, width), as uint8 RGB, shape (n, height, width, 3).

    Rounds as `diffusers.image_processor.VaeImageProcessor` does for PIL output.
    """
    levels = video[0].float().mul(0.5).add(0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
    frames: NDArray[np.uint8] = levels.permute(1, 2, 3, 0).contiguous().cpu().numpy()
    return frames


def crop(frames: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """The centred `width` × `height` part of frames of shape (n, h, w, 3); the odd pixel of the rest is cut below."""
    top = (frames.shape[1] - height) // 2
    left = (frames.shape[2] - width) // 2
    return np.ascontiguousarray(frames[:, top : top + height, left : left + width])
