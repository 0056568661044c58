"""Stages that do next to nothing but for real: files in, files out. For tests and benchmarks of the chain alone."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.catalogue import Catalogue
from config.settings import Settings
from pipeline.steps import Function, Functions, Made, Work, rung_names
from pipeline.vocabulary import JobRequest, Stage, new_id, now
from stages.contract import Artifact


def job(**changes: Any) -> JobRequest:
    """A valid request for the bundled model."""
    values = {
        "job_id": new_id("job"), "user_id": "user_1", "created_at": now(), "prompt": "a red ball", "model": "tiny",
        "duration_s": 2.0, "quality": "1080p", "fps": 24, "aspect_ratio": "16:9", "seed": 1, "steps": 4,
        "guidance": 4.0, "trace_id": "trace-1",
    }  # fmt: skip
    return JobRequest.model_validate(values | changes)


def write(work: Work, *names: str) -> tuple[Artifact, ...]:
    """Files whose bytes depend on the job, the name and everything that was read."""
    read = b"".join(path.read_bytes() for path in work.inputs.values())
    for name in names:
        (work.out / name).write_bytes(f"{work.request.prompt} {work.request.seed} {name} ".encode() + read)
    return tuple(Artifact(name, work.out / name, "application/octet-stream") for name in names)


def render(work: Work) -> Made:
    for step in range(work.request.steps):
        work.cancellation.check()
        work.report((step + 1) / work.request.steps, step=step + 1, steps=work.request.steps)
    return Made(write(work, "mezzanine.mov"), {"frames": 17})


def encode(work: Work) -> Made:
    return Made(write(work, *(f"{name}.mp4" for name in rung_names(work.request))))


def thumbnails(work: Work) -> Made:
    return Made(write(work, "poster-small.jpg"))


def metadata(work: Work) -> Made:
    return Made(
        write(work, "metadata.json"), {"metadata": {"native_frames": work.records[Stage.RENDER].facts["frames"]}}
    )


def publish(work: Work) -> Made:
    return Made(write(work, "manifest.json"))


SMALL: dict[Stage, Function] = {
    Stage.RENDER: render,
    Stage.ENCODE: encode,
    Stage.THUMBNAILS: thumbnails,
    Stage.METADATA: metadata,
    Stage.PUBLISH: publish,
}


def small_functions(settings: Settings, catalogue: Catalogue) -> Functions:
    """For worker children."""
    return SMALL


def silent_functions(settings: Settings, catalogue: Catalogue) -> Functions:
    """For benchmarks: a render that has no steps to report."""
    return SMALL | {Stage.RENDER: lambda work: Made(write(work, "mezzanine.mov"), {"frames": 17})}


def prompted_functions(settings: Settings, catalogue: Catalogue) -> Functions:
    """For worker children: the prompt says how the render behaves, each once per data folder where it ends badly."""
    return SMALL | {Stage.RENDER: lambda work: prompted_render(work, settings.data_dir)}


def prompted_render(work: Work, data_dir: Path) -> Made:
    """ "wait" renders until the file `go` is there; "hang" and "crash" do it once, then behave; "fail" always fails.

    "step 0.5" takes half a second for each step, leaves checkpoints, and notes its steps in the file `steps-JOB`.
    """
    prompt = work.request.prompt
    if prompt.startswith("step "):
        step_by_step(work, float(prompt.split()[1]), data_dir / f"steps-{work.request.job_id}")
    elif prompt == "fail":
        raise MemoryError
    elif prompt == "wait":
        wait_for_go(work, data_dir)
    elif prompt in ("hang", "crash") and first_time(data_dir / f"{prompt}-{work.request.job_id}"):
        {"hang": hang, "crash": crash}[prompt]()
    elif prompt == "always crash":
        crash()
    return render(work)


@dataclass(frozen=True)
class Shot:
    """A snapshot that holds nothing but the number of its step."""

    step: int
    window: int = 0
    exact: bool = True

    def to_bytes(self) -> bytes:
        return str(self.step).encode()


def step_by_step(work: Work, step_s: float, notes: Path) -> None:
    steps = work.request.steps
    for step in range(int(work.resume or 0) + 1, steps + 1):
        ends = time.monotonic() + step_s
        while time.monotonic() < ends:
            work.cancellation.check()
            time.sleep(min(0.02, step_s))
        with notes.open("a") as file:
            file.write(f"{step}\n")
        work.report(step / steps, step=step, steps=steps)
        if work.checkpoints is not None:
            work.checkpoints.offer(step, steps, lambda step=step: Shot(step))


def wait_for_go(work: Work, data_dir: Path) -> None:
    (data_dir / "waiting").touch()
    while not (data_dir / "go").exists():
        work.cancellation.check()
        work.report(0.1)
        time.sleep(0.02)


def first_time(mark: Path) -> bool:
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def hang() -> None:
    """Longer than any test waits, without a word."""
    time.sleep(3600)


def crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
