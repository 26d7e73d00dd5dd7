"""A whole sweep: prepare the data, skip what is trained, run the rest, leave nothing open."""

__all__ = ["SweepData", "SweepResult", "check_data", "left", "prepare_data", "run_sweep"]

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segcal.data.cohort import OOD
from segcal.data.phantom.embedded import embedded_cohort
from segcal.data.prepare import home, prepare
from segcal.data.prepared import PreparedCohort
from segcal.errors import UsageError
from segcal.ledger.read import finished_keys
from segcal.ledger.store import experiment_id, open_store, tracking_uri
from segcal.ledger.write import end_sweep, start_sweep
from segcal.progress import Progress, lines
from segcal.sweep.plan import Plan, trials
from segcal.sweep.run_trial import Assignment
from segcal.tasks import TaskSpec
from segcal.trial import TrialConfig
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


@dataclass(frozen=True)
class SweepData:
    """The prepared cohorts of a sweep, and the folders they were read from."""

    root: Path
    cohort: PreparedCohort
    ood_root: Path | None = None
    ood: PreparedCohort | None = None  # only tested on


def run_sweep(
    plan: Plan, data: str, say: Callable[[str], None], ood: str | None = None, progress: Progress | None = None
) -> SweepResult:
    """Train every trial of the plan that the experiment does not hold yet.

    data: a folder in the task's layout, or "embedded". ood: the folder of the cohort that is only tested on; it is
    prepared and recorded beside the data, and nothing is learnt from it. Progress goes to `say`, a line at a time.
    """
    check_data(plan, data)
    uri = tracking_uri()
    client = open_store(uri)
    experiment_id(client, plan.experiment)
    found = prepare_data(plan, data, say, ood, progress)
    cohort = found.cohort
    configs = trials(plan, cohort.digest, cohort.class_voxels)
    todo = left(configs, finished_keys(client, plan.experiment))
    say(
        f"sweep: {len(plan.recipes)} recipes, {len(configs)} trials in experiment '{plan.experiment}',"
        f" {len(configs) - len(todo)} trained already"
    )
    params = {"data": found.root, "data_digest": cohort.digest, "scale": plan.scale, "code_version": code_version()}
    params |= {"ood_data": found.ood_root, "ood_digest": found.ood.digest} if found.ood else {}
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


def check_data(plan: Plan, data: str) -> None:
    """Raise UsageError where a plan for real images would be paid for generated ones."""
    if data == EMBEDDED and plan.scale == "paper":
        raise UsageError("scale 'paper' needs real images, got the embedded data; give their folder with data=DIR")


def prepare_data(
    plan: Plan, data: str, say: Callable[[str], None], ood: str | None = None, progress: Progress | None = None
) -> SweepData:
    """Prepare what the plan learns from and is tested on, or open it where it is prepared already.

    data, ood, say and progress are those of `run_sweep`. Raises BadData for the first faulty case, and UsageError for
    a second cohort that the task has no layout for.
    """
    progress = progress or lines(say)
    root, ood_root = Path(data), Path(ood) if ood else None
    if data == EMBEDDED:
        root, embedded_ood = embedded_cohort(plan.task.name, home(), progress)
        ood_root = ood_root or embedded_ood
    cohort = prepare(root, plan.task, progress)
    counts = "/".join(str(count) for count in cohort.counts().values())
    say(f"data: {root} (digest {cohort.digest}), {counts} cases to train, validate and test on")
    if ood_root is None:
        return SweepData(root, cohort)
    return SweepData(root, cohort, ood_root, _prepare_ood(ood_root, plan.task, say, progress))


def left(configs: Sequence[TrialConfig], done: Collection[str]) -> list[TrialConfig]:
    """The trials whose key is not among those that are done."""
    return [config for config in configs if config.key not in done]


def _prepare_ood(root: Path, task: TaskSpec, say: Callable[[str], None], progress: Progress) -> PreparedCohort:
    """Prepare the out-of-distribution cohort as the task's own images are."""
    if not task.ood_layout:
        raise UsageError(
            f"task {task.name}: --ood needs the layout of that cohort, got none; set ood_layout in the task"
        )
    cohort = prepare(root, replace(task, layout=task.ood_layout, groups=(), ids=()), progress, ood=True)
    say(f"out of distribution: {root} (digest {cohort.digest}), {cohort.counts()[OOD]} cases, never learnt from")
    return cohort
