"""Figures of a report, drawn from its numbers. The only room that knows matplotlib."""

__all__ = ["FIGURES", "draw"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import NullLocator, ScalarFormatter

from segcal.records import Curve, Overlay, ReliabilityBins, Report, Scatter

COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
)  # Okabe and Ito: safe for colour-blind eyes
MIN_VOXELS = 1000  # a reliability bin with fewer is not drawn (paper, appendix C)
MASKED = 0.001  # probabilities up to this are not painted (paper, Fig. 1)


@dataclass(frozen=True)
class FigureSpec:
    """A figure's caption and how it is drawn; None where the report has nothing for it."""

    caption: str
    draw: Callable[[Report], Figure | None]


def m_curves(report: Report) -> Figure | None:
    """NLL and Dice against the number of members."""
    panels = [
        ("nll", "box", "NLL in the box"),
        ("nll", "whole", "NLL, whole volume"),
        ("dice", "", "Dice, mean of structures"),
    ]
    if all(len(curve.sizes) < 2 for curve in report.curves):
        return None
    figure = Figure(figsize=(10.5, 3.3), layout="constrained")
    for axes, (metric, region, title) in zip(figure.subplots(1, 3), panels, strict=True):
        chosen = [curve for curve in report.curves if (curve.metric, curve.region) == (metric, region)]
        for colour, curve in zip(COLOURS, chosen, strict=False):
            _curve(axes, curve, colour)
        _tidy(axes)
        axes.set(title=title, xlabel="members M", xscale="log")
        axes.set_xticks(sorted({size for curve in chosen for size in curve.sizes}))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
        axes.legend(frameon=False, fontsize=9)
    return figure


def reliability_diagrams(report: Report) -> Figure | None:
    """One diagram a method, in the box."""
    chosen = [bins for bins in report.reliability if bins.region == "box"]
    if not chosen:
        return None
    figure = Figure(figsize=(2.7 * len(chosen) + 0.4, 3.7), layout="constrained")
    grid = figure.subplots(2, len(chosen), sharex=True, squeeze=False, height_ratios=(3, 1))
    for upper, lower, bins in zip(grid[0], grid[1], chosen, strict=True):
        _reliability(upper, lower, bins)
    grid[0][0].set_ylabel("accuracy")
    grid[1][0].set_ylabel("voxels")
    return figure


def entropy_scatters(report: Report) -> Figure | None:
    """H(S) against logit Dice, a panel a method."""
    if not any(scatter.points for scatter in report.scatters):
        return None
    figure = Figure(figsize=(2.7 * len(report.scatters) + 0.6, 3.4), layout="constrained")
    panels = figure.subplots(1, len(report.scatters), sharex=True, sharey=True, squeeze=False)[0]
    for axes, scatter in zip(panels, report.scatters, strict=True):
        _scatter(axes, scatter, report.structures)
    panels[0].set_ylabel("logit Dice")
    panels[-1].legend(frameon=False, fontsize=8, loc="best")
    return figure


def overlays(report: Report) -> Figure | None:
    """Image, truth and probabilities of the best, median and worst case."""
    if not report.overlays:
        return None
    columns = 1 + len(report.overlays[0].probability)
    figure = Figure(figsize=(2.15 * columns + 0.5, 2.5 * len(report.overlays)), layout="constrained")
    grid = figure.subplots(len(report.overlays), columns, squeeze=False)
    for index, overlay in enumerate(report.overlays):
        painted = _overlay_row(grid[index], overlay, first=index == 0)
    bar = figure.colorbar(painted, ax=grid, shrink=0.6, pad=0.01)
    bar.set_label("probability of any structure", fontsize=9)
    return figure


FIGURES: dict[str, FigureSpec] = {
    "m_curves": FigureSpec(
        "NLL and Dice against the number of members M: mean over draws, band from the 2.5th to the 97.5th percentile "
        "of the draws. Draws overlap, so the band is too narrow for M close to the pool's size.",
        m_curves,
    ),
    "reliability": FigureSpec(
        "Reliability in the box, voxels of all test patients pooled. Above: accuracy against confidence, the gap in "
        "red; bins of up to 1000 voxels are not drawn. Below: voxels in each bin.",
        reliability_diagrams,
    ),
    "entropy_dice": FigureSpec(
        "Can the model tell where it fails? Mean entropy H(S) of each predicted segment (Eq. 7) against the logit of "
        "its Dice, with Pearson's r and the least-squares line. Single models: a point is the mean over members.",
        entropy_scatters,
    ),
    "overlays": FigureSpec(
        "Best, median and worst test case by mean Dice, in the slice with most of the structures: image with the "
        "truth's outline (white), and each method's probability of any structure (0.001 and below not painted). A "
        "single model is the member with the lowest seed.",
        overlays,
    ),
}


