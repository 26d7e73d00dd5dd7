"""Which case is in which split: as the layout says, by site where the names tell it, by a written seed where not.

Cases of one patient are never divided, because a network would be tested on a patient that it has seen.
"""

__all__ = ["OOD", "SPLITS", "assign_splits"]

import logging
from collections.abc import Sequence

import numpy as np

from segcal.data.case_files import CaseFiles
from segcal.data.faults import BadSplit
from segcal.tasks import TaskSpec

SPLITS = ("train", "val", "test")
OOD = "ood"  # the split of a whole cohort that is never learnt from

log = logging.getLogger(__name__)


def assign_splits(cases: Sequence[CaseFiles], task: TaskSpec) -> dict[str, str]:
    """Split of each case id. Cases of a site that the task does not name are left out, and said so.

    Raises BadSplit where a split would stay empty, or where a layout puts cases of one patient into two splits.
    """
    wanted, told = set(task.split_sites.values()), {case.site for case in cases}
    if any(case.split for case in cases):
        splits = _as_given(cases, task)
    elif wanted & told:
        if wanted - told:
            rule, got = f"cases of the sites {', '.join(sorted(wanted))} must be there", ", ".join(sorted(told - {""}))
            raise BadSplit("cohort", rule, got, "add the others, or set split_sites: {} in a task file")
        splits = _by_site(cases, task)
    else:
        if len({case.patient or case.case_id for case in cases}) < len(SPLITS):
            got, rule = f"{len(cases)}", "at least 3 cases are needed for train, val and test (of 3 patients)"
            raise BadSplit("cohort", rule, got, "add cases")
        splits = _divide(cases, list(SPLITS), list(task.split_fractions), task.split_seed)
    _check_counts(splits, task)
    return splits


def _check_counts(splits: dict[str, str], task: TaskSpec) -> None:
    found = {split: sum(value == split for value in splits.values()) for split in SPLITS}
    counts = "/".join(map(str, found.values()))
    if not all(found.values()):
        remedy = "add cases, or change split_fractions of the task"
        raise BadSplit("cohort", "train, val and test must each hold a case", counts, remedy)
    if task.split_counts and found != {split: task.split_counts.get(split) for split in SPLITS}:
        expected = "/".join(str(task.split_counts.get(split, "?")) for split in SPLITS)
        log.warning("%s expected in train/val/test, found %s", expected, counts)


def _as_given(cases: Sequence[CaseFiles], task: TaskSpec) -> dict[str, str]:
    """What the layout says; a case it is silent about goes with its patient, or into the splits not yet named."""
    patients: dict[str, CaseFiles] = {}
    for case in cases:
        if not case.split:
            continue
        other = patients.setdefault(case.patient or case.case_id, case)
        if other.split != case.split:
            got = f"{other.case_id} in {other.split} and {case.case_id} in {case.split}"
            raise BadSplit(case.case_id, f"cases of patient {case.patient} must be in one split", got, "move one")
    splits = {case.case_id: patients[at].split for case in cases if (at := case.patient or case.case_id) in patients}
    rest = [case for case in cases if case.case_id not in splits]
    unnamed = [split for split in SPLITS if split not in splits.values()] or ["train"]
    shares = [task.split_fractions[SPLITS.index(split)] for split in unnamed]
    return splits | _divide(rest, unnamed, shares, task.split_seed)


def _by_site(cases: Sequence[CaseFiles], task: TaskSpec) -> dict[str, str]:
    splits: dict[str, str] = {}
    for site in dict.fromkeys(task.split_sites.values()):
        names = [split for split in SPLITS if task.split_sites.get(split) == site]
        shares = [float(task.split_counts.get(split, 1)) for split in names]
        splits |= _divide([case for case in cases if case.site == site], names, shares, task.split_seed)
    left_out = sorted({case.site or "no site" for case in cases if case.case_id not in splits})
    if left_out:
        log.warning("%d cases of %s are in no split", len(cases) - len(splits), ", ".join(left_out))
    return splits


def _divide(cases: Sequence[CaseFiles], names: list[str], shares: list[float], seed: int) -> dict[str, str]:
    """Shuffle the patients and cut in the ratio of the shares; each share gets at least one while there are enough."""
    patients = sorted({case.patient or case.case_id for case in cases})
    order = np.random.default_rng(seed).permutation(len(patients))
    exact = len(patients) * np.asarray(shares) / sum(shares)
    sizes = np.maximum(np.floor(exact).astype(int), np.asarray(shares) > 0)
    while sizes.sum() < len(patients):
        sizes[np.argmax(exact - sizes)] += 1
    while sizes.sum() > len(patients):
        sizes[np.argmax(sizes)] -= 1
    split = {patients[index]: str(name) for index, name in zip(order, np.repeat(names, sizes), strict=True)}
    return {case.case_id: split[case.patient or case.case_id] for case in cases}
