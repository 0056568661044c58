"""Renders killed at random moments and gone on with in a fresh process: the same file, and little done twice."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from config.catalogue import Catalogue
from pipeline.hold import USUAL
from pipeline.vocabulary import JobRequest, Stage
from tests.chaos.killable import Note, Shop, Worker
from tests.small_stages import job
from tests.unit.models.conftest import ROWS, saved
from tests.unit.pipeline.recording import Bench

SEED = 11
KILLS, FEW = 10, 2
STEPS = 30
INTERVALS = 6
"""How many intervals a render takes by its clock, as one of three minutes does."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


def shop_of(name: str, root: Path, folder: Path) -> tuple[Shop, JobRequest]:
    """Processes for a model, and what they are asked for."""
    if name == "tiny":
        entries = {"tiny": Catalogue.load().get("tiny")}
        return Shop(folder, root, entries), job(seed=7, steps=STEPS, duration_s=3.0, quality="720p")
    entry = saved(name, root)
    duration_s = min(1.0, entry.frames / entry.fps)
    asked = job(model=entry.name, seed=7, steps=STEPS, duration_s=duration_s, quality="720p", fps=entry.output_fps)
    return Shop(folder, root, {entry.name: entry}), asked


def again(bench: Bench, request: JobRequest) -> JobRequest:
    """The same request as a job of its own."""
    return bench.accept(request.model_copy(update={"job_id": job().job_id}))


def digests(bench: Bench, request: JobRequest) -> dict[str, str]:
    """Of the MP4s that were made."""
    record = bench.jobs.record(request.job_id, Stage.ENCODE)
    assert record is not None
    made = {output.name: output.digest for output in record.outputs if output.name.endswith(".mp4")}
    assert made
    return made


def within_an_interval(done: list[Note], kept: int) -> bool:
    """Whether no step was begun when an interval had passed since the step from which another went on."""
    since = next((note.at for note in done if note.done == kept), done[0].at)
    begun_after = [note for note in done[:-1] if note.done > kept]
    return all(note.at - since < USUAL.every_s or note.done - kept < USUAL.steps for note in begun_after)


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kills", [FEW, pytest.param(KILLS, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", [*ROWS, "tiny"])
def test_a_render_killed_at_a_random_moment_ends_as_the_same_file(
    name: str, kills: int, root: Path, tmp_path: Path
) -> None:
    dice = random.Random(f"{SEED} {name} {kills}")
    shop, request = shop_of(name, root, tmp_path)
    bench = Bench(tmp_path)
    undisturbed = again(bench, request)
    whole = Worker(shop, undisturbed, "whole")
    whole.finish()
    notes, expected = whole.notes, digests(bench, undisturbed)
    steps, took_s = len(notes), notes[-1].at - notes[0].at
    shop = replace(shop, speed=INTERVALS * USUAL.every_s / took_s)
    repeated = []
    for _ in range(kills):
        this = again(bench, request)
        victim = Worker(shop, this, "victim")
        victim.kill_at(dice.randint(1, steps - 1), dice.uniform(0, took_s / steps))
        heir = Worker(shop, this, "heir")
        heir.finish()
        assert digests(bench, this) == expected
        kept = heir.notes[0].done - 1
        assert [note.done for note in heir.notes] == list(range(kept + 1, steps + 1))
        assert within_an_interval(victim.notes, kept)
        repeated.append(victim.notes[-1].done - kept)
    print(f"{name}: {repeated} of {steps} steps were run twice, {steps / INTERVALS:.0f} an interval")
    assert sum(repeated) < kills * steps / 2, "they went on from checkpoints"
