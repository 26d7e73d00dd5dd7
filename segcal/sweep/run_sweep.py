"""A whole sweep: prepare the data, skip what is trained, run the rest, leave nothing open."""

__all__ = ["SweepResult", "run_sweep"]

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segcal.data.cohort import OOD
from segcal.data.phantom.embedded import embedded_cohort
from segcal.data.prepare import home, prepare
from segcal.errors import UsageError
from segcal.ledger.read import finished_keys
from segcal.ledger.store import experiment_id, open_store, tracking_uri
from segcal.ledger.write import end_sweep, start_sweep
from segcal.progress import Progress, lines
from segcal.sweep.plan import Plan, trials
from segcal.sweep.run_trial import Assignment
from segcal.tasks import TaskSpec
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


def run_sweep(
    plan: Plan, data: str, say: Callable[[str], None], ood: str | None = None, progress: Progress | None = None
) -> SweepResult:
    """Train every trial of the plan that the experiment does not hold yet.

    data: a folder in the task's layout, or "embedded". ood: the folder of the cohort that is only tested on; it is
    prepared and recorded beside the data, and nothing is learnt from it. Progress goes to `say`, a line at a time.
    """
    if data == EMBEDDED and plan.scale == "paper":
        raise UsageError("scale 'paper' needs real images, got the embedded data; give their folder with data=DIR")
    uri = tracking_uri()
    client = open_store(uri)
    experiment_id(client, plan.experiment)
    progress = progress or lines(say)
    root, ood_root = Path(data), Path(ood) if ood else None
    if data == EMBEDDED:
        root, embedded_ood = embedded_cohort(plan.task.name, home(), progress)
        ood_root = ood_root or embedded_ood
    cohort = prepare(root, plan.task, progress)
    counts = "/".join(str(count) for count in cohort.counts().values())
    say(f"data: {root} (digest {cohort.digest}), {counts} cases to train, validate and test on")
    ood_params = _prepare_ood(ood_root, plan.task, say, progress) if ood_root else {}
    configs = trials(plan, cohort.digest, cohort.class_voxels)
    done = finished_keys(client, plan.experiment)
    todo = [config for config in configs if config.key not in done]
    say(
        f"sweep: {len(plan.recipes)} recipes, {len(configs)} trials in experiment '{plan.experiment}',"
        f" {len(configs) - len(todo)} trained already"
    )
    params = {"data": root, "data_digest": cohort.digest, "scale": plan.scale, "code_version": code_version()}
    params |= ood_params
    name = f"sweep {plan.task.name} {plan.scale}".strip()
    sweep = start_sweep(client, plan.experiment, name, params, plan.as_yaml(), cohort.manifest, plan.task.name)
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


def _prepare_ood(root: Path, task: TaskSpec, say: Callable[[str], None], progress: Progress) -> dict[str, Any]:
    """Prepare the out-of-distribution cohort as the task's own images are; returns what the sweep records of it."""
    if not task.ood_layout:
        raise UsageError(
            f"task {task.name}: --ood needs the layout of that cohort, got none; set ood_layout in the task"
        )
    cohort = prepare(root, replace(task, layout=task.ood_layout, groups=(), ids=()), progress, ood=True)
    say(f"out of distribution: {root} (digest {cohort.digest}), {cohort.counts()[OOD]} cases, never learnt from")
    return {"ood_data": root, "ood_digest": cohort.digest}
