"""Many independent jobs on all cores, or on all nodes of a Ray cluster. The only room of analysis that knows Ray."""

__all__ = ["one_thread", "run_jobs"]

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch

from segcal.cluster import ray_cluster
from segcal.data.parallel import cores
from segcal.errors import SegcalError


class Job(Protocol):
    """Something to compute: what it costs, and the name of what it shares with other jobs."""

    @property
    def cost(self) -> float: ...
    @property
    def shared(self) -> str: ...


J = TypeVar("J", bound=Job)
Shared = TypeVar("Shared")
Result = TypeVar("Result")

WORTH_IT = 1.5e8  # voxels to predict (about a minute of a core) below which starting Ray takes longer than it saves


def run_jobs(
    function: Callable[[J, Shared], Result],
    jobs: Sequence[J],
    shared: Mapping[str, Shared],
    at_once: int,
    say: Callable[[str], None],
) -> Iterator[tuple[J, Result]]:
    """Jobs with their results function(job, shared[job.shared]), as they end; on a node at most `at_once` at a time.

    Runs here, one after another, where there is one core, one job, little to do, or a GPU that one process fills.
    """
    cost = sum(job.cost for job in jobs)
    alone = min(cores(), at_once, len(jobs)) < 2 or cost < WORTH_IT or torch.cuda.is_available()
    if alone and not os.environ.get("RAY_ADDRESS"):
        for job in jobs:
            with one_thread():
                result = function(job, shared[job.shared])
            yield job, result
    else:
        yield from _run_on_ray(function, jobs, shared, at_once, say)


def _run_on_ray(
    function: Callable[[J, Shared], Result],
    jobs: Sequence[J],
    shared: Mapping[str, Shared],
    at_once: int,
    say: Callable[[str], None],
) -> Iterator[tuple[J, Result]]:
    import ray

    with ray_cluster(say):
        nodes = [node for node in ray.nodes() if node["Alive"]]
        # A node's cores are shared by as many jobs as fit into the memory; each gets one thread.
        share = max(1.0, max(node["Resources"].get("CPU", 1) for node in nodes) / at_once)
        gpus = ray.cluster_resources().get("GPU", 0)
        remote = ray.remote(num_cpus=share, num_gpus=1 if gpus else 0, max_retries=2)(_alone)
        limit = 2 * sum(max(1, int(node["Resources"].get("CPU", 1) // share)) for node in nodes)
        stored = {name: ray.put(value) for name, value in shared.items()}
        waiting: dict[Any, J] = {}
        queue = list(reversed(jobs))
        while queue or waiting:
            while queue and len(waiting) < limit:  # a job's images lie in the object store: only a few at a time
                job = queue.pop()
                waiting[remote.remote(function, job, stored[job.shared])] = job
            (ready, *_), _ = ray.wait(list(waiting), num_returns=1)
            try:
                result = ray.get(ready)
            except ray.exceptions.RayTaskError as error:  # says it with the worker's traceback
                if isinstance(error.cause, SegcalError):
                    raise error.cause from None
                raise
            yield waiting.pop(ready), result


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread: a prediction's last bits depend on how many there are, and small networks gain little."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _alone(function: Callable[[J, Shared], Result], job: J, shared: Shared) -> Result:
    with one_thread():
        return function(job, shared)
