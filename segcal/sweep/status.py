"""How far a sweep is, from its records alone: neither driver nor tracking store is asked, and nothing is written."""

__all__ = [
    "Driver", "LastError", "RecipeStatus", "SweepStatus", "begun_trials", "epoch_lines", "find_status", "status_of",
]  # fmt: skip

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from urllib.parse import unquote

from segcal.errors import UsageError, nearest
from segcal.journal.lease import Holder, holder_of, is_alive
from segcal.journal.planned import Planned, PlannedTrial, read_plans
from segcal.journal.reading import look, peek, trial_storage
from segcal.journal.record import TrialRecord
from segcal.journal.spool import Line
from segcal.journal.storage import Storage
from segcal.sweep.course import Course, State, better, epochs_per_s, eta_s

ERRORS = 5
RECENT = 10  # epochs that tell a running trial's pace

_STATES: dict[str, State] = {
    "running": "running", "finished": "finished", "failed": "failed", "stopped": "stopped",
    "pruned": "finished",  # a search has done with it
}  # fmt: skip


@dataclass(frozen=True)
class RecipeStatus:
    """Trials of a recipe by what became of them; they add up to those that are planned."""

    label: str
    planned: int
    done: int
    running: int
    failed: int
    stopped: int  # told to, or cut short: to go on from their checkpoint
    to_do: int
    best_dice: float | None


@dataclass(frozen=True)
class LastError:
    """Why a trial failed."""

    trial: str
    time_ms: int  # since 1970
    error: str


@dataclass(frozen=True)
class Driver:
    """Who trains. alive: None on another machine, where it cannot be asked."""

    host: str
    pid: int
    user: str
    since: str
    alive: bool | None


@dataclass(frozen=True)
class SweepStatus:
    """A sweep at one moment."""

    experiment: str
    records: str  # where they are
    total: RecipeStatus
    recipes: tuple[RecipeStatus, ...]
    running: tuple[Course, ...]
    epochs_per_s: float | None  # of all that are running
    eta_s: float | None  # None where nothing runs, or nothing is measured
    kept: tuple[str, ...]  # trials on record that the newest plan no longer asks for
    damaged: tuple[str, ...]  # trials whose record cannot be read, by their folder
    errors: tuple[LastError, ...]  # the newest first
    driver: Driver | None  # None where nobody ever took the sweep, or who did is done


def find_status(uri: str, experiment: str, given: str | None = None) -> SweepStatus:
    """The status of an experiment by its tracking store's URI, which is not opened; given: where the records are.

    Raises UsageError where the experiment has no records.
    """
    from segcal.sweep.held import storage_root, sweep_storage  # MLflow takes seconds to import

    sweep = sweep_storage(uri, experiment, given)
    if not sweep.names():
        root = storage_root(uri, given)
        known = [unquote(name) for name in Storage(root).names()]
        hint = nearest(experiment, known) if known else "no other has any there"
        raise UsageError(
            f"no experiment named '{experiment}' has records in {root}; {hint}; call `segcal sweep`, or name its "
            "--storage"
        )
    holder = holder_of(sweep)
    alive = is_alive(holder) if holder else False
    found = peek(sweep)
    lines = {key: epoch_lines(sweep, key) for key, record in found.items() if record and record.state == "running"}
    return status_of(experiment, sweep.uri, read_plans(sweep) or begun_trials(found), found, lines, holder, alive)


def status_of(
    experiment: str,
    uri: str,
    plans: Mapping[str, Planned],
    found: Mapping[str, TrialRecord | None],
    lines: Mapping[str, Sequence[Line]],
    holder: Holder | None = None,
    alive: bool | None = False,
) -> SweepStatus:
    """The status from what is on disk. found: the records, as `peek` gives them; lines: epochs of those in "running".

    alive: whether the holder lives; None counts as if it did.
    """
    planned = {trial.key: (_label(plan, trial, plans), trial) for plan in plans.values() for trial in plan.trials}
    since_ms = _since_ms(holder) if holder and alive else 0
    trained = holder is not None and alive is not False
    courses = {
        key: _course(label, trial, found.get(key), lines.get(key, ()), trained, since_ms)
        for key, (label, trial) in planned.items()
    }
    running = tuple(course for course in courses.values() if course.state == "running")
    ahead = [replace(course, state="waiting") if course.state == "stopped" else course for course in courses.values()]
    for key, record in found.items():  # those that the driver trains again
        if key in courses and record and courses[key].state == "failed" and _again(record, since_ms):
            ahead.append(replace(courses[key], state="waiting", epochs=0, epoch_s=None))
    failed = [record for key, record in found.items() if key in courses and record and record.state == "failed"]
    kept = [record for key, record in found.items() if record and key not in planned]
    return SweepStatus(
        experiment=experiment,
        records=uri,
        total=_count("total", list(courses.values())),
        recipes=tuple(_count(label, of) for label, of in _by_recipe(courses.values()).items()),
        running=running,
        epochs_per_s=epochs_per_s(running),
        eta_s=eta_s(ahead, len(running)) if running else None,
        kept=tuple(record.name for record in sorted(kept, key=lambda of: (of.config["label"], of.config["seed"]))),
        damaged=tuple(key for key, record in found.items() if record is None),
        errors=tuple(
            LastError(record.name, record.ended_ms, record.error)
            for record in sorted(failed, key=lambda record: -record.ended_ms)[:ERRORS]
        ),
        driver=Driver(holder.host, holder.pid, holder.user, holder.since, alive) if holder else None,
    )


