"""Golden values, computed independently of this code (natural logarithms)."""

import itertools

import numpy as np
import pytest

from segcal.measure.calibration import brier, ece, nll
from segcal.measure.regions import dilated_box
from segcal.measure.uncertainty import segment_entropy

P = np.array([0.05, 0.20, 0.35, 0.48, 0.55, 0.70, 0.90, 0.99])
Y = np.array([0, 0, 1, 0, 1, 0, 1, 1])
BINARY = np.stack([1 - P, P])
LOGITS = np.array([[2, 1, 0], [0, 3, -1], [1, 1, 1], [-2, 0, 4]], dtype=float)
LABELS = np.array([0, 1, 2, 1])
MEMBERS = np.array([[0.9, 0.2, 0.6, 0.01], [0.5, 0.4, 0.3, 0.3], [0.7, 0.1, 0.8, 0.02]])
TRUTH = np.array([1, 0, 1, 0])


def maps(foreground):
    return np.stack([1 - foreground, foreground])


def test_binary_input():
    assert nll(BINARY, Y) == pytest.approx(0.486925761775, abs=1e-12)
    assert brier(BINARY, Y) == pytest.approx(0.3495, abs=1e-12)
    assert brier(BINARY, Y, "mean") == pytest.approx(0.17475, abs=1e-12)
    assert segment_entropy(BINARY, 1) == pytest.approx(0.420021905879, abs=1e-12)


@pytest.mark.parametrize(("n_bins", "expected"), [(5, 0.28), (10, 0.33), (15, 0.33)])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_binary_ece(n_bins, expected, kind):
    assert ece(BINARY.astype(kind), Y, n_bins) == pytest.approx(expected, abs=1e-7)


def test_multiclass_input():
    odds = np.exp(LOGITS)
    probs = (odds / odds.sum(axis=1, keepdims=True)).T
    assert nll(probs, LABELS) == pytest.approx(1.39817082395, abs=1e-11)
    assert brier(probs, LABELS) == pytest.approx(0.694344034294, abs=1e-12)


@pytest.mark.parametrize(("size", "expected"), [(1, 0.359948524784), (2, 0.334035448533), (3, 0.326723990883)])
def test_mean_nll_over_subsets_falls_with_their_size(size, expected):
    subsets = itertools.combinations(range(3), size)
    values = [nll(maps(MEMBERS[list(subset)].mean(axis=0)), TRUTH) for subset in subsets]
    assert np.mean(values) == pytest.approx(expected, abs=1e-12)


def test_brier_gap_is_the_members_variance():
    gap = np.mean([brier(maps(member), TRUTH) for member in MEMBERS]) - brier(maps(MEMBERS.mean(axis=0)), TRUTH)
    assert gap == pytest.approx(0.0512555556, abs=1e-10)
    assert gap == pytest.approx(2 * MEMBERS.var(axis=0).mean(), abs=1e-15)


def test_box():
    truth = np.zeros((6, 40, 40), dtype=int)
    truth[3, 20:22, 5:8] = 1
    box = dilated_box(truth, (3, 0.5, 0.5), margin_mm=8, margin_slices=2)
    assert box == (slice(1, 6), slice(4, 38), slice(0, 24))
    assert truth[box].size == 4080
