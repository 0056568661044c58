"""The stages' own functions, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from config.catalogue import Catalogue
from config.settings import Settings
from pipeline import steps
from pipeline.vocabulary import Stage
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
