"""What the numbers were measured on."""

__all__ = ["Machine", "describe"]

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segcal.data.parallel import cores


@dataclass(frozen=True)
class Machine:
    """A machine and how fast it copies memory, the limit of everything that moves voxels."""

    cpu: str
    cores: int
    memory_gb: float
    copy_gb_per_s: float  # one core, read and written bytes


def describe() -> Machine:
    """This machine."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return Machine(names[0] if names else platform.processor(), cores(), round(memory, 1), round(_copy(), 1))


def _copy() -> float:
    source = np.ones(1 << 27, dtype=np.uint8)
    target = np.empty_like(source)
    times = []
    for _ in range(7):
        started = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - started)
    return 2 * source.nbytes / float(np.median(times)) / 1e9
