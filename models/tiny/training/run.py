"""The whole training from nothing, resumable at every point: autoencoder, latents, denoiser, exported weights."""

import argparse
import logging
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.multiprocessing as mp
from diffusers import AutoencoderKLWan

from models.tiny import architecture
from models.tiny.training import export, full_sequence, state, together
from models.tiny.training import vae as autoencoder
from models.tiny.training.denoiser import Model, Trainer
from models.tiny.training.latents import STILL_SEED, Cache
from models.tiny.training.restore import restore

FIRST_STILLS = 1000  # encoded before the denoiser starts
FIRST_CLIPS = 300  # whose latents are measured
STILLS = 8000
CLIPS = 6000


def frozen() -> AutoencoderKLWan:
    """The trained autoencoder, running over whole sequences."""
    saved = state.load(autoencoder.checkpoint()) or {}
    return full_sequence.as_full_sequence(export.plain_vae(saved["average"], [], []))


def caches() -> tuple[Cache, Cache]:
    """The encoded stills and clips there are."""
    folder = state.folder()
    return Cache(folder / "stills", STILL_SEED, 1), Cache(folder / "latents")


def measure_latents(clips: Cache) -> None:
    """Write the mean and deviation of each channel."""
    mean, std = clips.statistics()
    state.save(state.folder() / "statistics.pt", {"mean": mean, "std": std})


def fill(most_stills: int, most_clips: int) -> None:
    """A process that encodes stills, then clips, while others train."""
    torch.set_num_threads(1)
    vae, (stills, clips) = frozen(), caches()
    stills.grow(vae, most_stills)
    clips.grow(vae, most_clips)


def improve_autoencoder(rank: int, options: argparse.Namespace, meeting: str) -> None:
    """One of the processes that train the autoencoder."""
    meet(rank, options, meeting)
    autoencoder.Trainer(rank, options.compile).train(options.vae_minutes)


def improve_denoiser(rank: int, options: argparse.Namespace, meeting: str) -> None:
    """One of the processes that train the denoiser."""
    meet(rank, options, meeting)
    Trainer(*caches(), options.stills_minutes, rank, options.compile).train(options.minutes)


def meet(rank: int, options: argparse.Namespace, meeting: str) -> None:
    """Join the other processes, each on a core of its own."""
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    together.join(rank, options.workers, meeting)


def side_by_side(work: Callable[[int, argparse.Namespace, str], None], options: argparse.Namespace) -> None:
    """Run `work` in as many processes as there are workers, to their end; a SIGTERM is passed on to them.

    Raises:
        SystemExit: one of them failed.
    """
    start = mp.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meeting")
        workers = [start.Process(target=work, args=(rank, options, meeting)) for rank in range(options.workers)]
        for worker in workers:
            worker.start()
        signal.signal(signal.SIGTERM, lambda *_: [worker.terminate() for worker in workers])
        for worker in workers:
            worker.join()
    if any(worker.exitcode not in (0, -signal.SIGTERM) for worker in workers):
        raise SystemExit("a training process failed; its last checkpoint is kept")


def train_autoencoder(options: argparse.Namespace) -> None:
    """Train it up to its minutes; what was encoded by the one before is encoded anew.

    Raises:
        SystemExit: it was stopped before.
    """
    if trained_minutes() >= options.vae_minutes:
        return
    for old in ("stills", "latents"):
        shutil.rmtree(state.folder() / old, ignore_errors=True)
    (state.folder() / "statistics.pt").unlink(missing_ok=True)
    side_by_side(improve_autoencoder, options)
    if trained_minutes() < options.vae_minutes:
        raise SystemExit("stopped while the autoencoder was trained; start again to go on")


def trained_minutes() -> float:
    """Wall clock that the autoencoder was trained for."""
    saved = state.load(autoencoder.checkpoint())
    return 0.0 if saved is None else float(saved["spent_s"]) / 60


def train_denoiser(options: argparse.Namespace) -> None:
    """Encode what is missing and train, while one more process encodes clips."""
    vae, (stills, clips) = frozen(), caches()
    stills.grow(vae, min(FIRST_STILLS, options.stills))
    if not (state.folder() / "statistics.pt").exists():
        clips.grow(vae, FIRST_CLIPS)
        measure_latents(clips)
    filler = mp.get_context("spawn").Process(target=fill, args=(options.stills, options.clips), daemon=True)
    filler.start()
    side_by_side(improve_denoiser, options)
    filler.terminate()


def export_best(target: Path = export.WEIGHTS) -> None:
    """Write the averaged weights of the last checkpoint as a pipeline."""
    folder = state.folder()
    saved, found = state.load(folder / "denoiser.pt"), state.load(folder / "statistics.pt")
    if saved is None or found is None:
        raise SystemExit(f"nothing to export: {folder} has no checkpoint of the denoiser yet")
    model = Model()
    model.load_state_dict(saved["average"])
    encoder = state.load(autoencoder.checkpoint()) or {}
    vae = export.plain_vae(encoder["average"], found["mean"], found["std"])
    trained = export.Trained(encoder["step"], encoder["spent_s"], saved["step"], saved["spent_s"])
    export.export(vae, model.denoiser, model.text_encoder, trained, target)


def random_pipeline() -> None:
    """Export an untrained pipeline of the right shape, so that others can load one before training ends."""
    model = Model()
    export.export(architecture.new_vae(), model.denoiser, model.text_encoder, export.Trained())


def main(arguments: list[str] | None = None) -> Path:
    """Train both parts, each for its minutes of wall clock in all, and export the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--vae-minutes", type=float, default=240, help="wall clock for the autoencoder in all (default 240)"
    )
    parser.add_argument("--minutes", type=float, default=230, help="wall clock for the denoiser in all (default 230)")
    parser.add_argument("--stills-minutes", type=float, default=45, help="of those, the first on stills (default 45)")
    parser.add_argument("--clips", type=int, default=CLIPS, help=f"clips to encode (default {CLIPS})")
    parser.add_argument("--workers", type=int, default=2, help="processes that train, one core each (default 2)")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="needs a C++ compiler")
    parser.add_argument("--export", type=Path, default=export.WEIGHTS, help="where the weights go")
    parser.add_argument("--only-export", action="store_true", help="export the last checkpoint, train nothing")
    parser.add_argument("--from-weights", type=Path, help="go on from these exported weights, with a fresh state")
    parser.add_argument("--stills", type=int, default=STILLS, help=f"stills to encode (default {STILLS})")
    parser.add_argument("--random", action="store_true", help="only export an untrained pipeline")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.workers)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.random:
        random_pipeline()
        return export.WEIGHTS
    if options.from_weights:
        restore(options.from_weights)
    if not options.only_export:
        train_autoencoder(options)
        train_denoiser(options)
    export_best(options.export)
    return Path(options.export)
