"""Memory that a network frees stays with its process, for the next step."""

__all__ = ["ALLOCATOR", "handed_on"]

import os
from contextlib import AbstractContextManager

from segcal.environment import environment

# The environment of processes that train or predict on a CPU; glibc reads it when a process starts. By default it gives
# activations back to the kernel, which clears every page of them again at the next step. Arrays above 256 MB still go.
ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(256 << 20),
    "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1),
}
_SINCE = (2, 36)  # tried with; earlier ones refuse a threshold above 32 MB and are slower then than without any


def handed_on() -> AbstractContextManager[None]:
    """Processes that are started within it get it, on a C library that takes it; what the user has set stays."""
    return environment({name: os.environ.get(name) or value for name, value in ALLOCATOR.items()} if _taken() else {})


def _taken() -> bool:
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (ValueError, OSError):  # another C library
        return False
    return name == "glibc" and tuple(int(part) for part in version.split(".")[:2]) >= _SINCE
