"""Stage 3b: `metadata.json`, measured on the outputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from models.contract import Understood
from stages.contract import Artifact, Cancellation, NeverCancelled, Report, ignore
from stages.files import workspace
from stages.probe import Facts, probe

NAME = "metadata.json"


@dataclass(frozen=True)
class Generation:
    """How the clip was drawn; becomes `generation` of the metadata.

    Attributes:
        created_at: when the job was accepted, with a time zone.
        native_width, native_height: pixels the model really drew.
        native_fps: frames per second the model really drew.
        native_frames: number of frames the model really drew.
        exact: the same request on that hardware gives the same bits; False if a render went on on another kind.
    """

    prompt: str
    negative_prompt: str
    model: str
    model_revision: str
    seed: int
    steps: int
    guidance: float
    created_at: datetime
    native_width: int
    native_height: int
    native_fps: float
    native_frames: int
    understood: Understood
    exact: bool = True


def metadata(
    job_id: str,
    renditions: Mapping[str, Path],
    generation: Generation,
    out: Path,
    report: Report = ignore,
    cancellation: Cancellation = NeverCancelled(),
) -> tuple[Artifact, dict[str, Any]]:
    """Write "metadata.json" into the folder `out`; returns it and its content: `data` of GET /videos/{job_id}/metadata.

    `video` and `audio` are those of the highest rung; all figures are measured on the files.

    Args:
        renditions: path of each rung's MP4 by rung name ("720p", "1080p"), lowest first.

    Raises:
        MediaUnreadable: a rendition is no readable video.
        DiskFull: no space is left in `out`.
        Interrupted: as `cancellation` asked.
    """
    facts: dict[str, Facts] = {}
    for name, path in renditions.items():
        cancellation.check()
        facts[name] = probe(path)
        report(len(facts) / len(renditions))
    top = list(facts.values())[-1]
    content = {
        "job_id": job_id,
        **top.as_json(),
        "generation": _generation(generation, top),
        "renditions": [{"name": name, **each.as_json()["video"]} for name, each in facts.items()],
    }
    with workspace(out) as work:
        (work / NAME).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return Artifact(NAME, out / NAME, "application/json"), content


def _generation(drawn: Generation, top: Facts) -> dict[str, Any]:
    return {
        "prompt": drawn.prompt,
        "negative_prompt": drawn.negative_prompt,
        "model": drawn.model,
        "model_revision": drawn.model_revision,
        "seed": drawn.seed,
        "steps": drawn.steps,
        "guidance": drawn.guidance,
        "created_at": drawn.created_at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "native": {
            "width": drawn.native_width,
            "height": drawn.native_height,
            "fps": int(drawn.native_fps) if drawn.native_fps.is_integer() else drawn.native_fps,
            "frames": drawn.native_frames,
        },
        "exact": drawn.exact,
        "upscaled": top.video.width > drawn.native_width or top.video.height > drawn.native_height,
        "understood": {
            "complete": drawn.understood.complete,
            "text": drawn.understood.text,
            "ignored": list(drawn.understood.ignored),
        },
    }
