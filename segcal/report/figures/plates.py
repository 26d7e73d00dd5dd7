"""Figures of pictures: images, overlaid probabilities, histograms and reliability of single cases."""

__all__ = ["cases_of", "maps", "methods", "slices"]

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.patheffects as effects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from segcal.records import CaseView, Map, Report
from segcal.report.figures.reliability import diagram
from segcal.report.figures.scatter import NUMERALS
from segcal.report.figures.theme import COLOURS, LARGEST, PROBABILITY, SMALL, SOFT, TITLE, WIDEST, tidy, wrapped
from segcal.report.tables import number

MASKED = 0.001  # probabilities up to this are not painted (paper, Fig. 1)
DOMAINS = {"source": "in distribution", "target": "out of distribution"}
MARGIN, GAP = 0.55, 0.06  # inches: for the names of the rows, and between pictures
HISTOGRAM = "probabilities over the predicted segment"
OUTLINE = [effects.withStroke(linewidth=1.7, foreground=(0, 0, 0, 0.55))]


@dataclass(frozen=True)
class Panel:
    """One picture: a slice, with a method's probability on it or without."""

    view: CaseView
    shown: Map | None
    title: str = ""
    below: str = ""


@dataclass(frozen=True)
class Row:
    """Pictures of one case, and what else stands in their row."""

    label: str
    panels: tuple[Panel, ...]
    histogram: np.ndarray | None = None
    beneath: tuple[Map, ...] = ()  # reliability diagrams under the last panels


@dataclass(frozen=True)
class Band:
    """One line of the plate in inches: the pictures of a row, or the diagrams beneath them."""

    row: Row
    above: float
    height: float
    below: float
    diagrams: bool = False


def maps(report: Report, key: str, histogram: bool) -> Figure | None:
    """A row a view: image with truth, the map of each method, and the histogram of the last one."""
    views = _views(report, key)
    mixed = len({view.domain for view in views}) > 1
    rows = []
    for index, view in enumerate(views):
        domain = [DOMAINS[view.domain]] if mixed and DOMAINS[view.domain] not in view.caption else []
        label = "\n".join([view.case_id, *domain, _reason(view)])
        last = view.maps[-1].histogram if view.maps else None
        rows.append(Row(label, _panels(view, titles=index == 0), last))
    return _paint(rows, HISTOGRAM if histogram and views and views[0].maps else "")


def methods(report: Report, key: str) -> Figure | None:
    """A row a view: image with truth and the map of each method; under each map its reliability in that volume."""
    views = _views(report, key)
    rows = [
        Row(f"{view.case_id}\n{_reason(view)}", _panels(view, titles=index == 0, scores=False), beneath=view.maps)
        for index, view in enumerate(views)
    ]
    return _paint(rows)


def slices(report: Report, key: str) -> Figure | None:
    """A row a case, numbered I, II, ...: the last map in each of its slices, and the histogram.

    A case with one slice is shown as in `maps`.
    """
    numerals = cases_of(report, key)
    rows: list[Row] = []
    for case_id, group in itertools.groupby(_views(report, key), key=lambda view: view.case_id):
        views = [view for view in group if view.maps]
        if not views:
            continue
        if len(views) == 1:
            panels = _panels(views[0], titles=not rows)
        else:
            panels = tuple(Panel(view, view.maps[-1], f"slice {view.slice_index}") for view in views)
        reason = views[0].caption if len(views) > 1 else _reason(views[0])
        reason = reason.removeprefix(f"case {numerals[case_id]}, ")
        label = "\n".join(part for part in (f"Case {numerals[case_id]}: {case_id}", reason) if part)
        rows.append(Row(label, panels, views[-1].maps[-1].histogram))
    return _paint(rows, HISTOGRAM)


def cases_of(report: Report, key: str) -> dict[str, str]:
    """The cases of a plate and their numerals."""
    names = dict.fromkeys(view.case_id for view in _views(report, key))
    return {name: NUMERALS[i] if i < len(NUMERALS) else str(i + 1) for i, name in enumerate(names)}


def _views(report: Report, key: str) -> tuple[CaseView, ...]:
    return next((plate.views for plate in report.plates if plate.key == key), ())


