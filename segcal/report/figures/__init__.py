"""Figures of a report, drawn from its numbers. With the contact sheets, the only room that knows matplotlib."""

__all__ = ["FIGURES", "FigureSpec", "draw"]

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib import rc_context
from matplotlib.figure import Figure

from segcal.records import Report
from segcal.report.figures import captions
from segcal.report.figures.curves import m_curves, m_curves_with_intervals
from segcal.report.figures.plates import cases_of, maps, methods, slices
from segcal.report.figures.reliability import reliability_diagrams
from segcal.report.figures.scatter import entropy_scatters
from segcal.report.figures.theme import STYLE


@dataclass(frozen=True)
class FigureSpec:
    """A figure's caption and how it is drawn; None where the report has nothing for it."""

    caption: Callable[[Report], str]
    draw: Callable[[Report], Figure | None]


FIGURES: dict[str, FigureSpec] = {
    "figure_1": FigureSpec(captions.figure_1, lambda report: maps(report, "figure_1", histogram=True)),
    "figure_2": FigureSpec(captions.figure_2, m_curves),
    "figure_3": FigureSpec(
        captions.figure_3, lambda report: entropy_scatters(report, "soft_dice", cases_of(report, "figure_3"))
    ),
    "figure_3_cases": FigureSpec(captions.figure_3_cases, lambda report: slices(report, "figure_3")),
    "figure_s4": FigureSpec(captions.figure_s4, m_curves_with_intervals),
    "figure_s8": FigureSpec(captions.figure_s8, lambda report: entropy_scatters(report, "cross_entropy")),
    "methods": FigureSpec(captions.methods, lambda report: methods(report, "methods")),
    "members_dice": FigureSpec(captions.members_dice, lambda report: maps(report, "members_dice", histogram=False)),
    "members_ce": FigureSpec(captions.members_ce, lambda report: maps(report, "members_ce", histogram=False)),
    "confidence": FigureSpec(captions.confidence, lambda report: maps(report, "confidence", histogram=True)),
    "reliability": FigureSpec(captions.reliability, reliability_diagrams),
}


def draw(report: Report) -> dict[str, Figure]:
    """Every figure the report has data for, by name."""
    with rc_context(STYLE):
        drawn = {name: spec.draw(report) for name, spec in FIGURES.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}
