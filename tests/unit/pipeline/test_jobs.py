from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline import keys
from pipeline.errors import AlreadyExists, ObjectMissing, RecordUnreadable
from pipeline.jobs import Jobs
from pipeline.store.local import FileStore
from pipeline.vocabulary import Final, Stage, Status, now
from tests.small_stages import job


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(FileStore(tmp_path))


def test_a_request_is_read_back_as_it_was_accepted(jobs: Jobs):
    request = job(prompt="A cat in the rain ☔")
    jobs.accept(request)
    assert jobs.request(request.job_id) == request
    assert Jobs(jobs.store).request(request.job_id) == request
    with pytest.raises(AlreadyExists):
        jobs.accept(request)


def test_an_unknown_job_is_said_to_be_missing(jobs: Jobs):
    with pytest.raises(ObjectMissing, match="job_1"):
        jobs.request("job_1")


def test_of_many_verdicts_at_once_one_stands_and_all_get_it(jobs: Jobs):
    def decide(n: int) -> Final:
        status = Status.COMPLETED if n % 2 else Status.CANCELLED
        return Jobs(jobs.store).decide(Final(job_id="job_1", status=status, at=now(), cancelled_by=str(n)))

    with ThreadPoolExecutor(8) as pool:
        verdicts = list(pool.map(decide, range(8)))
    assert len({v.cancelled_by for v in verdicts}) == 1
    assert verdicts[0] == jobs.final("job_1")


def test_takers_of_a_lost_delivery_are_known_by_name_until_they_end_it(jobs: Jobs):
    def take(worker: str) -> int:
        return len(Jobs(jobs.store).take_redelivered("job_1", Stage.ENCODE, worker))

    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(take, ("a", "b", "c", "d")))
    assert sorted(counts) == [0, 1, 2, 3]
    assert take("a") == 3, "the same worker counts once"
    jobs.end_redelivered("job_1", Stage.ENCODE, "b")
    assert set(jobs.take_redelivered("job_1", Stage.ENCODE, "e")) == {"a", "c", "d"}


def test_a_record_of_a_later_release_is_refused_by_name(jobs: Jobs):
    jobs.store.create(keys.record("job_1", Stage.ENCODE), b'{"version": 2}')
    with pytest.raises(RecordUnreadable, match=r"jobs/job_1/encode\.json"):
        jobs.record("job_1", Stage.ENCODE)
