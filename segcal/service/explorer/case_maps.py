"""What a method, and each of its members, says of every voxel of a case: predicted once, kept on disk, bounded."""

__all__ = ["KINDS", "CaseMaps", "MapStore", "Waiting", "error_kinds", "map_key", "predict_maps"]

import contextlib
import hashlib
import io
import json
import logging
import os
import threading
import time
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from segcal.analysis.members import Member
from segcal.analysis.workers import one_thread
from segcal.errors import SegcalError
from segcal.learn.predict import predict_together, slabs_of
from segcal.measure.case import CaseScores, CaseTally
from segcal.measure.uncertainty import total_entropy
from segcal.tasks import TaskSpec
from segcal.volume import Case

FORMAT = 1  # of the files
FULL = 65535  # what a probability of 1, or an entropy of ln K, is stored as
KINDS = ("missed", "false alarm", "other structure")  # values 1, 2, 3 of an error map
MEMBERS_BYTES = 600_000_000  # of members' own maps made along with their mean's; larger ones when asked for
SHOWN_AGAIN = 30.0  # seconds that a failure is told before the work is tried again
_TORN = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)

log = logging.getLogger("segcal.service")
Say = Callable[[int, int], None]  # slices done, slices in all


@dataclass(frozen=True)
class CaseMaps:
    """One prediction of a whole case: maps for pictures, in 16 bits; numbers from the probabilities themselves."""

    probability: np.ndarray = field(repr=False)  # (F, Z, Y, X) uint16 of FULL: structures 1..F of the task
    labels: np.ndarray = field(repr=False)  # (Z, Y, X) uint8: the most probable class, ties the lowest
    entropy: np.ndarray = field(repr=False)  # (Z, Y, X) uint16 of FULL: -sum p ln p over ln K
    scores: Mapping[str, float] = field(repr=False)  # metric@where -> value, as cases.parquet has them
    reliability: np.ndarray = field(repr=False)  # (2, N_BINS, 3) box and whole: voxels, sum of confidence, correct
    segments: np.ndarray = field(repr=False)  # (F, FINE) voxels of each predicted structure by their probability

    @property
    def most_entropy(self) -> float:
        """ln K, in nats."""
        return float(np.log(len(self.probability) + 1))


