"""Bench (c): CPU seconds of the encode stage ÷ the sum of the single ideal encodes.

    python -m benchmarks.encode [--pairs 3] [--duration 5]

The stage makes 720p and 1080p MP4s and HLS from one mezzanine. An ideal encode is one bare ffmpeg per rung on the same
mezzanine with the same filters and encoder options, writing that rung's MP4 and nothing else. CPU seconds are user +
system of all child processes, for the stage also of this process while it waits for them. Two mezzanines: the bundled
model's (112×63 at 8 fps, interpolated to 24) and one of a large model (1280×704 at 24 fps). Both sides run in turn
after a warm-up; the median of the ratios counts. Prints one line per mezzanine and JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config.catalogue import Catalogue, Size
from models.contract import Cancellation, Chunk, ClipSpec, NeverCancelled, Report, Understood, ignore
from stages.encode import EncodeSpec, encode, ladder
from stages.ffmpeg import ffmpeg_binary
from stages.render import render
from stages.transcode import command

LIMIT = 1.05
RUNGS = ladder("1080p", "16:9")
FPS = 24


@dataclass(frozen=True)
class Moving:
    """A `VideoModel` that draws a disc on a grainy gradient."""

    width: int
    height: int
    fps: float
    audio_sample_rate = None

    @property
    def entry(self) -> object:
        row = next(iter(Catalogue.load()))
        size = Size(width=self.width, height=self.height)
        return row.model_copy(update={"name": "bench", "fps": self.fps, "sizes": {"16:9": size}})

    def understand(self, prompt: str) -> Understood:
        return Understood(complete=True, text=prompt)

    def generate(
        self, spec: ClipSpec, report: Report = ignore, cancellation: Cancellation = NeverCancelled(), *_: object
    ) -> Iterator[Chunk]:
        y, x = np.mgrid[0 : self.height, 0 : self.width]
        grain = np.random.default_rng(0).normal(0, 3, (self.height, self.width, 3))
        sky = np.stack([60 + 60 * y / self.height, 90 + 50 * y / self.height, 180 - 60 * y / self.height], -1) + grain
        for frame in range(spec.frames):
            place = self.width * (frame / self.fps / 5)
            inside = (np.hypot(x - place, y - self.height / 2) < self.height / 5)[..., None]
            yield Chunk(np.where(inside, (230, 40, 30), sky).clip(0, 255).astype(np.uint8)[None])


def cpu_s() -> float:
    """CPU seconds so far of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def cost(call: Callable[[], object]) -> float:
    """CPU seconds of a call."""
    before = cpu_s()
    call()
    return cpu_s() - before


def stage(mezzanine: Path, frames: int, out: Path) -> None:
    """What the encode stage does."""
    encode(mezzanine, EncodeSpec(RUNGS, FPS, frames, encoder="libx264"), out)


def ideal(mezzanine: Path, frames: int, out: Path) -> None:
    """One bare ffmpeg per rung."""
    out.mkdir(exist_ok=True)
    for rung in RUNGS:
        argv = command(ffmpeg_binary(), mezzanine, [rung], FPS, frames, "libx264", out)
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


def compare(model: Moving, duration: float, pairs: int, folder: Path) -> dict[str, object]:
    """The median ratio of `pairs` runs of both sides in turn."""
    spec = ClipSpec("", model.width, model.height, round(duration * model.fps), seed=0, steps=1, guidance=1.0)
    mezzanine = render(model, spec, folder).mezzanine.path  # type: ignore[arg-type]
    frames = round(duration * FPS)
    sides = (lambda: stage(mezzanine, frames, folder / "stage"), lambda: ideal(mezzanine, frames, folder / "ideal"))
    for side in sides:
        side()
    for rung in RUNGS:  # the same work: the same bytes
        assert (folder / f"stage/{rung.name}.mp4").read_bytes() == (folder / f"ideal/{rung.name}.mp4").read_bytes()
    seconds = [tuple(cost(side) for side in sides) for _ in range(pairs)]
    ratio = statistics.median(ours / theirs for ours, theirs in seconds)
    return {"ratio": round(ratio, 3), "cpu_s": [{"stage": round(a, 2), "ideal": round(b, 2)} for a, b in seconds]}


def main() -> None:
    """Compare on both mezzanines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--duration", type=float, default=5)
    arguments = parser.parse_args()
    results = {}
    for model in (Moving(112, 63, 8), Moving(1280, 704, 24)):
        name = f"{model.width}×{model.height} at {model.fps:g} fps"
        with tempfile.TemporaryDirectory(prefix="t2m-bench-") as folder:
            results[name] = compare(model, arguments.duration, arguments.pairs, Path(folder))
        print(f"(c) {name}: stage ÷ ideal encodes = {results[name]['ratio']} (at most {LIMIT})", flush=True)
    print(json.dumps({"bench": "encode", "limit": LIMIT, **results}, ensure_ascii=False))


if __name__ == "__main__":
    main()
