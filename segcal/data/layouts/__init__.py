"""How cohorts lie on disk. A layout is one file that answers: which cases, which files, which split; and one line here.

Reading, checking and preparing are shared by all, those of plug-ins too.
"""

__all__ = ["LAYOUTS", "Layout", "find_cases", "recognise", "task_of"]

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segcal.data.case_files import Found
from segcal.data.faults import DataFault, MissingCase
from segcal.data.layouts import acdc, brats, csv_table, msd, nnunet, promise12, prostatex
from segcal.errors import BadData, SegcalError, UsageError, nearest
from segcal.plugins import Extensions, one_line
from segcal.tasks import TASKS, TaskSpec

log = logging.getLogger(__name__)
TABLES = (".csv", ".json")  # faults of these concern every case


@dataclass(frozen=True)
class Layout:
    """Functions of a layout."""

    find: Callable[[Path, TaskSpec], Found]
    recognise: Callable[[Path], bool]  # does this folder look like one?
    task: Callable[[Path], TaskSpec] | None  # the task of a folder, where it can be told without being named
    channels: tuple[str, ...] = ()  # the names of its images, where the layout fixes them


def _accept(name: str, given: Any) -> Layout:
    """A plug-in's layout."""
    if not isinstance(given, Layout):
        raise ValueError(f"a layout must be a segcal.data.layouts.Layout, got {type(given).__name__}")
    return given


_BUILT_IN = {
    "brats": Layout(brats.find, brats.recognise, lambda root: TASKS["brain"], brats.CHANNELS),
    "acdc": Layout(acdc.find, acdc.recognise, lambda root: TASKS["heart"], (acdc.CHANNEL,)),
    "prostatex": Layout(prostatex.find, prostatex.recognise, lambda root: TASKS["prostate"], (prostatex.CHANNEL,)),
    "promise12": Layout(promise12.find, promise12.recognise, lambda root: TASKS["prostate"], (promise12.CHANNEL,)),
    "msd": Layout(msd.find, msd.recognise, msd.task),
    "nnunet": Layout(nnunet.find, nnunet.recognise, nnunet.task),
    "csv": Layout(csv_table.find, csv_table.recognise, None),
}

LAYOUTS: Extensions[Layout] = Extensions("layouts", "layout", _BUILT_IN, _accept)


def recognise(root: Path) -> str | None:
    """The layout that a folder looks like, or None. Those of plug-ins are asked last."""
    if not root.is_dir():
        return None
    return next((name for name in LAYOUTS if _looks_like(name, root)), None)


def _looks_like(name: str, root: Path) -> bool:
    try:
        return bool(LAYOUTS[name].recognise(root))
    except (Exception, SystemExit) as error:
        if name in LAYOUTS.built_in:
            raise
        log.warning("%s: the layout '%s' of a plug-in was not asked: %s", root, name, one_line(error))
        return False


def task_of(root: Path, name: str) -> TaskSpec:
    """The task that a folder in this layout tells. Raises UsageError where the layout tells none."""
    suggest = LAYOUTS[name].task
    if suggest is None:
        raise UsageError(f"{root}: the {name} layout does not tell the labels; name a task with --task")
    with _of_plugin(name, root):
        task = suggest(root)
        if not isinstance(task, TaskSpec):
            raise TypeError(f"task must return a segcal.tasks.TaskSpec, got {type(task).__name__}")
        return replace(task, layout=name)


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
    found = _found(task.layout, root, task)
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


def _found(name: str, root: Path, task: TaskSpec) -> Found:
    with _of_plugin(name, root):
        found = LAYOUTS[name].find(root, task)
        if not isinstance(found, Found):
            raise TypeError(f"find must return a segcal.data.case_files.Found, got {type(found).__name__}")
        return found


@contextlib.contextmanager
def _of_plugin(name: str, root: Path) -> Iterator[None]:
    """A call of a layout. Raises BadData, in one line, for what a plug-in's own code raises."""
    try:
        yield
    except (SegcalError, OSError):
        raise
    except (Exception, SystemExit) as error:
        if (plugin := LAYOUTS.plugin(name)) is None:
            raise
        raise BadData(f"{root}: the layout '{name}' of {plugin}: {one_line(error)}") from error
