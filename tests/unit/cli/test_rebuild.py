"""`t2m rebuild` as an operator runs it."""

from __future__ import annotations

from pathlib import Path

from config.settings import load
from gateway.rebuild import SQL_ONLY
from pipeline import keys
from pipeline.jobs import Jobs
from pipeline.store.factory import open_store
from pipeline.vocabulary import Final, Status, new_id, now
from tests.e2e.commands import t2m
from tests.small_stages import job


def test_it_says_what_it_restores_and_what_only_a_backup_holds(tmp_path: Path):
    jobs = Jobs(open_store(load(data_dir=tmp_path)))
    waiting, cancelled = job(), job()
    for request in (waiting, cancelled):
        jobs.accept(request)
    jobs.cancel(cancelled.job_id, "user_1")
    deleted = Final(job_id=new_id("job"), status=Status.CANCELLED, at=now())
    jobs.decide(deleted)

    planned = t2m("rebuild", "--data", tmp_path, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    counts = "2 jobs (1 to be sent again, 0 completed, 0 failed, 1 cancelled) and 0 uploaded files."
    assert planned.stdout.splitlines()[0] == f"Would restore {counts}"
    done = t2m("rebuild", "--data", tmp_path)
    assert done.stdout.splitlines()[0] == f"Restored {counts}"
    for lost in SQL_ONLY:
        assert lost in done.stdout

    broken = job()
    jobs.store.create(keys.request(broken.job_id), b"{")
    again = t2m("rebuild", "--data", tmp_path)
    assert again.returncode == 1
    first, second, third, *_ = again.stdout.splitlines()
    assert first.startswith(f"Unreadable: Job {broken.job_id}")
    assert second.startswith("Restored 0 jobs")
    assert third == "Already there: 2. Unreadable: 1."
