"""Contact sheets: a row of slices for each case with the labels' outlines, some cases a page."""

__all__ = ["draw_sheets"]

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from segcal.records import SheetRow

PER_PAGE = 8
INNER = 0.85  # outlines run a little inside their structure, so that those of neighbours lie side by side
# Bright on grey images, and apart for colour-blind eyes
OUTLINES = ("#56B4E9", "#E69F00", "#F0E442", "#CC79A7", "#009E73", "#D55E00", "#0072B2")


def draw_sheets(rows: Iterable[SheetRow], structures: Sequence[str], out: Path) -> list[Path]:
    """Write sheet-01.png, sheet-02.png, ... into a folder; returns their paths. Without rows there is no page."""
    out.mkdir(parents=True, exist_ok=True)
    pages: list[Path] = []
    remaining = iter(rows)
    while page := list(itertools.islice(remaining, PER_PAGE)):
        path = out / f"sheet-{len(pages) + 1:02d}.png"
        _page(page, structures).savefig(path, dpi=110, facecolor="black")
        pages.append(path)
    return pages


def _page(rows: Sequence[SheetRow], structures: Sequence[str]) -> Figure:
    columns = max((len(row.slices) for row in rows), default=1) or 1
    figure = Figure(figsize=(1.7 + 1.75 * columns, 1.8 * len(rows) + 0.4))
    grid = figure.subplots(len(rows), columns, squeeze=False)
    figure.subplots_adjust(left=1.6 / (1.7 + 1.75 * columns), right=0.995, top=1 - 0.4 / (1.8 * len(rows) + 0.4),
                           bottom=0.005, wspace=0.03, hspace=0.03)  # fmt: skip
    for row, line in zip(rows, grid, strict=True):
        for axes in line:
            axes.set_axis_off()
        _label(line[0], row)
        for axes, (z, image, classes) in zip(line, row.slices, strict=False):
            _slice(axes, z, image, classes, row.aspect)
    handles = [
        Line2D([], [], color=colour, label=name) for colour, name in zip(_colours(structures), structures, strict=True)
    ]
    figure.legend(
        handles=handles, loc="upper center", ncols=len(handles), frameon=False, labelcolor="white", fontsize=9
    )
    return figure


def _slice(axes: Axes, z: int, image: np.ndarray, classes: np.ndarray, aspect: float) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, aspect=aspect, interpolation="nearest")
    for label in range(1, int(classes.max(initial=0)) + 1):
        inside = classes == label
        if inside.any() and not inside.all():
            colour = OUTLINES[(label - 1) % len(OUTLINES)]
            axes.contour(inside, levels=[INNER], colors=[colour], linewidths=0.9)
    axes.text(0.03, 0.03, str(z), color="white", fontsize=7, transform=axes.transAxes)


def _label(axes: Axes, row: SheetRow) -> None:
    name = row.case_id if len(row.case_id) <= 20 else f"{row.case_id[:9]}…{row.case_id[-10:]}"
    axes.text(-0.04, 0.62, name, color="white", fontsize=8, ha="right", va="bottom", transform=axes.transAxes)
    axes.text(-0.04, 0.58, row.caption, color="#bbbbbb", fontsize=7, ha="right", va="top", transform=axes.transAxes)
    if row.fault:
        axes.text(0.05, 0.5, row.fault, color="#ff8080", fontsize=8, va="center", wrap=True, transform=axes.transAxes)


def _colours(structures: Sequence[str]) -> list[str]:
    return [OUTLINES[index % len(OUTLINES)] for index in range(len(structures))]
