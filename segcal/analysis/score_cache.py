"""Scores that were computed once: by the members' weights, the case, and the code that scores.

A folder a case, a file a computation; a file appears whole or not at all. Deleting any of it costs time only.
"""

__all__ = ["ScoreCache", "Stored", "scoring_version"]

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

import segcal.analysis.variants
import segcal.learn.fold
import segcal.learn.heads
import segcal.learn.predict
import segcal.learn.unet
from segcal import measure
from segcal.measure.case import CaseScores, columns
from segcal.measure.metric import added_metrics
from segcal.tasks import TaskSpec


def scoring_version() -> str:
    """Hash of the code that makes a score: what measures, what predicts, and torch's version. Figures may change.

    Plug-ins' metrics are part of it, by name, version and source.
    """
    added = added_metrics()
    return hashlib.sha256(repr((_own_version(), added)).encode()).hexdigest()[:16] if added else _own_version()


@functools.cache
def _own_version() -> str:
    modules = (segcal.learn.fold, segcal.learn.heads, segcal.learn.predict, segcal.learn.unet, segcal.analysis.variants)
    sources = [Path(str(module.__file__)) for module in modules]
    sources += [Path(__file__).with_name(name) for name in ("evaluate.py", "members.py")]
    sources += sorted(Path(str(measure.__file__)).parent.glob("*.py"))
    digest = hashlib.sha256(f"torch {torch.__version__}".encode())
    for source in sources:
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Stored:
    """The scores of one subset of members on one case."""

    metrics: np.ndarray  # in the order of columns(task)
    top: np.ndarray | None  # of full subsets; see CaseScores
    classwise: np.ndarray | None
    segments: np.ndarray | None


class ScoreCache:
    """Scores of a prepared cohort's cases below a folder of its digest."""

    def __init__(self, folder: Path, task: TaskSpec, device: str) -> None:
        self._folder, self._columns = folder, columns(task)
        rules = (scoring_version(), device, task.box_margin_mm, task.box_margin_slices, self._columns)
        self._rules = hashlib.sha256(repr(rules).encode()).hexdigest()

    def key(self, members: Sequence[str], variant: str, full: bool, decomposed: bool) -> bytes:
        """The name of a subset's scores, whatever the order of its members."""
        return hashlib.sha256(repr((self._rules, sorted(members), variant, full, decomposed)).encode()).digest()

    def read(self, case_id: str) -> dict[bytes, Stored]:
        """Everything that is known of a case. A damaged file counts as absent."""
        found: dict[bytes, Stored] = {}
        for path in sorted((self._folder / case_id).glob("*.npz")):
            with contextlib.suppress(Exception):  # a broken archive may raise anything
                found |= dict(self._open(path))
        return found

    def write(self, case_id: str, keys: Sequence[bytes], full: Sequence[bool], scores: CaseScores) -> None:
        """Keep the scores of some subsets of a case."""
        name = hashlib.sha256(b"".join(keys)).hexdigest()[:24]
        content = {
            "rules": np.array(self._rules),
            "keys": np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), -1),
            "metrics": np.stack([scores.metrics[name] for name in self._columns], axis=1),
            "full": np.asarray(full, bool),
            "top": scores.top,
            "classwise": scores.classwise,
            "segments": scores.segments.astype(np.int32),
        }
        self._keep(self._folder / case_id / f"{name}.npz", lambda file: np.savez(file, allow_pickle=False, **content))

    def picture(self, case_id: str, members: Sequence[str], z: int, draw: Callable[[], np.ndarray]) -> np.ndarray:
        """The map (Y, X) that some members make of slice z: read, or drawn and kept."""
        name = hashlib.sha256(repr((self._rules, sorted(members), z)).encode()).hexdigest()[:24]
        path = self._folder / case_id / f"{name}.map"  # an archive, for its checksum
        with contextlib.suppress(Exception), np.load(path, allow_pickle=False) as file:
            known: np.ndarray = file["map"]
            return known
        drawn = draw()
        self._keep(path, lambda file: np.savez(file, allow_pickle=False, map=drawn))
        return drawn

    def _keep(self, path: Path, write: Callable[[BinaryIO], None]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with partial.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    def _open(self, path: Path) -> Iterator[tuple[bytes, Stored]]:
        with np.load(path, allow_pickle=False) as file:
            if str(file["rules"]) != self._rules:  # of another version, left for those who go back to it
                return
            parts = {name: file[name] for name in ("keys", "metrics", "full", "top", "classwise", "segments")}
        row = np.cumsum(parts["full"]) - 1
        for s, key in enumerate(parts["keys"]):
            bins = [parts[n][row[s]] if parts["full"][s] else None for n in ("top", "classwise", "segments")]
            yield key.tobytes(), Stored(parts["metrics"][s], *bins)
