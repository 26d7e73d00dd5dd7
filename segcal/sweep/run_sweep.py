"""A whole sweep: prepare the data, skip what is trained, run the rest, leave nothing open."""

__all__ = ["SweepResult", "run_sweep"]

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from segcal.data.phantom.embedded import embedded_cohort
from segcal.data.prepare import home, prepare
from segcal.errors import UsageError
from segcal.ledger.read import finished_keys
from segcal.ledger.store import experiment_id, open_store, tracking_uri
from segcal.ledger.write import end_sweep, start_sweep
from segcal.sweep.plan import Plan, trials
from segcal.sweep.run_trial import Assignment
from segcal.version import code_version

EMBEDDED = "embedded"


@dataclass(frozen=True)
class SweepResult:
    """What a sweep did."""

    experiment: str
    run_id: str
    trials: int
    already_finished: int
    finished: tuple[str, ...]
    failed: dict[str, str]
    unfinished: tuple[str, ...]


def run_sweep(plan: Plan, data: str, say: Callable[[str], None]) -> SweepResult:
    """Train every trial of the plan that the experiment does not hold yet.

    data: a folder in the task's layout, or "embedded". Progress goes to `say`, a line at a time.
    """
    if data == EMBEDDED and plan.scale == "paper":
        raise UsageError("scale 'paper' needs real images, got the embedded data; give their folder with data=DIR")
    uri = tracking_uri()
    client = open_store(uri)
    experiment_id(client, plan.experiment)
    root = embedded_cohort(plan.task.name, home(), say) if data == EMBEDDED else Path(data)
    cohort = prepare(root, plan.task, say)
    counts = "/".join(str(count) for count in cohort.counts().values())
    say(f"data: {root} (digest {cohort.digest}), {counts} cases to train, validate and test on")
    configs = trials(plan, cohort.digest, cohort.class_voxels)
    done = finished_keys(client, plan.experiment)
    todo = [config for config in configs if config.key not in done]
    say(
        f"sweep: {len(plan.recipes)} recipes x {len(plan.seeds)} seeds = {len(configs)} trials in experiment "
        f"'{plan.experiment}', {len(configs) - len(todo)} trained already"
    )
    params = {"data": root, "data_digest": cohort.digest, "scale": plan.scale, "code_version": code_version()}
    sweep = start_sweep(
        client, plan.experiment, f"sweep {plan.task.name} {plan.scale}".strip(), params, plan.as_yaml(), cohort.manifest
    )
    status = "KILLED"
    try:
        if not todo:
            status = "FINISHED"
            return SweepResult(plan.experiment, sweep.run_id, len(configs), len(configs), (), {}, ())
        from segcal.sweep.schedule import run_all  # Ray takes seconds to import

        assignments = [Assignment(config, plan.task, cohort.folder, sweep, uri, code_version()) for config in todo]
        outcome = run_all(assignments, plan.resources, say)
        status = "KILLED" if outcome.unfinished else "FAILED" if outcome.failed else "FINISHED"
        return SweepResult(
            plan.experiment, sweep.run_id, len(configs), len(configs) - len(todo),
            tuple(outcome.finished), outcome.failed, tuple(outcome.unfinished),
        )  # fmt: skip
    finally:
        end_sweep(client, sweep, status)
