"""NLL and Dice against the number of members M (paper, Figures 2 and S4)."""

__all__ = ["m_curves", "m_curves_with_intervals"]

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from segcal.records import Curve, Report
from segcal.report.figures.theme import colour, dash, tidy, wrapped

BOX, WHOLE, DICE = ("nll", "box"), ("nll", "whole"), ("dice", "")
TITLES = {BOX: "NLL in the box", WHOLE: "NLL, whole volume", DICE: "Dice, mean of the structures"}


def m_curves(report: Report) -> Figure | None:
    """Mean over draws, a line a recipe."""
    return _panels(report.curves, (BOX, DICE), intervals=False)


def m_curves_with_intervals(report: Report) -> Figure | None:
    """The same with the percentiles of the draws, the corrected standard error, and the whole volume."""
    return _panels(report.curves, (BOX, WHOLE, DICE), intervals=True)


def _panels(curves: Sequence[Curve], quantities: Sequence[tuple[str, str]], intervals: bool) -> Figure | None:
    shown = [key for key in quantities if any((c.metric, c.region) == key for c in curves)]
    if not shown or all(len(curve.sizes) < 2 for curve in curves):
        return None
    labels = list(dict.fromkeys(curve.label for curve in curves))
    pools = {curve.label: f" (pool of {curve.pool})" if intervals else "" for curve in curves}
    width, columns = 3.5 * len(shown) + 0.1, min(len(labels), len(shown))
    texts = [wrapped(label + pools[label], width / columns - 0.7, 8) for label in labels]
    rows = -(-len(texts) // columns)
    longest = max("\n".join(texts[i : i + rows]).count("\n") + 1 for i in range(0, len(texts), rows))
    figure = Figure(figsize=(width, 3.0 + 0.18 * longest), layout="constrained")
    handles = {}
    for axes, key in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        chosen = [curve for curve in curves if (curve.metric, curve.region) == key]
        for curve in chosen:
            index = labels.index(curve.label)
            if intervals:
                _intervals(axes, curve, colour(index))
            (line,) = axes.plot(curve.sizes, curve.mean, dash(index), marker="o", markersize=3.5, color=colour(index))
            handles[curve.label] = line
        axes.set(title=TITLES[key], xlabel="members M", ylabel="NLL" if key[0] == "nll" else "Dice", xscale="log")
        axes.xaxis.set_major_locator(FixedLocator(sorted({size for curve in chosen for size in curve.sizes})))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))  # neither score is negative, whatever a wide error says
        axes.grid(axis="y", color="0.92", linewidth=0.6)
        axes.set_axisbelow(True)
        tidy(axes)
    named = [(handles[label], text) for label, text in zip(labels, texts, strict=True) if label in handles]
    figure.legend(*zip(*named, strict=True), loc="outside lower center", ncols=columns, handlelength=2.8)
    return figure


def _intervals(axes: Axes, curve: Curve, shade: str) -> None:
    sizes, mean, error = (np.array(part, dtype=float) for part in (curve.sizes, curve.mean, curve.error))
    axes.fill_between(sizes, np.array(curve.low), np.array(curve.high), color=shade, alpha=0.16, linewidth=0)
    known = np.isfinite(error)
    if known.any():
        axes.errorbar(sizes[known], mean[known], error[known], fmt="none", ecolor=shade, elinewidth=1, capsize=3)
