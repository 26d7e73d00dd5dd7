from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from segcal.analysis.scores import SOURCE, TARGET
from segcal.analysis.segments import detection_table, fit_table, scatters, segment_entropy_of, segments_of
from segcal.records import Method
from tests.analysis.conftest import make_rows, make_scores

A, EN = Method("a", "dice", 1, "soft_dice"), Method("a", "dice", 3, "soft_dice")


@pytest.fixture
def task(gland):
    return replace(gland, labels={1: "a", 2: "b c"})


def rows(entropy, dice, structure="gland", method=A, draw=0, **options):
    return make_rows(method, {f"entropy@{structure}": entropy, f"dice@{structure}": dice}, draw, **options)


def odds(dice):
    d = np.clip(dice, 0.001, 0.999)
    return np.log(d / (1 - d))


def test_a_segment_is_the_mean_over_the_methods_draws(gland):
    scores = make_scores(
        gland, rows([0.2, 0.4], [0.5, np.nan]), rows([0.4, np.nan], [0.7, 0.2], draw=1),
        rows([9, 9], [9, 9], method=EN), rows([8, 8], [8, 8], variant="raw_sum"),
        rows([0.6], [0.1], split="ood", cases=["o"]),
    )  # fmt: skip
    table = segments_of(scores, A, gland).set_index("case_id")
    np.testing.assert_allclose(table.loc[["p00", "p01", "o"], "entropy"], [0.3, 0.4, 0.6])
    np.testing.assert_allclose(table.loc[["p00", "p01", "o"], "dice"], [0.6, 0.2, 0.1])
    assert list(table.loc[["p00", "p01", "o"], "domain"]) == [SOURCE, SOURCE, TARGET]


def test_every_structure_has_a_row_of_its_own(task):
    scores = make_scores(
        task, make_rows(A, {"entropy@a": [0.1], "dice@a": [0.9], "entropy@b c": [0.5], "dice@b c": [0.3]})
    )
    table = segments_of(scores, A, task)
    assert list(zip(table.structure, table.entropy, table.dice, strict=True)) == [("a", 0.1, 0.9), ("b c", 0.5, 0.3)]


def test_points_are_defined_segments_and_the_rest_is_counted(gland):
    entropy = [0.5, 0.4, 0.2, np.nan, 0.1, 0.3]
    dice = [0.2, 0.0, 0.8, 0.0, np.nan, 1.0]
    (scatter,) = scatters(make_scores(gland, rows(entropy, dice)), [A], gland)
    assert [p.case_id for p in scatter.points] == ["p00", "p01", "p02", "p05"]
    assert [p.entropy for p in scatter.points] == [0.5, 0.4, 0.2, 0.3]
    np.testing.assert_allclose([p.logit_dice for p in scatter.points], odds([0.2, 0.0, 0.8, 1.0]))
    assert (scatter.title, scatter.loss) == ("dice", "soft_dice")
    assert (scatter.clipped, scatter.empty) == (2, 2)


def test_one_domain_has_one_fit(gland):
    entropy, dice = np.array([0.5, 0.4, 0.2, 0.3]), np.array([0.2, 0.5, 0.8, 0.45])
    (scatter,) = scatters(make_scores(gland, rows(entropy, dice)), [A], gland)
    (fit,) = scatter.fits
    line = stats.linregress(entropy, odds(dice))
    assert (fit.domain, fit.n) == ("all", 4)
    assert (fit.pearson_r, fit.pearson_p) == pytest.approx((line.rvalue, line.pvalue))
    assert (fit.slope, fit.intercept) == pytest.approx((line.slope, line.intercept))
    assert fit.spearman_r == pytest.approx(np.corrcoef(stats.rankdata(entropy), stats.rankdata(dice))[0, 1])


def test_two_domains_have_a_fit_each_and_one_together(gland):
    near, far = ([0.1, 0.2, 0.3], [0.9, 0.8, 0.6]), ([0.4, 0.5, 0.65, 0.6], [0.1, 0.5, 0.3, 0.2])
    scores = make_scores(gland, rows(*near), rows(*far, split="ood", cases=["o1", "o2", "o3", "o4"]))
    (scatter,) = scatters(scores, [A], gland)
    fits = {fit.domain: fit for fit in scatter.fits}
    assert list(fits) == ["all", SOURCE, TARGET]
    for domain, (x, d) in {SOURCE: near, TARGET: far, "all": (near[0] + far[0], near[1] + far[1])}.items():
        assert fits[domain].n == len(x)
        assert fits[domain].pearson_r == pytest.approx(np.corrcoef(x, odds(d))[0, 1])
    table = fit_table([scatter])
    assert [title for title, _ in table.rows] == ["dice: both domains", "dice: source", "dice: target"]
    assert all(cells[-2:] == ("0", "0") for _, cells in table.rows)
    assert [cells[0] for _, cells in table.rows] == ["7", "3", "4"]


