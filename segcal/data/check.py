"""What is wrong with this folder? Every case read and judged, all faults at once."""

__all__ = ["CaseCheck", "check_cohort"]

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segcal.data.case_files import CaseFiles
from segcal.data.faults import DataFault
from segcal.data.layouts import find_cases
from segcal.data.parallel import in_parallel
from segcal.data.prepare_case import read_case
from segcal.tasks import TaskSpec


@dataclass(frozen=True)
class CaseCheck:
    """One line of the check: what the case is, or what is wrong with it."""

    case_id: str
    site: str = ""  # or the group, where names tell no site
    shape: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()  # structures found
    fault: str = ""  # class of the fault
    message: str = ""  # rule, value and remedy
    remedy: str = ""


def check_cohort(root: Path, task: TaskSpec) -> Iterator[CaseCheck]:
    """Faults of names and files first, then each case as it is read."""
    found = find_cases(root, task)
    for fault in found.faults:
        yield CaseCheck(fault.case_id, fault=type(fault).__name__, message=str(fault), remedy=fault.remedy)
    yield from in_parallel(lambda case: _check_case(case, task), found.cases)


def _check_case(case: CaseFiles, task: TaskSpec) -> CaseCheck:
    try:
        volumes, label = read_case(case, task)
    except DataFault as fault:
        return CaseCheck(
            case.case_id, case.site or case.group, fault=type(fault).__name__, message=str(fault), remedy=fault.remedy
        )
    first = next(iter(volumes.values()))
    here = tuple(task.structures[value - 1] for value in np.unique(label.array) if value > 0)
    return CaseCheck(case.case_id, case.site or case.group, first.array.shape, first.spacing_mm, here)