def _reason(view: CaseView) -> str:
    return ", ".join(part for part in (view.caption, f"slice {view.slice_index}") if part)


def _panels(view: CaseView, titles: bool, scores: bool = True) -> tuple[Panel, ...]:
    first = Panel(view, None, "image and truth" if titles else "")
    others = (
        Panel(view, shown, shown.title if titles else "", score_text(shown, ", ") if scores else "")
        for shown in view.maps
    )
    return (first, *others)


def score_text(shown: Map, between: str = "\n") -> str:
    """`ECE 3.10%`, `NLL 0.052`, ... as they were handed over."""
    texts = (
        f"{name.rstrip('%').strip()} {number(value)}%" if name.endswith("%") else f"{name} {number(value)}"
        for name, value in shown.scores
    )
    return between.join(texts)


def _paint(rows: Sequence[Row], histograms: str = "") -> Figure | None:
    """The whole plate, placed by hand; `histograms` is the title of their column, empty where there is none."""
    if not rows:
        return None
    columns = max(len(row.panels) for row in rows) + bool(histograms)
    right = 0.5 if histograms else 0.08
    side = min(LARGEST, (WIDEST - MARGIN - right) / columns - GAP)
    bands = [
        band for i, row in enumerate(rows) for band in _bands(row, side, histograms, i == 0, i == len(rows) - 1)
    ]  # fmt: skip
    overlaid = any(panel.shown for row in rows for panel in row.panels)
    margin = max(MARGIN, *(_room([wrapped(row.label, side * _shape(row), SMALL)], SMALL) for row in rows))
    width = margin + columns * (side + GAP) + right
    height = sum(band.above + band.height + band.below for band in bands) + 0.06 + (0.62 if overlaid else 0.06)
    figure = Figure(figsize=(width, height))
    densest = max((_density(row.histogram).max(initial=0) for row in rows if row.histogram is not None), default=0)
    painted: AxesImage | None = None
    top = height - 0.06
    for band in bands:
        bottom = top - band.above - band.height

        def place(column: int, bottom: float = bottom, band: Band = band) -> Axes:
            left = margin + column * (side + GAP) + (GAP if histograms and column == columns - 1 else 0)
            return figure.add_axes((left / width, bottom / height, side / width, band.height / height))

        if band.diagrams:
            start = len(band.row.panels) - len(band.row.beneath)
            for column, shown in enumerate(band.row.beneath, start=start):
                _beneath(place(column), shown, first=column == start, last=band is bands[-1])
        else:
            for column, panel in enumerate(band.row.panels):
                layer = _picture(place(column), panel, side)
                painted = layer if panel.shown else painted
            x, y = (margin - 0.06) / width, (bottom + band.height / 2) / height
            label = wrapped(band.row.label, band.height, SMALL)
            figure.text(x, y, label, rotation=90, va="center", ha="right", multialignment="center", fontsize=SMALL)
            if histograms:
                axes = place(columns - 1)
                _histogram(axes, band.row.histogram, densest, last=band is bands[-1])
                axes.set_title(wrapped(histograms, side) if band is bands[0] else "")
        top = bottom - band.below
    if painted:
        cax = figure.add_axes(((width - 3.2) / 2 / width, 0.4 / height, 3.2 / width, 0.09 / height))
        bar = figure.colorbar(painted, cax=cax, orientation="horizontal")
        bar.set_label("probability of any structure", fontsize=8, labelpad=1)
        cax.tick_params(labelsize=SMALL, length=2.5, width=0.6)
        cax.set_frame_on(False)
    return figure


def _bands(row: Row, side: float, histograms: str, first: bool, last: bool) -> list[Band]:
    """The pictures of a row, and its diagrams where it has some: what stands above and below them has its room."""
    titles = [wrapped(panel.title, side) for panel in row.panels if panel.title]
    titles += [wrapped(histograms, side)] if histograms and first else []
    below = max(_room([wrapped(panel.below, side, SMALL) for panel in row.panels if panel.below], SMALL), GAP)
    if histograms:
        below = max(below, 0.34 if last else 0.2)
    bands = [Band(row, _room(titles, TITLE), side * _shape(row), below)]
    if any(shown.reliability for shown in row.beneath):
        bands.append(Band(row, 0.06, side, 0.32 if last else 0.24, diagrams=True))
    return bands


