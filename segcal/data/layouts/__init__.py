"""How cohorts lie on disk. A layout is one file that answers: which cases, which files, which split; and one line here.

Reading, checking and preparing are shared by all.
"""

__all__ = ["LAYOUTS", "Layout", "find_cases", "recognise"]

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from segcal.data.case_files import Found
from segcal.data.faults import DataFault, MissingCase
from segcal.data.layouts import acdc, brats, csv_table, msd, nnunet, promise12, prostatex
from segcal.errors import UsageError, nearest
from segcal.tasks import TASKS, TaskSpec

TABLES = (".csv", ".json")  # faults of these concern every case


@dataclass(frozen=True)
class Layout:
    """Functions of a layout."""

    find: Callable[[Path, TaskSpec], Found]
    recognise: Callable[[Path], bool]  # does this folder look like one?
    task: Callable[[Path], TaskSpec] | None  # the task of a folder, where it can be told without being named
    channels: tuple[str, ...] = ()  # the names of its images, where the layout fixes them


LAYOUTS: dict[str, Layout] = {
    "brats": Layout(brats.find, brats.recognise, lambda root: TASKS["brain"], brats.CHANNELS),
    "acdc": Layout(acdc.find, acdc.recognise, lambda root: TASKS["heart"], (acdc.CHANNEL,)),
    "prostatex": Layout(prostatex.find, prostatex.recognise, lambda root: TASKS["prostate"], (prostatex.CHANNEL,)),
    "promise12": Layout(promise12.find, promise12.recognise, lambda root: TASKS["prostate"], (promise12.CHANNEL,)),
    "msd": Layout(msd.find, msd.recognise, msd.task),
    "nnunet": Layout(nnunet.find, nnunet.recognise, nnunet.task),
    "csv": Layout(csv_table.find, csv_table.recognise, None),
}


def recognise(root: Path) -> str | None:
    """The layout that a folder looks like, or None."""
    if not root.is_dir():
        return None
    return next((name for name, layout in LAYOUTS.items() if layout.recognise(root)), None)


def find_cases(root: Path, task: TaskSpec) -> Found:
    """The cases of a cohort in the task's layout, those in `ids` where the task has such a list.

    Raises MissingCase where there is no folder, UsageError for a channel that the layout does not have; that nothing
    was found in it is a fault among `faults`.
    """
    if not root.is_dir():
        raise MissingCase(str(root), "the data must be a folder", "none there", "check the path")
    root = root.absolute()
    layout = LAYOUTS[task.layout]
    for name in task.channels:
        if layout.channels and name not in layout.channels:
            hint = nearest(name, layout.channels)
            raise UsageError(f"task {task.name}: the {task.layout} layout has no channel named '{name}'; {hint}")
    found = layout.find(root, task)
    if not found.cases and not found.faults:
        other = recognise(root)
        named = other if other and other != task.layout else ""
        remedy = f"this looks like {named}: --layout {named}" if named else "check the path, or `groups` of the task"
        found.faults.append(MissingCase(str(root), f"there must be cases in the {task.layout} layout", "none", remedy))
    if not task.ids:
        return found
    of_all = [fault for fault in found.faults if fault.case_id.endswith(TABLES)]
    if of_all:
        return Found([], of_all)
    here = {case.case_id for case in found.cases} | {fault.case_id for fault in found.faults}
    rule, remedy = "a case of the task's ids must be there", "correct `ids` of the task"
    absent: list[DataFault] = [
        MissingCase(case_id, rule, "none", remedy) for case_id in task.ids if case_id not in here
    ]
    kept = [fault for fault in found.faults if fault.case_id in task.ids]
    return Found([case for case in found.cases if case.case_id in task.ids], kept + absent)