def error_kinds(labels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Where the most probable class is not the truth, by KINDS: 1 truth missed, 2 nothing there, 3 another structure.

    labels, truth (...) classes; 0 where they agree. uint8.
    """
    kinds = np.where(labels == 0, 1, np.where(truth == 0, 2, 3))
    return np.where(labels == truth, 0, kinds).astype(np.uint8)


def map_key(members: Sequence[str], split: str) -> str:
    """The name of what these members (by Member.name or weights hash, in any order) say of a case of a split."""
    return hashlib.sha256(json.dumps([FORMAT, split, sorted(members)]).encode()).hexdigest()[:24]


def predict_maps(
    members: Sequence[Member], case: Case, task: TaskSpec, alone: bool = False, say: Say = lambda *_: None
) -> list[CaseMaps]:
    """Maps and scores of the members' mean (Eq. 6); with `alone`, then those of each member by itself.

    Predicted slab by slab as the report does it, on one thread: the scores are those of the report for the same
    members.
    """
    subsets = [tuple(range(len(members)))] + [(m,) for m in range(len(members)) if alone]
    tally = CaseTally(case, task, subsets)
    shape = (len(subsets), *case.truth.shape)
    probability = np.empty((shape[0], task.n_classes - 1, *shape[1:]), np.uint16)
    labels, entropy = np.empty(shape, np.uint8), np.empty(shape, np.uint16)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    samples = [member.sampling(case.case_id) for member in members]
    with one_thread():
        nets = [member.net(device) for member in members]
        for first, slab in slabs_of(case.image, task.dims, device):
            parts = tally.slab(first, predict_together(nets, members[0].config.head, slab, first, samples), len(nets))
            tally.add(parts)
            here = slice(first, first + parts.probs.shape[2])
            for at, subset in enumerate(subsets):
                mean = parts.probs[subset[0]] if len(subset) == 1 else parts.probs.mean(axis=0, dtype=np.float64)
                probability[at, :, here] = np.rint(mean[1:] * FULL)
                labels[at, here] = mean.argmax(axis=0)
                entropy[at, here] = np.rint(np.minimum(total_entropy(mean) / np.log(task.n_classes), 1) * FULL)
            say(here.stop, len(case.truth))
        scores = tally.scores()
    return [_maps(scores, at, probability[at], labels[at], entropy[at]) for at in range(len(subsets))]


def _maps(scores: CaseScores, at: int, probability: np.ndarray, labels: np.ndarray, entropy: np.ndarray) -> CaseMaps:
    numbers = {name: float(values[at]) for name, values in scores.metrics.items()}
    return CaseMaps(probability, labels, entropy, numbers, scores.top[at], scores.segments[at])


@dataclass
class Waiting:
    """Maps that are being made, or stand in the queue."""

    started: float = field(default_factory=time.monotonic)
    done: int = 0
    total: int = 0  # 0: not begun
    ahead: int = 0  # works that were asked for before

    def say(self, done: int, total: int) -> None:
        """How many of the work's steps are done."""
        self.done, self.total = done, total


class MapStore:
    """Maps by the place of their file. What two readers ask for at once is made once, one work after another."""

    def __init__(self, folder: Path, most_bytes: float = 2e9, in_memory: int = 6, queue: int = 20) -> None:
        self.folder, self.most_bytes, self._in_memory, self._queue = folder, most_bytes, in_memory, queue
        self._lock = threading.Lock()
        self._recent: OrderedDict[str, CaseMaps] = OrderedDict()
        self._works: dict[str, tuple[Future[None], Waiting]] = {}
        self._failed: dict[str, tuple[float, Exception]] = {}
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="segcal-case-maps")
        self._closed = False

    def find(self, name: str) -> CaseMaps | None:
        """What is kept as `name` (a path of this store, DIGEST/CASE/KEY); None where it is not there, or torn."""
        with self._lock:
            if name in self._recent:
                self._recent.move_to_end(name)
                return self._recent[name]
        path = self._path(name)
        try:
            maps = _read(path.read_bytes())
            os.utime(path)  # the oldest are removed first
        except FileNotFoundError:
            return None
        except _TORN as error:
            log.warning("%s is not whole (%s); it is made again", path, type(error).__name__)
            path.unlink(missing_ok=True)
            return None
        self._remember(name, maps)
        return maps

    def has(self, name: str) -> bool:
        """Whether it is kept; its file may be torn."""
        with self._lock:
            return name in self._recent or self._path(name).exists()

    def ask(self, name: str, make: Callable[[Say], Mapping[str, CaseMaps]]) -> CaseMaps | Waiting:
        """The maps, or how far they are. make: gives them, and others that it made along with them, by name.

        Raises what `make` raised, for a while; then it is tried again. Raises SegcalError where too many wait.
        """
        if (maps := self.find(name)) is not None:
            return maps
        with self._lock:
            if name in self._recent:  # made since
                return self._recent[name]
            if name in self._failed:
                at, error = self._failed[name]
                if time.monotonic() - at < SHOWN_AGAIN:
                    raise error
                del self._failed[name]
            if name not in self._works:
                if len(self._works) >= self._queue:
                    raise SegcalError(f"at most {self._queue} cases may wait to be predicted, got one more; wait")
                waiting = Waiting(ahead=len(self._works))
                self._works[name] = (self._worker.submit(self._make, name, make, waiting), waiting)
            return self._works[name][1]

    def wait(self, name: str, seconds: float) -> None:
        """Until the work on `name` has ended, or so long."""
        with self._lock:
            work = self._works.get(name)
        if work:
            with contextlib.suppress(TimeoutError):
                work[0].result(seconds)

    def close(self) -> None:
        """Begin nothing more; what is being made ends after its slab."""
        self._closed = True
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _make(self, name: str, make: Callable[[Say], Mapping[str, CaseMaps]], waiting: Waiting) -> None:
        def tell(done: int, total: int) -> None:
            if self._closed:
                raise SegcalError("the service stops")
            waiting.say(done, total)

        try:
            made = make(tell)
            for other, maps in made.items():  # who waits need not wait for the disk
                self._remember(other, maps)
            for other, maps in made.items():
                self._write(other, maps)
            self._trim()
        except Exception as error:
            if not isinstance(error, SegcalError):
                log.exception("the maps %s could not be made", name)
                error = SegcalError(f"the case could not be predicted: {type(error).__name__}; the log says why")
            with self._lock:
                self._failed[name] = (time.monotonic(), error)
        finally:
            with self._lock:
                del self._works[name]
                for _, later in self._works.values():
                    later.ahead = max(0, later.ahead - 1)

    def _path(self, name: str) -> Path:
        path = (self.folder / f"{name}.npz").resolve()
        if not path.is_relative_to(self.folder.resolve()):
            raise ValueError(f"a name must stay below the store's folder, got {name!r}")
        return path

    def _remember(self, name: str, maps: CaseMaps) -> None:
        with self._lock:
            self._recent[name] = maps
            self._recent.move_to_end(name)
            while len(self._recent) > self._in_memory:
                self._recent.popitem(last=False)

    def _write(self, name: str, maps: CaseMaps) -> None:
        """The file is there whole, or not at all. A disk that is full costs the file, not the picture."""
        path = self._path(name)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(_bytes(maps))
            partial.replace(path)
        except OSError as error:
            log.warning("%s could not be kept: %s", path, error)
            partial.unlink(missing_ok=True)

    def _trim(self) -> None:
        """Remove the files that were not used for longest, until the rest is small enough."""
        found = []
        for path in self.folder.glob("*/*/*.npz"):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                found.append((stat.st_mtime, stat.st_size, path))
        excess = sum(size for _, size, _ in found) - self.most_bytes
        for _, size, path in sorted(found):
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= size


def _bytes(maps: CaseMaps) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(
        stream, probability=maps.probability, labels=maps.labels, entropy=maps.entropy,
        names=np.array(list(maps.scores)), values=np.array(list(maps.scores.values())),
        reliability=maps.reliability, segments=maps.segments,
    )  # fmt: skip
    return stream.getvalue()


def _read(content: bytes) -> CaseMaps:
    with np.load(io.BytesIO(content), allow_pickle=False) as held:
        scores = dict(zip(held["names"].tolist(), held["values"].tolist(), strict=True))
        return CaseMaps(
            held["probability"], held["labels"], held["entropy"], scores, held["reliability"], held["segments"]
        )
