"""The whole training from nothing, resumable at every point: autoencoder, latents, denoiser, exported weights."""

import argparse
import logging
from pathlib import Path

import torch

from models.tiny import architecture
from models.tiny.training import export, state, vae
from models.tiny.training.denoiser import Model, Trainer
from models.tiny.training.latents import Cache

FIRST_CLIPS = 1000  # encoded before the denoiser starts; the cache then grows as it trains


def statistics(weights: dict[str, torch.Tensor]) -> tuple[Cache, list[float], list[float]]:
    """The latent cache with its first clips, and the mean and deviation of each channel, measured once."""
    folder = state.folder()
    cache = Cache(folder / "latents", export.plain_vae(weights, [], []))
    cache.grow(max(0, FIRST_CLIPS - len(cache.entries)))
    path = folder / "statistics.pt"
    saved = state.load(path)
    if saved is None:
        mean, std = cache.statistics()
        saved = {"mean": mean, "std": std}
        state.save(path, saved)
    return cache, saved["mean"], saved["std"]


def random_pipeline() -> None:
    """Export an untrained pipeline of the right shape, so that others can load one before training ends."""
    model = Model()
    export.export(architecture.new_vae(), model.denoiser, model.text_encoder)


def main(arguments: list[str] | None = None) -> Path:
    """Train both parts, each for its minutes of wall clock in all, and export the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae-minutes", type=float, default=90, help="wall clock for the autoencoder (default 90)")
    parser.add_argument("--minutes", type=float, default=360, help="wall clock for the denoiser (default 360)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--export-every-s", type=float, default=480, help="seconds between exports to the training folder"
    )
    parser.add_argument("--random", action="store_true", help="only export an untrained pipeline")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.random:
        random_pipeline()
        return export.WEIGHTS
    saved = state.load(vae.train(options.vae_minutes)) or {}
    cache, mean, std = statistics(saved["average"])
    trainer = Trainer(cache, export.plain_vae(saved["average"], mean, std))
    trainer.train(options.minutes, options.export_every_s)
    trainer.export(export.WEIGHTS)
    return export.WEIGHTS
