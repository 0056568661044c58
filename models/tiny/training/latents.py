"""Caches of encoded stills and clips; a process of its own fills the second while the denoiser trains.

A clip of 25 frames is encoded in one causal pass: seven latents, of which the first stands for one frame and the
others for four. Five consecutive ones make a training window. A still is the first latent of a clip, alone: as the
encoder is causal it is the same latent, for a seventeenth of the work.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from models.tiny.architecture import FPS
from models.tiny.phases import WINDOW_LATENTS
from models.tiny.training import full_sequence, precision
from models.tiny.training.data.attributes import Spec
from models.tiny.training.data.clips import clip
from models.tiny.training.vae import to_tensor

CLIP_FRAMES = 25
CHUNK = 50  # clips per file of the cache
LATENT_SEED = 200_000_000  # other clips than the autoencoder saw
STILL_SEED = 250_000_000
WEIGHTS = {"shape": 4.0, "clouds": 16.0}  # of kinds of which much is to be told apart: forms, and two ways to go


@dataclass(frozen=True, slots=True)
class Entry:
    """One encoded clip: latents (32, 7, 4, 7) as half floats, not normalised, and what it shows."""

    spec: Spec
    phase: float
    cycle_s: float
    usual: bool
    latents: Tensor

    @property
    def weight(self) -> float:
        """How often it is trained on: more where the subject is well in view and most is to be told apart."""
        return WEIGHTS[self.spec.kind] if self.usual and self.spec.kind in WEIGHTS else 1.0

    def phase_at(self, latent: int) -> float:
        """Phase of the first frame that latent number `latent` stands for; what repeats starts again at one."""
        frame = max(0, 4 * latent - 3)
        phase = self.phase + frame / FPS / self.cycle_s
        return min(phase, 1.0) if self.spec.kind in ("sunset", "sunrise") else phase % 1.0


@torch.no_grad()
def encode(vae: AutoencoderKLWan, seed: int, frames: int = CLIP_FRAMES) -> Entry:
    """Draw and encode the clip of a seed; `vae` runs over whole sequences."""
    drawn = clip(seed, frames=frames)
    with precision.autocast():
        mean, _ = full_sequence.encode(vae, to_tensor(drawn.frames)[None])
    return Entry(drawn.spec, drawn.phase, drawn.cycle_s, drawn.usual, mean[0].half().contiguous())


class Cache:
    """Encoded clips on disk and in memory. One process calls `grow`, others `refresh` to see what it added."""

    def __init__(self, folder: Path, first_seed: int = LATENT_SEED, frames: int = CLIP_FRAMES) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.first_seed, self.frames = folder, first_seed, frames
        self.entries: list[Entry] = []
        self.files: set[Path] = set()
        self.refresh()

    def refresh(self) -> None:
        """Read the files that are new since the last time."""
        for path in sorted(set(self.folder.glob("*.pt")) - self.files):
            self.entries += torch.load(path, weights_only=False)
            self.files.add(path)
        weights = np.array([entry.weight for entry in self.entries])
        self.chances = weights / weights.sum() if len(weights) else weights

    def grow(self, vae: AutoencoderKLWan, most: int) -> None:
        """Encode clips until there are `most`, a file at a time; `vae` runs over whole sequences."""
        while len(self.entries) < most:
            first = len(self.entries)
            fresh = [encode(vae, self.first_seed + first + index, self.frames) for index in range(CHUNK)]
            part = self.folder / f"{first:06d}.part"
            torch.save(fresh, part)
            part.replace(part.with_suffix(".pt"))
            self.refresh()

    def pick(self, count: int, rng: np.random.Generator) -> list[Entry]:
        """Draw entries by their weights."""
        return [self.entries[index] for index in rng.choice(len(self.entries), size=count, p=self.chances)]

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
        start = int(rng.integers(1, entry.latents.shape[1] - WINDOW_LATENTS + 1))
        return start, (entry.phase_at(start) if rng.random() < 0.7 else None)
    named = not entry.usual or rng.random() < (0.6 if entry.spec.kind in ("sunset", "sunrise") else 0.15)
    return 0, (entry.phase if named else None)
