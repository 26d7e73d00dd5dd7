"""What is wrong with this folder? Every case read and judged, all faults at once."""

__all__ = ["CaseCheck", "check_cohort"]

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segcal.data.case_files import CaseFiles
from segcal.data.cohort import assign_splits
from segcal.data.faults import BadSplit, DataFault, DoubledCase
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
    """Faults of names, files and splits first, then each case as it is read; images that two cases share last."""
    found = find_cases(root, task)
    faults = list(found.faults)
    if found.cases and task.layout != task.ood_layout:
        try:
            assign_splits(found.cases, task)
        except BadSplit as bad:
            faults.append(bad)
    for fault in faults:
        yield _faulty(fault)
    seen: dict[str, str] = {}
    for check, digest in in_parallel(lambda case: _check_case(case, task), found.cases):
        yield check
        if digest and seen.setdefault(digest, check.case_id) != check.case_id:
            rule, got = "its images must be its own", f"those of {seen[digest]}"
            yield _faulty(DoubledCase(check.case_id, rule, got, "remove one of the two"))


def _faulty(fault: DataFault, where: str = "") -> CaseCheck:
    return CaseCheck(fault.case_id, where, fault=type(fault).__name__, message=str(fault), remedy=fault.remedy)


def _check_case(case: CaseFiles, task: TaskSpec) -> tuple[CaseCheck, str]:
    """The line of a case, and a digest of its images."""
    try:
        volumes, label = read_case(case, task)
    except DataFault as fault:
        return _faulty(fault, case.site or case.group), ""
    digest = hashlib.blake2b()
    for volume in volumes.values():
        digest.update(np.ascontiguousarray(volume.array).data)
    first = next(iter(volumes.values()))
    here = tuple(task.structures[value - 1] for value in np.unique(label.array) if value > 0)
    check = CaseCheck(case.case_id, case.site or case.group, first.array.shape, first.spacing_mm, here)
    return check, digest.hexdigest()
