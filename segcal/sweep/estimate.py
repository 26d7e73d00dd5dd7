"""What a sweep costs: measured speeds, the trials that are left and the slots they run in become time and storage.

Epochs are not known before early stopping has had its say: at least patience + 1 (the first epoch stays the best), at
most `epochs`. Where members of the same recipe are trained already, their mean number of epochs is expected.
"""

__all__ = [
    "Estimate", "Pending", "RecipeCost", "Span", "Speed", "Storage", "Within", "Workload", "checkpoints_of", "duration",
    "epochs_of", "estimate", "in_time", "makespan", "recipe_cost", "slots", "trained_epochs",
]  # fmt: skip

import heapq
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from segcal.errors import UsageError
from segcal.ledger.pace import writes_of
from segcal.trial import TrialConfig

# Measured on 2 cores with MLflow's store in SQLite; a slow tracking server adds to the first three.
START_S = 20.0  # of a sweep: imports, the data's digests, Ray, and a worker's first trial
TRIAL_S = 0.5  # of a trial: its run, its registered model, Tune's turn
EPOCH_S = 0.005  # of an epoch: its metrics, Tune's turn now and then
BEST_SO_FAR = 2.2  # times the root of the epochs are the best so far: 105 trainings of the brain's `study`, 3 to 60
TRIAL_BYTES, EPOCH_BYTES, CHECKPOINT_BYTES = 11_500, 1_900, 6_600  # rows in the database
CHECKPOINT_FILES_BYTES = 5_000  # settings, task and header beside the weights


@dataclass(frozen=True)
class Speed:
    """Seconds of one trial while others run beside it. An item is a slice, or a volume of a 3-D network."""

    train_s: float  # an item, forwards, backwards and the optimiser's share
    validate_s: float  # an item with its Dice
    predict_s: float  # a test item, with all its Monte Carlo samples


@dataclass(frozen=True)
class Workload:
    """Items (slices, or volumes in 3-D) of the prepared data."""

    train: int
    val: int
    test: int  # with the cohort that is only tested on


@dataclass(frozen=True)
class Span:
    """What is at least and at most, and what is expected where there is something to expect it from."""

    least: float
    most: float
    expected: float | None = None

    @property
    def likely(self) -> float:
        """The expected value, or the most."""
        return self.most if self.expected is None else self.expected

    def map(self, function: Callable[[float], float]) -> "Span":
        """A non-decreasing function of all three."""
        return Span(
            function(self.least), function(self.most), None if self.expected is None else function(self.expected)
        )


@dataclass(frozen=True)
class Pending:
    """A trial that is left to train: its recipe's label, and how many seeds of the recipe stand before it."""

    label: str
    rank: int


@dataclass(frozen=True)
class RecipeCost:
    """One recipe: `trials` of its `members` are left to train."""

    label: str
    recipe: str
    members: int
    trials: int
    items_per_s: float  # training items
    epoch_s: float  # training and validation
    epochs: Span
    trial_s: Span
    total_s: Span  # of all its trials, one after another
    predict_s: float  # all members on all test items, one after another
    weights_bytes: int  # of one checkpoint


@dataclass(frozen=True)
class Storage:
    """Bytes that the sweep adds."""

    checkpoints: Span  # their number
    checkpoint_bytes: Span
    database_bytes: Span

    @property
    def most(self) -> float:
        """Bytes at most, of checkpoints and database together."""
        return self.checkpoint_bytes.most + self.database_bytes.most


@dataclass(frozen=True)
class Within:
    """Whether the sweep ends in time. members, at_once: what would, for sure; None: nothing does."""

    limit_s: float
    verdict: Literal["fits", "may not finish", "cannot finish"]
    members: int | None = None  # of each recipe, on the same slots
    at_once: int | None = None  # trials at a time, for all members


@dataclass(frozen=True)
class Estimate:
    """The whole sweep on `at_once` slots."""

    at_once: int
    trials: int  # left to train
    trained: int
    recipes: tuple[RecipeCost, ...]
    wall_s: Span
    trial_s: Span  # of all trials, one after another: what they cost in slot-seconds
    storage: Storage
    report_s: float  # to predict the test cases with all members, on all slots; scoring comes on top