def begun_trials(found: Mapping[str, TrialRecord | None]) -> dict[str, Planned]:
    """The trials of a search, which has no plan: those that were begun."""
    configs = {key: record.config for key, record in found.items() if record}
    trials = [PlannedTrial(key, config["label"], config["seed"], config["epochs"]) for key, config in configs.items()]
    return {"": Planned("", "", "", tuple(sorted(trials, key=lambda trial: (trial.label, trial.seed))))}


def epoch_lines(sweep: Storage, key: str) -> tuple[Line, ...]:
    """The epochs of a trial that are on disk; none where its records are damaged."""
    try:
        progress = look(trial_storage(sweep, key))
    except ValueError:
        return ()
    return progress.lines if progress else ()


def _label(plan: Planned, trial: PlannedTrial, plans: Mapping[str, Planned]) -> str:
    return trial.label if len(plans) == 1 else f"{plan.task} {trial.label}"


def _course(
    label: str, trial: PlannedTrial, record: TrialRecord | None, lines: Sequence[Line], trained: bool, since_ms: int
) -> Course:
    name = f"{label} seed {trial.seed}"
    if record is None:
        return Course(name, label, trial.epochs)
    state = _STATES[record.state]
    if state == "running":
        heard_ms = max(record.started_ms, lines[-1].time_ms if lines else 0)
        if not trained or heard_ms < since_ms:  # an earlier driver's, and not begun again
            state = "stopped"
        best = None
        for line in lines:
            best = better(best, line.val_dice)
        last = better(None, lines[-1].val_dice) if lines else None
        return Course(name, label, trial.epochs, state, len(lines), best, last, _pace(lines))
    best = better(None, record.val_dice) if record.best_epoch else None
    whole_s = (record.ended_ms - record.started_ms) / 1000 / record.epochs if record.epochs else None
    paced = whole_s if state == "finished" and record.attempts == 1 else None  # between attempts nobody trained
    return Course(name, label, trial.epochs, state, record.epochs, best, None, paced or None)


def _pace(lines: Sequence[Line]) -> float | None:
    """Seconds from one epoch's end to the next, all that is between them included; the median bears a pause."""
    ends = [line.time_ms / 1000 for line in lines[-RECENT - 1 :]]
    between = [now - before for before, now in pairwise(ends)]
    return (median(between) if between else lines[-1].seconds if lines else None) or None


def _again(record: TrialRecord, since_ms: int) -> bool:
    """Whether the driver will train a failed trial again: with more memory, or because it failed in an earlier call."""
    return "again_with_gpus" in record.tags or record.ended_ms < since_ms


def _since_ms(holder: Holder) -> int:
    """When the holder of this machine began, by its clock; 0 where it does not say."""
    try:
        return int(time.mktime(time.strptime(holder.since, "%Y-%m-%d %H:%M:%S")) * 1000)
    except ValueError:
        return 0


def _by_recipe(courses: Iterable[Course]) -> dict[str, list[Course]]:
    of: dict[str, list[Course]] = {}
    for course in courses:
        of.setdefault(course.recipe, []).append(course)
    return of


def _count(label: str, courses: Sequence[Course]) -> RecipeStatus:
    states = [course.state for course in courses]
    return RecipeStatus(
        label=label,
        planned=len(courses),
        done=states.count("finished"),
        running=states.count("running"),
        failed=states.count("failed"),
        stopped=states.count("stopped"),
        to_do=states.count("waiting"),
        best_dice=max((course.best_dice for course in courses if course.best_dice is not None), default=None),
    )
