"""A cache of encoded clips that grows while the denoiser trains.

Each entry is a clip of 33 frames encoded in one causal pass: nine latents, of which the first stands for one frame
and the others for four. Five consecutive ones make a training window.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from models.tiny.architecture import FPS
from models.tiny.training import full_sequence
from models.tiny.training.data.attributes import Spec
from models.tiny.training.data.clips import clip
from models.tiny.training.vae import to_tensor

CLIP_FRAMES = 33
CHUNK = 50  # clips per file of the cache
LATENT_SEED = 200_000_000  # other clips than the autoencoder saw


@dataclass(frozen=True, slots=True)
class Entry:
    """One encoded clip: latents (32, 9, 4, 7) as half floats, not normalised, and what it shows."""

    spec: Spec
    phase: float
    cycle_s: float
    usual: bool
    latents: Tensor

    def phase_at(self, latent: int) -> float:
        """Phase of the first frame that latent number `latent` stands for; what repeats starts again at one."""
        frame = max(0, 4 * latent - 3)
        phase = self.phase + frame / FPS / self.cycle_s
        return min(phase, 1.0) if self.spec.kind in ("sunset", "sunrise") else phase % 1.0


@torch.no_grad()
def encode_one(vae: AutoencoderKLWan, seed: int) -> Entry:
    """Draw and encode the clip of a seed; `vae` runs over whole sequences."""
    drawn = clip(seed, frames=CLIP_FRAMES)
    with torch.autocast("cpu", torch.bfloat16):
        mean, _ = full_sequence.encode(vae, to_tensor(drawn.frames)[None])
    return Entry(drawn.spec, drawn.phase, drawn.cycle_s, drawn.usual, mean[0].half().contiguous())


class Cache:
    """Encoded clips on disk and in memory; `grow` adds more, the seeds go on counting."""

    def __init__(self, folder: Path, vae: AutoencoderKLWan) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.vae = full_sequence.as_full_sequence(vae.eval())
        self.entries: list[Entry] = []
        for path in sorted(folder.glob("*.pt")):
            self.entries += torch.load(path, weights_only=False)
        self.fresh: list[Entry] = []

    def grow(self, count: int) -> None:
        """Encode `count` more clips; full chunks are kept on disk."""
        for _ in range(count):
            entry = encode_one(self.vae, LATENT_SEED + len(self.entries))
            self.entries.append(entry)
            self.fresh.append(entry)
            if len(self.fresh) == CHUNK:
                first = len(self.entries) - CHUNK
                part = self.folder / f"{first:06d}.part"
                torch.save(self.fresh, part)
                part.replace(part.with_suffix(".pt"))
                self.fresh = []

    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of every latent channel over the cache."""
        every = torch.stack([entry.latents for entry in self.entries[:1000]]).float()
        return every.mean(dim=(0, 2, 3, 4)).tolist(), every.std(dim=(0, 2, 3, 4)).tolist()


def normalised(latents: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """What the denoiser sees: (latents - mean) / std for each channel of (batch, channels, time, height, width)."""
    shape = (1, -1, 1, 1, 1)
    return (latents.float() - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)


def choose(entry: Entry, rng: np.random.Generator, prefix: bool) -> tuple[int, float | None]:
    """Which latent a window starts at, and the phase its caption names, if it names one."""
    if prefix:
        start = int(rng.integers(1, 5))
        return start, (entry.phase_at(start) if rng.random() < 0.7 else None)
    named = not entry.usual or rng.random() < 0.25
    return 0, (entry.phase if named else None)
