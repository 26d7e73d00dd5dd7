"""The run above a sweep's trials: opened with what they are about, closed with how they ended."""

__all__ = ["GRACE_S", "Told", "close_all_left", "keep_manifest", "open_parent", "status_of", "telling"]

import contextlib
import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from segcal.data.prepared import PreparedCohort
from segcal.errors import SweepHeld
from segcal.journal.lease import Lease
from segcal.journal.storage import Storage
from segcal.ledger.store import Store, experiment_id, is_away, patiently
from segcal.ledger.sweep_run import SweepRun, close_left, elsewhere, end_sweep, names_before, start_sweep
from segcal.sweep.held import records_id
from segcal.sweep.outcome import Outcome
from segcal.sweep.plan import Plan
from segcal.sweep.project import Projection
from segcal.sweep.sweep_data import SweepData
from segcal.version import code_version

GRACE_S, HURRIED_S = 120.0, 5.0  # for a store that does not answer when all trials have ended; after a second Ctrl-C


@dataclass
class Told:
    """What MLflow is told of a sweep, while it is trained and afterwards."""

    sweep: SweepRun
    projection: Projection
    status: str = "KILLED"  # of the sweep's run, unless it comes to a better end
    untold: dict[str, str] = field(default_factory=dict)  # keys that could not be told in the end, with the reason


def keep_manifest(cohort: PreparedCohort, records_at: Storage) -> None:
    """Put what the data are beside the records: MLflow is told of it with each trial."""
    records_at.at("data").write(f"{cohort.digest}.json", json.dumps(cohort.manifest).encode())


def open_parent(
    client: Store, verb: str, plan: Plan, resolved: str, found: SweepData, records_at: Storage, lease: Lease,
    say: Callable[[str], None],
) -> SweepRun:  # fmt: skip
    """Open the run of a sweep or a search (the verb), after closing what a process that is gone left open.

    resolved: the whole file as YAML, kept with the run. Raises SweepHeld where the experiment is trained with other
    records, and StoreUnreachable.
    """
    where, records = patiently(lambda: experiment_id(client, plan.experiment)), records_id(records_at)
    if other := patiently(lambda: elsewhere(client, where, records, records_at.uri)):
        raise SweepHeld(
            f"experiment '{plan.experiment}' must have one driver, got a second: {other}; wait for it, or name the "
            "same --storage; if it is gone, call `segcal sweep --reconcile` with that storage"
        )
    if closed := close_all_left(client, where, records_at):
        say(f"{closed} runs were left open by a process that is gone: closed")
    params = {
        "data": found.root,
        "data_digest": found.cohort.digest,
        "scale": plan.scale,
        "code_version": code_version(),
        "records": records_at.uri,
        "driver": lease.holder.told,
        **({"ood_data": found.ood_root, "ood_digest": found.ood.digest} if found.ood else {}),
    }
    name = f"{verb} {plan.task.name} {plan.scale}".strip()
    manifest = found.cohort.manifest
    return patiently(
        lambda: start_sweep(client, plan.experiment, name, params, resolved, manifest, plan.task.name, records)
    )


@contextlib.contextmanager
def telling(
    client: Store, sweep: SweepRun, records_at: Storage, lease: Lease, say: Callable[[str], None],
    untold: Collection[str] = (),
) -> Iterator[Told]:  # fmt: skip
    """Tell MLflow of a sweep's trials within the block, of all that is left after it, and then close the sweep's run.

    untold: keys with something to tell already. Where another driver has taken the sweep, the rest is his to tell.
    """
    told, grace_s = Told(sweep, Projection(client, sweep, records_at, say, lost=lease.lost)), GRACE_S
    told.projection.start(untold)
    try:
        yield told
    except KeyboardInterrupt:
        grace_s = HURRIED_S
        raise
    finally:
        alone = not lease.lost.is_set()
        try:
            told.untold = told.projection.close(grace_s) if alone else told.projection.leave()
        finally:
            _close(client, sweep, told.status, alone, say)


def close_all_left(client: Store, experiment: str, records_at: Storage) -> int:
    """Close what a killed sweep left open on the records in this place, also on some that were deleted since."""
    names = patiently(lambda: names_before(client, experiment, records_at.uri)) | {records_id(records_at)}
    return sum(patiently(lambda name=name: close_left(client, experiment, name)) for name in names)  # type: ignore[misc]


def status_of(outcome: Outcome) -> str:
    """MLflow's word for it."""
    return "KILLED" if outcome.unfinished else "FAILED" if outcome.failed else "FINISHED"


def _close(client: Store, sweep: SweepRun, status: str, alone: bool, say: Callable[[str], None]) -> None:
    try:
        end_sweep(client, sweep, status, alone=alone)
    except Exception as error:
        if not is_away(error):
            raise
        say("the tracking store does not answer: `segcal sweep --reconcile` will close the sweep's run")
