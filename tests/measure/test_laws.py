"""Laws of proper scores, reliability and entropy, on any probability map."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segcal.measure.calibration import brier, ece, nll, reliability
from segcal.measure.overlap import dice
from segcal.measure.uncertainty import binary_entropy, segment_entropy

SLACK = 1e-9


@st.composite
def members_and_truth(draw, members=4):
    """Probabilities (members, K, voxels), some of them exactly 0 or 1, and the truth (voxels,)."""
    k, n = draw(st.integers(2, 4)), draw(st.integers(1, 40))
    raw = draw(arrays(np.float64, (members, k, n), elements=st.floats(0, 1, width=32)))
    raw[:, 0] += raw.sum(axis=1) == 0
    truth = draw(arrays(np.int64, n, elements=st.integers(0, k - 1)))
    return raw / raw.sum(axis=1, keepdims=True), truth


def away_from_the_clip(given_):
    """The clip at 1e-12 makes -ln p flat and so not convex."""
    probs, truth = given_
    return 0.98 * probs + 0.02 / probs.shape[1], truth


@given(members_and_truth())
def test_an_ensemble_is_no_worse_than_its_members_on_average(given_):
    probs, truth = away_from_the_clip(given_)
    assert nll(probs.mean(axis=0), truth) <= np.mean([nll(p, truth) for p in probs]) + SLACK


@given(members_and_truth())
def test_subset_means_fall_with_their_size(given_):
    probs, truth = away_from_the_clip(given_)
    for score in (nll, brier):
        means = [
            np.mean([score(probs[list(s)].mean(axis=0), truth) for s in itertools.combinations(range(4), size)])
            for size in (1, 2, 3, 4)
        ]
        assert all(after <= before + SLACK for before, after in itertools.pairwise(means))


@given(members_and_truth())
def test_brier_gap_is_the_variance_of_the_members(given_):
    probs, truth = given_
    gap = np.mean([brier(p, truth) for p in probs]) - brier(probs.mean(axis=0), truth)
    assert gap == pytest.approx(probs.var(axis=0).sum(axis=0).mean(), abs=1e-12)


@given(members_and_truth(members=1))
def test_order_of_the_calibration_measures(given_):
    (probs,), truth = given_
    confidence, correct = probs.max(axis=0), probs.argmax(axis=0) == truth
    p_true = np.take_along_axis(probs, truth[None], 0).mean()
    error = ece(probs, truth)
    assert abs(confidence.mean() - correct.mean()) <= error + SLACK
    assert error <= 1 - p_true + SLACK
    assert 1 - p_true <= 1 - np.exp(-nll(probs, truth)) + SLACK
    assert ece(probs, truth, 15) <= ece(probs, truth, 30) + SLACK
    assert brier(probs, truth) <= 0.8146 * nll(probs, truth) + SLACK
    assert reliability(confidence, correct).count.sum() == truth.size


@given(members_and_truth(members=1))
def test_segment_entropy_lies_between_0_and_ln_2(given_):
    (probs,), _ = given_
    for label in range(len(probs)):
        entropy = segment_entropy(probs, label)
        assert np.isnan(entropy) or 0 <= entropy <= np.log(2) + SLACK


@given(members_and_truth())
def test_total_entropy_is_expected_entropy_and_information(given_):
    probs, _ = given_
    p = probs[:, 0]
    information = binary_entropy(p.mean(axis=0)) - binary_entropy(p).mean(axis=0)
    assert (information >= -1e-12).all()


@given(members_and_truth(), st.randoms(use_true_random=False))
def test_order_and_copies_do_not_matter(given_, random):
    probs, truth = given_
    order = list(range(truth.size))
    random.shuffle(order)
    mean = probs.mean(axis=0)
    for score in (nll, brier, ece):
        assert score(mean[:, order], truth[order]) == pytest.approx(score(mean, truth), abs=1e-12)
        assert score(np.stack([probs[0]] * 4).mean(axis=0), truth) == pytest.approx(score(probs[0], truth), abs=1e-12)


@given(members_and_truth())
def test_order_of_the_members_does_not_matter(given_):
    probs, truth = given_
    one, two = probs.mean(axis=0), probs[::-1].mean(axis=0)
    assert nll(one, truth) == pytest.approx(nll(two, truth), rel=1e-9)
    assert brier(one, truth) == pytest.approx(brier(two, truth), abs=1e-12)


@given(arrays(np.int64, 20, elements=st.integers(0, 2)), arrays(np.int64, 20, elements=st.integers(0, 2)))
def test_dice_is_symmetric_and_1_only_where_equal(a, b):
    value = dice(a, b, 1)
    assert value == dice(b, a, 1) or (np.isnan(value) and not (a == 1).any() and not (b == 1).any())
    if value == 1:
        assert ((a == 1) == (b == 1)).all()
