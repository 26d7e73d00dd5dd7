"""The data of a sweep: prepared, or opened where they are prepared already."""

__all__ = ["SweepData", "check_data", "left", "prepare_data"]

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segcal.data.cohort import OOD
from segcal.data.phantom.embedded import embedded_cohort
from segcal.data.prepare import prepare
from segcal.data.prepared import PreparedCohort
from segcal.environment import home
from segcal.errors import UsageError
from segcal.progress import Progress, lines
from segcal.sweep.plan import Plan
from segcal.tasks import TaskSpec
from segcal.trial import TrialConfig

EMBEDDED = "embedded"


@dataclass(frozen=True)
class SweepData:
    """The prepared cohorts of a sweep, and the folders they were read from."""

    root: Path
    cohort: PreparedCohort
    ood_root: Path | None = None
    ood: PreparedCohort | None = None  # only tested on


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
