"""Says what became of every job: `python -m tests.chaos.checker --database URL --store s3://…|FOLDER --record FILE`.

Prints one line and exits with 1 unless its last five figures are 0:

    attempted   requests the client made, by their idempotency keys
    accepted    jobs the API promised
    completed, failed (always with a reason), cancelled
    lost        promised and gone: the row, the request, a file of a completed job, a webhook message
    doubled     visible twice or in two versions: two verdicts, two jobs for one key, two results for one request
    stuck       still processing
    wrong       transitions no job may make: out of a final state, back, past a verdict, two sources that disagree
    orphans     objects under jobs/ that belong to no job, or that a finished job should not have left

Blobs of interrupted work, which nothing refers to, are counted and not held against it: they wait for a sweep.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import av

from tests.chaos.evidence import Objects, Row, Rows, Seen, decoded, open_objects, read_rows, read_seen

STAGES = ("render", "encode", "thumbnails", "metadata", "publish")
VERDICTS = ("completed", "failed", "cancelled")
FAULTS = ("lost", "doubled", "stuck", "wrong", "orphans")
VERDICT_RANK = 1000
"""Of the message about a job's end."""
KEPT = re.compile(rf"request\.json|log\.json|final|({'|'.join(STAGES)})(\.json|\.losses|\.takers)")
"""What a finished job may leave under its folder."""

Found = Iterator[tuple[str, str]]
"""Job or key, and what is wrong with it."""
Decode = Callable[[str, bytes], None]
"""Raises if the named file cannot be played."""


@dataclass
class Report:
    """The line, and the reasons behind it."""

    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    violations: dict[str, dict[str, list[str]]] = field(default_factory=lambda: {name: {} for name in FAULTS})
    unswept: int = 0

    def add(self, name: str, found: Found) -> None:
        for subject, text in found:
            self.violations[name].setdefault(subject, []).append(text)

    @property
    def clean(self) -> bool:
        return not any(self.violations.values())

    @property
    def line(self) -> str:
        figures = {name: self.counts[name] for name in ("attempted", "accepted", *VERDICTS)}
        figures |= {name: len(subjects) for name, subjects in self.violations.items()}
        return " / ".join(f"{name} {count}" for name, count in figures.items())