def test_too_few_or_constant_segments_have_no_fit(gland):
    for entropy, dice in (([0.1, 0.2], [0.5, 0.6]), ([0.1] * 4, [0.5, 0.6, 0.7, 0.8]), ([np.nan] * 3, [0.0] * 3)):
        (scatter,) = scatters(make_scores(gland, rows(entropy, dice)), [A], gland)
        assert np.isnan([scatter.fits[0].pearson_r, scatter.fits[0].slope]).all()
        assert fit_table([scatter]).rows[0][1][1] == "n/a, p n/a"


def test_a_cases_score_is_its_mean_over_structures(task):
    scores = make_scores(
        task,
        make_rows(A, {"entropy@a": [0.1, np.nan, np.nan], "entropy@b c": [0.3, 0.5, np.nan]}),
        make_rows(A, {"entropy@a": [0.6], "entropy@b c": [0.2]}, split="ood", cases=["o"]),
        make_rows(A, {"entropy@a": [0.7], "entropy@b c": [0.7]}, cases=["t"], domain=TARGET),  # tested on, foreign
    )
    source, target = segment_entropy_of(scores, A, task)
    np.testing.assert_allclose(source, [0.2, 0.5, np.nan])
    np.testing.assert_allclose(sorted(target), [0.4, 0.7])


def test_without_target_cases_there_is_no_detection(gland):
    assert detection_table(make_scores(gland, rows([0.1, 0.2], [1, 1])), [A], gland, 0, 50) is None


def test_detection_by_counting_pairs(gland):
    source, target = [0.1, 0.2, 0.3, 0.4, np.nan], [0.3, 0.35, 0.5]
    scores = make_scores(gland, rows(source, [0.5] * 5), rows(target, [0.5] * 3, split="ood", cases=["x", "y", "z"]))
    table = detection_table(scores, [A], gland, 0, 200)
    ((title, cells),) = table.rows
    won = sum(1.0 if t > s else 0.5 if t == s else 0.0 for s in source[:4] for t in target) / 12
    assert title == "dice"
    assert cells[0].split("\n")[0] == f"{won:.3f}"
    # 95% of three targets are all of them: flagged from 0.3 on, which are 2 of the 4 source cases
    assert cells[1].split("\n")[0] == "0.500"
    assert cells[2:] == ("0.300", "4 / 3", "1")
    low, high = (float(end) for end in cells[0].split("\n")[1].strip("[]").split(", "))
    assert 0 <= low < won < high <= 1


def test_detection_of_a_single_case_has_no_interval(gland):
    scores = make_scores(gland, rows([0.1, 0.2], [1, 1]), rows([0.3], [1], split="ood", cases=["o"]))
    ((_, cells),) = detection_table(scores, [A], gland, 0, 50).rows
    assert cells[:2] == ("1.00", "0.000")


def test_detection_where_no_target_has_a_segment(gland):
    scores = make_scores(gland, rows([0.1, 0.2], [1, 1]), rows([np.nan], [0], split="ood", cases=["o"]))
    ((_, cells),) = detection_table(scores, [A], gland, 0, 50).rows
    assert cells == ("n/a", "n/a", "n/a", "2 / 0", "1")


def test_within_structures_the_correlation_may_turn_round(gland):
    """Simpson's paradox: the surer structure is the worse one, yet in each the surer patient is the better one."""
    task = replace(gland, labels={1: "a", 2: "b"})
    h, d = np.array([0.1, 0.2, 0.3]), np.array([0.60, 0.55, 0.50])
    columns = {"entropy@a": h, "dice@a": d, "entropy@b": h + 0.3, "dice@b": d + 0.35}
    (scatter,) = scatters(make_scores(task, make_rows(A, columns)), [A], task)
    (fit,) = scatter.fits
    assert fit.pearson_r > 0.5
    x = np.concatenate([h - h.mean()] * 2)
    y = np.concatenate([odds(part) - np.mean(odds(part)) for part in (d, d + 0.35)])
    assert fit.within_r == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert fit.within_r < -0.8
    assert fit_table([scatter]).rows[0][1][3] == f"{fit.within_r:.3f}"
