"""The words of the pipeline: jobs, stages, messages, records, events. Frozen, typed, versioned.

Everything here crosses a process border as JSON (`model_dump_json`, `model_validate_json`). Unknown fields of a newer
minor version are ignored, so workers of release N and N+1 run side by side; an unknown `version` is refused.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

import uuid_utils
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

Version = Literal[1]


def new_id(prefix: str) -> str:
    """A sortable id with the API's prefix: `job_` + UUIDv7 (RFC 9562) in hex."""
    return f"{prefix}_{uuid_utils.uuid7().hex}"


def now() -> datetime:
    """The time now, in UTC."""
    return datetime.now(UTC)


class Stage(StrEnum):
    """The stages of a job in the order they run; thumbnails and metadata run side by side."""

    RENDER = "render"
    ENCODE = "encode"
    THUMBNAILS = "thumbnails"
    METADATA = "metadata"
    PUBLISH = "publish"


class Status(StrEnum):
    """What a client polls: `processing` from acceptance until one of the three final states, which absorb."""

    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing can follow."""
        return self is not Status.PROCESSING


ACTIVITY = {
    None: "queued",
    Stage.RENDER: "rendering",
    Stage.ENCODE: "encoding",
    Stage.THUMBNAILS: "thumbnails",
    Stage.METADATA: "metadata",
    Stage.PUBLISH: "publishing",
}
"""The word the API shows in `stage` while a stage runs; None is before any worker took the job."""

PERCENT_RANGE = {
    Stage.RENDER: (0, 70),
    Stage.ENCODE: (70, 92),
    Stage.THUMBNAILS: (92, 97),
    Stage.METADATA: (92, 97),
    Stage.PUBLISH: (97, 100),
}
"""Share of the overall percentage each stage fills, from stage times of the bundled model on two cores."""


def percent(stage: Stage, fraction: float) -> float:
    """Overall progress, 0 to 100, of a job whose `stage` has done `fraction` (0 to 1) of its work.

    Readers take the maximum over events, so the figure a client sees never falls, whatever is repeated.
    """
    low, high = PERCENT_RANGE[stage]
    return low + (high - low) * min(max(fraction, 0.0), 1.0)


class Word(BaseModel):
    """Base of all messages and records.

    Of the texts in them only keys are kept to be met again: ids, times and digests never are.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", cache_strings="keys")

    version: Version = 1


class JobRequest(Word):
    """What was accepted, every default resolved; stored as `request.json` and never changed.

    Attributes:
        duration_s: asked length; frames = round(duration_s × fps).
        quality: short side of the highest rung.
        fps: rate of the renditions in Hz.
        seed: 0 to 2**32 − 1; drawn at acceptance when the client gave none.
        priority: among the user's own waiting jobs.
        metadata: the client's own (JSON values); nothing here reads it.
        webhook_url: told of this job's events.
        expires_in: seconds the job is kept after its end, if shorter than the deployment keeps it.
        reused_from: the job whose files it shares.
    """

    job_id: str
    user_id: str
    created_at: AwareDatetime
    prompt: str
    negative_prompt: str = ""
    model: str
    duration_s: float
    quality: Literal["720p", "1080p"]
    fps: int
    aspect_ratio: str
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    steps: int
    guidance: float
    trace_id: str
    priority: Literal["low", "normal", "high"] = "normal"
    metadata: dict[str, Any] = Field(default_factory=dict)
    webhook_url: str | None = None
    expires_in: int | None = None
    reused_from: str | None = None

    @property
    def frames(self) -> int:
        """Frames of every rendition."""
        return max(1, round(self.duration_s * self.fps))


class StageMessage(Word):
    """What travels on a queue: a reference to a job and where it stands, never its data.

    Attributes:
        epoch: how often the dispatcher has sent this job; orders events of different runs.
        hop: how often this stage handed itself on from a checkpoint.
        sent_at: for the queue-wait histogram.
        request, records: what the sender had at hand of what the stage reads, which spares a prompt receiver the
            requests to the store; the store has the truth, and receivers that come later ask it.
    """

    job_id: str
    stage: Stage
    epoch: int = 1
    hop: int = 0
    trace_id: str
    sent_at: AwareDatetime
    request: JobRequest | None = None
    records: tuple[StageRecord, ...] = ()


