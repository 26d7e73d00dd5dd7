import itertools
from dataclasses import replace

import numpy as np
import pytest

from segcal.analysis.compare import (
    SIGNIFICANT,
    Column,
    box_columns,
    calibration_columns,
    cell_of,
    compare,
    difference_table,
    distance_columns,
    finest_p,
    mean,
    recipe_table,
    score_table,
    volume_columns,
)
from segcal.measure.case import columns
from segcal.records import Cell, Method
from segcal.stats import bootstrap_ci, hierarchical_bootstrap, holm, paired_bootstrap
from tests.analysis.conftest import make_rows, make_scores

A, B = Method("a", "ce", 1, "cross_entropy"), Method("b", "dice", 1, "soft_dice")
EN_A, EN_B = Method("a", "ce", 5, "cross_entropy"), Method("b", "dice", 5, "soft_dice")
MC_B = Method("mc", "dice_mc", 1, "soft_dice", 20)
NLL, DICE = Column("NLL", "nll@box"), Column("Dice", "dice@gland", "high")


@pytest.fixture
def values():
    """Of twelve patients: b is lower than a by about 0.5 in each."""
    rng = np.random.default_rng(0)
    first = rng.normal(1, 0.2, 12)
    return first, first - 0.5 + rng.normal(0, 0.05, 12)


@pytest.fixture
def table(gland):
    """Scores with one draw a method: method -> column -> values."""

    def of(*parts):
        return make_scores(gland, *(make_rows(method, numbers) for method, numbers in parts))

    return of


def cells(comparison, seed=0, n=100):
    return [row for _, row in score_table(comparison, "k", "t", seed, n).rows]


def test_a_cell_is_mean_spread_and_ci_over_patients(values):
    cell = cell_of(values[0], 3, 500)
    assert cell.point == pytest.approx(sum(values[0]) / 12)
    assert (cell.spread.low, cell.spread.high) == pytest.approx(tuple(np.quantile(values[0], [0.025, 0.975])))
    assert (cell.spread.kind, cell.ci.kind) == ("spread", "ci")
    draws = values[0][np.random.default_rng(3).integers(0, 12, size=(500, 12))].mean(axis=1)
    assert (cell.ci.low, cell.ci.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))
    assert (cell.n, cell.excluded) == (12, 0)


def test_undefined_patients_are_left_out_and_counted():
    cell = cell_of(np.array([0.5, np.nan, 0.7]), 0, 10)
    assert (cell.point, cell.n, cell.excluded) == (pytest.approx(0.6), 2, 1)
    assert cell.spread.low == pytest.approx(0.505)


@pytest.mark.parametrize(("given", "point", "n"), [([0.4], 0.4, 1), ([0.4, np.nan], 0.4, 1), ([np.nan] * 2, np.nan, 0)])
def test_fewer_than_two_patients_have_no_interval(given, point, n):
    cell = cell_of(np.array(given), 0, 10)
    np.testing.assert_equal(cell.point, point)
    assert (cell.n, cell.excluded) == (n, len(given) - n)
    assert np.isnan([cell.spread.low, cell.spread.high, cell.ci.low, cell.ci.high]).all()


def test_mean_of_nothing_is_nothing():
    assert np.isnan(mean(np.array([np.nan])))
    assert np.isnan(mean(np.array([])))
    assert mean(np.array([1.0, np.nan, 3.0])) == 2


def test_a_table_scales_its_columns_and_averages_draws(gland):
    percent = Column("ECE %", "ece@box", scale=100.0)
    scores = make_scores(
        gland, make_rows(A, {"ece@box": [0.01, 0.02]}), make_rows(A, {"ece@box": [0.03, 0.06]}, draw=1)
    )
    comparison = compare(scores, [A], [percent], 0, 10)
    np.testing.assert_allclose(comparison.values[A, percent], [2.0, 4.0])
    ((cell,),) = cells(comparison)
    assert (cell.point, cell.best) == (pytest.approx(3.0), False)  # nothing to be better than
    assert comparison.p_adjusted == {}


def test_patients_are_paired_by_their_name_not_their_row(gland, values):
    turned = [f"p{i:02d}" for i in range(12)][::-1]
    scores = make_scores(
        gland, make_rows(A, {"nll@box": values[0]}), make_rows(B, {"nll@box": values[1][::-1]}, cases=turned)
    )
    comparison = compare(scores, [A, B], [NLL], 0, 2000)
    np.testing.assert_array_equal(comparison.values[B, NLL], values[1])
    assert comparison.p(A, B, NLL) == paired_bootstrap(values[0], values[1], np.random.default_rng(0), 2000)


