"""Bench (a): a whole embedded job ÷ a bare serial script that makes the same outputs.

The script calls the same model and stage functions one after the other: all windows are denoised, then all frames are
decoded, then written, encoded, and so on; no queue, no store, no events, nothing overlaps. With `--gpu-step-ms` each
call of the denoising network is replaced on both sides by a sleep of half a step (guidance calls it twice), as if a GPU
did it while the CPU is free: there the overlap of denoising with decoding must show.

    python -m benchmarks.job [--pairs 3] [--duration 10] [--quality 720p] [--gpu-step-ms 50]

Both sides run in this process in turn, after one warm-up each, so imports and loading are outside. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from config.catalogue import Catalogue
from config.settings import Settings
from config.settings import load as load_settings
from models.contract import Cancellation, Chunk, ClipSpec, NeverCancelled, Report, ignore
from models.families.base import Latents
from models.frames import crop
from models.loader import load as load_model
from pipeline import steps
from pipeline.embedded import EmbeddedRuntime
from pipeline.requests import resolve
from pipeline.vocabulary import JobRequest, Status
from stages.encode import EncodeSpec, encode, ladder
from stages.metadata import Generation, metadata
from stages.render import render
from stages.thumbnails import thumbnails

PROMPT = "A beautiful sunset over mountains"
JOB_S = 1800
"""A longer job than this hangs."""


class Serial:
    """A loaded model whose `generate` denoises every window before it decodes the first frame."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def generate(
        self, spec: ClipSpec, report: Report = ignore, cancellation: Cancellation = NeverCancelled(), *_: object
    ) -> Iterator[Chunk]:
        size = next(s for s in self._model.entry.sizes.values() if s.shown == (spec.width, spec.height))
        clip = self._model._family.clip(spec, size)
        latents: list[Latents] = []
        for window in range(clip.windows):
            previous = latents[-1] if latents else None
            latents.append(clip.denoise(window, clip.encode(window), lambda loop: None, previous))
        missing = spec.frames
        for chunk in [chunk for window in latents for chunk in clip.decode(window)]:
            frames = crop(chunk.frames[:missing], spec.width, spec.height)
            missing -= len(frames)
            if len(frames):
                yield Chunk(frames, chunk.audio)


def bare(request: JobRequest, catalogue: Catalogue, settings: Settings, out: Path) -> None:
    """The same outputs, one function after the other."""
    entry = catalogue.get(request.model)
    model = Serial(load_model(entry, settings.models))
    made = render(model, steps.clip_spec(request, entry), out)
    rungs = ladder(request.quality, request.aspect_ratio)
    files = encode(made.mezzanine.path, EncodeSpec(rungs, request.fps, request.frames), out)
    renditions = {rung.name: next(f.path for f in files if f.name == f"{rung.name}.mp4") for rung in rungs}
    thumbnails(renditions[rungs[-1].name], out)
    generation = Generation(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        model=entry.name,
        model_revision=entry.revision,
        seed=request.seed,
        steps=request.steps,
        guidance=request.guidance,
        created_at=request.created_at,
        native_width=made.width,
        native_height=made.height,
        native_fps=made.fps,
        native_frames=made.frames,
        understood=made.understood,
    )
    metadata(request.job_id, renditions, generation, out)


def embedded(request: JobRequest, runtime: EmbeddedRuntime) -> None:
    """The job through the whole embedded pipeline."""
    runtime.submit(request)
    deadline = time.monotonic() + JOB_S
    while (final := runtime.jobs.final(request.job_id)) is None:
        if time.monotonic() > deadline:
            raise SystemExit(f"the job is not done after {JOB_S} s")
        time.sleep(0.02)
    if final.status is not Status.COMPLETED:
        raise SystemExit(f"the job {final.status}: {final.failure}")


@contextmanager
def simulated_gpu(model: Any, step_ms: float) -> Iterator[None]:
    """Within it a call of the denoising network sleeps instead of computing; nothing changes when `step_ms` is 0."""
    if not step_ms:
        yield
        return

    def forward(hidden_states: torch.Tensor, *args: object, **kwargs: object) -> tuple[torch.Tensor]:
        time.sleep(step_ms / 2000)
        return (hidden_states * 0.1,)

    with patch.object(model._family.pipeline.transformer, "forward", forward):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--duration", type=float, default=10)
    parser.add_argument("--quality", default="720p", choices=("720p", "1080p"))
    parser.add_argument("--gpu-step-ms", type=float, default=0)
    asked = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(data_dir=Path(folder))
        catalogue = Catalogue.load(settings.models.catalogue)
        model = load_model(catalogue.get(settings.models.default), settings.models)
        body = {"prompt": PROMPT, "duration": asked.duration, "quality": asked.quality}
        times: dict[str, list[float]] = {"embedded": [], "bare": []}
        runtime = EmbeddedRuntime(settings, catalogue)
        runtime.start()
        try:
            with simulated_gpu(model, asked.gpu_step_ms):
                for run in range(asked.pairs + 1):
                    for side, seconds in times.items():
                        request = resolve(
                            body | {"seed": run}, user_id="bench", catalogue=catalogue, default_model=model.entry.name
                        )
                        started = time.monotonic()
                        if side == "embedded":
                            embedded(request, runtime)
                        else:
                            with tempfile.TemporaryDirectory() as out:
                                bare(request, catalogue, settings, Path(out))
                        if run:
                            seconds.append(time.monotonic() - started)
        finally:
            runtime.stop(30)
    ratios = [a / b for a, b in zip(times["embedded"], times["bare"], strict=True)]
    print(
        json.dumps(
            {
                "bench": "embedded job / bare serial script",
                "gpu_step_ms": asked.gpu_step_ms,
                "ratio": round(statistics.median(ratios), 3),
                "ratios": [round(r, 3) for r in ratios],
                "embedded_s": [round(s, 2) for s in times["embedded"]],
                "bare_s": [round(s, 2) for s in times["bare"]],
            }
        )
    )


if __name__ == "__main__":
    main()
