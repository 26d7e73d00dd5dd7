"""The grid against plain functions on stored ensembles, and against arithmetic by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segcal.measure.calibration import CLIP, brier, confidence_bins, nll
from segcal.measure.grid import FINE, GridSums, VoxelOrder, score_grid
from segcal.measure.uncertainty import segment_entropy

SUBSETS = [(0,), (3,), (0, 1), (1, 2, 4), (0, 1, 2, 3, 4), (4, 3, 2, 1, 0, 5, 6)]


def example(members=7, classes=4, voxels=700, seed=0, sharpness=3.0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, voxels) * (rng.random(voxels) < 0.5)
    z = rng.normal(0, 2, (members, classes, voxels)) + sharpness * np.eye(classes)[truth].T
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return (p / p.sum(axis=1, keepdims=True)).astype(np.float32), truth, rng.random(voxels) < 0.3


def grid(probs, truth, inside, subsets=SUBSETS, **options):
    sums = GridSums.zeros(len(subsets), probs.shape[1])
    labels = score_grid(probs, VoxelOrder.of(truth, inside, probs.shape[1]), subsets, sums, **options)
    return sums, labels


def stored(probs, subset):
    """The ensemble of Eq. 6."""
    return probs[list(subset)].astype(np.float64).mean(axis=0)


@pytest.mark.parametrize(("classes", "voxels"), [(4, 700), (2, 129), (3, 16), (2, 1)])
def test_every_sum_equals_plain_numpy(classes, voxels):
    probs, truth, inside = example(classes=classes, voxels=voxels)
    chosen = np.ones(len(SUBSETS), bool)
    sums, labels = grid(probs, truth, inside, labelled=chosen)
    for s, subset in enumerate(SUBSETS):
        mean = stored(probs, subset)
        np.testing.assert_array_equal(labels[s], mean.argmax(axis=0))
        for region, where in ((0, inside), (1, ~inside)):
            p, y = mean[:, where], truth[where]
            n = y.size
            assert sums.voxels[region] == n
            if not n:
                continue
            assert sums.nll[region, s] / n == pytest.approx(nll(p, y), rel=1e-12)
            assert sums.brier[region, s] / n == pytest.approx(brier(p, y), rel=1e-12)
            assert sums.p_true[region, s] == pytest.approx(p[y, np.arange(n)].astype(float).sum(), rel=1e-12)
            # A bin is found in float32, with float32 edges.
            top = np.array(confidence_bins(p.max(axis=0).astype(np.float32), p.argmax(axis=0) == y, FINE))
            np.testing.assert_allclose(sums.winners[region, s].sum(axis=0).T, top, rtol=1e-7)
            for k in range(classes):
                mine = np.array(confidence_bins(p[k].astype(np.float32), y == k, FINE))
                np.testing.assert_allclose(sums.classwise[region, s, k].T, mine, rtol=1e-7, atol=1e-15)
        for k in range(1, classes):
            size = sums.winners[:, s, k, :, 0].sum()
            assert size == np.count_nonzero(mean.argmax(axis=0) == k)
            if size:
                assert sums.segment_entropy[s, k] / size == pytest.approx(segment_entropy(mean, k), rel=1e-9)


def test_slabs_add_up_to_the_volume():
    probs, truth, inside = example()
    whole, _ = grid(probs, truth, inside)
    parts = GridSums.zeros(len(SUBSETS), 4)
    for part in (slice(0, 300), slice(300, 301), slice(301, 700)):
        order = VoxelOrder.of(truth[part], inside[part], 4)
        score_grid(np.ascontiguousarray(probs[:, :, part]), order, SUBSETS, parts)
    for name, value in vars(whole).items():
        np.testing.assert_allclose(getattr(parts, name), value, rtol=1e-12, err_msg=name)


def test_members_variance_and_entropies_by_hand():
    """Law 2 and law 6 of a pair of members over two voxels of two classes."""
    probs = np.array([[[0.9, 0.5], [0.1, 0.5]], [[0.5, 0.25], [0.5, 0.75]]], np.float32)
    truth, inside = np.array([0, 1]), np.array([True, True])
    sums, _ = grid(probs, truth, inside, [(0,), (1,), (0, 1)], decomposed=np.array([False, False, True]))
    assert sums.variance[0, 2] == pytest.approx(2 * 0.2**2 + 2 * 0.125**2, rel=1e-6)
    assert sums.brier[0, :2].mean() - sums.brier[0, 2] == pytest.approx(sums.variance[0, 2], rel=1e-6)

    def h(*p):
        return -sum(x * np.log(x) for x in p)

    assert sums.entropy[0, 2] == pytest.approx(h(0.7, 0.3) + h(0.375, 0.625), rel=1e-6)
    expected = (h(0.9, 0.1) + h(0.5, 0.5) + h(0.5, 0.5) + h(0.25, 0.75)) / 2
    assert sums.member_entropy[0, 2] == pytest.approx(expected, rel=1e-6)
    assert sums.variance[:, :2].sum() == sums.entropy[:, :2].sum() == 0


def test_certain_and_impossible_probabilities():
    """p = 1 is in the last bin, p = 0 in the first; p = 0 of the true class is clipped and counted; ties go down."""
    probs = np.array([[[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]]], np.float32)
    sums, labels = grid(probs, np.array([0, 0, 1]), np.array([True] * 3), [(0,)], labelled=np.array([True]))
    assert labels[0].tolist() == [0, 1, 0]
    assert sums.nll[0, 0] == pytest.approx(-np.log(CLIP) - np.log(0.5))
    assert sums.clipped[0, 0] == 1
    assert sums.winners[0, 0, :, FINE - 1, 0].tolist() == [1, 1]
    assert sums.classwise[0, 0, :, 0, 0].tolist() == [1, 1]


@pytest.mark.parametrize("n_bins", [10, 15, 20, 30])
def test_edges_of_coarse_bins_are_edges_of_fine_ones(n_bins):
    """A confidence on an edge lies in the bin below it, in float32, whatever the number of bins."""
    edges = (np.arange(1, n_bins + 1) / n_bins).astype(np.float32)
    below, above = np.nextafter(edges, np.float32(0)), np.nextafter(edges[:-1], np.float32(1))
    for values in (edges, below, above):
        values = values[values >= 0.5]
        probs = np.stack([values, 1 - values])[None]
        sums, _ = grid(probs, np.zeros(values.size, int), np.ones(values.size, bool), [(0,)])
        coarse = sums.winners[0, 0, 0].reshape(n_bins, -1, 3).sum(axis=1).T
        direct = confidence_bins(values, probs[0].argmax(axis=0) == 0, n_bins)
        np.testing.assert_array_equal(coarse[0], direct[0])


@given(st.integers(0, 1000), st.permutations(range(5)))
def test_order_and_copies_of_members_do_not_matter(seed, permutation):
    probs, truth, inside = example(members=5, voxels=40, seed=seed)
    copies = np.repeat(probs[:1], 3, axis=0)
    one, _ = grid(
        np.concatenate([probs, copies]), truth, inside, [(0, 1, 2, 3, 4), tuple(permutation), (0,), (0, 5, 6, 7)]
    )
    for sums in (one.nll, one.brier, one.p_true):
        np.testing.assert_allclose(sums[:, 0], sums[:, 1], rtol=1e-12)
        np.testing.assert_allclose(sums[:, 2], sums[:, 3], rtol=1e-12)


@given(st.integers(0, 1000))
def test_a_mean_is_never_worse_than_its_members(seed):
    """Jensen: NLL and Brier of an ensemble are at most the mean of its members'."""
    probs, truth, inside = example(members=4, voxels=60, seed=seed, sharpness=0.5)
    sums, _ = grid(probs, truth, inside, [(0,), (1,), (2,), (3,), (0, 1, 2, 3)])
    for values in (sums.nll, sums.brier):
        assert (values[:, 4] <= values[:, :4].mean(axis=1) + 1e-5).all()


def test_bad_input():
    probs, truth, inside = example(voxels=10)
    with pytest.raises(ValueError, match=r"subsets must name members 0\.\.6, got 0\.\.7"):
        grid(probs, truth, inside, [(0, 7)])
    with pytest.raises(ValueError, match=r"probs must be float32 \(members, K, 10\), got float64"):
        grid(probs.astype(float), truth, inside)
