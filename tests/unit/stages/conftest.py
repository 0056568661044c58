"""Clips that went through render and encode, made once per test session."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from stages.contract import Artifact
from stages.encode import EncodeSpec, encode, ladder
from stages.render import Rendered
from tests.unit.stages.clips import Painted, Painter, moving, plain, rendered


@dataclass(frozen=True)
class Case:
    """A clip and what is to be made of it.

    Attributes:
        size: native pixels.
        native_fps, frames: of the model.
        seconds, fps: of the renditions.
    """

    name: str
    painter: Painter = moving
    size: tuple[int, int] = (112, 63)
    native_fps: float = 8
    frames: int = 8
    seconds: float = 1
    fps: int = 24
    quality: str = "720p"
    aspect_ratio: str = "16:9"
    sample_rate: int | None = None

    @property
    def output_frames(self) -> int:
        return round(self.seconds * self.fps)


LONG = Case("long", frames=41, seconds=5.1, quality="1080p", sample_rate=24_000)
SHORT = Case("short")
TALL = Case("tall", size=(63, 112), fps=30, aspect_ratio="9:16")
SQUARE = Case("square", size=(65, 65), native_fps=16, frames=37, seconds=2.3, fps=25, aspect_ratio="1:1")
SAME_RATE = Case("same-rate", size=(128, 72), native_fps=24, frames=24)
SLOWER = Case("slower", size=(128, 72), native_fps=24, frames=24, fps=10)
COLOUR = Case("colour", painter=plain(200, 60, 30), size=(1280, 704), native_fps=24, frames=4, seconds=4 / 24)
CASES = (LONG, SHORT, TALL, SQUARE, SAME_RATE, SLOWER)


@dataclass(frozen=True)
class Made:
    """A case's outputs in the folder `out`."""

    case: Case
    rendered: Rendered
    artifacts: tuple[Artifact, ...]
    out: Path

    @property
    def rungs(self) -> list[str]:
        return [rung.name for rung in ladder(self.case.quality, self.case.aspect_ratio)]

    @property
    def mp4s(self) -> dict[str, Path]:
        return {rung: self.out / f"{rung}.mp4" for rung in self.rungs}


def make(case: Case, out: Path) -> Made:
    model = Painted(case.painter, case.native_fps, case.sample_rate)
    clip = rendered(out, model, *case.size, case.frames)
    rungs = ladder(case.quality, case.aspect_ratio)
    spec = EncodeSpec(rungs, case.fps, case.output_frames, encoder="libx264")
    return Made(case, clip, encode(clip.mezzanine.path, spec, out), out)


class Maker:
    """Makes each case once."""

    def __init__(self, folder: Path) -> None:
        self._make = cache(lambda case: make(case, folder / case.name))

    def __call__(self, case: Case) -> Made:
        return self._make(case)


@pytest.fixture(scope="session")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    return Maker(tmp_path_factory.mktemp("made"))


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def made(request: pytest.FixtureRequest, maker: Maker) -> Made:
    return maker(request.param)


@pytest.fixture
def long(maker: Maker) -> Made:
    """5.1 s, two rungs, sound."""
    return maker(LONG)


@pytest.fixture
def short(maker: Maker) -> Made:
    return maker(SHORT)
