"""Bugs that break a guarantee, each of which the checker must report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """A text of a file, found exactly once, and the wrong one that takes its place."""

    file: str
    right: str
    wrong: str


@dataclass(frozen=True)
class Bug:
    """One or more changes that belong together.

    Attributes:
        shows: the figures of the checker's line one of which must not be 0.
        rendering: only real renders show it.
    """

    what: str
    shows: tuple[str, ...]
    changes: tuple[Change, ...]
    rendering: bool = False


LATE_UPLOAD = """
        late, self._late = getattr(self, "_late", []), []
        for path, artifact in late:
            self._jobs.store.put_file(path, artifact.name, artifact.media_type)
"""
BUGS = (
    Bug(
        "a message is acknowledged before the work",
        ("stuck",),
        (
            Change(
                "pipeline/broker.py",
                "        self._taken[message.message_id] = data\n",
                "        self._free.release()\n",
            ),
        ),
    ),
    Bug(
        "the record comes before the blobs",
        ("lost",),
        (
            Change(
                "pipeline/runner.py",
                "            return self._jobs.store.put_file(artifact.path, artifact.name, artifact.media_type)\n",
                """            from tempfile import mkstemp

            data, kept = artifact.path.read_bytes(), Path(mkstemp()[1])
            kept.write_bytes(data)
            self._late = [*getattr(self, "_late", []), (kept, artifact)]
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            key = keys.blob(digest)
            return ArtifactRef(
                name=artifact.name, digest=digest, key=key, size=len(data), media_type=artifact.media_type
            )
""",
            ),
            Change(
                "pipeline/runner.py",
                "        step = CHAIN[message.stage]\n        if step.joins",
                LATE_UPLOAD.lstrip("\n") + "        step = CHAIN[message.stage]\n        if step.joins",
            ),
            Change(
                "pipeline/runner.py",
                "        standing = self._jobs.decide(final)\n",
                "        standing = self._jobs.decide(final)\n" + LATE_UPLOAD.lstrip("\n"),
            ),
        ),
    ),
    Bug(
        "writes are not conditional",
        ("wrong",),
        (
            Change(
                "pipeline/store/local.py",
                "            if not _publish(temporary, path, os.link):\n                raise AlreadyExists",
                "            if not _publish(temporary, path, os.replace):\n                raise AlreadyExists",
            ),
        ),
    ),
    Bug(
        "events have no order",
        ("wrong",),
        (
            Change(
                "gateway/projection.py",
                "    if event.order > projection.position:\n",
                "    if event.order != projection.position:\n",
            ),
        ),
    ),
    Bug(
        "progress follows the last event",
        ("wrong",),
        (
            Change(
                "gateway/projection.py",
                "progress=max(projection.progress, _reached(event))",
                "progress=_reached(event)",
            ),
        ),
    ),
    Bug(
        "a worker's word is a verdict",
        ("doubled", "wrong"),
        (
            Change(
                "gateway/ledger.py",
                "    left_out = set(VERDICTS.values())\n",
                "    left_out = set(VERDICTS.values()) if concluding else set()\n",
            ),
        ),
    ),
    Bug(
        "a job counts as sent before it is",
        ("stuck",),
        (
            Change(
                "gateway/database/jobs.py",
                ".values(claimed_at=now(), epoch=jobs.c.epoch + 1)",
                ".values(claimed_at=now(), dispatched_at=now(), epoch=jobs.c.epoch + 1)",
            ),
        ),
    ),
    Bug(
        "a key is forgotten with the answer",
        ("doubled",),
        (
            Change(
                "gateway/registration.py",
                "        await idempotency.keep(connection, entry.attempt, entry.answer)\n",
                "        pass\n",
            ),
        ),
    ),
    Bug(
        "results depend on who made them",
        ("doubled",),
        (
            Change(
                "pipeline/runner.py",
                "            outputs = self._store(made)\n",
                """            for artifact in made.artifacts:
                artifact.path.write_bytes(artifact.path.read_bytes() + message.trace_id.encode())
            outputs = self._store(made)
""",
            ),
        ),
    ),
    Bug(
        "a checkpoint lacks the scheduler's history",
        ("doubled",),
        (
            Change(
                "models/denoise.py",
                '        vars(state.scheduler).update(saved["scheduler"])\n',
                "",
            ),
        ),
        rendering=True,
    ),
)
