"""Slices of every case for a contact sheet: the first look at a cohort, as its files are, before any preparation."""

__all__ = ["sheet_rows"]

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from segcal.data.case_files import CaseFiles
from segcal.data.faults import DataFault
from segcal.data.layouts import find_cases
from segcal.data.orient import orient
from segcal.data.parallel import in_parallel
from segcal.data.prepare_case import read_case, scale_intensity
from segcal.errors import UsageError, nearest
from segcal.records import SheetRow
from segcal.tasks import TaskSpec

MAX_SIDE = 320  # pixels of a slice; larger ones are shown with every second or third pixel


def sheet_rows(root: Path, task: TaskSpec, channel: str | None = None, slices: int = 6) -> Iterator[SheetRow]:
    """A row for every case, sorted as the layout gives them, after a row for each fault of names and files.

    channel: the one to show, the task's last where None. slices: spread over the labelled part and one slice beyond
    it. A case that cannot be read is a row with its fault. Raises UsageError for an unknown channel or no slices.
    """
    channel = channel or task.channels[-1]
    if channel not in task.channels:
        raise UsageError(f"task {task.name}: no channel named '{channel}'; {nearest(channel, task.channels)}")
    if slices < 1:
        raise UsageError(f"--slices must be at least 1, got {slices}")
    found = find_cases(root, task)
    return _rows(found.faults, found.cases, task, channel, slices)


def _rows(
    faults: list[DataFault], cases: list[CaseFiles], task: TaskSpec, channel: str, slices: int
) -> Iterator[SheetRow]:
    for fault in faults:
        yield SheetRow(fault.case_id, "", 1.0, fault=str(fault))
    yield from in_parallel(lambda case: _row(case, task, channel, slices), cases)


def _row(case: CaseFiles, task: TaskSpec, channel: str, slices: int) -> SheetRow:
    try:
        volumes, label = read_case(case, task)
    except DataFault as fault:
        return SheetRow(case.case_id, case.site or case.group, 1.0, fault=str(fault))
    image, _ = orient(volumes[channel], task.orientation)
    classes, _ = orient(label, task.orientation)
    labelled = np.flatnonzero(classes.array.any(axis=(1, 2)))
    last = len(classes.array) - 1
    first, final = (max(labelled[0] - 1, 0), min(labelled[-1] + 1, last)) if len(labelled) else (0, last)
    chosen = dict.fromkeys(int(z) for z in np.linspace(first, final, slices).round())
    grey = scale_intensity(image.array, "percentile", task.intensity_inside)
    rows, columns = _not_empty(np.logical_or(image.array.any(axis=0), classes.array.any(axis=0)))
    step = -(-max(rows.stop - rows.start, columns.stop - columns.start) // MAX_SIDE)
    view = slice(rows.start, rows.stop, step), slice(columns.start, columns.stop, step)
    shown = tuple((z, grey[z][view].copy(), classes.array[z][view].copy()) for z in chosen)
    size = "x".join(map(str, image.array.shape))
    spacing = "x".join(f"{side:.3g}" for side in image.spacing_mm)
    where = f"{case.site or case.group}\n" if case.site or case.group else ""
    caption = f"{where}{channel}, {size}\n{spacing} mm"
    return SheetRow(case.case_id, caption, image.spacing_mm[1] / image.spacing_mm[2], shown)


def _not_empty(mask: np.ndarray) -> tuple[slice, slice]:
    """The part of a picture (Y, X) that holds anything; all of it where nothing does."""
    y, x = np.nonzero(mask if mask.any() else ~mask)
    return slice(int(y.min()), int(y.max()) + 1), slice(int(x.min()), int(x.max()) + 1)