def slots(cpus: float | None, gpus: int, trial_cpus: float, trial_gpus: float) -> int:
    """Trials side by side: each takes its cpus and, where there are GPUs and it wants some, its share of them.

    Several trials share a GPU, none is split over two: a share of 0.4 puts two on each. cpus may be None, no limit,
    where there are GPUs. Raises UsageError where not one trial fits.
    """
    limits = []
    if cpus is not None:
        limits.append(_room("cpus", cpus, trial_cpus))
    if gpus and trial_gpus:
        limits.append(gpus * _room("gpus", 1, trial_gpus) if trial_gpus <= 1 else _room("gpus", gpus, trial_gpus))
    return min(limits)


def _room(name: str, there: float, each: float) -> int:
    room = int(there / each + 1e-9)  # 1 / 0.1 is not quite 10 in every rounding
    if room < 1:
        raise UsageError(f"resources: {name} of a trial must be at most {there:g}, got {each:g}; lower it")
    return room


def makespan(durations: Iterable[float], at_once: int) -> float:
    """Seconds until the last job ends when each starts, in this order, on the first of `at_once` slots that is free.

    No jobs: 0. Never less than the longest job or an even share of all, never more than one after another.

    >>> makespan([3, 2, 2], at_once=2)
    4.0
    """
    free = [0.0] * at_once
    for duration in durations:
        heapq.heapreplace(free, free[0] + duration)
    return max(free)


def trained_epochs(best: int, config: TrialConfig) -> int:
    """Epochs that a finished trial took, from the one of its best checkpoint (the training loop's rule)."""
    return min(config.epochs, best + config.patience)


def epochs_of(config: TrialConfig, best_epochs: Sequence[int]) -> Span:
    """Epochs of a trial; best_epochs: those of the recipe's registered members."""
    known = [trained_epochs(best, config) for best in best_epochs]
    least = min(config.epochs, config.patience + 1)
    fixed = float(config.epochs) if least == config.epochs else None
    return Span(least, config.epochs, fmean(known) if known else fixed)


def checkpoints_of(epochs: float, trial_s: float) -> float:
    """Checkpoints to expect of a trial: its best-so-far epochs, `BEST_SO_FAR` times the root of all.

    Of several that wait for a write only the last is kept.
    """
    return min(epochs, BEST_SO_FAR * math.sqrt(epochs), writes_of(trial_s))


def duration(seconds: float) -> str:
    """In two figures: enough of what is measured in seconds and multiplied by thousands."""
    limits = {"s": (1, 100), "min": (60, 100 * 60), "h": (3600, 100 * 3600), "d": (86400, math.inf)}
    unit = next(name for name, (_, limit) in limits.items() if seconds < limit)
    value = seconds / limits[unit][0]
    return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"


def recipe_cost(
    config: TrialConfig,
    speed: Speed,
    work: Workload,
    *,
    members: int,
    trials: int,
    best_epochs: Sequence[int],
    weights_bytes: int,
) -> RecipeCost:
    """Cost of `members` of one recipe, `trials` of which are left to train."""
    epoch_s = work.train * speed.train_s + work.val * speed.validate_s
    epochs = epochs_of(config, best_epochs)
    trial_s = epochs.map(lambda n: TRIAL_S + n * (epoch_s + EPOCH_S))
    return RecipeCost(
        label=config.label,
        recipe=config.recipe,
        members=members,
        trials=trials,
        items_per_s=1 / speed.train_s,
        epoch_s=epoch_s,
        epochs=epochs,
        trial_s=trial_s,
        total_s=trial_s.map(lambda seconds: trials * seconds),
        predict_s=members * work.test * speed.predict_s,
        weights_bytes=weights_bytes,
    )


