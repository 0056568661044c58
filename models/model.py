"""The `VideoModel` of every family: checks the spec, denoises ahead, decodes in a stream, crops and counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from config.catalogue import ModelEntry, Size
from models import contract
from models.ahead import Ahead, Send
from models.contract import (
    Cancellation,
    Checkpoints,
    Chunk,
    ClipSpec,
    NeverCancelled,
    Report,
    Understood,
    ignore,
)
from models.denoise import Loop
from models.errors import NotFinite, UnsupportedShape, translated
from models.families.base import Clip, Family, Latents
from models.frames import crop
from models.progress import Progress, StepDone
from models.snapshot import Snapshot, place_of, work_of

Message = StepDone | Latents


class LoadedModel:
    """A catalogue row with its weights in memory on a device of torch; see `models.contract.VideoModel`."""

    def __init__(self, entry: ModelEntry, family: Family, device: str) -> None:
        self._entry = entry
        self._family = family
        self._device = device

    @property
    def entry(self) -> ModelEntry:
        """The catalogue row."""
        return self._entry

    @property
    def audio_sample_rate(self) -> int | None:
        """Hz of `Chunk.audio`, None for silent models."""
        return self._family.audio_sample_rate

    def understand(self, prompt: str) -> Understood:
        """What of `prompt` the model can draw."""
        return self._family.understand(prompt)

    def restore(self, data: bytes, spec: ClipSpec) -> Snapshot:
        """See `VideoModel.restore`."""
        snapshot = Snapshot.from_bytes(data)
        snapshot.check(work_of(self._entry, spec))
        return snapshot.brought_to(place_of(self._device))

    def generate(
        self,
        spec: ClipSpec,
        report: Report = ignore,
        cancellation: Cancellation = NeverCancelled(),
        checkpoints: Checkpoints | None = None,
        resume: contract.Snapshot | None = None,
    ) -> Iterator[Chunk]:
        """See `VideoModel.generate`. `report` and `cancellation` are called in the caller's thread only."""
        if resume is not None and not isinstance(resume, Snapshot):
            raise TypeError("`resume` is what `restore` gave")
        size = self._size(spec)
        clip = self._family.clip(spec, size)
        progress = Progress(report, windows=clip.windows, steps=spec.steps, frames=spec.frames)
        work, place = work_of(self._entry, spec), place_of(self._device)
        denoising = Denoising(clip, spec.steps, checkpoints, resume, work, place)
        return self._stream(clip, spec, progress, cancellation, denoising)

    def _stream(
        self, clip: Clip, spec: ClipSpec, progress: Progress, cancellation: Cancellation, denoising: Denoising
    ) -> Iterator[Chunk]:
        missing = spec.frames
        with translated(self._entry.name, self._entry.vram_gib), Ahead[Message](denoising) as ahead:
            for latents in progress.steps_of(ahead.items(cancellation.check)):
                for chunk in clip.decode(latents):
                    chunk = _shown(chunk, spec, missing)
                    missing -= len(chunk.frames)
                    progress.decoded(len(chunk.frames))
                    yield chunk
                    cancellation.check()
                    if not missing:
                        return

    def _size(self, spec: ClipSpec) -> Size:
        for size in self._entry.sizes.values():
            if size.shown == (spec.width, spec.height):
                return size
        accepted = ", ".join(f"{width}×{height}" for width, height in (s.shown for s in self._entry.sizes.values()))
        raise UnsupportedShape(
            f"{self._entry.name} cannot draw {spec.width}×{spec.height}.", remedy=f"It draws {accepted}."
        )


class Denoising:
    """The work of the thread ahead: every window of `clip`, a message per step and one with each window's latents."""

    def __init__(
        self,
        clip: Clip,
        steps: int,
        checkpoints: Checkpoints | None,
        resume: Snapshot | None,
        work: Mapping[str, Any],
        place: Mapping[str, Any],
    ) -> None:
        self._clip, self._steps, self._checkpoints, self._resume = clip, steps, checkpoints, resume
        self._work, self._place = work, place
        self._finished = resume.finished if resume else []
        self._exact = resume is None or resume.exact

    def __call__(self, send: Send[Message]) -> None:
        """Draw what is missing; latents that a snapshot brought are sent as if they had just been drawn."""
        loop = None
        if self._resume:
            loop = self._resume.loop
            send(StepDone(self._resume.window, self._resume.step))
        for latents in self._finished:
            send(latents, bulky=True)
        for window in range(len(self._finished), self._clip.windows):
            previous = self._finished[-1] if self._finished else None
            conditions = self._clip.encode(window)
            latents = self._clip.denoise(window, conditions, lambda loop: self._step_done(loop, send), previous, loop)
            loop = None
            self._check(latents)
            self._finished.append(latents)
            send(latents, bulky=True)

    def _check(self, latents: Latents) -> None:
        """Raises `NotFinite`."""
        for tensor in (latents.video, latents.audio):
            if tensor is not None and not tensor.isfinite().all():
                raise NotFinite(
                    f"{self._work['model']} drew values that are not finite.",
                    remedy="Ask for more steps or less guidance, or for another seed.",
                )

    def _step_done(self, loop: Loop, send: Send[Message]) -> None:
        window, steps = len(self._finished), self._steps
        send(StepDone(window, loop.step))
        if self._checkpoints:
            self._checkpoints.offer(window * steps + loop.step, self._clip.windows * steps, lambda: self._take(loop))

    def _take(self, loop: Loop) -> Snapshot:
        return Snapshot.take(self._work, self._place, self._finished, loop.save(), loop.step, self._exact)


def _shown(chunk: Chunk, spec: ClipSpec, missing: int) -> Chunk:
    """`chunk` cropped to the asked size and to the frames still missing."""
    return Chunk(crop(chunk.frames[:missing], spec.width, spec.height), chunk.audio)
