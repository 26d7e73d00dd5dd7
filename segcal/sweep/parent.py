"""The run above a sweep's trials: opened with what they are about, closed with how they ended."""

__all__ = ["GRACE_S", "close_parent", "keep_manifest", "open_parent", "status_of"]

import json
from collections.abc import Callable

from segcal.data.prepared import PreparedCohort
from segcal.journal.storage import Storage
from segcal.ledger.store import Store, experiment_id, is_away
from segcal.ledger.sweep_run import SweepRun, close_left, end_sweep, start_sweep
from segcal.sweep.outcome import Outcome
from segcal.sweep.plan import Plan
from segcal.sweep.sweep_data import SweepData
from segcal.version import code_version

GRACE_S = 120.0  # for a tracking store that does not answer when all trials have ended


def keep_manifest(cohort: PreparedCohort, records_at: Storage) -> None:
    """Put what the data are beside the records: MLflow is told of it with each trial."""
    records_at.at("data").write(f"{cohort.digest}.json", json.dumps(cohort.manifest).encode())


def open_parent(
    client: Store, verb: str, plan: Plan, resolved: str, found: SweepData, records_at: Storage,
    say: Callable[[str], None],
) -> SweepRun:  # fmt: skip
    """Open the run of a sweep or a search (the verb), after closing what a process that is gone left open.

    resolved: the whole file as YAML, kept with the run.
    """
    if closed := close_left(client, experiment_id(client, plan.experiment), records_at.uri):
        say(f"{closed} runs were left open by a process that is gone: closed")
    params = {
        "data": found.root,
        "data_digest": found.cohort.digest,
        "scale": plan.scale,
        "code_version": code_version(),
        **({"ood_data": found.ood_root, "ood_digest": found.ood.digest} if found.ood else {}),
    }
    name = f"{verb} {plan.task.name} {plan.scale}".strip()
    return start_sweep(
        client, plan.experiment, name, params, resolved, found.cohort.manifest, plan.task.name, records_at.uri
    )


def status_of(outcome: Outcome) -> str:
    """MLflow's word for it."""
    return "KILLED" if outcome.unfinished else "FAILED" if outcome.failed else "FINISHED"


def close_parent(client: Store, sweep: SweepRun, status: str, say: Callable[[str], None]) -> None:
    """Close the run, where the store answers."""
    try:
        end_sweep(client, sweep, status)
    except Exception as error:
        if not is_away(error):
            raise
        say("the tracking store does not answer: `segcal sweep --reconcile` will close the sweep's run")
