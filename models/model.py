"""The `VideoModel` of every family: checks the spec, denoises ahead, decodes in a stream, crops and counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from config.catalogue import ModelEntry, Size
from models.ahead import Ahead, Send
from models.contract import Cancellation, Chunk, ClipSpec, NeverCancelled, Report, Understood, ignore
from models.denoise import OnStep
from models.errors import UnsupportedShape, translated
from models.families.base import Clip, Family, Latents
from models.frames import crop
from models.progress import Progress, StepDone

Message = StepDone | Latents


class LoadedModel:
    """A catalogue row with its weights in memory; see `models.contract.VideoModel`."""

    def __init__(self, entry: ModelEntry, family: Family) -> None:
        self._entry = entry
        self._family = family

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

    def generate(
        self, spec: ClipSpec, report: Report = ignore, cancellation: Cancellation = NeverCancelled()
    ) -> Iterator[Chunk]:
        """See `VideoModel.generate`. `report` and `cancellation` are called in the caller's thread only."""
        size = self._size(spec)
        clip = self._family.clip(spec, size)
        progress = Progress(report, windows=clip.windows, steps=spec.steps, frames=spec.frames)
        return self._stream(clip, spec, progress, cancellation)

    def _stream(self, clip: Clip, spec: ClipSpec, progress: Progress, cancellation: Cancellation) -> Iterator[Chunk]:
        missing = spec.frames
        with translated(self._entry.name, self._entry.vram_gib), Ahead[Message](_denoising(clip)) as ahead:
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


def _denoising(clip: Clip) -> Callable[[Send[Message]], None]:
    """The work of the thread ahead: every window of `clip`, a message per step and one with each window's latents."""

    def work(send: Send[Message]) -> None:
        for window in range(clip.windows):
            send(clip.denoise(window, clip.encode(window), _steps_of(window, send)), bulky=True)

    return work


def _steps_of(window: int, send: Send[Message]) -> OnStep:
    return lambda step: send(StepDone(window, step))


def _shown(chunk: Chunk, spec: ClipSpec, missing: int) -> Chunk:
    """`chunk` cropped to the asked size and to the frames still missing."""
    return Chunk(crop(chunk.frames[:missing], spec.width, spec.height), chunk.audio)