def test_only_a_significant_winner_is_best(table, values):
    clear = table((A, {"nll@box": values[0]}), (B, {"nll@box": values[1]}))
    assert [row[0].best for row in cells(compare(clear, [A, B], [NLL], 0, 2000))] == [False, True]
    close = table((A, {"nll@box": values[0]}), (B, {"nll@box": values[0] - 0.001 * np.arange(-6, 6)}))
    assert [row[0].best for row in cells(compare(close, [A, B], [NLL], 0, 2000))] == [False, False]


def test_for_dice_the_highest_is_best(table, values):
    scores = table((A, {"dice@gland": values[0]}), (B, {"dice@gland": values[1]}))
    assert [row[0].best for row in cells(compare(scores, [A, B], [DICE], 0, 2000))] == [True, False]


def test_the_best_must_beat_every_other_row(table, values):
    third = values[1] + 0.001 * np.arange(-5, 7)  # as good as b
    scores = table((A, {"nll@box": values[0]}), (B, {"nll@box": values[1]}), (EN_B, {"nll@box": third}))
    assert not any(row[0].best for row in cells(compare(scores, [A, B, EN_B], [NLL], 0, 2000)))


def test_a_method_without_a_value_is_never_best_and_never_beaten(table, values):
    scores = table((A, {"nll@box": values[0]}), (B, {"nll@box": np.full(12, np.nan)}))
    comparison = compare(scores, [A, B], [NLL], 0, 200)
    assert np.isnan(comparison.p(A, B, NLL))
    assert [(row[0].best, row[0].n) for row in cells(comparison)] == [(False, 12), (False, 0)]


def test_p_is_holm_adjusted_over_the_whole_table(table, values):
    noise = np.random.default_rng(5).normal(0, 0.3, (3, 12))
    dice = {A: noise[0], B: noise[1], EN_B: noise[2]}
    nll = {A: values[0], B: values[1], EN_B: values[1] + noise[2]}
    methods = [A, B, EN_B]
    scores = table(*((m, {"nll@box": nll[m], "dice@gland": dice[m]}) for m in methods))
    comparison = compare(scores, methods, [NLL, DICE], 7, 8000)
    tests = [(a, b, c) for c in (NLL, DICE) for a, b in itertools.combinations(methods, 2)]
    raw = [
        paired_bootstrap(of[a], of[b], np.random.default_rng(7), 8000)
        for a, b, of in ((a, b, nll if c is NLL else dice) for a, b, c in tests)
    ]
    raw = np.maximum(raw, 2 / 2**12)  # no test of 12 patients can say more
    order = np.argsort(raw)
    expected, so_far = np.empty(6), 0.0
    for place, test in enumerate(order):  # Holm by hand
        so_far = max(so_far, min(1.0, (6 - place) * raw[test]))
        expected[test] = so_far
    np.testing.assert_allclose([comparison.p(*test) for test in tests], expected)
    assert comparison.p(B, A, NLL) == comparison.p(A, B, NLL)
    assert len(set(expected)) > 2


def test_tests_that_cannot_be_made_do_not_count_in_the_family(table, values):
    nothing = np.full(12, np.nan)
    scores = table(
        (A, {"nll@box": values[0], "dice@gland": nothing}), (B, {"nll@box": values[1], "dice@gland": nothing})
    )
    comparison = compare(scores, [A, B], [NLL, DICE], 0, 2000)
    assert comparison.p(A, B, NLL) == pytest.approx(2 / 2001)


def test_resamples_grow_with_the_family_so_that_significance_is_within_reach(table):
    methods = [Method(f"m{i}", f"m{i}", 1) for i in range(6)]
    names = columns_of(7)
    rng = np.random.default_rng(0)
    scores = table(*((m, {c.name: i + rng.normal(0, 0.01, 20) for c in names}) for i, m in enumerate(methods)))
    comparison = compare(scores, methods, names, 0, 100)
    assert len(comparison.p_adjusted) == 7 * 15
    assert comparison.n_resamples == 8 * 105 * 100
    assert max(comparison.p_adjusted.values()) == pytest.approx(105 * 2 / (84_000 + 1))
    assert max(comparison.p_adjusted.values()) < SIGNIFICANT
    best = [[cell.best for cell in row] for row in cells(comparison)]
    assert best == [[True] * 7] + [[False] * 7] * 5
    assert compare(scores, methods[:2], names[:1], 0, 5000).n_resamples == 5000


