"""What the records of all sweeps, the GPUs and the disks of this machine say, as Prometheus metrics.

Nothing is asked but files and `nvidia-smi`, and nothing is written: a sweep, or MLflow, need not answer for it.
"""

__all__ = ["Disk", "Gpu", "SweepFigures", "SweepReader", "SweepReading", "families", "parse_gpus", "read_gpus"]

import contextlib
import logging
import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from urllib.parse import unquote

from prometheus_client.metrics_core import GaugeMetricFamily

from segcal.environment import home
from segcal.errors import SegcalError
from segcal.journal.lease import NAME, STALE_S, holder_of, is_alive
from segcal.journal.planned import read_plans
from segcal.journal.reading import TRIALS
from segcal.journal.record import TrialRecord, is_told, read_record
from segcal.journal.storage import Storage
from segcal.sweep.held import storage_root
from segcal.sweep.status import RecipeStatus, SweepStatus, begun_trials, epoch_lines, status_of

RECIPES = 50  # of an experiment that have series of their own: a search has hundreds of candidates
OTHERS = "(others)"
SETTLED_S = 2.0  # a folder that changed less than this ago may change again without its time telling
GPU_S = 4.0  # for nvidia-smi; a driver that hangs takes it along
GPU_QUERY = "index,name,utilization.gpu,memory.used,memory.total"

_log = logging.getLogger("segcal.service")


@dataclass(frozen=True)
class SweepFigures:
    """A sweep at one moment."""

    status: SweepStatus
    driver: bool | None  # whether it lives; None: not known yet, on another machine
    untold: int  # trials that have ended, which MLflow was not told
    lag_s: float  # since the first of them ended; 0 where there is none


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine; None: its driver does not say."""

    index: str
    name: str
    utilisation: float | None  # share of the last sample period in which a kernel ran
    used_bytes: float | None
    total_bytes: float | None


@dataclass(frozen=True)
class Disk:
    """The disk of a folder."""

    place: str
    free_bytes: int  # for us
    total_bytes: int


@dataclass(frozen=True)
class SweepReading:
    """All sweeps of a tracking store, and what their machine has."""

    sweeps: tuple[SweepFigures, ...] = ()
    unreadable: int = 0  # experiments, or their common folder
    disks: tuple[Disk, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    seconds: float = 0.0  # that it took


@dataclass(frozen=True)
class _Kept:
    """A trial as it was when its folder had this time."""

    version: int | None  # None: to be read again
    record: TrialRecord | None  # None: damaged
    told: bool


@dataclass
class _Renewal:
    """When another machine's lease was seen to change, by this machine's clock."""

    modified: object
    since: float
    changed: bool = False


@dataclass
class SweepReader:
    """Reads the sweeps of a tracking store again and again; one thread at a time.

    A trial's record is read again only where its folder changed. On an object store, which does not tell, all are.
    """

    uri: str
    storage: str | None = None  # as `storage_root` takes it
    clock: Callable[[], float] = time.monotonic
    _kept: dict[str, _Kept] = field(default_factory=dict)
    _renewals: dict[str, _Renewal] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)

    def read(self) -> SweepReading:
        """The sweeps now. What cannot be read is counted, and said in the log once; never raises for it."""
        began = time.monotonic()
        sweeps, unreadable, kept = [], 0, dict[str, _Kept]()
        root = self.storage or self.uri
        try:
            root = storage_root(self.uri, self.storage)
            names = Storage(root).names()
        except (OSError, ImportError, ValueError, SegcalError) as error:
            names, unreadable = [], 1
            self._say(root, error)
        for name in names:
            try:
                figures = self._sweep(Storage(f"{root}/{name}"), unquote(name), kept)
            except Exception as error:  # whatever is wrong with one experiment, the others are told
                unreadable += 1
                self._say(f"{root}/{name}", error)
            else:
                sweeps += [figures] if figures else []
        self._kept = kept
        disks = tuple(_disks({"home": home(), "records": Storage(root).local if not unreadable or names else None}))
        return SweepReading(tuple(sweeps), unreadable, disks, read_gpus(), time.monotonic() - began)

    def _say(self, place: str, error: Exception) -> None:
        line = f"metrics: {place} cannot be read: {type(error).__name__}: {error}"
        if line not in self._said:
            self._said.add(line)
            _log.warning("%s", line)

    def _sweep(self, sweep: Storage, experiment: str, kept: dict[str, _Kept]) -> SweepFigures | None:
        """One experiment; None for a folder, or file, that is none."""
        if (sweep.local and not sweep.local.is_dir()) or not {"plans", TRIALS} & set(sweep.names()):
            return None
        trials = self._trials(sweep.at(TRIALS))
        kept.update(trials)
        found = {uri.rpartition("/")[2]: of.record for uri, of in trials.items()}
        lines = {key: epoch_lines(sweep, key) for key, of in found.items() if of and of.state == "running"}
        holder = holder_of(sweep)
        alive = is_alive(holder) if holder else False
        driver = self._renewed(sweep, holder.token) if holder and alive is None else alive
        plans = read_plans(sweep) or begun_trials(found)
        status = status_of(experiment, sweep.uri, plans, found, lines, holder, driver)
        untold = [of.record for of in trials.values() if of.record and of.record.state != "running" and not of.told]
        first_ms = min((record.ended_ms for record in untold), default=0)
        return SweepFigures(status, driver, len(untold), max(0.0, time.time() - first_ms / 1000) if first_ms else 0.0)

    def _trials(self, folder: Storage) -> dict[str, _Kept]:
        """The trials that have begun, by their folder's URI."""

        def read(name: str) -> tuple[str, _Kept] | None:
            uri = f"{folder.uri}/{name}"
            version = _version(uri) if folder.local else None
            kept = self._kept.get(uri)
            if kept and version is not None and kept.version == version:
                return uri, kept
            trial = Storage(uri)
            try:
                record = read_record(trial)
            except ValueError:
                return uri, _Kept(version, None, True)
            if record is None:
                return None
            return uri, _Kept(version, record, record.state != "running" and is_told(trial, record))

        with ThreadPoolExecutor(4 if folder.local else 16) as readers:
            return dict(found for found in readers.map(read, folder.names()) if found)

    def _renewed(self, sweep: Storage, token: str) -> bool | None:
        """Whether the driver on another machine renews its lease; None until a change, or `STALE_S` without one."""
        try:
            modified = sweep.modified(NAME), token
        except FileNotFoundError:  # released meanwhile
            return False
        now, seen = self.clock(), self._renewals.get(sweep.uri)
        if seen is None or seen.modified != modified:
            self._renewals[sweep.uri] = _Renewal(modified, now, changed=seen is not None)
            return True if seen else None
        if now - seen.since > STALE_S:
            return False
        return True if seen.changed else None


