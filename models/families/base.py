"""What the rest of `models/` needs of a family of pipelines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from config.catalogue import ModelEntry, Size
from models.contract import Chunk, ClipSpec, Understood
from models.denoise import OnStep


@dataclass(frozen=True)
class Latents:
    """Denoised latents of one window, on the CPU, as the family's own decoder takes them.

    Attributes:
        video: the new latent frames of this window.
        audio: of families that draw sound.
    """

    video: Tensor
    audio: Tensor | None = None


class Clip(Protocol):
    """One clip being drawn. `encode` and `denoise` are called window by window in one thread, `decode` in another."""

    @property
    def windows(self) -> int:
        """How many times `denoise` is called."""

    def encode(self, window: int) -> Any:  # noqa: ANN401 - each family has its own embeddings
        """Text embeddings for this window."""

    def denoise(
        self,
        window: int,
        conditions: Any,  # noqa: ANN401
        on_step: OnStep,
        previous: Latents | None = None,
        resume: dict[str, Any] | None = None,
    ) -> Latents:
        """Draw window `window`.

        Args:
            previous: the window before, which this one may continue; None for the first.
            resume: what `on_step` saved of this window; the steps before it are not repeated.
        """

    def decode(self, latents: Latents) -> Iterator[Chunk]:
        """Decode the next window in small uncropped chunks; the latents of all windows come in order."""


class Family(Protocol):
    """A loaded pipeline behind the operations all families share."""

    @property
    def audio_sample_rate(self) -> int | None:
        """Hz, None for silent families."""

    def understand(self, prompt: str) -> Understood:
        """See `VideoModel.understand`."""

    def clip(self, spec: ClipSpec, size: Size) -> Clip:
        """Start a clip of `spec.frames` frames, drawn at `size.width` × `size.height`.

        Raises:
            UnsupportedShape: the family cannot draw so many frames.
        """


def latent_frames(entry: ModelEntry, frames: int) -> int:
    """Latent frames that decode to at least `frames` frames: the first gives one, the others `frame_step` each."""
    return 1 + -(-(frames - 1) // entry.frame_step)


def read_by(tokenizer: Any, prompt: str, most: int) -> Understood:  # noqa: ANN401 - transformers' are of no one type
    """All of a prompt, or the beginning that fits in `most` tokens: the pipelines cut off the rest."""
    read = tokenizer(prompt, truncation=True, max_length=most, return_offsets_mapping=True)
    if len(read["input_ids"]) < most:
        return Understood(complete=True, text=prompt)
    end = max(stop for _, stop in read["offset_mapping"])
    left_out = tuple(prompt[end:].split())
    return Understood(complete=not left_out, text=prompt[:end], ignored=left_out)
