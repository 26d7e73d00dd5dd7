"""Arrays in a file that says in its name which epoch they are of and what its content hashes to."""

__all__ = ["StateFile", "WEIGHTS", "pack", "read_state", "state_files", "write_state"]

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from segcal.journal.storage import Storage

WEIGHTS = "weights.safetensors"
_NAME = re.compile(r"state-(\d{6})-([0-9a-f]{16})\.safetensors")


@dataclass(frozen=True)
class StateFile:
    """A training's whole state after an epoch."""

    name: str
    epoch: int
    digest: str


def state_files(names: Iterable[str], *, damaged: bool = False) -> list[StateFile]:
    """Those among a trial's files, newest first; damaged: with those that were set aside."""
    match = _NAME.match if damaged else _NAME.fullmatch
    found = [(name, match(name)) for name in names]
    files = [StateFile(name, int(parts[1]), parts[2]) for name, parts in found if parts]
    return sorted(files, key=lambda file: -file.epoch)


def write_state(storage: Storage, epoch: int, state: Mapping[str, np.ndarray]) -> StateFile:
    """Write a state beside the one before it."""
    data, digest = pack(state)
    file = StateFile(f"state-{epoch:06d}-{digest[:16]}.safetensors", epoch, digest[:16])
    storage.write(file.name, data)
    return file


def read_state(storage: Storage, file: StateFile) -> dict[str, np.ndarray]:
    """Raises ValueError where the content is not what was written, FileNotFoundError where it was replaced."""
    data = storage.read(file.name)
    if hashlib.sha256(data).hexdigest()[:16] != file.digest:
        raise ValueError(f"{file.name} is damaged")
    try:
        return dict(load(data))
    except SafetensorError as error:
        raise ValueError(str(error)) from None


def pack(arrays: Mapping[str, np.ndarray]) -> tuple[bytes, str]:
    """Arrays as safetensors, and the sha256 of that: the same arrays give the same bytes."""
    data = save(dict(arrays))
    return data, hashlib.sha256(data).hexdigest()
