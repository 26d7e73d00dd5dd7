from dataclasses import replace

import numpy as np
import pytest

from segcal.analysis.curves import curve_table, curves
from segcal.analysis.ensembles import Recipe
from segcal.records import Method
from tests.analysis.conftest import make_config, make_ref, make_rows, make_scores

ONE, TWO, THREE = (Method("a", "ce", size) for size in (1, 2, 3))


def recipe(pool, name="a", label="ce"):
    return Recipe(name, label, tuple(make_ref(make_config("ce", seed)) for seed in range(pool)))


@pytest.fixture
def task(gland):
    return replace(gland, labels={1: "a", 2: "b"})


@pytest.fixture
def scores(task):
    """Three networks, their three pairs, and all; NLL, and Dice of two structures."""
    rng = np.random.default_rng(0)
    rows = []
    for method, draws in ((ONE, 3), (TWO, 3), (THREE, 1)):
        for draw in range(draws):
            of = {name: rng.random(4) for name in ("nll@box", "nll@whole", "dice@a", "dice@b")}
            if draw == 0:
                of["dice@b"][1] = np.nan  # one patient without b
            rows.append(make_rows(method, of, draw))
    other = dict.fromkeys(("nll@box", "nll@whole", "dice@a", "dice@b"), 99.0)
    rows += [make_rows(TWO, other, split="ood", cases=["o"]), make_rows(TWO, other, variant="raw_sum", cases=["p00"])]
    return make_scores(task, *rows)


def plain(scores, size, name):
    f = scores.frame
    chosen = f[(f["size"] == size) & (f.split == "test") & (f.variant == "")]
    return np.array([np.nanmean(chosen.loc[chosen.draw == draw, name]) for draw in sorted(chosen.draw.unique())])


def test_a_curve_is_the_mean_over_draws_of_the_mean_over_patients(scores, task):
    found = {(c.metric, c.region): c for c in curves(scores, [recipe(3)], task)}
    assert list(found) == [("nll", "box"), ("nll", "whole"), ("dice", "")]
    for region in ("box", "whole"):
        curve = found["nll", region]
        assert (curve.label, curve.pool, curve.sizes, curve.draws) == ("ce", 3, (1, 2, 3), (3, 3, 1))
        by_draw = [plain(scores, size, f"nll@{region}") for size in (1, 2, 3)]
        assert curve.mean == pytest.approx([v.mean() for v in by_draw])
        assert curve.low == pytest.approx([np.quantile(v, 0.025) for v in by_draw])
        assert curve.high == pytest.approx([np.quantile(v, 0.975) for v in by_draw])


def test_dice_is_the_mean_over_structures_of_the_patients_that_have_them(scores, task):
    curve = curves(scores, [recipe(3)], task)[2]
    by_draw = [(plain(scores, size, "dice@a") + plain(scores, size, "dice@b")) / 2 for size in (1, 2, 3)]
    assert curve.mean == pytest.approx([v.mean() for v in by_draw])


def test_the_error_corrects_for_draws_that_overlap(scores, task):
    deviation = [plain(scores, size, "nll@box").std(ddof=1) for size in (1, 2)]
    for pool in (3, 7):
        curve = curves(scores, [recipe(pool)], task)[0]
        assert curve.error[:2] == pytest.approx((deviation[0], deviation[1] / np.sqrt((pool - 2) / (pool - 1))))
        assert np.isnan(curve.error[2])  # a single draw


def test_without_ensembles_there_is_no_curve(gland):
    scores = make_scores(gland, make_rows(ONE, {"nll@box": [1, 2], "nll@whole": [1, 2], "dice@gland": [1, 1]}))
    assert curves(scores, [recipe(1)], gland) == ()


def test_a_metric_that_is_never_defined_has_no_curve(gland):
    numbers = {"nll@box": np.nan, "nll@whole": [1, 2], "dice@gland": np.nan}
    scores = make_scores(gland, make_rows(ONE, numbers), make_rows(ONE, numbers, 1), make_rows(TWO, numbers))
    assert [(c.metric, c.region) for c in curves(scores, [recipe(2)], gland)] == [("nll", "whole")]


def test_recipes_have_their_own_curves(gland):
    rows = [
        make_rows(Method(name, name, size), {"nll@box": value}, cases=["p"])
        for name, size, value in (("a", 1, 1.0), ("a", 2, 0.5), ("b", 1, 4.0), ("b", 2, 3.0), ("b", 5, 2.0))
    ]
    found = curves(make_scores(gland, *rows), [recipe(2), recipe(5, "b", "b")], gland)
    assert [(c.label, c.mean) for c in found] == [("ce", (1.0, 0.5)), ("b", (4.0, 3.0, 2.0))]


def test_the_table_has_a_column_for_each_size_and_gaps_where_a_pool_is_small(gland):
    rows = [
        make_rows(Method(name, name, size), {"nll@box": value}, draw, cases=["p"])
        for name, size, draw, value in (
            ("a", 1, 0, 1.0), ("a", 1, 1, 2.0), ("a", 2, 0, 0.5), ("b", 1, 0, 4.0), ("b", 5, 0, 2.0),
        )
    ]  # fmt: skip
    table = curve_table(curves(make_scores(gland, *rows), [recipe(2), recipe(5, "b", "b")], gland))
    assert table.columns == ("M = 1", "M = 2", "M = 5")
    assert [title for title, _ in table.rows] == ["ce: NLL box", "b: NLL box"]
    first, second = (cells for _, cells in table.rows)
    assert first[0] == f"1.50 (1.02–1.98)\n± {np.sqrt(0.5):.2g}\n2 draws of 2 members"
    assert first[1:] == ("0.500 (0.500–0.500)\n1 draw of 2 members", "")
    assert second[1] == ""
