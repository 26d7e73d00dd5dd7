from dataclasses import replace

import numpy as np
import pytest

from segcal.records import Plate
from segcal.report.figures import FIGURES, draw

NAN = float("nan")


@pytest.fixture(scope="module")
def figures(full_report):
    return draw(full_report)


def only(report, name, **parts):
    """One figure of a report that has nothing but some parts; None where it is not drawn."""
    nothing = {"curves": (), "reliability": (), "scatters": (), "plates": ()}
    return draw(replace(report, **(nothing | parts))).get(name)


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in (*axes.texts, axes.title, axes._left_title)]


def captions(report):
    return {name: spec.caption(report) for name, spec in FIGURES.items()}


def test_every_figure_is_drawn_and_none_without_data(full_report, figures):
    assert set(figures) == set(FIGURES)
    nothing = replace(full_report, curves=(), reliability=(), scatters=(), plates=())
    assert draw(nothing) == {}
    assert all(captions(nothing).values())  # a caption never needs the data
    without = replace(full_report, plates=full_report.plates[1:])
    assert set(FIGURES) - set(draw(without)) == {"figure_1"}
    assert all(figure.get_size_inches()[0] <= 11 for figure in figures.values())


def test_captions_begin_as_the_papers_do(full_report):
    found = captions(full_report)
    begins = {
        "figure_1": "Figure 1. ", "figure_2": "Figure 2. ", "figure_3": "Figure 3. ", "figure_3_cases": "Figure 3, ",
        "figure_s4": "Figure S4. ", "figure_s8": "Figure S8. ", "methods": "Figure S3. ",
        "members_dice": "Figure S5. ", "members_ce": "Figure S6. ", "confidence": "Figure S7. ",
        "reliability": "Reliability in the box",
    }  # fmt: skip
    assert {name: found[name][: len(text)] for name, text in begins.items()} == begins
    for task, begin in {"brain": "Figure S1. ", "heart": "Figure S2. ", "mine": "Figure S1-S3 style. "}.items():
        assert FIGURES["methods"].caption(replace(full_report, task=task)).startswith(begin)
    assert "“Soft Dice” and “Soft Dice, ensemble of 50”" in found["figure_1"]
    assert "outside it" in found["figure_1"]


def test_figure_2_has_a_line_a_recipe_and_no_bands(full_report, figures):
    nll, dice = figures["figure_2"].axes
    first = full_report.curves[0]
    assert [len(axes.lines) for axes in (nll, dice)] == [2, 2]
    assert tuple(nll.lines[0].get_xdata()) == first.sizes
    assert tuple(nll.lines[0].get_ydata()) == first.mean
    assert tuple(dice.lines[1].get_ydata()) == full_report.curves[5].mean
    assert [len(axes.collections) for axes in (nll, dice)] == [0, 0]
    assert nll.get_xscale() == "log"
    assert tuple(nll.get_xticks()) == first.sizes
    assert len({line.get_color() for line in nll.lines}) == 2


def test_figure_s4_has_bands_and_the_corrected_error(full_report, figures):
    figure = figures["figure_s4"]
    assert [axes.get_title() for axes in figure.axes] == [
        "NLL in the box", "NLL, whole volume", "Dice, mean of the structures",
    ]  # fmt: skip
    axes, curve = figure.axes[0], full_report.curves[0]
    band, bars = axes.collections[:2]
    corners = band.get_paths()[0].vertices[:, 1]
    assert (corners.min(), corners.max()) == pytest.approx((min(curve.low), max(curve.high)))
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    assert len(ends) == 5  # none where M is the whole pool
    assert ends[0] == pytest.approx([curve.mean[0] - 0.008, curve.mean[0] + 0.008])


def test_curves_with_nothing_but_single_models_are_left_out(full_report):
    short = tuple(
        replace(c, sizes=(1,), mean=c.mean[:1], low=c.low[:1], high=c.high[:1], draws=(1,), error=(NAN,))
        for c in full_report.curves
    )
    assert only(full_report, "figure_2", curves=short) is only(full_report, "figure_s4", curves=short) is None
    unknown = tuple(replace(c, error=(NAN,) * 6, low=(NAN,) * 6, high=(NAN,) * 6) for c in full_report.curves)
    assert len(only(full_report, "figure_s4", curves=unknown).axes) == 3


def test_the_eighth_recipe_is_drawn_and_dashed(full_report):
    curves = tuple(replace(full_report.curves[0], label=f"recipe {i}") for i in range(8))
    (axes,) = only(full_report, "figure_2", curves=curves).axes
    assert len(axes.lines) == 8
    assert (axes.lines[7].get_color(), axes.lines[7].get_linestyle()) == (axes.lines[1].get_color(), "--")