def draw(report: Report) -> dict[str, Figure]:
    """Every figure the report has data for, by name."""
    drawn = {name: spec.draw(report) for name, spec in FIGURES.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _curve(axes: Axes, curve: Curve, colour: str) -> None:
    axes.fill_between(curve.sizes, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(curve.sizes, curve.mean, "o-", color=colour, label=curve.label, markersize=4)


def _reliability(upper: Axes, lower: Axes, bins: ReliabilityBins) -> None:
    width = float(np.diff(bins.edges)[0])
    centre = bins.edges[:-1] + width / 2
    shown = bins.count > MIN_VOXELS
    upper.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--")
    upper.bar(centre[shown], bins.accuracy[shown], width * 0.92, color=COLOURS[0], alpha=0.75)
    gap = bins.confidence[shown] - bins.accuracy[shown]
    upper.bar(centre[shown], gap, width * 0.92, bottom=bins.accuracy[shown], color="#c0392b", alpha=0.35)
    upper.set(xlim=(0, 1), ylim=(0, 1), title=bins.title)
    upper.title.set_fontsize(10)
    upper.text(0.04, 0.93, f"ECE {100 * bins.ece:.2f}%", fontsize=9, va="top")
    lower.bar(centre, np.maximum(bins.count, 0.5), width * 0.92, color="0.55")
    lower.set(yscale="log", ylim=(0.7, None), xlabel="confidence")
    for axes in (upper, lower):
        _tidy(axes)


def _scatter(axes: Axes, scatter: Scatter, structures: tuple[str, ...]) -> None:
    for colour, structure in zip(COLOURS, structures, strict=False):
        points = [(p.entropy, p.logit_dice) for p in scatter.points if p.structure == structure]
        x, y = np.array(points).reshape(-1, 2).T  # none where the structure was never predicted; the legend names it
        axes.scatter(x, y, s=16, color=colour, alpha=0.8, linewidth=0, label=structure)
    if np.isfinite(scatter.slope):
        x = np.array([min(p.entropy for p in scatter.points), max(p.entropy for p in scatter.points)])
        axes.plot(x, scatter.intercept + scatter.slope * x, color="0.3", linewidth=1)
        p = "p<0.001" if scatter.pearson_p < 0.001 else f"p={scatter.pearson_p:.3f}"
        axes.text(
            0.97, 0.97, f"r={scatter.pearson_r:.2f}, {p}", transform=axes.transAxes, ha="right", va="top", fontsize=9
        )
    axes.set_title(scatter.title, fontsize=10)
    axes.set_xlabel("H(S), nats")
    _tidy(axes)


def _overlay_row(row: Sequence[Axes], overlay: Overlay, first: bool) -> AxesImage:
    aspect = overlay.spacing_mm[0] / overlay.spacing_mm[1]
    titles = ["image and truth", *(title for title, _ in overlay.probability)]
    painted = row[0].imshow(overlay.image, cmap="gray", vmin=0, vmax=1, aspect=aspect)
    for column, (axes, title) in enumerate(zip(row, titles, strict=True)):
        axes.imshow(overlay.image, cmap="gray", vmin=0, vmax=1, aspect=aspect)
        if column:
            probability = overlay.probability[column - 1][1]
            shown = np.ma.masked_less_equal(probability, MASKED)
            painted = axes.imshow(shown, cmap="magma", vmin=0, vmax=1, alpha=0.75, aspect=aspect)
        for label in range(1, int(overlay.truth.max()) + 1):
            if (overlay.truth == label).any():
                axes.contour(overlay.truth == label, levels=[0.5], colors="white", linewidths=0.7)
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set_visible(False)
        if first:
            axes.set_title(title, fontsize=9)
    row[0].set_ylabel(
        f"{overlay.rank}: {overlay.case_id}\nmean Dice {overlay.dice:.2f}, slice {overlay.slice_index}", fontsize=8
    )
    return painted


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.title.set_fontsize(10)
