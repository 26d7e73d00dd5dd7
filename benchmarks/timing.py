"""Times of several ways to do one thing, in turn and on one core: a busy or warm machine meets all of them alike."""

__all__ = ["ROUNDS", "interleaved", "one_core"]

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch

ROUNDS = 5


def interleaved(
    ways: Mapping[str, Callable[[], object]], rounds: int = ROUNDS, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median seconds of each way over some rounds, after a round of warming up. On a GPU its work has ended."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            _wait_for_gpu()
            started = clock()
            way()
            _wait_for_gpu()
            times[name].append(clock() - started)
    return {name: float(np.median(found[1:])) for name, found in times.items()}


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """This thread stays on one core, and torch in it."""
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, {min(cores)})
    torch.set_num_threads(1)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)


def _wait_for_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