def test_figure_3_shows_the_ensembles_of_its_loss_with_their_fits(full_report, figures):
    figure = figures["figure_3"]
    assert [axes._left_title.get_text() for axes in figure.axes] == [
        "Soft Dice, ensemble of 50", "Soft Dice, MC dropout, ensemble of 50",
    ]  # fmt: skip
    axes = figure.axes[0]
    stats = axes.texts[-1].get_text().split("\n")
    assert stats == [
        "all: r = −0.85, p<0.001; ρ = −0.80, p=0.012; n = 48",
        "source: r = −0.50, p=0.200; ρ = −0.45, p=0.250; n = 24",
        "target: r = −0.50, p=0.200; ρ = −0.45, p=0.250; n = 24",
        "Dice clipped: 2; left out, without H(S) or Dice: 1",
    ]
    assert [line.get_linestyle() for line in axes.lines] == ["-", "--", ":"]
    x = np.array([p.entropy for p in full_report.scatters[3].points])
    assert axes.lines[0].get_xdata() == pytest.approx([x.min(), x.max()])
    assert axes.lines[0].get_ydata() == pytest.approx([3 - 10 * x.min(), 3 - 10 * x.max()])
    assert [len(dots.get_offsets()) for dots in axes.collections] == [12, 12, 12, 12]  # structure by domain
    assert {text.get_text() for text in axes.texts[:-1]} == {"I", "II"}  # the cases below
    (ce,) = figures["figure_s8"].axes
    assert ce._left_title.get_text() == "Cross entropy, ensemble of 50"


def test_one_domain_has_one_line_and_without_ensembles_single_models_are_shown(full_report, make):
    scatters = (make.scatter("Soft Dice", "soft_dice", targets=False),)
    assert only(full_report, "figure_s8", scatters=scatters) is None
    (axes,) = only(full_report, "figure_3", scatters=scatters).axes
    assert axes._left_title.get_text() == "Soft Dice"
    assert len(axes.lines) == 1
    assert axes.texts[-1].get_text().split("\n")[0] == "r = −0.85, p<0.001; ρ = −0.80, p=0.012; n = 24"


def test_undefined_correlations_and_a_single_point(full_report):
    scatter = full_report.scatters[3]
    fit = replace(scatter.fits[0], n=1, pearson_r=NAN, pearson_p=NAN, spearman_r=NAN, spearman_p=NAN, slope=NAN)
    lonely = replace(scatter, points=scatter.points[:1], fits=(fit,), clipped=0, empty=0)
    (axes,) = only(full_report, "figure_3", scatters=(lonely,)).axes
    assert axes.texts[-1].get_text() == "r = n/a, p n/a; ρ = n/a, p n/a; n = 1"
    assert len(axes.lines) == 0
    assert only(full_report, "figure_3", scatters=(replace(lonely, points=()),)) is None


def test_figure_1_has_image_maps_and_histogram_of_the_last(full_report, figures):
    figure = figures["figure_1"]
    assert len(figure.axes) == 2 * 4 + 1  # two rows of image, two maps, histogram; and the bar
    image, single, ensemble, histogram = figure.axes[:4]
    assert [axes.get_title() for axes in (image, single, ensemble)] == [
        "image and truth", "Soft Dice", "Soft Dice, ensemble of 50",
    ]  # fmt: skip
    view = full_report.plates[0].views[0]
    assert len(image.images) == 1
    painted = ensemble.images[1].get_array()
    assert np.array_equal(painted.mask, view.maps[-1].probability <= 0.001)
    assert painted.mask.any()
    assert not painted.mask.all()
    assert len(image.collections) == 2  # an outline a structure
    counts = view.maps[-1].histogram
    heights, edges, _ = histogram.patches[0].get_data()
    assert heights == pytest.approx(counts * 20 / counts.sum())
    assert edges == pytest.approx(np.linspace(0, 1, 21))
    labels = [text.get_text() for text in figure.texts]
    assert "in distribution" in labels[0]
    assert "out of distribution" in labels[1]


def test_voxels_that_are_not_square_stay_so(full_report, make):
    plates = make.report(spacing_mm=(2.0, 0.5)).plates[:1]
    axes = only(full_report, "figure_1", plates=plates).axes[0]
    assert axes.get_aspect() == 4
    box = axes.get_position()
    width, height = axes.figure.get_size_inches()
    assert box.height * height / (box.width * width) == pytest.approx(4)


def test_an_empty_segment_is_said(full_report, make):
    view = make.view(0, ("Soft Dice",))
    for histogram in (None, np.zeros(20, dtype=int)):
        bare = replace(view, maps=(replace(view.maps[0], histogram=histogram, scores=(), reliability=None),))
        plates = (Plate("confidence", (bare,)), Plate("methods", (bare,)))
        assert "no predicted segment" in texts(only(full_report, "confidence", plates=plates))
        assert len(only(full_report, "methods", plates=plates).axes) == 3  # image, map, bar: no diagram


