import numpy as np
import pandas as pd
import pytest

from segcal.analysis.compare import Column, compare, comparison_table, curves, scatters, score_table
from segcal.records import Cell, Method
from segcal.stats import bootstrap_ci, paired_bootstrap

A, B = Method("a", "ce", 1), Method("b", "dice", 1)
NLL, DICE = Column("NLL", "nll", "box"), Column("Dice", "dice", structure="edema", better="high")


def rows(method, values, column, draw=0):
    return [
        {
            "recipe": method.recipe, "label": method.label, "size": method.size, "draw": draw, "seeds": (draw,),
            "case_id": f"p{i:02d}", "site": "", "region": column.region, "structure": column.structure,
            "metric": column.metric, "value": value,
        }
        for i, value in enumerate(values)
    ]  # fmt: skip


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    first = rng.normal(1, 0.2, 12)
    return first, first - 0.5 + rng.normal(0, 0.05, 12)


def test_a_cell_is_mean_spread_and_ci_over_patients(values):
    table = pd.DataFrame(rows(A, values[0], NLL) + rows(B, values[1], NLL))
    ((_, (cell,)), _) = score_table(compare(table, [A, B], [NLL], 3, 500), "box", "t", 3, 500).rows
    assert cell.point == pytest.approx(values[0].mean())
    assert (cell.spread.low, cell.spread.high) == pytest.approx(tuple(np.quantile(values[0], [0.025, 0.975])))
    assert (cell.ci.low, cell.ci.high) == bootstrap_ci(values[0], np.random.default_rng(3), 500)
    assert (cell.n, cell.excluded) == (12, 0)


def test_a_patients_value_is_the_mean_over_draws():
    table = pd.DataFrame(rows(A, [1.0, 2.0], NLL) + rows(A, [3.0, 6.0], NLL, draw=1))
    comparison = compare(table, [A], [NLL], 0, 10)
    np.testing.assert_allclose(comparison.values[A, NLL], [2.0, 4.0])


def test_undefined_patients_are_left_out_and_counted():
    table = pd.DataFrame(rows(A, [0.5, np.nan, 0.7], DICE))
    ((_, (cell,)),) = score_table(compare(table, [A], [DICE], 0, 10), "k", "t", 0, 10).rows
    assert (cell.point, cell.n, cell.excluded) == (pytest.approx(0.6), 2, 1)


def test_only_a_significant_winner_is_best(values):
    clear = pd.DataFrame(rows(A, values[0], NLL) + rows(B, values[1], NLL))
    cells = [row[1][0].best for row in score_table(compare(clear, [A, B], [NLL], 0, 2000), "", "", 0, 100).rows]
    assert cells == [False, True]
    close = pd.DataFrame(rows(A, values[0], NLL) + rows(B, values[0] - 0.001 * np.arange(-6, 6), NLL))
    cells = [row[1][0].best for row in score_table(compare(close, [A, B], [NLL], 0, 2000), "", "", 0, 100).rows]
    assert cells == [False, False]


def test_p_is_holm_adjusted_over_the_whole_table(values):
    table = pd.DataFrame(
        rows(A, values[0], NLL) + rows(B, values[1], NLL) + rows(A, values[0], DICE) + rows(B, values[0] + 0.1, DICE)
    )
    comparison = compare(table, [A, B], [NLL, DICE], 0, 1000)
    raw = paired_bootstrap(values[0], values[1], np.random.default_rng(0), 1000)
    assert raw == pytest.approx(2 / 1001)
    assert comparison.p_adjusted[A, B, NLL] == pytest.approx(2 * raw)


def test_one_patient_has_no_interval_and_no_test():
    table = pd.DataFrame(rows(A, [0.4], NLL) + rows(B, [0.3], NLL))
    comparison = compare(table, [A, B], [NLL], 0, 100)
    cell = score_table(comparison, "", "", 0, 100).rows[0][1][0]
    assert isinstance(cell, Cell)
    assert np.isnan([cell.spread.low, cell.spread.high, cell.ci.low, cell.ci.high]).all()
    assert not cell.best
    assert comparison_table(comparison, 0, 100).rows[0] == ("dice minus ce", ("-0.100",))


def test_curve_is_mean_and_percentiles_over_draws():
    pair = Method("a", "ce", 2)
    table = pd.DataFrame(
        rows(A, [1.0, 3.0], NLL)
        + rows(A, [2.0, 4.0], NLL, 1)
        + rows(A, [5.0, 7.0], NLL, 2)
        + rows(pair, [1.0, 1.0], NLL)
    )
    (curve,) = curves(table)
    assert (curve.sizes, curve.draws) == ((1, 2), (3, 1))
    assert curve.mean == pytest.approx((11 / 3, 1.0))
    assert curve.low[0] == pytest.approx(np.quantile([2, 3, 6], 0.025))


def test_scatter_has_the_correlation_of_entropy_and_logit_dice():
    dice, entropy = np.array([0.2, 0.5, 0.8, 1.0]), np.array([0.5, 0.4, 0.2, np.nan])
    table = pd.DataFrame(rows(A, dice, DICE) + rows(A, entropy, Column("H", "entropy", structure="edema")))
    (scatter,) = scatters(table, [A])
    odds = np.log(dice[:3] / (1 - dice[:3]))
    assert scatter.pearson_r == pytest.approx(np.corrcoef(entropy[:3], odds)[0, 1])
    assert (len(scatter.points), scatter.empty, scatter.clipped) == (3, 1, 0)
