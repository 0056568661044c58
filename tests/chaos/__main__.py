"""`python -m tests.chaos [--short] [--seed N] [--folder DIR]`."""

import argparse
import sys
from pathlib import Path

from tests.chaos.run import FULL, SHORT, main

parser = argparse.ArgumentParser(description="Break everything while jobs run, then count what became of them.")
parser.add_argument("--short", action="store_true", help="every kind of fault once")
parser.add_argument("--seed", type=int, help="of an earlier run; default: a new one")
parser.add_argument("--folder", type=Path, help="for logs and records; default: a new one under the temporary folder")
wanted = parser.parse_args()
sys.exit(main(SHORT if wanted.short else FULL, wanted.seed, wanted.folder))