class Check:
    """One judgement.

    Args:
        decode: of the files; by default MP4s are decoded to the last frame.
    """

    def __init__(self, seen: Seen, rows: Rows, objects: Objects, decode: Decode | None = None) -> None:
        self._seen, self._rows, self._objects = seen, rows, objects
        self._decode = decode or play
        self._sizes = objects.sizes()
        self._readable: dict[str, str] = {}

    def report(self) -> Report:
        """Look at everything."""
        report = Report(unswept=len(self._unreferenced()))
        report.counts["attempted"] = len(self._seen.attempts)
        report.counts["accepted"] = len(self._promised)
        for job_id in self._promised & set(self._rows.jobs):
            row = self._rows.jobs[job_id]
            report.counts[row["status"]] += 1
            if row["status"] == "failed":
                report.reasons[(decoded(row["failure"]) or {}).get("code", "none given")] += 1
        for find in (self._gone, self._files_gone, self._messages_gone):
            report.add("lost", find())
        for find in (self._two_jobs, self._two_verdicts, self._two_results, self._two_messages):
            report.add("doubled", find())
        report.add("stuck", self._stuck())
        for find in (self._seen_going_back, self._log_broken, self._sources_differ, self._messages_out_of_order):
            report.add("wrong", find())
        report.add("orphans", self._orphans())
        return report

    @cached_property
    def _promised(self) -> set[str]:
        return {line["job_id"] for line in self._seen.accepted}

    @cached_property
    def _finals(self) -> dict[str, Any]:
        return {
            job_id: json.loads(self._objects.read(f"jobs/{job_id}/final"))
            for job_id in self._rows.jobs
            if f"jobs/{job_id}/final" in self._sizes
        }

    # lost

    def _gone(self) -> Found:
        for job_id in self._promised:
            if job_id not in self._rows.jobs:
                yield job_id, "accepted, and no row"
            elif f"jobs/{job_id}/request.json" not in self._sizes:
                yield job_id, "accepted, and no request in the store"

    def _files_gone(self) -> Found:
        for job_id, row in self._rows.jobs.items():
            if row["status"] != "completed":
                continue
            files = self._rows.artifacts.get(job_id, {})
            if not any(name.endswith(".mp4") for name in files):
                yield job_id, "completed without a video"
            for name, ref in files.items():
                if problem := self._problem(name, ref):
                    yield job_id, f"{name}: {problem}"

    def _problem(self, name: str, ref: Row) -> str:
        """What is wrong with a file; each blob is looked at once, however many jobs share it."""
        key = ref["key"]
        if key not in self._readable:
            self._readable[key] = self._look(name, ref)
        return self._readable[key]

    def _look(self, name: str, ref: Row) -> str:
        if ref["key"] not in self._sizes:
            return "its blob is missing"
        data = self._objects.read(ref["key"])
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != ref["digest"] or len(data) != ref["size"]:
            return "its blob holds other bytes"
        try:
            self._decode(name, data)
        except Exception as error:  # noqa: BLE001 - whatever a decoder finds wrong
            return f"cannot be decoded: {error}"
        return ""

    def _messages_gone(self) -> Found:
        """Every message that was kept arrived, and every receiver learnt the end."""
        for job_id, kept in self._rows.deliveries.items():
            arrived = {line["message_id"] for line in self._seen.webhooks.get(job_id, [])}
            for delivery in kept:
                what = f"webhook {delivery['event']}"
                if delivery["status"] not in ("delivered", "dropped"):
                    yield job_id, f"{what} is {delivery['status']}"
                elif delivery["status"] == "delivered" and delivery["message_id"] not in arrived:
                    yield job_id, f"{what} is called delivered and never arrived"
        for line in self._seen.accepted:
            row = self._rows.jobs.get(line["job_id"])
            told = {delivery["event"] for delivery in self._rows.deliveries.get(line["job_id"], [])}
            if line.get("webhook") and row and row["status"] in VERDICTS and f"job.{row['status']}" not in told:
                yield line["job_id"], "its receiver is told of no verdict"

    # doubled

    def _two_jobs(self) -> Found:
        by_key: dict[str, set[str]] = defaultdict(set)
        for line in self._seen.accepted:
            by_key[line["key"]].add(line["job_id"])
        for key, its in by_key.items():
            if len(its) > 1:
                yield key, f"one key made the jobs {sorted(its)}"

    def _two_verdicts(self) -> Found:
        for job_id, log in self._rows.log.items():
            verdicts = [entry["kind"] for entry in log if entry["kind"] in VERDICTS]
            if len(verdicts) > 1:
                yield job_id, f"its log has the verdicts {verdicts}"

    def _two_results(self) -> Found:
        """Equal requests give equal videos, whoever rendered them and however often they were interrupted."""
        results: dict[str, dict[str, str]] = defaultdict(dict)
        for line in self._seen.accepted:
            for name, ref in self._rows.artifacts.get(line["job_id"], {}).items():
                if name.endswith(".mp4"):
                    first = results[line["request"]].setdefault(name, ref["digest"])
                    if ref["digest"] != first:
                        yield line["job_id"], f"{name} differs from that of an equal request"
        for job_id, digests in self._seen.downloads.items():
            stored = {ref["digest"].removeprefix("sha256:") for ref in self._rows.artifacts.get(job_id, {}).values()}
            if len(digests) > 1 or not digests <= stored:
                yield job_id, "a client got other bytes than the manifest names"

    def _two_messages(self) -> Found:
        for job_id, got in self._seen.webhooks.items():
            ends = {line["message_id"] for line in got if line["event"].removeprefix("job.") in VERDICTS}
            if len(ends) > 1:
                yield job_id, f"its receiver got {len(ends)} different verdicts"

    # stuck

    def _stuck(self) -> Found:
        for job_id, row in self._rows.jobs.items():
            if row["status"] not in VERDICTS:
                yield job_id, f"still {row['status']} at {row['progress']} %"

    # wrong transitions

    def _seen_going_back(self) -> Found:
        for job_id, statuses in self._seen.statuses.items():
            for before, after in pairwise(statuses):
                if before["status"] in VERDICTS and after["status"] != before["status"]:
                    yield job_id, f"a client saw {before['status']} become {after['status']}"
                if after["progress"] < before["progress"]:
                    yield job_id, f"a client saw {before['progress']} % become {after['progress']} %"
            row = self._rows.jobs.get(job_id)
            last = statuses[-1]["status"]
            if row and last in VERDICTS and row["status"] != last:
                yield job_id, f"a client saw {last}, the database says {row['status']}"
        for job_id, answers in self._seen.cancels.items():
            row = self._rows.jobs.get(job_id)
            if row and "cancelled" in answers and row["status"] != "cancelled":
                yield job_id, f"a client was told that it is cancelled, and it is {row['status']}"

    def _log_broken(self) -> Found:
        for job_id, row in self._rows.jobs.items():
            log = self._rows.log.get(job_id, [])
            if [entry["seq"] for entry in log] != list(range(1, row["seq"] + 1)):
                yield job_id, "the numbers of its log have gaps"
            if any(after["progress"] < before["progress"] for before, after in pairwise(log)):
                yield job_id, "the progress in its log falls"
            newest = max((_order(entry) for entry in log if entry["n"] or entry["kind"] not in VERDICTS), default=())
            if tuple(decoded(row["position"])) < newest:
                yield job_id, f"it stands at {row['position']}, and its log reaches {newest}"
            verdicts = {entry["kind"] for entry in log if entry["kind"] in VERDICTS}
            if row["status"] in VERDICTS and verdicts != {row["status"]}:
                yield job_id, f"it is {row['status']}, and its log says {sorted(verdicts)}"

    def _sources_differ(self) -> Found:
        """The verdict in the store is the one in the database, once that has learnt of it, with the same files."""
        for job_id, row in self._rows.jobs.items():
            final = self._finals.get(job_id)
            status = final["status"] if final else "processing"
            if row["status"] in VERDICTS and row["status"] != status:
                yield job_id, f"the database says {row['status']}, the store {status}"
            files = {name: ref["digest"] for name, ref in self._rows.artifacts.get(job_id, {}).items()}
            decided = final["artifacts"] if final and row["status"] in VERDICTS else []
            if files != {ref["name"]: ref["digest"] for ref in decided}:
                yield job_id, "the database and the store name other files"
            if status == "failed" and not ((final or {}).get("failure") or {}).get("message"):
                yield job_id, "it failed without a reason"

    def _messages_out_of_order(self) -> Found:
        """Repeats are allowed, older messages after newer ones are not."""
        for job_id, got in self._seen.webhooks.items():
            ranks = {d["message_id"]: d["rank"] for d in self._rows.deliveries.get(job_id, [])}
            told = [rank for rank, _ in groupby(ranks.get(line["message_id"], VERDICT_RANK) for line in got)]
            if told != sorted(set(told)):
                yield job_id, f"its receiver was told in the order {told}"

    # orphans

    def _orphans(self) -> Found:
        for key in self._sizes:
            folder, _, rest = key.partition("/")
            if folder != "jobs":
                continue
            job_id, _, name = rest.partition("/")
            if job_id not in self._rows.jobs:
                if name != "request.json":  # a gateway that died before it promised anything leaves that one
                    yield job_id, f"{key} belongs to no job"
            elif self._rows.jobs[job_id]["status"] in VERDICTS and not KEPT.fullmatch(name):
                yield job_id, f"{key} was left behind"

    def _unreferenced(self) -> set[str]:
        named: set[str] = set()
        for key in self._sizes:
            if key.startswith("jobs/") and key.endswith((".json", "/final")):
                named |= set(re.findall(r"blobs/sha256/[0-9a-f/]+", self._objects.read(key).decode(errors="replace")))
        return {key for key in self._sizes if key.startswith("blobs/")} - named


