"""Reliability diagrams (Eq. 5): accuracy against confidence."""

__all__ = ["diagram", "reliability_diagrams"]

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from segcal.records import ReliabilityBins, Report
from segcal.report.figures.theme import COLOURS, SMALL, SOFT, WIDEST, tidy, wrapped

MIN_VOXELS = 1000  # a bin has to hold more to be drawn (paper, appendix C)
OVER, UNDER = ("#fbdcd6", "#b3261e", "////"), ("#d5efe4", "#00704f", "....")  # confidence above accuracy, below it
ROOM = 4  # diagrams in one row; more go in rows of three


def reliability_diagrams(report: Report) -> Figure | None:
    """One diagram a method, voxels of all test cases pooled, in the box; below each the voxels in its bins."""
    chosen = [bins for bins in report.reliability if bins.region == "box"]
    if not chosen:
        return None
    columns = len(chosen) if len(chosen) <= ROOM else 3
    rows = -(-len(chosen) // columns)
    side = min(2.7, WIDEST / columns)
    figure = Figure(figsize=(side * columns + 0.3, (side + 1.35) * rows), layout="constrained")
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=(3.2, 1) * rows)
    most = max(float(bins.count.max(initial=0)) for bins in chosen)
    for index, bins in enumerate(chosen):
        row, column = divmod(index, columns)
        upper = figure.add_subplot(grid[2 * row, column])
        lower = figure.add_subplot(grid[2 * row + 1, column], sharex=upper)
        diagram(upper, bins, ticks=(0, 0.2, 0.4, 0.6, 0.8, 1))
        upper.text(0.04, 0.96, f"ECE {100 * bins.ece:.2f}%", va="top")
        upper.set_title(wrapped(bins.title, side - 0.3))
        upper.tick_params(labelbottom=False)
        _voxels(lower, bins, most)
        if column == 0:
            upper.set_ylabel("accuracy")
            lower.set_ylabel("voxels")
    return figure


def diagram(axes: Axes, bins: ReliabilityBins, ticks: Sequence[float] = (0, 0.5, 1)) -> None:
    """Accuracy of the bins that hold enough voxels, and the gap to their confidence: red above it, green below it."""
    width = np.diff(bins.edges)
    left = bins.edges[:-1] + 0.04 * width
    shown = bins.count > MIN_VOXELS
    accuracy, confidence = bins.accuracy[shown], bins.confidence[shown]
    axes.plot([0, 1], [0, 1], color="0.55", linewidth=0.8, linestyle="--", zorder=3)
    axes.bar(left[shown], accuracy, 0.92 * width[shown], align="edge", color=COLOURS[0], alpha=0.8)
    gap = confidence - accuracy
    for chosen, (pale, strong, hatch) in zip((gap >= 0, gap < 0), (OVER, UNDER), strict=True):
        axes.bar(left[shown][chosen], gap[chosen], 0.92 * width[shown][chosen], bottom=accuracy[chosen], align="edge",
                 facecolor=pale, edgecolor=strong, linewidth=0.7, hatch=hatch)  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(0, 1))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    if not shown.any():
        text = f"no bin holds more\nthan {MIN_VOXELS} voxels"
        axes.text(0.5, 0.3, text, ha="center", va="center", fontsize=SMALL, color=SOFT, backgroundcolor="white")
    tidy(axes)


def _voxels(axes: Axes, bins: ReliabilityBins, most: float) -> None:
    width = np.diff(bins.edges)
    axes.bar(bins.edges[:-1] + 0.04 * width, np.maximum(bins.count, 0.5), 0.92 * width, align="edge", color="0.62")
    axes.axhline(MIN_VOXELS, color="0.35", linewidth=0.7, linestyle=":")
    axes.set(yscale="log", ylim=(0.7, 3 * max(most, MIN_VOXELS)), xlabel="confidence")
    axes.minorticks_off()
    tidy(axes)