def estimate(recipes: Sequence[RecipeCost], pending: Sequence[Pending], at_once: int) -> Estimate:
    """The whole from its recipes; pending: the trials that are left, in the order in which they start."""
    busy = [cost for cost in recipes if cost.trials]
    return Estimate(
        at_once=at_once,
        trials=len(pending),
        trained=sum(cost.members - cost.trials for cost in recipes),
        recipes=tuple(recipes),
        wall_s=_wall_s(recipes, pending, at_once),
        trial_s=_sum(cost.total_s for cost in busy),
        storage=_storage(busy),
        report_s=sum(cost.predict_s for cost in recipes) / at_once,
    )


def in_time(recipes: Sequence[RecipeCost], pending: Sequence[Pending], at_once: int, limit_s: float) -> Within:
    """Whether the trials end within `limit_s`; if not for sure, how many members or slots would.

    What would is reckoned with the expected epochs where all are known, else with the most.
    """
    wall = _wall_s(recipes, pending, at_once)
    if wall.most <= limit_s:
        return Within(limit_s, "fits")

    def likely_s(members: int, slots: int) -> float:
        return _wall_s(recipes, [trial for trial in pending if trial.rank < members], slots).likely

    everyone = max(trial.rank for trial in pending) + 1
    # Fewer jobs or more slots never take longer under this schedule, so both questions can be bisected.
    members = _last(everyone, lambda n: likely_s(n, at_once) <= limit_s)
    too_few = _last(len(pending), lambda n: likely_s(everyone, n) > limit_s)
    return Within(
        limit_s,
        "cannot finish" if wall.least > limit_s else "may not finish",
        members or None,
        too_few + 1 if too_few < len(pending) else None,
    )


def _last(count: int, holds: Callable[[int], bool]) -> int:
    """The last of 1 ... count for which what holds at first still does; 0 where it never does."""
    low, high = 0, count
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _wall_s(recipes: Sequence[RecipeCost], pending: Sequence[Pending], at_once: int) -> Span:
    if not pending:
        return Span(0.0, 0.0, 0.0)
    spans = {cost.label: cost.trial_s for cost in recipes}

    def wall(seconds: Mapping[str, float]) -> float:
        return START_S + makespan((seconds[trial.label] for trial in pending), at_once)

    expected = {label: span.expected for label, span in spans.items() if span.expected is not None}
    all_known = all(trial.label in expected for trial in pending)
    return Span(
        wall({label: span.least for label, span in spans.items()}),
        wall({label: span.most for label, span in spans.items()}),
        wall(expected) if all_known else None,
    )


def _storage(recipes: Sequence[RecipeCost]) -> Storage:
    """One checkpoint a trial at least, one a write at most; what is expected follows from the likely epochs."""
    counts = [
        Span(
            cost.trials,
            cost.trials * min(cost.epochs.most, writes_of(cost.trial_s.most)),
            cost.trials * checkpoints_of(cost.epochs.likely, cost.trial_s.likely),
        )
        for cost in recipes
    ]
    sizes = [cost.weights_bytes + CHECKPOINT_FILES_BYTES for cost in recipes]
    epochs = [
        Span(cost.trials * cost.epochs.least, cost.trials * cost.epochs.most, cost.trials * cost.epochs.likely)
        for cost in recipes
    ]
    trials = sum(cost.trials for cost in recipes)
    checkpoints, rows = _sum(counts), _sum(epochs)

    def database(count: float, epochs: float) -> float:
        return trials * TRIAL_BYTES + epochs * EPOCH_BYTES + count * CHECKPOINT_BYTES

    return Storage(
        checkpoints,
        _sum(count.map(lambda n, size=size: n * size) for count, size in zip(counts, sizes, strict=True)),  # type: ignore[misc]
        Span(
            database(checkpoints.least, rows.least),
            database(checkpoints.most, rows.most),
            database(checkpoints.likely, rows.likely),
        ),
    )


def _sum(spans: Iterable[Span]) -> Span:
    """The sum; expected only where every part is."""
    parts = list(spans)
    expected = [span.expected for span in parts if span.expected is not None]
    return Span(
        sum(span.least for span in parts),
        sum(span.most for span in parts),
        sum(expected) if len(expected) == len(parts) else None,
    )
