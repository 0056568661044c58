"""Stage 1: a model's frames into the mezzanine."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from models.contract import Checkpoints, Chunk, ClipSpec, Snapshot, Understood, VideoModel
from stages.contract import Artifact, Cancellation, NeverCancelled, Report, Show, ignore, unseen
from stages.errors import FrameMismatch
from stages.files import media, workspace
from stages.mezzanine import MEDIA_TYPE, NAME, MezzanineWriter, mezzanine
from stages.preview import Previews


@dataclass(frozen=True)
class Rendered:
    """The mezzanine and what is in it.

    Attributes:
        mezzanine: "mezzanine.mov".
        width, height: native pixels.
        fps: native frames per second.
        frames: native frame count.
        audio: whether it has a sound track.
        understood: which part of the prompt the model could draw.
    """

    mezzanine: Artifact
    width: int
    height: int
    fps: float
    frames: int
    audio: bool
    understood: Understood


def render(
    model: VideoModel,
    spec: ClipSpec,
    out: Path,
    report: Report = ignore,
    cancellation: Cancellation = NeverCancelled(),
    checkpoints: Checkpoints | None = None,
    resume: Snapshot | None = None,
    show: Show = unseen,
) -> Rendered:
    """Draw the clip into the folder `out` as "mezzanine.mov" (see `stages.mezzanine` for its format).

    Memory does not grow with the clip: at most one chunk is being written while the model decodes the next.

    Args:
        report: gets what the model reports.
        checkpoints: get what the model offers.
        resume: where denoising goes on; everything is decoded and written anew.
        show: gets a few frames, in another thread.

    Raises:
        ModelError: the model cannot draw it; see `models.errors`.
        FrameMismatch: the model gave another number of frames than `spec.frames`.
        DiskFull: no space is left in `out`.
        Interrupted: as `cancellation` or `checkpoints` asked; `out` has no new file then, as after any error.
    """
    previews = Previews(spec.frames, model.entry.fps, show)
    with workspace(out) as work:
        with media(NAME), mezzanine(work / NAME, model.entry.fps, model.audio_sample_rate) as writer:
            _write(model.generate(spec, report, cancellation, checkpoints, resume), writer, previews, cancellation)
        if writer.frames != spec.frames:
            raise FrameMismatch(f"The clip of {model.entry.name}", spec.frames, writer.frames)
    return Rendered(
        mezzanine=Artifact(NAME, out / NAME, MEDIA_TYPE),
        width=writer.width,
        height=writer.height,
        fps=model.entry.fps,
        frames=writer.frames,
        audio=writer.audio,
        understood=model.understand(spec.prompt),
    )


def _write(chunks: Iterator[Chunk], writer: MezzanineWriter, previews: Previews, cancellation: Cancellation) -> None:
    """Write and show each chunk in a second thread while the model makes the next one in this thread."""

    def take(chunk: Chunk) -> None:
        previews.look(chunk.frames)
        writer.write(chunk)

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="mezzanine") as behind:
        written: Future[None] | None = None
        for chunk in chunks:
            if written:
                written.result()
            written = behind.submit(take, chunk)
            cancellation.check()
        if written:
            written.result()