def _order(entry: Row) -> tuple[int, int, int, int]:
    return entry["epoch"], STAGES.index(entry["stage"]), entry["hop"], entry["n"]


def play(name: str, data: bytes) -> None:
    """Decode an MP4 to its last frame, parse JSON; raises if that cannot be done or nothing is there."""
    if name.endswith(".mp4") and "/" not in name:  # those in folders are HLS segments, which need their playlist
        with av.open(io.BytesIO(data)) as container:
            if not sum(1 for _ in container.decode(video=0)):
                raise ValueError("no frame")
    elif name.endswith(".json"):
        json.loads(data)
    elif not data:
        raise ValueError("empty")


def check(database: str, store: str, record: Path, decode: Decode | None = None) -> Report:
    """Judge what lies there."""
    return Check(read_seen(record), asyncio.run(read_rows(database)), open_objects(store), decode).report()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", required=True, help="SQLAlchemy URL with an async driver")
    parser.add_argument("--store", required=True, help="s3://access:secret@host:port/bucket, or a folder")
    parser.add_argument("--record", required=True, type=Path)
    wanted = parser.parse_args(argv)
    report = check(wanted.database, wanted.store, wanted.record)
    for name, subjects in report.violations.items():
        for subject, texts in subjects.items():
            print(f"{name}: {subject}: {'; '.join(texts)}")
    if report.reasons:
        print("failed with: " + ", ".join(f"{code} {count}" for code, count in sorted(report.reasons.items())))
    print(f"blobs of interrupted work that wait for a sweep: {report.unswept}")
    print(report.line)
    return 0 if report.clean else 1


if __name__ == "__main__":
    sys.exit(main())
