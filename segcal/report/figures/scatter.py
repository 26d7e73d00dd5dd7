"""Mean entropy of a segment against the logit of its Dice (paper, Figures 3 and S8)."""

__all__ = ["NUMERALS", "chosen_scatters", "entropy_scatters"]

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from segcal.records import Fit, Point, Report, Scatter
from segcal.report.figures.theme import INK, SMALL, SOFT, TITLE, WIDEST, colour, plain, signed, tidy, wrapped
from segcal.report.tables import p_text

MARKERS = {"source": "o", "target": "X"}
DOMAINS = {"source": "source domain", "target": "target domain"}
NUMERALS = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X")
DICE_TICKS = (0.01, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999)
LINE = 1.35 * SMALL  # points, height of a line of small text


def chosen_scatters(report: Report, loss: str) -> tuple[Scatter, ...]:
    """The ensembles trained with a loss; without an ensemble, every method trained with it."""
    of_loss = tuple(scatter for scatter in report.scatters if scatter.loss == loss)
    return tuple(scatter for scatter in of_loss if "ensemble" in scatter.title) or of_loss


def entropy_scatters(report: Report, loss: str, marked: Mapping[str, str] | None = None) -> Figure | None:
    """A panel a method: structures by colour, domains by marker; points of `marked` cases carry a name."""
    scatters = chosen_scatters(report, loss)
    if not any(scatter.points for scatter in scatters):
        return None
    columns = min(len(scatters), 3)
    rows = -(-len(scatters) // columns)
    side = min(4.2, WIDEST / columns)
    figure = Figure(figsize=(side * columns + 0.5, (0.78 * side + 1.0) * rows + 0.3), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, scatter in zip(panels, scatters, strict=False):
        _panel(axes, scatter, report.structures, side, marked or {})
    for axes in panels[len(scatters) :]:
        axes.remove()
    for row in range(rows):
        panels[row * columns].set_ylabel("logit Dice")
        _dice_ticks(panels[min((row + 1) * columns, len(scatters)) - 1])
    points = [point for scatter in scatters for point in scatter.points]
    handles = _legend(report.structures, points)
    width = sum(0.55 + 0.065 * len(str(handle.get_label())) for handle in handles)  # inches, about
    lines = math.ceil(width / (side * columns))
    figure.legend(handles=handles, loc="outside lower center", ncols=-(-len(handles) // lines))
    return figure


def _panel(axes: Axes, scatter: Scatter, structures: Sequence[str], side: float, marked: Mapping[str, str]) -> None:
    for index, structure in enumerate(structures):
        for domain, marker in MARKERS.items():
            x, y = _coordinates([p for p in scatter.points if (p.structure, p.domain) == (structure, domain)])
            if len(x):
                size = 22 if domain == "source" else 30
                axes.scatter(x, y, s=size, marker=marker, color=colour(index), alpha=0.75, linewidth=0, zorder=2)
    for point in scatter.points:
        if point.case_id in marked:
            axes.annotate(marked[point.case_id], (point.entropy, point.logit_dice), (4, 4),
                          textcoords="offset points", fontsize=8, fontweight="bold", zorder=4)  # fmt: skip
    both = len({point.domain for point in scatter.points}) > 1
    fits = [fit for fit in scatter.fits if fit.domain == "all" or both]
    for fit in fits:
        _line(axes, fit, scatter.points)
    lines = [_fit_text(fit, both) for fit in fits]
    if scatter.clipped or scatter.empty:
        lines.append(f"Dice clipped: {scatter.clipped}; left out, without H(S) or Dice: {scatter.empty}")
    text = "\n".join(lines)
    axes.text(0.0, 1.02, text, transform=axes.transAxes, va="bottom", fontsize=SMALL, color=SOFT, linespacing=1.25)
    axes.set_title(wrapped(scatter.title, side - 0.5), fontsize=TITLE, loc="left", pad=5 + LINE * len(lines))
    axes.set_xlabel("H(S), nats")
    axes.grid(color="0.93", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelbottom=True)
    tidy(axes)


def _coordinates(points: Sequence[Point]) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.array([(p.entropy, p.logit_dice) for p in points], dtype=float).reshape(-1, 2).T
    return x, y


def _line(axes: Axes, fit: Fit, points: Sequence[Point]) -> None:
    x, _ = _coordinates([p for p in points if fit.domain in ("all", p.domain)])
    if len(x) and math.isfinite(fit.slope):
        ends = np.array([x.min(), x.max()])
        style = {"all": "-", "source": "--", "target": ":"}[fit.domain]
        axes.plot(ends, fit.intercept + fit.slope * ends, style, color=INK, linewidth=1.1, zorder=3)


def _fit_text(fit: Fit, named: bool) -> str:
    r, rho = (f"{value:.2f}" if math.isfinite(value) else "n/a" for value in (fit.pearson_r, fit.spearman_r))
    text = f"r = {r}, {p_text(fit.pearson_p)}; ρ = {rho}, {p_text(fit.spearman_p)}; n = {fit.n}"
    return f"{fit.domain}: {signed(text)}" if named else signed(text)


def _dice_ticks(axes: Axes) -> None:
    """The Dice that a logit stands for, on the right."""
    low, high = axes.get_ylim()
    ticks = {math.log(dice / (1 - dice)): f"{dice:g}" for dice in DICE_TICKS}
    inside = {place: text for place, text in ticks.items() if low <= place <= high}
    right = axes.secondary_yaxis("right")
    right.set_yticks(list(inside), labels=list(inside.values()))
    right.tick_params(labelsize=SMALL, length=2.5, width=0.6, colors=SOFT)
    right.set_ylabel("Dice", color=SOFT)
    right.spines["right"].set_color("0.85")


def _legend(structures: Sequence[str], points: Sequence[Point]) -> list[Line2D]:
    def handle(label: str, marker: str, shade: str, line: Any = "none") -> Line2D:
        return Line2D(
            [], [], linestyle=line, marker=marker, color=shade, label=plain(label), markersize=5, linewidth=1.1
        )

    handles = [handle(structure, "s", colour(index)) for index, structure in enumerate(structures)]
    domains = {point.domain for point in points}
    if "target" in domains:
        handles += [handle(text, MARKERS[name], SOFT) for name, text in DOMAINS.items() if name in domains]
    if len(domains) > 1:
        styles = {"fit, all": "-", "fit, source": "--", "fit, target": ":"}
        handles += [handle(label, "", INK, line) for label, line in styles.items()]
    return handles
