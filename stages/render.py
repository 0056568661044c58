"""Stage 1: a model's frames into the mezzanine."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from models.contract import Checkpoints, Chunk, ClipSpec, Snapshot, Understood, VideoModel
from stages.contract import Artifact, Cancellation, NeverCancelled, Report, ignore
from stages.errors import FrameMismatch
from stages.files import media, workspace
from stages.mezzanine import MEDIA_TYPE, NAME, MezzanineWriter, mezzanine


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
) -> Rendered:
    """Draw the clip into the folder `out` as "mezzanine.mov" (see `stages.mezzanine` for its format).

    Memory does not grow with the clip: at most one chunk is being written while the model decodes the next.

    Args:
        report: gets what the model reports.
        checkpoints: get what the model offers.
        resume: where denoising goes on; everything is decoded and written anew.

    Raises:
        ModelError: the model cannot draw it; see `models.errors`.
        FrameMismatch: the model gave another number of frames than `spec.frames`.
        DiskFull: no space is left in `out`.
        Interrupted: as `cancellation` or `checkpoints` asked; `out` has no new file then, as after any error.
    """
    with workspace(out) as work:
        with media(NAME), mezzanine(work / NAME, model.entry.fps, model.audio_sample_rate) as writer:
            _write(model.generate(spec, report, cancellation, checkpoints, resume), writer, cancellation)
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


def _write(chunks: Iterator[Chunk], writer: MezzanineWriter, cancellation: Cancellation) -> None:
    """Write each chunk in a second thread while the model makes the next one in this thread."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="mezzanine") as behind:
        written: Future[None] | None = None
        for chunk in chunks:
            if written:
                written.result()
            written = behind.submit(writer.write, chunk)
            cancellation.check()
        if written:
            written.result()
