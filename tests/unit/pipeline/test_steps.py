"""The stages' own functions, one after the other."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from config.catalogue import Catalogue
from config.settings import Settings
from pipeline import steps
from pipeline.vocabulary import EventKind, Stage
from tests.small_stages import job
from tests.unit.pipeline.recording import Bench, message


def test_metadata_name_the_revision_that_drew_even_where_their_worker_has_another(
    tmp_path: Path, t2m_settings: Callable[..., Settings]
) -> None:
    settings = t2m_settings(models={"device": "cpu"})
    drawing = Catalogue.load()
    entry = drawing.get("tiny")
    describing = Catalogue({"tiny": entry.model_copy(update={"revision": "later"})})
    bench = Bench(tmp_path)
    request = bench.accept(job(steps=1, duration_s=1.0, quality="720p"))
    for catalogue, stage in ((drawing, Stage.RENDER), (drawing, Stage.ENCODE), (describing, Stage.METADATA)):
        bench.another(steps.functions(settings, catalogue)).run(message(request, stage))
    record = bench.jobs.record(request.job_id, Stage.METADATA)
    assert record is not None
    assert record.facts["metadata"]["generation"]["model_revision"] == entry.revision


def test_a_render_shows_pictures_with_its_events(tmp_path: Path, t2m_settings: Callable[..., Settings]) -> None:
    bench = Bench(tmp_path, steps.functions(t2m_settings(models={"device": "cpu"}), Catalogue.load()))
    request = bench.accept(job(steps=1, duration_s=1.0, quality="720p"))
    bench.runner.run(message(request, Stage.RENDER))
    previews = [event for event in bench.bus.events if event.kind is EventKind.PREVIEW]
    places = [event.data["at_s"] for event in previews]
    assert (len(places), places) == (4, sorted(places))
    for event in previews:
        assert len(event.model_dump_json()) < 20_000
        with Image.open(io.BytesIO(base64.b64decode(event.data["jpeg"]))) as picture:
            assert picture.size == (112, 63)
