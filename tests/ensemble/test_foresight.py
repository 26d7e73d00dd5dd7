"""Dice foretold from entropy, against Anscombe's published line and matrix algebra; the threshold, by counting."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.special import expit, logit
from scipy.stats import linregress, t

from segcal.ensemble.foresight import dice_line, is_novel, leave_one_out, novelty, predicted_dice
from segcal.ensemble.manifest import DiceLine

# Anscombe (1973), American Statistician 27, data set I: y = 3.00 + 0.500 x, standard error 1.237, 9 degrees of freedom.
X = np.array([10, 8, 13, 9, 11, 14, 6, 4, 12, 7, 5], float)
Y = np.array([8.04, 6.95, 7.58, 8.81, 8.33, 9.96, 7.24, 4.26, 10.84, 4.82, 5.68])
SHIFT = 7.5  # keeps the logit of every Dice away from the clip, and changes the intercept only

points = st.lists(
    st.tuples(st.floats(0, 0.69), st.floats(0, 1)), min_size=4, max_size=30, unique_by=lambda pair: round(pair[0], 3)
)


@pytest.fixture(scope="module")
def anscombe():
    return dice_line(X, expit(Y - SHIFT))


def test_the_line_is_anscombes(anscombe):
    assert anscombe.n == 11
    assert anscombe.slope == pytest.approx(0.500, abs=5e-4)
    assert anscombe.intercept + SHIFT == pytest.approx(3.00, abs=5e-3)
    assert anscombe.residual_sd == pytest.approx(1.237, abs=5e-4)
    assert (anscombe.mean_entropy, anscombe.sxx) == (9.0, 110.0)
    assert (anscombe.low_entropy, anscombe.high_entropy) == (4.0, 14.0)


def test_the_line_is_scipys(anscombe):
    known = linregress(X, Y - SHIFT)
    assert (anscombe.slope, anscombe.intercept) == pytest.approx((known.slope, known.intercept), rel=1e-9)


@pytest.mark.parametrize("at", [4.0, 9.0, 20.0])
def test_the_interval_is_that_of_matrix_algebra(anscombe, at):
    design = np.stack([np.ones(11), X], axis=1)
    beta, rss, *_ = np.linalg.lstsq(design, Y - SHIFT, rcond=None)
    row = np.array([1.0, at])
    variance = rss[0] / 9 * (1 + row @ np.linalg.inv(design.T @ design) @ row)
    half = 2.262157163 * math.sqrt(variance)  # t of 9 degrees of freedom, 97.5%: as printed in tables, 2.262
    point, low, high = predicted_dice(anscombe, at)
    assert point == pytest.approx(expit(row @ beta), rel=1e-9)
    assert (low, high) == pytest.approx((expit(row @ beta - half), expit(row @ beta + half)), rel=1e-7)


def test_another_level_and_what_is_not_known(anscombe):
    narrow, wide = predicted_dice(anscombe, 9.0, 0.5), predicted_dice(anscombe, 9.0, 0.99)
    assert wide[1] < narrow[1] < narrow[0] < narrow[2] < wide[2]
    half = t.ppf(0.75, 9) * anscombe.residual_sd * math.sqrt(1 + 1 / 11)
    assert logit(narrow[2]) - logit(narrow[0]) == pytest.approx(half, rel=1e-9)
    assert all(map(math.isnan, predicted_dice(anscombe, math.nan)))
    assert all(map(math.isnan, predicted_dice(None, 0.3)))


def test_pairs_that_are_not_known_are_left_out(anscombe):
    more = dice_line([*X, math.nan, 3.0], [*expit(Y - SHIFT), 0.5, math.nan])
    assert more == anscombe


@pytest.mark.parametrize(
    ("entropy", "dice"),
    [([], []), ([0.1, 0.2, 0.3], [0.9, 0.8, 0.7]), ([0.2] * 9, np.linspace(0.1, 0.9, 9)),
     ([0.1, 0.2, 0.3, 0.4], [0.9, 0.8, 0.7, math.nan]), ([1e-200, 2e-200, 3e-200, 4e-200], [0.9, 0.8, 0.7, 0.6])],
    ids=["none", "three", "constant", "three known", "underflow"],
)  # fmt: skip
def test_no_line_through_too_little(entropy, dice):
    assert dice_line(entropy, dice) is None
    assert leave_one_out(entropy, dice) is None


def test_dice_of_0_and_1_are_clipped():
    line = dice_line([0.1, 0.2, 0.3, 0.4], [1.0, 1.0, 0.0, 0.0])
    assert line.slope == pytest.approx(linregress([0.1, 0.2, 0.3, 0.4], logit([0.999, 0.999, 0.001, 0.001])).slope)


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match=r"got shapes \(2,\) and \(3,\)"):
        dice_line([1, 2], [1, 2, 3])


@given(points, st.floats(0, 0.69), st.floats(0.001, 0.5))
def test_the_interval_holds_the_point_and_widens_away_from_the_mean(pairs, at, further):
    line = dice_line(*zip(*pairs, strict=True))
    assume(line is not None)
    point, low, high = predicted_dice(line, at)
    assert 0 <= low <= point <= high <= 1
    width = []
    for x in (at, at + (further if at >= line.mean_entropy else -further)):
        y = line.intercept + line.slope * x
        _, _, upper = predicted_dice(DiceLine(**{**vars(line), "intercept": line.intercept - y}), x)
        width.append(upper)  # of a line moved so that the point is a Dice of 1/2: the half-width on the logit's scale
    assert width[1] >= width[0]


def test_leave_one_out_by_hand():
    entropy, dice = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), np.array([0.95, 0.9, 0.3, 0.75, 0.6, 0.5])
    inside, errors = [], []
    for case in range(6):
        x, y = np.delete(entropy, case), logit(np.delete(dice, case))
        design = np.stack([np.ones(5), x], axis=1)
        beta, rss, *_ = np.linalg.lstsq(design, y, rcond=None)
        row = np.array([1.0, entropy[case]])
        half = 3.182446305 * math.sqrt(rss[0] / 3 * (1 + row @ np.linalg.inv(design.T @ design) @ row))
        inside.append(abs(logit(dice[case]) - row @ beta) <= half)
        errors.append(abs(expit(row @ beta) - dice[case]))
    found = leave_one_out(entropy, dice)
    assert found.n == 6
    assert found.coverage == np.mean(inside) == 5 / 6  # 0.3 is the outlier
    assert found.mean_abs_error == pytest.approx(np.mean(errors), rel=1e-9)


def test_leave_one_out_covers_what_it_promises():
    rng = np.random.default_rng(0)
    entropy = rng.uniform(0.1, 0.6, 2000)
    dice = expit(3 - 6 * entropy + rng.normal(0, 0.5, 2000))
    found = leave_one_out(entropy[:400], dice[:400])
    assert found.coverage == pytest.approx(0.95, abs=0.03)
    line = dice_line(entropy[:20], dice[:20])
    later = [predicted_dice(line, x) for x in entropy[400:]]
    held = np.mean([low <= d <= high for (_, low, high), d in zip(later, dice[400:], strict=True)])
    assert held > 0.9


def test_four_cases_have_a_line_but_no_honesty():
    assert dice_line([0.1, 0.2, 0.3, 0.4], [0.9, 0.8, 0.75, 0.6]) is not None
    assert leave_one_out([0.1, 0.2, 0.3, 0.4], [0.9, 0.8, 0.75, 0.6]) is None


@pytest.mark.parametrize(
    ("n", "rate", "rank"), [(19, 1 / 20, 19), (39, 2 / 40, 38), (40, 2 / 41, 39), (99, 5 / 100, 95), (8, 1 / 9, 8)]
)
def test_the_rank_of_the_threshold(n, rate, rank):
    scores = np.random.default_rng(n).permutation(np.arange(1, n + 1) / 1000)
    found = novelty(scores)
    assert found.threshold == pytest.approx(rank / 1000 + 1e-6, abs=1e-12)
    assert found.false_positive_rate == pytest.approx(rate, abs=1e-12)
    assert (found.n_source, found.n_target, found.detected) == (n, 0, None)


@given(st.lists(st.integers(0, 690_000), min_size=5, max_size=60, unique_by=lambda score: score // 2))
def test_the_false_positive_rate_is_exact(millionths):
    """Each of n + 1 exchangeable cases may be the new one; counted over all, the rate is the promised one."""
    scores = np.array(sorted(millionths)) // 2 * 2e-6  # no ties, to the millionth
    flagged = 0
    for new in range(len(scores)):
        found = novelty(np.delete(scores, new))
        flagged += scores[new] > found.threshold
    assert flagged / len(scores) == pytest.approx(found.false_positive_rate, abs=1e-12)


def test_the_false_positive_rate_aims_at_alpha():
    for n in range(19, 300):
        rate = novelty(np.arange(n)).false_positive_rate
        assert 0.05 - 1 / (n + 1) < rate <= 0.05 + 1e-12


def test_targets_are_counted():
    found = novelty([0.1, 0.2, 0.3, 0.4], [0.39, 0.4, 0.41, 0.9, math.nan])
    assert (found.n_source, found.n_target, found.detected) == (4, 5, 0.6)
    assert found.threshold == pytest.approx(0.400001, abs=1e-12)
    flags = [is_novel(found, score) for score in (0.39, 0.4, 0.41, 0.9, math.nan)]
    assert flags == [False, False, True, True, True]


def test_a_source_case_in_which_nothing_is_found_is_beyond_all_scores():
    scores = [*np.arange(38) / 100, math.nan]  # k = 38 of 39: the one without a score is the false alarm allowed for
    found = novelty(scores)
    assert (found.n_source, found.false_positive_rate) == (39, 0.05)
    assert found.threshold == pytest.approx(0.370001, abs=1e-12)
    assert novelty([*scores[:37], math.nan, math.nan]) is None  # one more: no threshold flags so few
    assert novelty([0.1, 0.2, 0.3, 0.4, math.nan]) is None


@pytest.mark.parametrize("source", [[], [0.1, 0.2, 0.3], [0.1, 0.2, math.nan]])
def test_no_threshold_from_fewer_than_four(source):
    assert novelty(source, [0.5]) is None
