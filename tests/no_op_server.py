"""`python -m tests.no_op_server DATA [JSON]`: all in one process, as `t2m serve`, but no stage does any work.

Prints the URL once it answers. The videos are real enough to be served, not to be watched.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cli.servers import embedded_app
from config import settings as configuration
from config.catalogue import Catalogue
from gateway.serve import run
from pipeline import logging
from pipeline.embedded import EmbeddedRuntime
from pipeline.steps import Made, Work, rung_names
from pipeline.vocabulary import Stage
from stages.contract import Artifact
from tests.small_stages import SMALL

UNLIMITED = dict.fromkeys(("general", "system", "uploads", "jobs"), 10**6)
MASTER = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n720p.m3u8\n"


def encode(work: Work) -> Made:
    """A few bytes for each rung, and a playlist."""
    (work.out / "hls").mkdir()
    files = {f"{name}.mp4": ("video/mp4", "video" * 1000) for name in rung_names(work.request)}
    files["hls/master.m3u8"] = ("application/vnd.apple.mpegurl", MASTER)
    return _made(work, files)


def thumbnails(work: Work) -> Made:
    """A few bytes for each size."""
    return _made(work, {f"poster-{size}.jpg": ("image/jpeg", "picture") for size in ("small", "medium", "large")})


def _made(work: Work, files: dict[str, tuple[str, str]]) -> Made:
    for name, (_, text) in files.items():
        (work.out / name).write_text(text)
    return Made(tuple(Artifact(name, work.out / name, kind) for name, (kind, _) in files.items()))


def main(data: str, more: str = "{}") -> None:
    """Serve until SIGTERM."""
    known = {"data_dir": Path(data), "limits": UNLIMITED, "gateway": {"port": 0}}
    settings, catalogue = configuration.load(**known | json.loads(more)), Catalogue.load()
    logging.configure(settings.log, logging.secrets_of(settings))
    functions = SMALL | {Stage.ENCODE: encode, Stage.THUMBNAILS: thumbnails}
    runtime = EmbeddedRuntime(settings, catalogue, functions=functions)
    app = embedded_app(settings, catalogue, runtime, grace_s=1)
    run(app, settings, lambda url: print(url, flush=True))  # noqa: T201 - for who started it


if __name__ == "__main__":
    main(*sys.argv[1:])
