"""`python -m tests.integration.worker_process SETTINGS QUEUES`: a worker whose stages are small."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from config.catalogue import Catalogue
from config.errors import T2MError
from pipeline.worker import supervise
from tests.small_stages import prompted_functions


def main(settings: str, queues: str) -> int:
    try:
        return supervise(
            pickle.loads(Path(settings).read_bytes()), Catalogue.load(), queues.split(","), prompted_functions
        )
    except T2MError as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
