import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segcal.measure.uncertainty import binary_entropy, logit, segment_entropy, total_entropy

LN2 = math.log(2)
quick = settings(deadline=None, max_examples=60, database=None)


@st.composite
def maps(draw):
    """Probabilities (K, voxels), some exactly 0 or 1."""
    k, n = draw(st.integers(2, 4)), draw(st.integers(1, 12))
    raw = draw(arrays(np.float64, (k, n), elements=st.integers(0, 10).map(float)))
    raw[0] += raw.sum(axis=0) == 0
    return raw / raw.sum(axis=0)


def plain_entropy(p):
    return -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)


def plain_segment_entropy(probs, label):
    """Eq. 7 voxel by voxel; the first of equal classes wins."""
    segment = [voxel for voxel in probs.T.tolist() if voxel.index(max(voxel)) == label]
    return sum(plain_entropy(voxel[label]) for voxel in segment) / len(segment) if segment else math.nan


def test_golden_segment_entropy_in_both_precisions():
    p = np.array([0.05, 0.20, 0.35, 0.48, 0.55, 0.70, 0.90, 0.99])
    probs = np.stack([1 - p, p])
    assert segment_entropy(probs, 1) == pytest.approx(0.420021905879, abs=1e-12)
    assert segment_entropy(probs.astype(np.float32), 1) == pytest.approx(0.420021905879, abs=1e-7)


def test_only_the_voxels_of_the_segment_count():
    probs = np.array([[0.6, 0.25, 0.5], [0.4, 0.75, 0.5]])
    assert segment_entropy(probs, 1) == pytest.approx(plain_entropy(0.75), abs=1e-15)
    assert segment_entropy(probs, 0) == pytest.approx((plain_entropy(0.6) + LN2) / 2, abs=1e-15)


def test_an_empty_segment_has_none():
    probs = np.array([[0.9, 0.8], [0.1, 0.2]])
    assert np.isnan(segment_entropy(probs, 1))
    assert np.isnan(segment_entropy(np.zeros((2, 0)), 0))


@quick
@given(maps())
def test_equals_a_loop_over_voxels_and_lies_between_0_and_ln_2(probs):
    for label in range(len(probs)):
        found = segment_entropy(probs, label)
        assert found == pytest.approx(plain_segment_entropy(probs, label), abs=1e-12, nan_ok=True)
        assert np.isnan(found) or 0 <= found <= LN2 + 1e-15


@quick
@given(maps(), st.randoms(use_true_random=False))
def test_order_of_voxels_does_not_matter(probs, random):
    order = list(range(probs.shape[1]))
    random.shuffle(order)
    for label in range(len(probs)):
        one, other = segment_entropy(probs, label), segment_entropy(probs[:, order], label)
        assert one == pytest.approx(other, abs=1e-12, nan_ok=True)


def test_entropy_of_certainty_is_0_and_of_one_half_ln_2():
    assert binary_entropy(np.array([0.0, 1.0, 0.5])).tolist() == pytest.approx([0.0, 0.0, LN2], abs=1e-15)
    # A float32 softmax may round to just above 1; that is certainty, not NaN.
    above = np.nextafter(np.float32(1), np.float32(2))
    assert binary_entropy(np.array([above])).tolist() == [0.0]


@quick
@given(st.integers(0, 1000))
def test_entropy_is_symmetric(thousandths):
    p = thousandths / 1000
    found = binary_entropy(np.array([p, 1 - p]))
    assert found[0] == pytest.approx(found[1], abs=1e-12)
    assert found[0] == pytest.approx(plain_entropy(p), abs=1e-12)


@quick
@given(arrays(np.float64, (4, 6), elements=st.integers(0, 100).map(lambda n: n / 100)))
def test_information_is_the_mean_divergence_of_the_members_from_their_mean(members):
    """Total entropy = expected entropy + mutual information, with the information from its own definition."""
    mean = members.mean(axis=0)
    information = np.zeros(6)
    for p, q in ((members, mean), (1 - members, 1 - mean)):
        terms = [[a * math.log(a / b) if a > 0 else 0.0 for a, b in zip(row, q, strict=True)] for row in p.tolist()]
        information += np.mean(terms, axis=0)
    assert (information >= -1e-12).all()
    expected = binary_entropy(members).mean(axis=0)
    np.testing.assert_allclose(binary_entropy(mean), expected + information, atol=1e-12)


def test_logit_by_hand_and_at_its_clip():
    d = np.array([0.0, 0.0005, 0.001, 0.25, 0.5, 0.75, 0.9999, 1.0])
    end = math.log(999)
    np.testing.assert_allclose(logit(d), [-end, -end, -end, -math.log(3), 0, math.log(3), end, end], atol=1e-12)
    assert np.isnan(logit(np.array([np.nan]))).all()
    np.testing.assert_allclose(logit(np.array([0.0, 1.0]), clip=0.1), [-math.log(9), math.log(9)], atol=1e-12)


def test_total_entropy_by_hand():
    probs = np.array([[[1.0, 0.5, 0.25]], [[0.0, 0.5, 0.25]], [[0.0, 0.0, 0.5]]], dtype=np.float32)
    found = total_entropy(probs)
    np.testing.assert_allclose(found, [[0.0, math.log(2), 1.5 * math.log(2)]], rtol=1e-7)
    assert found.dtype == np.float32
    assert not np.signbit(found).any()
    assert total_entropy(np.zeros((3, 0, 4))).shape == (0, 4)


@given(maps())
@quick
def test_total_entropy_lies_between_zero_and_that_of_a_coin_with_k_sides(probs):
    found = total_entropy(probs)
    plain = [-sum(p * math.log(p) for p in voxel if p > 0) for voxel in probs.T.tolist()]
    np.testing.assert_allclose(found, plain, rtol=1e-6, atol=1e-7)
    assert (found <= math.log(len(probs)) * (1 + 1e-6)).all()