def columns_of(count):
    return [Column(name, name) for name in ("nll@box", "brier@box", "ece@box", "nll@whole", "brier@whole", "ece@whole",
                                            "p_true@box")[:count]]  # fmt: skip


def test_one_patient_has_no_interval_and_no_test(table):
    scores = table((A, {"nll@box": [0.4]}), (B, {"nll@box": [0.3]}))
    comparison = compare(scores, [A, B], [NLL], 0, 100)
    ((cell,), _) = cells(comparison)
    assert isinstance(cell, Cell)
    assert (cell.point, cell.best) == (0.4, False)
    ((title, (difference,)),) = difference_table([comparison], 0, 100).rows
    assert title == "dice minus ce"
    assert difference.point == pytest.approx(-0.1)
    assert np.isnan([difference.ci.low, difference.ci.high, difference.p, difference.effect]).all()


def test_differences_have_their_interval_their_p_and_their_size(table, values):
    scores = table((A, {"nll@box": values[0]}), (B, {"nll@box": values[1]}))
    comparison = compare(scores, [A, B], [NLL], 1, 1000)
    ((title, (cell,)),) = difference_table([comparison], 1, 1000).rows
    d = values[1] - values[0]
    assert title == "dice minus ce"
    assert cell.point == pytest.approx(d.mean())
    assert cell.effect == pytest.approx(d.mean() / np.sqrt(((d - d.mean()) ** 2).sum() / 11))
    assert (cell.ci.low, cell.ci.high) == bootstrap_ci(d, np.random.default_rng(1), 1000)
    assert cell.p == comparison.p(A, B, NLL)


def test_differences_are_of_patients_that_both_have(table):
    scores = table((A, {"dice@gland": [0.5, np.nan, 0.75, 0.5]}), (B, {"dice@gland": [0.75, 0.25, np.nan, 0.625]}))
    ((_, (cell,)),) = difference_table([compare(scores, [A, B], [DICE], 0, 100)], 0, 100).rows
    assert cell.point == pytest.approx((0.25 + 0.125) / 2)


def test_the_pairs_are_those_of_the_paper(table, values):
    methods = [A, EN_A, B, MC_B, EN_B]
    scores = table(*((m, {"nll@box": values[0] + i, "nll@whole": values[0]}) for i, m in enumerate(methods)))
    box = compare(scores, methods, [NLL], 0, 100)
    whole = compare(scores, methods, [Column("NLL", "nll@whole")], 0, 100)
    found = difference_table([box, whole], 0, 100)
    assert [title for title, _ in found.rows] == [
        "ce, ensemble of 5 minus ce", "dice minus ce", "dice, ensemble of 5 minus ce, ensemble of 5",
        "dice_mc, MC dropout minus dice", "dice, ensemble of 5 minus dice",
        "dice, ensemble of 5 minus dice_mc, MC dropout",
    ]  # fmt: skip
    assert found.columns == ("NLL (box)", "NLL (whole)")
    assert [round(row[0].point) for _, row in found.rows] == [1, 2, 3, 1, 2, 1]
    assert f"10 tests of {box.n_resamples} resamples and 10 tests" in found.caption


def test_recipes_are_compared_over_seeds_and_patients(gland):
    rng = np.random.default_rng(2)
    a, b = rng.normal(1, 0.2, (4, 6)), rng.normal(1.3, 0.2, (3, 6))
    scores = make_scores(
        gland,
        *(make_rows(A, {"nll@box": row, "ece@box": row / 100}, draw) for draw, row in enumerate(a)),
        *(make_rows(B, {"nll@box": row, "ece@box": 0.01 * row[::-1]}, draw) for draw, row in enumerate(b)),
        make_rows(EN_A, {"nll@box": np.zeros(6)}),
    )
    percent = Column("ECE %", "ece@box", scale=100.0)
    ((title, (nll, ece)),) = recipe_table(scores, [A, EN_A, B], [NLL, percent], 3, 2000).rows
    assert title == "dice minus ce"
    by_hand = [
        hierarchical_bootstrap(b, a, np.random.default_rng(3), 2000),
        hierarchical_bootstrap(b[:, ::-1], a, np.random.default_rng(3), 2000),
    ]
    assert nll.point == pytest.approx(b.mean() - a.mean())
    np.testing.assert_allclose([(c.point, c.ci.low, c.ci.high) for c in (nll, ece)], [h[:3] for h in by_hand])
    np.testing.assert_allclose([nll.p, ece.p], holm([max(h[3], 2 / 2**6) for h in by_hand]))


