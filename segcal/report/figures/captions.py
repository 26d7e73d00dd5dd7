"""What stands under each figure: what is shown, what the paper found there, and what to look for."""

__all__ = [
    "confidence", "figure_1", "figure_2", "figure_3", "figure_3_cases", "figure_s4", "figure_s8", "members_ce",
    "members_dice", "methods", "reliability",
]  # fmt: skip

from segcal.records import CaseView, Report
from segcal.report.figures.scatter import chosen_scatters

SHOWN = (
    " A single model's map is that of the member with the median validation Dice, an ensemble's that of the members "
    "with the lowest seeds; numbers and histograms are means over all draws."
)
MASKED = "probabilities of 0.001 and below are not painted"
METHODS = {"brain": "Figure S1.", "heart": "Figure S2.", "prostate": "Figure S3."}


def figure_1(report: Report) -> str:
    """Calibration and out-of-distribution detection, case by case."""
    views = _views(report, "figure_1")
    domains = {view.domain for view in views}
    rows = "Each row is a test case."
    if len(domains) > 1:
        rows = "Above a case from the domain of the training data, below a case from outside it."
    return (
        f"Figure 1. Calibration and out-of-distribution detection, {report.task}. {rows} First column: image with the "
        f"boundary of the truth (white line). Then: the image overlaid with the class probability (any structure) that "
        f"is predicted by {_titles(views)}; {MASKED}. Last column: histogram of the probabilities of "
        f"{_last(views)} over the predicted segments of the whole volume. A distribution much wider than that of an "
        f"in-distribution case is the mark of an out-of-distribution one.{SHOWN}"
    )


def figure_2(report: Report) -> str:
    """NLL and Dice against the number of members."""
    return (
        f"Figure 2. Calibration and segmentation against the number of models M in the ensemble, {report.task}: NLL "
        "in the box and Dice (mean of the structures), a line a recipe, mean over draws. In the paper the NLL "
        "falls with M for both losses, and an ensemble of M = 10 trained with Dice loss has a lower NLL than one model "
        "(M = 1) trained with cross entropy. Figure S4 shows the same with intervals, and for the whole volume."
    )


def figure_3(report: Report) -> str:
    """H(S) against Dice, Dice loss."""
    targets = any(point.domain == "target" for scatter in report.scatters for point in scatter.points)
    domains = (
        " Markers tell the source domain (filled circles) from the target domain (crosses), dashed and dotted lines "
        "are their own regressions; where the target's segments lie apart at higher entropy, the entropy flags "
        "out-of-distribution cases."
    )
    marked = " Roman numerals: the cases shown below." if _views(report, "figure_3") else ""
    return (
        f"Figure 3. Uncertainty of a segment, {report.task}, {_what(report, 'soft_dice')} trained with Dice loss: the "
        "mean entropy H(S) over each predicted segment (Eq. 7) against the logit of its Dice, coloured by structure, "
        "with the least-squares line, Pearson's r and Spearman's ρ, and two-sided p values. Higher entropy is less "
        "confidence; where it goes with a lower Dice, H(S) tells at test time how good a segmentation is. In the paper "
        f"|r| is 0.77 to 0.92.{domains if targets else ''}{marked}"
    )


def figure_3_cases(report: Report) -> str:
    """The cases marked in figure 3."""
    views = _views(report, "figure_3")
    return (
        "Figure 3, continued. Cases marked in the scatter plot: slices of a patient a row, with the overlaid "
        f"class probabilities of {_last(views)} ({MASKED}) and the boundary of the truth (white line); last "
        "column: histogram of the probabilities over the predicted segments of the whole volume. The wider "
        "distribution belongs to the higher mean entropy, which goes with a lower Dice."
    )


def figure_s4(report: Report) -> str:
    """The curves of figure 2 with intervals."""
    return (
        f"Figure S4. The curves of Figure 2 with intervals, {report.task}: NLL in the box and over the whole volume, "
        "and Dice, against the number of models M in the ensemble. Line: mean over draws. Band: 2.5th to 97.5th "
        "percentile of the draws. Bars: mean ± one standard error of an ensemble of M, corrected for the overlap of "
        "draws made from one pool; there is none where M is the whole pool, or with a single draw."
    )


def figure_s8(report: Report) -> str:
    """H(S) against Dice, cross-entropy."""
    return (
        f"Figure S8. Uncertainty of a segment, {report.task}, {_what(report, 'cross_entropy')} trained with cross "
        "entropy: mean entropy H(S) over each predicted segment against the logit of its Dice, with the least-squares "
        "line, Pearson's r and Spearman's ρ, as in Figure 3."
    )


def methods(report: Report) -> str:
    """Maps and reliability diagrams of every method on one case."""
    return (
        f"{METHODS.get(report.task, 'Figure S1-S3 style.')} Quality of the uncertainty estimates of the methods, "
        f"{report.task}. Above: image with the boundary of the truth (white line), and overlaid with the class "
        f"probabilities of each method ({MASKED}). Beneath each map: the reliability diagram of that whole volume with "
        "its ECE%, NLL and Brier score; only bins of more than 1000 voxels are shown; the gap between confidence "
        f"and accuracy is red where the method is over-confident, green where it is under-confident.{SHOWN}"
    )


def members_dice(report: Report) -> str:
    """Maps against the number of members, Dice loss."""
    return _members(report, "Figure S5.", "members_dice", "Dice loss")


def members_ce(report: Report) -> str:
    """Maps against the number of members, cross-entropy."""
    return _members(report, "Figure S6.", "members_ce", "cross entropy")


def confidence(report: Report) -> str:
    """From the most to the least confident case."""
    return (
        f"Figure S7. Examples from the most to the least confident, {report.task}: image with the boundary of the "
        f"truth (white line), the overlaid class probability ({MASKED}), and the histogram of the probabilities of "
        f"{_last(_views(report, 'confidence'))} over the predicted segments of the whole volume."
    )


def reliability(report: Report) -> str:
    """Reliability diagrams of all test patients pooled."""
    return (
        f"Reliability in the box, {report.task}, voxels of all test patients pooled. Above: accuracy (bars) against "
        "confidence; the gap between the two is hatched in red where the method is over-confident, and dotted in green "
        "where it is under-confident; only bins of more than 1000 voxels are drawn. Below: voxels in each bin, on a "
        "log scale; dotted: 1000."
    )


def _members(report: Report, figure: str, key: str, loss: str) -> str:
    return (
        f"{figure} Maps against the number of models M in the ensemble, models trained with {loss}, {report.task}: "
        "image with the boundary of the truth, and overlaid with the class probabilities of "
        f"{_titles(_views(report, key))} ({MASKED}). White line: boundary of the structures in the truth."
    )


def _what(report: Report, loss: str) -> str:
    ensembles = any("ensemble" in scatter.title for scatter in chosen_scatters(report, loss))
    return "ensembles of models" if ensembles else "models"


def _views(report: Report, key: str) -> tuple[CaseView, ...]:
    return next((plate.views for plate in report.plates if plate.key == key), ())


def _titles(views: tuple[CaseView, ...]) -> str:
    titles = [f"“{shown.title}”" for shown in views[0].maps] if views else []
    return " and ".join([", ".join(titles[:-1]), titles[-1]] if len(titles) > 1 else titles) or "each method"


def _last(views: tuple[CaseView, ...]) -> str:
    return f"“{views[0].maps[-1].title}”" if views and views[0].maps else "the last method"
