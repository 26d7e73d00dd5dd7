"""A whole sweep: prepare the data, skip what is trained, run the rest, tell MLflow, leave nothing open."""

__all__ = ["SweepResult", "View", "reconcile", "run_sweep"]

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from segcal.environment import environment
from segcal.errors import BadData, UsageError
from segcal.journal.lease import Lease
from segcal.journal.planned import Planned, PlannedTrial, changes, read_plans, write_plan
from segcal.journal.reading import trial_storage
from segcal.journal.record import CUT_SHORT, close_record
from segcal.journal.storage import Storage
from segcal.ledger.location import tracking_uri
from segcal.ledger.store import IMPATIENT, experiment_id, open_store, patiently
from segcal.ledger.sweep_run import SweepRun
from segcal.progress import Progress
from segcal.sweep.held import given_storage, held_sweep, records_id, sweep_storage
from segcal.sweep.outcome import Outcome
from segcal.sweep.parent import GRACE_S, close_all_left, keep_manifest, open_parent, status_of, telling
from segcal.sweep.plan import Plan, trials
from segcal.sweep.project import Projection, Telling
from segcal.sweep.run_trial import Assignment
from segcal.sweep.share_data import publish
from segcal.sweep.sweep_data import SweepData, check_data, left, prepare_data
from segcal.sweep.trained import find_trained
from segcal.sweep.view import LinesView, SweepView
from segcal.trial import TrialConfig
from segcal.version import code_version

View = Callable[[Sequence[Assignment]], SweepView]


@dataclass(frozen=True)
class SweepResult:
    """What a sweep did, by the names of its trials."""

    experiment: str
    run_id: str
    trials: int
    already_finished: int
    finished: tuple[str, ...]
    failed: dict[str, str]  # with the reason
    unfinished: tuple[str, ...]
    untold: dict[str, str]  # trained, but MLflow could not be told of it: with the reason


def run_sweep(
    plan: Plan,
    data: str,
    say: Callable[[str], None],
    ood: str | None = None,
    progress: Progress | None = None,
    *,
    storage: str | None = None,
    address: str | None = None,
    view: View | None = None,
) -> SweepResult:
    """Train every trial of the plan that is not trained yet; go on with those that were cut short.

    data: a folder in the task's layout, or "embedded". ood: the folder of the cohort that is only tested on; it is
    prepared and recorded beside the data, and nothing is learnt from it. storage: where the records are to be, a path
    or a URI that all machines see (`sweep_storage`). address: of a Ray cluster. Progress goes to `say`, a line at a
    time; what happens to the trials to the view. Raises SweepHeld where another driver works on the experiment.
    """
    check_data(plan, data)
    uri, storage = tracking_uri(), given_storage(storage)
    client = open_store(uri)
    records_at = sweep_storage(uri, plan.experiment, storage)
    with held_sweep(records_at, say) as lease, environment({**IMPATIENT, "MLFLOW_TRACKING_URI": uri}):
        found = prepare_data(plan, data, say, ood, progress)
        configs = trials(plan, found.cohort.digest, found.cohort.class_voxels)
        trained = find_trained(client, plan.experiment, records_at, say, {config.key for config in configs})
        todo = left(configs, trained.done)
        say(
            f"sweep: {len(plan.recipes)} recipes, {len(configs)} trials in experiment '{plan.experiment}',"
            f" {len(configs) - len(todo)} trained already; records in {records_at.uri}"
        )
        _keep(plan, found, configs, records_at, say)
        if storage:
            publish(found.cohort, records_at)
        sweep = open_parent(client, "sweep", plan, plan.as_yaml(), found, records_at, lease, say)
        seen = None if storage else found.cohort.folder
        assignments = [Assignment(c, plan.task, records_at, code_version(), seen, lease.token) for c in todo]
        outcome = Outcome()
        with telling(client, sweep, records_at, lease, say, trained.untold - {c.key for c in todo}) as told:
            if assignments:
                outcome = _train(assignments, plan, told.projection, lease, say, address, view)
            told.status = status_of(outcome)
    names = {config.key: f"{config.label} seed {config.seed}" for config in configs}
    return SweepResult(
        plan.experiment, sweep.run_id, len(configs), len(configs) - len(todo),
        tuple(names[key] for key in outcome.finished),
        {names[key]: reason for key, reason in outcome.failed.items()},
        tuple(names[key] for key in outcome.unfinished),
        {names.get(key, key): reason for key, reason in told.untold.items()},
    )  # fmt: skip


def reconcile(experiment: str, say: Callable[[str], None], storage: str | None = None) -> dict[str, str]:
    """Tell MLflow all that is on record and close what a killed sweep left open; nothing is trained.

    Returns the keys that could not be told, with the reason. Raises UsageError where there are no records, and
    SweepHeld where a driver works on the experiment.
    """
    uri = tracking_uri()
    client = open_store(uri)
    records_at = sweep_storage(uri, experiment, storage)
    if not records_at.names():
        raise UsageError(
            f"experiment '{experiment}' must have records, got none in {records_at.uri}; name its --storage"
        )
    with held_sweep(records_at, say) as lease, environment({**IMPATIENT, "MLFLOW_TRACKING_URI": uri}):
        where = patiently(lambda: experiment_id(client, experiment))
        trained = find_trained(client, experiment, records_at, say)
        for key in trained.untold:
            close_record(trial_storage(records_at, key), "stopped", CUT_SHORT)
        sweep = SweepRun(experiment, where, "", False, records_id(records_at))
        projection = Projection(client, sweep, records_at, say, lost=lease.lost)
        projection.start(trained.untold)
        untold = projection.close(GRACE_S)
        closed = 0 if lease.lost.is_set() else close_all_left(client, where, records_at)
    say(f"experiment '{experiment}': {len(trained.untold) - len(untold)} trials told to MLflow, {closed} runs closed")
    return untold


def _train(
    assignments: Sequence[Assignment],
    plan: Plan,
    projection: Projection,
    lease: Lease,
    say: Callable[[str], None],
    address: str | None,
    view: View | None,
) -> Outcome:
    from segcal.sweep.schedule import run_all  # Ray takes seconds to import

    views = [view(assignments) if view else LinesView(assignments, say), Telling(projection)]
    outcome = run_all(assignments, plan.resources, say, address=address, views=views, lost=lease.lost)
    storage = assignments[0].storage
    for key, reason in outcome.failed.items():
        if not lease.lost.is_set():  # whose process died cannot say so itself
            projection.failed(key, reason)
            with contextlib.suppress(OSError, ValueError, BadData):
                close_record(trial_storage(storage, key), "failed", reason)
    return outcome


def _keep(
    plan: Plan, found: SweepData, configs: Sequence[TrialConfig], records_at: Storage, say: Callable[[str], None]
) -> None:
    """Put what the sweep is about beside its records; say what changed since the last call."""
    cohort = found.cohort
    keep_manifest(cohort, records_at)
    planned = Planned(
        plan.task.name,
        str(found.root),
        cohort.digest,
        tuple(PlannedTrial(config.key, config.label, config.seed, config.epochs) for config in configs),
    )
    for line in changes(read_plans(records_at).get(plan.task.name), planned):
        say(line)
    write_plan(records_at, planned)
