"""What is promised of films, measured on the product's own path: suns that set, seeds that differ, long clips.

Nothing here was trained.
"""

import ctypes
import gc
import multiprocessing
from collections import deque
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from config.catalogue import Catalogue
from models.contract import ClipSpec
from models.families import tiny
from models.model import LoadedModel
from models.tiny import architecture, phases
from models.tiny.training.data.canvas import X
from models.tiny.training.measure import light_centre, segment

Film = NDArray[np.uint8]

SUNSET = "a beautiful sunset over mountains"
DRIFTING = "clouds drifting right over green hills"
ROLLING = "a yellow ball moving right on a black background"
VARIED = (
    SUNSET,
    "waves rolling on the sea",
    "snow falling on the forest",
    "a red circle moving right on a black background",
)
SKY_ROWS = 34  # of a frame with clouds


def load(folder: Path) -> LoadedModel:
    """The bundled model from any folder, as the product loads it."""
    entry = Catalogue.load().get("tiny")
    return LoadedModel(entry, tiny.load(entry, folder, "cpu"), "cpu")


def film(model: LoadedModel, prompt: str, seconds: float, seed: int = 1, steps: int = 20) -> Film:
    """A film (frames, 63, 112, 3) at the native rate."""
    frames = round(seconds * architecture.FPS)
    guidance = model.entry.guidance
    spec = ClipSpec(prompt, architecture.WIDTH, 63, frames=frames, seed=seed, steps=steps, guidance=guidance)
    return np.concatenate([chunk.frames for chunk in model.generate(spec)])


def ranks(values: NDArray) -> NDArray:
    """Place of every value in the sorted row."""
    return np.argsort(np.argsort(values)).astype(float)


def sun_falls(model: LoadedModel, seed: int = 1, steps: int = 20) -> float:
    """Spearman's correlation of time and the height at which the sun stands below the top, over a film of 10 s."""
    rows = light_centre(film(model, SUNSET, 10, seed, steps) / 255)
    return float(np.corrcoef(np.arange(len(rows)), ranks(rows))[0, 1])


def seeds_against_captions(model: LoadedModel, seeds: int = 6, steps: int = 20) -> float:
    """Mean distance of pixels between seeds of one prompt, over that between prompts of one seed."""
    drawn = np.stack(
        [[film(model, prompt, 2, seed, steps).astype(np.float32) for seed in range(seeds)] for prompt in VARIED]
    )
    apart = np.abs(drawn[:, :, None, None] - drawn[None, None]).mean(axis=(-4, -3, -2, -1))
    same_prompt = [apart[p, a, p, b] for p in range(len(VARIED)) for a in range(seeds) for b in range(a)]
    same_seed = [apart[p, a, q, a] for p in range(len(VARIED)) for q in range(p) for a in range(seeds)]
    return float(np.mean(same_prompt) / np.mean(same_seed))


def borders(clip: Film) -> float:
    """Mean change between frames where one window ends and the next begins, over the median change."""
    change = np.abs(np.diff(clip.astype(np.float32), axis=0)).mean(axis=(1, 2, 3))
    first = np.arange(phases.FIRST_FRAMES, len(clip), phases.NEW_FRAMES)
    return float(change[first - 1].mean() / np.median(change))


def drift(clip: Film, apart: int = 4) -> float:
    """Pixels a second that the sky moves to the right: the shift under which frames some way apart agree best."""
    sky = clip[:, :SKY_ROWS].astype(np.float32).mean(axis=-1)
    shifts = np.arange(-16, 17)
    found = []
    for early, late in zip(sky[:-apart], sky[apart:], strict=True):
        errors = [
            np.square(early[:, max(0, -s) : 112 - max(0, s)] - late[:, max(0, s) : 112 - max(0, -s)]).mean()
            for s in shifts
        ]
        found.append(int(shifts[int(np.argmin(errors))]))
    return float(np.mean(found)) / apart * architecture.FPS


def speed_kept(clip: Film) -> float:
    """Speed of the sky in the last window of a film over that in its first."""
    first, last = drift(clip[: phases.FIRST_FRAMES]), drift(clip[-phases.FIRST_FRAMES :])
    return last / first if first else float("nan")


def ball_speed_kept(clip: Film) -> float:
    """Speed to the right of a ball in the last window's worth of frames that show it whole, over that in the first."""
    mask, _ = segment(clip / 255)
    whole = mask.any(axis=(1, 2)) & ~(mask[:, :, 0] | mask[:, :, -1]).any(axis=1)
    centre = (mask * X).sum(axis=(1, 2)) / np.maximum(mask.sum(axis=(1, 2)), 1)
    steps = np.diff(centre)[whole[1:] & whole[:-1]]
    window = phases.FIRST_FRAMES - 1
    return float(np.median(steps[-window:]) / np.median(steps[:window]))


def peak_bytes(work: Callable[[], object]) -> int:
    """How far memory rises at the most during `work` (Linux)."""
    gc.collect()  # what went before must not be freed meanwhile
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident()[0]
    work()
    return _resident()[1] - before


def _resident() -> tuple[int, int]:
    """Resident memory now and at its peak, in bytes."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    now, peak = (int(lines[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return now, peak


def memory_of_length(folder: Path, steps: int = 2) -> float:
    """Peak memory above idle of a film of 30 s over that of one of 5 s, frames dropped as they come.

    Each is drawn by a process of its own, in which tensors go back to the system when freed: what glibc keeps of them
    instead, at films of either length between 230 and 360 MB by chance (they need 150), is not what a film needs. It
    stays so elsewhere: without it, drawing takes a third more CPU.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, _give_back_freed, max_tasks_per_child=1) as processes:
        long, short = processes.map(_needed_bytes, (folder, folder), (30, 5), (steps, steps))
    return long / short


def _give_back_freed() -> None:
    """Have glibc map every block from 1 MB on by itself (M_MMAP_THRESHOLD is -3), for as long as it is used."""
    ctypes.CDLL(None).mallopt(-3, 1 << 20)


def _needed_bytes(folder: Path, seconds: int, steps: int) -> int:
    model = load(folder)
    frames, guidance = seconds * architecture.FPS, model.entry.guidance
    spec = ClipSpec(DRIFTING, architecture.WIDTH, 63, frames, seed=1, steps=steps, guidance=guidance)
    return peak_bytes(lambda: deque(model.generate(spec), maxlen=0))


def measure(folder: Path, steps: int = 20) -> dict[str, float]:
    """All figures of the weights in `folder`."""
    model = load(folder)
    long = film(model, DRIFTING, 30, steps=steps)
    suns = [sun_falls(model, seed, steps) for seed in (1, 2, 3)]
    figures = {
        "sun_falls_spearman": float(np.median(suns)),
        "seeds_against_captions": seeds_against_captions(model, steps=steps),
        "borders_against_median": borders(long),
        "speed_last_against_first": speed_kept(long),
        "ball_last_against_first": ball_speed_kept(film(model, ROLLING, 30, steps=steps)),
        "memory_30_s_against_5_s": memory_of_length(folder),
    }
    return {name: round(value, 3) for name, value in figures.items()}