def _room(texts: Sequence[str], points: float) -> float:
    """Inches that the tallest of the texts needs, and a little more; nothing without a text."""
    return max(text.count("\n") + 1 for text in texts) * 1.25 * points / 72 + 0.1 if texts else 0.0


def _shape(row: Row) -> float:
    """Height over width of the pictures of a row, in mm; within bounds, so that no row is a sliver."""
    ratios = [
        view.image.shape[0] * view.spacing_mm[0] / (view.image.shape[1] * view.spacing_mm[1])
        for view in (panel.view for panel in row.panels)
    ]
    return float(np.clip(max(ratios), 0.4, 2.5))


def _picture(axes: Axes, panel: Panel, side: float) -> AxesImage:
    view = panel.view
    aspect = view.spacing_mm[0] / view.spacing_mm[1]
    painted = axes.imshow(view.image, cmap="gray", vmin=0, vmax=1, aspect=aspect)
    if panel.shown:
        probability = np.ma.masked_less_equal(panel.shown.probability, MASKED)
        painted = axes.imshow(probability, cmap=PROBABILITY, vmin=0, vmax=1, alpha=0.7, aspect=aspect)
    for label in np.unique(view.truth[view.truth > 0]):
        inside = view.truth == label
        if not inside.all():
            axes.contour(inside, levels=[0.5], colors="white", linewidths=0.8).set(path_effects=OUTLINE)
    axes.set_axis_off()
    if panel.title:
        axes.set_title(wrapped(panel.title, side))
    if panel.below:
        text = wrapped(panel.below, side, SMALL)
        axes.annotate(text, (0.5, 0), (0, -3), "axes fraction", "offset points", ha="center", va="top", fontsize=SMALL)
    return painted


def _beneath(axes: Axes, shown: Map, first: bool, last: bool) -> None:
    if shown.reliability is None:
        axes.set_axis_off()
        return
    diagram(axes, shown.reliability)
    axes.text(0.05, 0.96, score_text(shown), va="top", fontsize=SMALL, linespacing=1.15, zorder=5)
    axes.set_yticklabels([])
    left, _, right = axes.get_xticklabels()
    left.set_horizontalalignment("left")
    right.set_horizontalalignment("right")
    if last:
        axes.set_xlabel("confidence", fontsize=SMALL, labelpad=1)
    if first:  # what is written here stands under the first picture, where there is room
        words = {0.0: "0", 0.5: "accuracy   0.5", 1.0: "1"}
        for place, word in words.items():
            axes.text(-0.05, place, word, ha="right", va="center", fontsize=SMALL, color=SOFT)


def _density(histogram: np.ndarray) -> np.ndarray:
    total = histogram.sum()
    density: np.ndarray = histogram * (len(histogram) / total if total else 0.0)
    return density


def _histogram(axes: Axes, histogram: np.ndarray | None, densest: float, last: bool) -> None:
    if histogram is None or not histogram.sum():
        axes.text(0.5, 0.5, "no predicted segment", ha="center", va="center", fontsize=SMALL, color=SOFT)
    else:
        edges = np.linspace(0, 1, len(histogram) + 1)
        axes.stairs(_density(histogram), edges, fill=True, color=COLOURS[0], alpha=0.35, linewidth=0)
        axes.stairs(_density(histogram), edges, color=COLOURS[0], linewidth=1)
    axes.set(xlim=(0, 1), ylim=(0, 1.05 * densest or 1), xticks=(0, 0.5, 1))
    axes.set_xticklabels(("0", "0.5", "1"))
    axes.yaxis.tick_right()
    axes.yaxis.set_label_position("right")
    axes.set_ylabel("density", fontsize=SMALL)
    if last:
        axes.set_xlabel("probability", fontsize=SMALL, labelpad=1)
    tidy(axes)
    axes.spines["left"].set_visible(False)
    axes.spines["right"].set_visible(True)
