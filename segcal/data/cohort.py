"""Which case is in which split: by site where the names tell it, by a written seed where not."""

__all__ = ["SPLITS", "assign_splits"]

import logging
from collections.abc import Sequence

import numpy as np

from segcal.data.case_files import CaseFiles
from segcal.data.faults import BadSplit
from segcal.tasks import TaskSpec

SPLITS = ("train", "val", "test")

log = logging.getLogger(__name__)


def assign_splits(cases: Sequence[CaseFiles], task: TaskSpec) -> dict[str, str]:
    """Split of each case id. Cases of a site that the task does not name are left out, and said so.

    Raises BadSplit where a split would stay empty.
    """
    wanted = set(task.split_sites.values())
    if wanted and wanted <= {case.site for case in cases}:
        splits = _by_site(cases, task)
    else:
        splits = _by_fraction(sorted(case.case_id for case in cases), task)
    found = {split: sum(value == split for value in splits.values()) for split in SPLITS}
    if not all(found.values()):
        counts = "/".join(str(found[split]) for split in SPLITS)
        remedy = "add cases, or change split_fractions of the task"
        raise BadSplit("cohort", "train, val and test must each hold a case", counts, remedy)
    if task.split_counts and found != {split: task.split_counts.get(split) for split in SPLITS}:
        expected = "/".join(str(task.split_counts.get(split, "?")) for split in SPLITS)
        log.warning("%s expected in train/val/test, found %s", expected, "/".join(map(str, found.values())))
    return splits


def _by_site(cases: Sequence[CaseFiles], task: TaskSpec) -> dict[str, str]:
    splits: dict[str, str] = {}
    for site in dict.fromkeys(task.split_sites.values()):
        names = [split for split in SPLITS if task.split_sites.get(split) == site]
        shares = [float(task.split_counts.get(split, 1)) for split in names]
        ids = sorted(case.case_id for case in cases if case.site == site)
        splits |= _divide(ids, names, shares, task.split_seed)
    left_out = sorted({case.site or "no site" for case in cases if case.case_id not in splits})
    if left_out:
        log.warning("%d cases of %s are in no split", len(cases) - len(splits), ", ".join(left_out))
    return splits


def _by_fraction(ids: list[str], task: TaskSpec) -> dict[str, str]:
    if len(ids) < len(SPLITS):
        raise BadSplit("cohort", "at least 3 cases are needed for train, val and test", f"{len(ids)}", "add cases")
    return _divide(ids, list(SPLITS), list(task.split_fractions), task.split_seed)


def _divide(ids: list[str], names: list[str], shares: list[float], seed: int) -> dict[str, str]:
    """Shuffle and cut in the ratio of the shares; where there are enough cases every share gets at least one."""
    order = np.random.default_rng(seed).permutation(len(ids))
    exact = len(ids) * np.asarray(shares) / sum(shares)
    sizes = np.maximum(np.floor(exact).astype(int), np.asarray(shares) > 0)
    while sizes.sum() < len(ids):
        sizes[np.argmax(exact - sizes)] += 1
    while sizes.sum() > len(ids):
        sizes[np.argmax(sizes)] -= 1
    labels = np.repeat(names, sizes)
    return {ids[index]: str(label) for index, label in zip(order, labels, strict=True)}
