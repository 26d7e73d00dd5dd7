import numpy as np
import pytest

from segcal.measure.calibration import CLIP, brier, ece, ece_classwise, nll, reliability


def plain_ece(confidence, correct, n_bins):
    """Eq. 5 as a loop over bins ((m-1)/M, m/M], in the precision of the confidence."""
    total = 0.0
    kind = confidence.dtype.type
    for m in range(1, n_bins + 1):
        low, high = kind((m - 1) / n_bins), kind(m / n_bins)
        members = ((confidence > low) & (confidence <= high)) | ((confidence == 0) & (m == 1))
        if members.any():
            gap = abs(correct[members].mean() - confidence[members].astype(float).mean())
            total += members.sum() / confidence.size * gap
    return total


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("n_bins", [1, 7, 10, 15, 20])
def test_ece_equals_a_loop_over_bins(kind, n_bins):
    rng = np.random.default_rng(n_bins)
    # Half the values lie on edges, where an error of rounding would move them to another bin.
    confidence = np.concatenate([rng.random(500), rng.integers(0, n_bins + 1, 500) / n_bins]).astype(kind)
    correct = rng.random(1000) < confidence
    assert reliability(confidence, correct, n_bins).ece == pytest.approx(
        plain_ece(confidence, correct, n_bins), abs=1e-12
    )


def test_edges_belong_to_the_bin_below():
    bins = reliability(np.array([0.0, 0.1, 0.3, 1.0], dtype=np.float32), np.ones(4, dtype=bool), 10)
    assert bins.count.tolist() == [2, 0, 1, 0, 0, 0, 0, 0, 0, 1]


def test_reliability_of_four_voxels_by_hand():
    bins = reliability(np.array([0.6, 0.8, 0.75, 0.95]), np.array([True, False, True, True]), 2)
    assert bins.edges.tolist() == [0, 0.5, 1]
    assert bins.count.tolist() == [0, 4]
    assert np.isnan(bins.confidence[0])
    assert (bins.confidence[1], bins.accuracy[1]) == (pytest.approx(0.775), 0.75)
    assert bins.ece == bins.mce == pytest.approx(0.025)


def test_certain_and_wrong_is_clipped():
    assert nll(np.array([[1.0], [0.0]]), np.array([1])) == pytest.approx(-np.log(CLIP))
    assert nll(np.array([[1.0], [0.0]]), np.array([0])) == 0.0


def test_perfect_and_worst_scores():
    probs = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert (brier(probs, np.array([0, 1])), ece(probs, np.array([0, 1]))) == (0.0, 0.0)
    assert (brier(probs, np.array([1, 0])), ece(probs, np.array([1, 0]))) == (2.0, 1.0)


def test_float32_maps_are_summed_in_float64():
    probs = np.full((2, 3_000_000), 0.5, dtype=np.float32)
    truth = np.zeros(3_000_000, dtype=np.uint8)
    assert nll(probs, truth) == pytest.approx(np.log(2), abs=1e-12)
    assert brier(probs, truth) == pytest.approx(0.5, abs=1e-12)


def test_empty_input_is_not_a_number():
    empty, none = np.zeros((2, 0)), np.zeros(0, dtype=int)
    assert np.isnan([nll(empty, none), brier(empty, none), ece(empty, none)]).all()
    bins = reliability(np.zeros(0), np.zeros(0, dtype=bool))
    assert np.isnan([bins.ece, bins.mce]).all()
    assert bins.count.sum() == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reliability(np.ones(2), np.ones(2), 0), "n_bins must be at least 1, got n_bins=0"),
        (lambda: nll(np.ones((2, 3)), np.zeros(4, dtype=int)), "probs .* must match truth"),
        (lambda: nll(np.ones((2, 1)), np.array([2])), r"classes 0\.\.1, got 2\.\.2"),
        (lambda: brier(np.ones((2, 1)), np.array([0]), "max"), "normalise must be 'sum' or 'mean'"),
    ],
)
def test_bad_input_states_rule_and_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_classwise_ece_by_hand():
    """Two voxels, two classes, two bins: p(0) = .8, .4; truth 0, 0. Each class: bins of one voxel, gaps .2 and .6."""
    probs, truth = np.array([[0.8, 0.4], [0.2, 0.6]]), np.array([0, 0])
    assert ece_classwise(probs, truth, 2) == pytest.approx((0.2 + 0.6) / 2)
    assert ece_classwise(probs, truth, 1) == pytest.approx((0.2 + 0.6) / 2)  # |1.2 - 2| / 2 = |0.8 - 0| / 2
    assert np.isnan(ece_classwise(np.zeros((2, 0)), np.zeros(0, int)))


def test_classwise_ece_sees_what_the_top_label_hides():
    """Top label right on average, both structures' probabilities swapped: only the class-wise error is there."""
    probs = np.tile(np.array([[0.5], [0.3], [0.2]]), (1, 10))
    truth = np.array([0] * 5 + [1] * 2 + [2] * 3)
    assert ece(probs, truth) == pytest.approx(0)
    assert ece_classwise(probs, truth) == pytest.approx((0 + 0.1 + 0.1) / 3)