def _version(uri: str) -> int | None:
    """The time of a trial's folder, in ns: its record and what MLflow was told are put there as new files."""
    try:
        changed_ns = os.stat(uri).st_mtime_ns
    except OSError:
        return None
    return changed_ns if time.time() - changed_ns / 1e9 > SETTLED_S else None


def _disks(places: Mapping[str, Path | None]) -> Iterator[Disk]:
    for place, folder in places.items():
        if folder is None:
            continue
        with contextlib.suppress(OSError):
            while not folder.exists() and folder != folder.parent:  # it is made when it is needed
                folder = folder.parent
            usage = shutil.disk_usage(folder)
            yield Disk(place, usage.free, usage.total)


def read_gpus() -> tuple[Gpu, ...]:
    """The GPUs of this machine; none where there is no `nvidia-smi`, or it does not work."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return ()
    try:
        told = subprocess.run(
            [command, f"--query-gpu={GPU_QUERY}", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=GPU_S, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_gpus(told.stdout)


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """The GPUs by what `nvidia-smi` prints for GPU_QUERY, in % and MiB; lines of another form are left out.

    >>> parse_gpus("0, NVIDIA H100 80GB HBM3, 25, 1024, 81559")[0].utilisation
    0.25
    """

    def number(cell: str, scale: float) -> float | None:
        try:
            return float(cell) * scale
        except ValueError:  # [N/A], of a card in MIG mode
            return None

    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines()]
    return tuple(
        Gpu(row[0], row[1], number(row[2], 0.01), number(row[3], 2**20), number(row[4], 2**20))
        for row in rows
        if len(row) == 5 and row[0].isdigit()
    )


def families(reading: SweepReading, age_s: float) -> Iterator[GaugeMetricFamily]:
    """The metrics; a family without a sample where nothing is known. age_s: since the reading."""
    yield from _sweep_families(reading)
    yield _family("segcal_sweep_unreadable", "Experiments whose records cannot be read; the log says why", (),
                  [((), reading.unreadable)])  # fmt: skip
    yield _family("segcal_sweep_read_seconds", "How long the last reading of all records took", (),
                  [((), reading.seconds)])  # fmt: skip
    yield _family("segcal_sweep_read_age_seconds", "Since the last reading of all records: old where storage hangs",
                  (), [((), age_s)])  # fmt: skip
    disks = {of.place: of for of in reading.disks}
    yield _family("segcal_disk_free_bytes", "Free space of the disk of segcal's home and of the records", ("place",),
                  [((place,), of.free_bytes) for place, of in disks.items()])  # fmt: skip
    yield _family("segcal_disk_size_bytes", "Size of the disk of segcal's home and of the records", ("place",),
                  [((place,), of.total_bytes) for place, of in disks.items()])  # fmt: skip
    gpu = ("gpu", "name")
    yield _family("segcal_gpu_utilization_ratio", "Share of time in which a kernel ran, 0 to 1", gpu,
                  [((of.index, of.name), of.utilisation) for of in reading.gpus])  # fmt: skip
    yield _family("segcal_gpu_memory_used_bytes", "GPU memory in use", gpu,
                  [((of.index, of.name), of.used_bytes) for of in reading.gpus])  # fmt: skip
    yield _family("segcal_gpu_memory_size_bytes", "GPU memory there is", gpu,
                  [((of.index, of.name), of.total_bytes) for of in reading.gpus])  # fmt: skip


def _sweep_families(reading: SweepReading) -> Iterator[GaugeMetricFamily]:
    def of_sweep(name: str, text: str, value: Callable[[SweepFigures], float | None]) -> GaugeMetricFamily:
        rows = [((of.status.experiment,), value(of)) for of in reading.sweeps]
        return _family(f"segcal_sweep_{name}", text, ("experiment",), rows)

    yield _family("segcal_sweep_trials", "Trials of the newest plan by recipe and state", ("experiment", "recipe",
                  "state"), [row for of in reading.sweeps for row in _trial_rows(of.status)])  # fmt: skip
    yield of_sweep("epochs_per_second", "Epochs of all running trials in a second",
                   lambda of: of.status.epochs_per_s)  # fmt: skip
    yield of_sweep("epoch_seconds", "Seconds from one epoch's end to the next, median of the running trials",
                   lambda of: median([c.epoch_s for c in of.status.running if c.epoch_s] or [0.0]) or None)  # fmt: skip
    yield of_sweep("eta_seconds", "Seconds until the last trial will have ended, as `segcal status` tells them",
                   lambda of: of.status.eta_s)  # fmt: skip
    yield of_sweep("driver_alive", "Whether a `segcal sweep` works on it, 0 or 1; absent while that is not known",
                   lambda of: of.driver)  # fmt: skip
    yield of_sweep("untold_trials", "Trials that have ended, which MLflow was not told", lambda of: of.untold)
    yield of_sweep("tracking_lag_seconds", "Since the first trial ended that MLflow was not told; 0 without any",
                   lambda of: of.lag_s)  # fmt: skip
    yield of_sweep("damaged_records", "Trials whose record cannot be read: the next sweep trains them again",
                   lambda of: len(of.status.damaged))  # fmt: skip


def _trial_rows(status: SweepStatus) -> Iterator[tuple[tuple[str, str, str], float]]:
    """Every state of every recipe, 0 as well: a series that vanishes alarms nobody."""
    counts: dict[str, Counter[str]] = {}
    for index, recipe in enumerate(status.recipes):
        label = recipe.label if index < RECIPES else OTHERS
        counts.setdefault(label, Counter()).update(_states(recipe))
    for label, states in counts.items():
        for state, trials in states.items():
            yield (status.experiment, label, state), trials


def _states(recipe: RecipeStatus) -> dict[str, int]:
    return {
        "done": recipe.done, "running": recipe.running, "failed": recipe.failed, "stopped": recipe.stopped,
        "waiting": recipe.to_do,
    }  # fmt: skip


def _family(
    name: str, text: str, labels: tuple[str, ...], rows: Sequence[tuple[tuple[str, ...], float | None]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in rows:
        if value is not None:
            family.add_metric(values, float(value))
    return family