def test_methods_have_each_volumes_diagram_and_scores(figures):
    figure = figures["methods"]
    assert len(figure.axes) == 3 * (7 + 6) + 1
    diagram = figure.axes[7]
    assert "ECE 3.10%\nNLL 0.052\nBrier 0.071" in [text.get_text() for text in diagram.texts]
    heights = [patch.get_height() for patch in diagram.containers[0]]
    assert heights == pytest.approx([0.65**2, 0.75**2, 0.85**2, 0.95**2])  # 400 voxels are too few


def test_a_volume_with_few_voxels_says_so(full_report, make):
    view = make.view(0, ("Soft Dice",))
    few = make.bins(scale=0.01)
    view = replace(view, maps=(replace(view.maps[0], reliability=few),))
    diagram = only(full_report, "methods", plates=(Plate("methods", (view,)),)).axes[2]
    assert "no bin holds more\nthan 1000 voxels" in [text.get_text() for text in diagram.texts]
    assert len(diagram.patches) == 0


def test_members_have_a_column_a_size_and_no_histogram(figures):
    for name in ("members_dice", "members_ce"):
        figure = figures[name]
        assert len(figure.axes) == 2 * 7 + 1
        titles = [axes.get_title() for axes in figure.axes[:7]]
        assert titles == ["image and truth", "M = 1", "M = 2", "M = 5", "M = 10", "M = 25", "M = 50"]


def test_confidence_and_cases_of_figure_3(full_report, figures):
    assert len(figures["confidence"].axes) == 4 * 3 + 1
    cases = figures["figure_3_cases"]
    assert len(cases.axes) == 2 * (3 + 1) + 1
    assert [axes.get_title() for axes in cases.axes[:3]] == ["slice 5", "slice 8", "slice 11"]
    assert [text.get_text().split(":")[0] for text in cases.texts] == ["Case I", "Case II"]


def test_what_a_caption_says_is_not_said_again(full_report, make):
    near = replace(make.view(0, ("A", "B")), caption="in distribution, mean Dice 0.9")
    far = replace(make.view(1, ("A", "B"), domain="target"), caption="case I, mean Dice 0.2")
    figure = only(full_report, "figure_1", plates=(Plate("figure_1", (near, far)),))
    assert [text.get_text() for text in figure.texts] == [
        "Case00\nin distribution, mean Dice 0.9, slice 7",
        "Case01\nout of distribution\ncase I, mean Dice 0.2, slice 7",
    ]
    alone = only(full_report, "figure_3_cases", plates=(Plate("figure_3", (far,)),))
    assert [text.get_text() for text in alone.texts] == ["Case I: Case01\nmean Dice 0.2, slice 7"]
    assert [axes.get_title() for axes in alone.axes[:3]] == ["image and truth", "A", "B"]  # one slice: as Figure 1


def test_reliability_of_six_methods_stands_in_two_rows(full_report, figures):
    figure = figures["reliability"]
    assert len(figure.axes) == 12
    assert "ECE 3.12%" in texts(figure)
    assert figure.axes[0].get_subplotspec().get_gridspec().ncols == 3
    four = only(full_report, "reliability", reliability=full_report.reliability[:4])
    assert four.axes[0].get_subplotspec().get_gridspec().ncols == 4
    upper, lower = figure.axes[:2]
    bars, gaps, _ = upper.containers
    assert [bar.get_height() for bar in bars] == pytest.approx([0.65**2, 0.75**2, 0.85**2, 0.95**2])
    assert [gap.get_height() for gap in gaps] == pytest.approx([p - p**2 for p in (0.65, 0.75, 0.85, 0.95)])
    assert [bar.get_height() for bar in lower.patches][-1] == 90000


def test_a_gap_is_red_where_confidence_is_too_high_and_green_where_it_is_too_low(full_report, make):
    bins = make.bins()
    accuracy = np.where(np.arange(10) == 9, 1.0, bins.accuracy)  # the last bin is under-confident
    figure = only(full_report, "reliability", reliability=(replace(bins, accuracy=accuracy),))
    _, over, under = figure.axes[0].containers
    assert [bar.get_height() for bar in over] == pytest.approx([p - p**2 for p in (0.65, 0.75, 0.85)])
    assert [(bar.get_y(), bar.get_height()) for bar in under] == [(1.0, pytest.approx(-0.05))]
    red, green = (bars[0].get_edgecolor() for bars in (over, under))
    assert red[0] > red[1]
    assert green[1] > green[0]


def test_long_titles_wrap_and_dollars_are_no_formulas(full_report, make):
    title = "Cross entropy with class weights of $both and another $even longer name, ensemble of 50"
    views = (make.view(0, (title,) * 6),)
    figure = only(full_report, "methods", plates=(Plate("methods", views),))
    figure.savefig("/dev/null", format="png", dpi=40)
    shown = figure.axes[1].title
    assert shown.get_text().count("\n") >= 3
    inches = shown.get_window_extent().width / figure.dpi
    assert inches < figure.axes[1].get_position().width * figure.get_size_inches()[0]