class ArtifactRef(Word):
    """A stored artifact: its name in the published folder and the blob that holds its bytes.

    Attributes:
        digest: "sha256:" and 64 hex digits.
        key: of the blob in the object store.
        size: bytes.
    """

    name: str
    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    key: str
    size: Annotated[int, Field(ge=0)]
    media_type: str


class StageRecord(Word):
    """Proof that a stage is done; created once at `keys.record`. Who finds it skips the work.

    Attributes:
        inputs: digests of the artifacts that were read, by name; a job's records chain by them.
        facts: what the stage measured and later stages or `metadata.json` need (JSON values).
        seconds: wall time the work took.
        versions: software that made the outputs.
    """

    job_id: str
    stage: Stage
    inputs: dict[str, str]
    outputs: tuple[ArtifactRef, ...]
    facts: dict[str, Any] = Field(default_factory=dict)
    seconds: float
    versions: dict[str, str] = Field(default_factory=dict)
    finished_at: AwareDatetime

    def output(self, name: str) -> ArtifactRef:
        """The output called `name`; KeyError if there is none."""
        for ref in self.outputs:
            if ref.name == name:
                return ref
        raise KeyError(name)


class Head(Word):
    """Who renders a job, and where the next one goes on; at `keys.head`, changed only by conditional writes.

    Attributes:
        epoch, hop: of the message that has the render; an older one is of no use any more.
        holder: name of the run that has it; "" after it was handed on.
        checkpoint: key of the last snapshot.
        done: denoising steps in it.
        takers: workers that took the render up since it last got on, and did not say that they live.
    """

    job_id: str
    epoch: int
    hop: int
    holder: str
    checkpoint: str | None = None
    done: int = 0
    takers: tuple[str, ...] = ()


class Failure(Word):
    """Why a job failed, fit to be shown to its owner."""

    stage: Stage
    code: str
    """Class name of the error: stable, for programs."""
    message: str
    remedy: str = ""


class Final(Word):
    """The one verdict over a job, created once at `keys.final`; whoever creates it decides.

    Attributes:
        artifacts: the published folder when completed, else empty. `manifest.json` is this list.
        metadata: content of `metadata.json` when completed.
        cancelled_by: user id when cancelled.
    """

    job_id: str
    status: Status
    at: AwareDatetime
    artifacts: tuple[ArtifactRef, ...] = ()
    metadata: dict[str, Any] = Field(default_factory=dict)
    failure: Failure | None = None
    cancelled_by: str | None = None

    @property
    def bare(self) -> bool:
        """Whether it is what a deleted job leaves behind: cancelled, and by nobody."""
        return self.status is Status.CANCELLED and self.cancelled_by is None


class EventKind(StrEnum):
    """Last word of an event's routing key `job.<id>.<kind>`."""

    STARTED = "started"
    PROGRESS = "progress"
    PREVIEW = "preview"
    """A picture of the clip that is being made: `jpeg` (base64) and `at_s` in its data."""
    LOG = "log"
    FINISHED = "finished"
    """A stage is done (or was found done)."""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Event(Word):
    """What a worker says about a job. (epoch, stage, hop, n) orders the events of a job without a shared counter.

    Attributes:
        id: unique; a redelivered event has the same.
        n: counts the events of one run of one stage from 0.
        fraction: of this stage's work, 0 to 1.
        level: of the log line it makes.
        data: figures such as step, steps, fps, eta_s.
    """

    id: str
    job_id: str
    kind: EventKind
    stage: Stage
    epoch: int
    hop: int
    n: int
    at: AwareDatetime
    fraction: float | None = None
    message: str = ""
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    data: dict[str, Any] = Field(default_factory=dict)

    @property
    def order(self) -> tuple[int, int, int, int]:
        """Sort key within a job."""
        return (self.epoch, list(Stage).index(self.stage), self.hop, self.n)


class Heartbeat(Word):
    """A worker child's sign of life, every `worker.heartbeat_s`, routing key `worker.<id>.heartbeat`.

    Attributes:
        queues: it consumes.
        job_ids: it works on now.
        gpu: name, memory_used_bytes, memory_total_bytes, utilisation (0 to 1); None without one.
    """

    worker_id: str
    host: str
    queues: tuple[str, ...]
    job_ids: tuple[str, ...] = ()
    at: AwareDatetime
    cpu: float | None = None
    memory_bytes: int | None = None
    gpu: dict[str, Any] | None = None
    stopping: bool = False
