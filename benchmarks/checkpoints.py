"""Bench: a render of more than a minute that leaves checkpoints ÷ the same render without.

The bundled model draws a long clip by production's rule (a checkpoint every 30 s and 2 steps) into a store on disk.
Each call of the denoising network is replaced on both sides by a sleep of half a step (guidance calls it twice), as if
a GPU did it, and each snapshot gets as many bytes more as one of Wan 2.2 TI2V-5B has for 121 frames of 1280×704: 84 MB,
latents and three tensors of history in float32. So what is measured is what a checkpoint takes from a render: the copy
at the end of a step, and the CPU and memory bandwidth of the upload beside it.

    python -m benchmarks.checkpoints [--pairs 1] [--duration 20] [--gpu-step-ms 210]

Both sides run in this process in turn, after a short warm-up. Prints JSON; the ratio of the medians is to be ≤ 1.02.
`blocked` is the share of the render in which denoising waited for its checkpoints; unlike the ratio it can be read on a
busy machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from config.catalogue import Catalogue
from config.settings import load as load_settings
from models.contract import ClipSpec, Take
from models.denoise import DenoisingState
from models.loader import load as load_model
from pipeline.cancellation import Stops
from pipeline.hold import USUAL, Hold
from pipeline.store.local import FileStore
from pipeline.vocabulary import Stage, StageMessage, new_id, now
from stages.render import render

BALLAST = torch.zeros(4, 48, 31, 44, 80)
"""Latents and history of Wan 2.2 TI2V-5B; 84 MB."""
BOUND = 1.02


@contextmanager
def stand_in_gpu(model: Any, step_s: float) -> Iterator[None]:
    """Let the network sleep, and its snapshots be as large as those of a model that would take so long."""
    save = DenoisingState.save

    def forward(hidden_states: torch.Tensor, **_: object) -> tuple[torch.Tensor]:
        time.sleep(step_s / 2)
        return (hidden_states * 0.1,)

    def heavy(state: DenoisingState) -> dict[str, Any]:
        return {**save(state), "ballast": BALLAST}

    transformer = model._family.pipeline.transformer
    with patch.object(transformer, "forward", forward), patch.object(DenoisingState, "save", heavy):
        yield


class Counting(FileStore):
    """Knows how many checkpoints were kept."""

    kept = 0

    def create(self, key: str, data: bytes, media_type: str = "application/json") -> str:
        self.kept += key.endswith(".safetensors")
        return super().create(key, data, media_type)


class Timed(Hold):
    """Knows how long the thread that denoises was in it."""

    blocked_s = 0.0

    def offer(self, done: int, total: int, take: Take) -> None:
        began = time.monotonic()
        super().offer(done, total, take)
        self.blocked_s += time.monotonic() - began


def run(model: Any, spec: ClipSpec, folder: Path, checkpoints: bool) -> tuple[float, int, float]:
    """Seconds of a render, how many checkpoints it left, and for how many seconds denoising waited for them."""
    message = StageMessage(job_id=new_id("job"), stage=Stage.RENDER, trace_id="bench", sent_at=now())
    store = Counting(folder / "store")
    with ThreadPoolExecutor(1) as uploads:
        hold = Timed(store, message, "bench", USUAL, Stops(), uploads)
        began = time.monotonic()
        if checkpoints:
            hold.take()
        render(model, spec, folder / "out", checkpoints=hold if checkpoints else None)
        hold.settle()
        return time.monotonic() - began, store.kept, hold.blocked_s


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--duration", type=float, default=20)
    parser.add_argument("--gpu-step-ms", type=float, default=210)
    options = parser.parse_args()
    entry = Catalogue.load().get("tiny")
    model = load_model(entry, load_settings().models)
    width, height = entry.sizes["16:9"].shown
    frames = round(options.duration * entry.fps)
    spec = ClipSpec("a sunset", width, height, frames, seed=1, steps=entry.steps, guidance=entry.guidance)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    counts: list[int] = []
    blocked: list[float] = []
    with tempfile.TemporaryDirectory() as name, stand_in_gpu(model, options.gpu_step_ms / 1000):
        short = ClipSpec("a sunset", width, height, 17, seed=1, steps=2, guidance=entry.guidance)
        for number in range(-1, options.pairs):
            for checkpoints in (False, True):
                folder = Path(name) / f"{number}-{checkpoints}"
                took, count, blocked_s = run(model, spec if number >= 0 else short, folder, checkpoints)
                if number >= 0:
                    seconds[checkpoints].append(took)
                    counts += [count] if checkpoints else []
                    blocked += [blocked_s / took] if checkpoints else []
    with_, without = (statistics.median(seconds[checkpoints]) for checkpoints in (True, False))
    result = {
        "with_s": round(with_, 2),
        "without_s": round(without, 2),
        "ratio": round(with_ / without, 4),
        "bound": BOUND,
        "blocked": round(statistics.median(blocked), 5),
        "checkpoints": counts,
        "bytes_each": BALLAST.numel() * 4,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
