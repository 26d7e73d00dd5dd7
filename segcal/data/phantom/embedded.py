"""The embedded cohorts: generated cases written through the real layouts, once, and kept."""

__all__ = ["EMBEDDED", "GENERATOR_VERSION", "EmbeddedCohort", "embedded_cohort", "write_cohort"]

import fcntl
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from segcal.data.parallel import in_parallel
from segcal.data.phantom.as_nnunet import NEW_CASES, nnunet_writer
from segcal.data.phantom.write import write_brain, write_heart, write_promise12, write_prostatex
from segcal.errors import UsageError, nearest
from segcal.progress import Progress, silent

GENERATOR_VERSION = 2  # a change of a generator makes a new folder
CASES, SEED = 36, 2017
OOD_SHARE = 1 / 3  # of the cases, where a task has an out-of-distribution cohort


@dataclass(frozen=True)
class EmbeddedCohort:
    """A cohort and how its case number `index` is written: write(out, index, cases, size, seed) -> case id.

    The out-of-distribution cohort lies beside the first one; both are then folders of their own.
    """

    name: str
    size: int  # in-plane voxels by default
    write: Callable[[Path, int, int, int, int], str]
    folder: str = ""
    ood_folder: str = ""
    write_ood: Callable[[Path, int, int, int, int], str] | None = None

    def data(self, root: Path) -> Path:
        """The cohort below the folder that was written."""
        return root / self.folder

    def ood(self, root: Path) -> Path | None:
        """The out-of-distribution cohort below it."""
        return root / self.ood_folder if self.ood_folder else None


_PROSTATE = EmbeddedCohort("prostate", 96, write_prostatex, "PROSTATEx", "PROMISE12", write_promise12)
EMBEDDED: dict[str, EmbeddedCohort] = {
    "brain": EmbeddedCohort("brain", 80, write_brain),
    "heart": EmbeddedCohort("heart", 96, write_heart),
    "prostate": _PROSTATE,
    "prostate3d": _PROSTATE,
}


def write_cohort(
    task: str, out: Path, cases: int | None = None, size: int | None = None, seed: int = SEED,
    progress: Progress = silent, layout: str | None = None,
) -> int:  # fmt: skip
    """Write a task's embedded cohort into a new folder, which appears when it is complete; returns how many cases.

    size: in-plane voxels of a field of view that is always the same. layout: nnunet, or None for the layout that the
    real cohort has. Raises UsageError for an unknown task or layout, fewer cases than three splits (and two new
    images of nnunet) need, a size below 32, or a folder that is there already.
    """
    cohort = _in_layout(_cohort(task), task, layout)
    cases, size = CASES if cases is None else cases, cohort.size if size is None else size
    fewest, why = (4, "train, val and test") if layout is None else (4 + NEW_CASES, "train, val, test and new images")
    if cases < fewest:
        raise UsageError(f"cases must be at least {fewest} ({why}), got cases={cases}")
    if size < 32:
        raise UsageError(f"size must be at least 32 voxels, got size={size}")
    if out.exists():
        raise UsageError(f"--out must be a new folder, got {out}; remove it or name another")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    of_ood = round(cases * OOD_SHARE) if cohort.write_ood else 0

    def write(index: int) -> str:
        if cohort.write_ood is None or index < cases - of_ood:
            return cohort.write(cohort.data(partial), index, cases, size, seed)
        return cohort.write_ood(partial / cohort.ood_folder, index - cases + of_ood, of_ood, size, seed)

    try:
        for done, name in enumerate(in_parallel(write, range(cases)), start=1):
            progress("generated", done, cases, name)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return cases


def embedded_cohort(task: str, home: Path, progress: Progress = silent) -> tuple[Path, Path | None]:
    """Folders of a task's embedded cohort and of its out-of-distribution cohort, generated on first use."""
    cohort = _cohort(task)
    folder = home / "embedded" / f"{cohort.name}-v{GENERATOR_VERSION}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two sweeps that start together generate once
        if not folder.exists():
            write_cohort(task, folder, progress=progress)
    return cohort.data(folder), cohort.ood(folder)


def _in_layout(cohort: EmbeddedCohort, task: str, layout: str | None) -> EmbeddedCohort:
    """The cohort as it is written in a layout; nnunet has no out-of-distribution cohort beside it."""
    if layout not in (None, "nnunet"):
        raise UsageError(f"generated data are written as nnunet, or as the task's own layout, got '{layout}'")
    return EmbeddedCohort(cohort.name, cohort.size, nnunet_writer(cohort.write, task)) if layout else cohort


def _cohort(task: str) -> EmbeddedCohort:
    if task not in EMBEDDED:
        raise UsageError(f"no embedded data for task '{task}'; {nearest(task, EMBEDDED)}; or give a folder with --data")
    return EMBEDDED[task]