def test_recipes_of_a_large_family_can_differ_significantly(gland):
    patients, recipes = 14, [replace(A, label=f"r{i}", recipe=f"r{i}") for i in range(6)]
    rows = [
        make_rows(recipe, {"nll@box": np.full(patients, float(i)), "ece@box": np.full(patients, float(i))}, draw)
        for i, recipe in enumerate(recipes)
        for draw in range(3)
    ]
    table = recipe_table(make_scores(gland, *rows), recipes, [NLL, Column("ECE", "ece@box")], 0, 1000)
    smallest = min(cell.p for _, cells in table.rows for cell in cells)
    assert smallest < SIGNIFICANT  # 30 tests: 1000 resamples give none below 30 x 2/1001 = 0.06
    assert "24000 resamples" in table.caption


def test_a_recipe_of_one_seed_has_a_difference_and_no_interval(gland):
    scores = make_scores(
        gland, make_rows(A, {"nll@box": [1, 2, 3]}), make_rows(A, {"nll@box": [3, 4, 5]}, draw=1),
        make_rows(B, {"nll@box": [1, 1, 1]}),
    )  # fmt: skip
    ((_, (cell,)),) = recipe_table(scores, [A, B], [NLL], 0, 100).rows
    assert cell.point == pytest.approx(1 - 3)
    assert np.isnan([cell.ci.low, cell.ci.high, cell.p]).all()


def test_one_recipe_is_compared_with_nothing(table):
    scores = table((A, {"nll@box": [1, 2]}), (EN_A, {"nll@box": [1, 2]}))
    assert recipe_table(scores, [A, EN_A], [NLL], 0, 100).rows == ()


def test_the_columns_exist(tiny_task, gland):
    for task in (tiny_task, gland):
        known = set(columns(task))
        for found in (box_columns(task), calibration_columns("whole"), volume_columns(task)):
            assert {c.name for c in found} <= known
            assert all((c.better == "high") == c.name.startswith("dice") for c in found)
    assert [c.title for c in box_columns(gland)] == ["NLL", "Brier", "ECE %", "class-wise ECE %", "Dice gland"]
    assert [c.title for c in volume_columns(gland)] == ["NLL", "Brier", "ECE %", "Dice gland", "HD95 gland, mm"]


def test_missed_structures_have_a_column_with_the_diagonal(gland):
    seen = {"hd95@gland": [3.0, 4.0], "hd95_worst@gland": [3.0, 4.0]}
    missed = {"hd95@gland": [3.0, np.nan], "hd95_worst@gland": [3.0, 60.0]}
    both = make_scores(gland, make_rows(A, seen), make_rows(B, missed))
    assert [c.name for c in distance_columns(gland, both, [A, B])] == ["hd95@gland", "hd95_worst@gland"]
    assert [c.name for c in distance_columns(gland, both, [A])] == ["hd95@gland"]  # what is not shown does not count
    absent = make_scores(gland, make_rows(A, {"hd95@gland": [3, np.nan], "hd95_worst@gland": [3, np.nan]}))
    assert [c.name for c in distance_columns(gland, absent, [A])] == ["hd95@gland"]


def test_a_structure_may_be_called_anything_but_a_region(gland):
    task = replace(gland, labels={1: "a@box", 2: "left, upper lobe"})
    scores = make_scores(
        task, make_rows(A, {"dice@a@box": [0.25, 0.75], "dice@left, upper lobe": [1, 1], "nll@box": [1, 3]})
    )
    comparison = compare(scores, [A], box_columns(task), 0, 10)
    found = {c.title: cell.point for c, cell in zip(comparison.columns, cells(comparison)[0], strict=True)}
    assert (found["Dice a@box"], found["Dice left, upper lobe"], found["NLL"]) == (0.5, 1.0, 2.0)


def test_few_patients_give_no_small_p(table):
    """Three patients of one sign: every resample has that sign, but a coin falls so once in four times."""
    scores = table((A, {"nll@box": [1.0, 2.0, 3.0]}), (B, {"nll@box": [2.0, 3.1, 4.2]}))
    assert compare(scores, [A, B], [NLL], 0, 10_000).p(A, B, NLL) == 0.25
    assert finest_p(np.array([0, 1, 2, 8])).tolist() == [1.0, 1.0, 0.5, 2 / 256]
