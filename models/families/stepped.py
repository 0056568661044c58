"""Families whose denoising loop is left to diffusers: it is watched, and stopped, through the pipeline's own interrupt.

Every loop of diffusers asks `self.interrupt` before each step. `Stepped`, mixed into a pipeline class, answers no and
uses the moment to tell how many steps are done; the listener may raise, which ends the loop at once. The steps
themselves are those of the plain pipeline, so the result is too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from config.catalogue import ModelEntry
from models.contract import ClipSpec
from models.denoise import OnStep
from models.errors import UnsupportedShape
from models.families.base import latent_frames
from models.seeds import window_generator


class Stepped:
    """Mixed in before a pipeline class whose `__call__` is then run by `run`."""

    _on_step: OnStep | None = None
    _done = -1

    @property
    def interrupt(self) -> bool:
        """Always False; tells the listener on the way."""
        self._done += 1
        if self._on_step and self._done:
            self._on_step(self._done)
        return False

    @torch.inference_mode()
    def run(self, spec: ClipSpec, on_step: OnStep, **arguments: Any) -> Any:  # noqa: ANN401 - diffusers has no types
        """Denoise without decoding; gives what the pipeline returns for `output_type="latent"`, as a tuple."""
        self._on_step, self._done = on_step, -1
        try:
            output = self(  # type: ignore[operator]  # the pipeline class this is mixed into
                num_inference_steps=spec.steps,
                generator=window_generator(spec.seed, 0),
                output_type="latent",
                return_dict=False,
                **arguments,
            )
        finally:
            self._on_step = None
        on_step(spec.steps)
        return output


def native_frames(entry: ModelEntry, frames: int) -> int:
    """The next count of frames the model can draw in one window.

    Raises:
        UnsupportedShape: it is more than the model's native length.
    """
    if frames > entry.frames:
        raise UnsupportedShape(
            f"{entry.name} draws at most {entry.frames} frames, not {frames}.",
            remedy="Ask for a shorter clip or another model.",
        )
    return 1 + entry.frame_step * (latent_frames(entry, frames) - 1)


def in_pieces(video: Tensor, frames: int = 8) -> Iterator[Tensor]:
    """A decoded clip (1, 3, n, height, width) in pieces of `frames`, so that its uint8 copy is never whole."""
    yield from torch.split(video, frames, dim=2)
