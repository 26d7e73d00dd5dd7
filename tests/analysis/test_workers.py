from dataclasses import dataclass

import pytest
import torch

from segcal.analysis import workers
from segcal.analysis.workers import one_thread, run_jobs


@dataclass(frozen=True)
class Job:
    number: int
    shared: str = "even"
    cost: float = 1.0


def add(job, shared):
    return job.number + shared, torch.get_num_threads()


JOBS = [Job(1), Job(2, "odd"), Job(3)]
SHARED = {"even": 10, "odd": 100}


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(workers, "cores", lambda: 2)


@pytest.fixture
def on_ray(monkeypatch):
    asked = []
    monkeypatch.setattr(workers, "_run_on_ray", lambda *args: asked.append(args) or iter(()))
    return asked


def test_jobs_get_what_they_share_and_come_with_their_results():
    found = list(run_jobs(add, JOBS, SHARED, 1, print))
    assert [(job, result[0]) for job, result in found] == [(JOBS[0], 11), (JOBS[1], 102), (JOBS[2], 13)]


def test_each_job_has_one_thread_and_the_caller_keeps_its_own():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seen = [(result[1], torch.get_num_threads()) for _, result in run_jobs(add, JOBS, SHARED, 1, print)]
        assert seen == [(1, 2)] * 3
        with pytest.raises(ZeroDivisionError):
            list(run_jobs(lambda job, shared: 1 / 0, JOBS, SHARED, 1, print))
        assert torch.get_num_threads() == 2
        with one_thread():
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_nothing_is_computed_before_it_is_asked_for():
    done = []
    results = run_jobs(lambda job, shared: done.append(job.number), JOBS, SHARED, 1, print)
    next(results)
    assert done == [1]
    results.close()
    assert done == [1]


def test_little_work_is_done_here(two_cores, on_ray, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    much = [Job(n, cost=workers.WORTH_IT) for n in range(2)]
    assert len(list(run_jobs(add, JOBS, SHARED, 2, print))) == 3
    assert len(list(run_jobs(add, much, SHARED, 1, print))) == 2  # only one fits into the memory
    assert len(list(run_jobs(add, much[:1], SHARED, 2, print))) == 1
    assert on_ray == []
    list(run_jobs(add, much, SHARED, 2, print))
    assert len(on_ray) == 1


def test_a_cluster_that_is_named_is_used(on_ray, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "somewhere")
    list(run_jobs(add, JOBS, SHARED, 1, print))
    assert len(on_ray) == 1


@pytest.mark.long
def test_on_ray_as_here(two_cores, monkeypatch):
    monkeypatch.setattr(workers, "WORTH_IT", 0)
    said = []
    found = {job: result[0] for job, result in run_jobs(add, JOBS, SHARED, 2, said.append)}
    assert found == {JOBS[0]: 11, JOBS[1]: 102, JOBS[2]: 13}
    assert said == ["starting Ray"]
