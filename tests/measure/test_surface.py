import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segcal.measure import surface
from segcal.measure.surface import SurfaceDistances, TruthSurface, hd95, hd95_of, hd95_pooled


def plain_surface(mask):
    """Voxels of the mask with a background 6-neighbour; outside the volume is background."""
    padded = np.pad(mask, 1)
    points = []
    for z, y, x in np.argwhere(mask):
        around = [(0, 1, 1), (2, 1, 1), (1, 0, 1), (1, 2, 1), (1, 1, 0), (1, 1, 2)]
        if not all(padded[z + dz, y + dy, x + dx] for dz, dy, dx in around):
            points.append((z, y, x))
    return np.array(points, dtype=float)


def plain_distances(a, b, spacing_mm):
    first, second = plain_surface(a) * spacing_mm, plain_surface(b) * spacing_mm
    table = np.sqrt(((first[:, None] - second[None]) ** 2).sum(axis=-1))
    return table.min(axis=1), table.min(axis=0)


def plain_hd95(a, b, spacing_mm):
    return max(np.percentile(side, 95) for side in plain_distances(a, b, spacing_mm))


@pytest.mark.parametrize("seed", range(12))
def test_equals_brute_force_on_random_anisotropic_masks(seed):
    rng = np.random.default_rng(seed)
    spacing_mm = tuple(rng.uniform(0.4, 6, 3))
    a, b = rng.random((2, 5, 8, 9)) < rng.uniform(0.05, 0.9)
    a[0, 0, 0] = b[4, 7, 8] = True
    assert hd95(a, b, spacing_mm) == pytest.approx(plain_hd95(a, b, spacing_mm), abs=1e-9)
    assert hd95(a, b, spacing_mm) == hd95(b, a, spacing_mm)


def test_two_voxels_are_as_far_apart_as_they_are():
    a, b = np.zeros((2, 3, 4, 5), dtype=bool)
    a[0, 0, 0], b[2, 3, 4] = True, True
    assert hd95(a, b, (3.0, 1.0, 0.5)) == pytest.approx(np.sqrt(36 + 9 + 4))
    assert hd95(a, a, (3.0, 1.0, 0.5)) == 0.0


def test_a_shifted_cube_is_one_shift_away():
    a, b = np.zeros((2, 8, 8, 8), dtype=bool)
    a[2:6, 2:6, 2:5], b[2:6, 2:6, 3:6] = True, True
    assert hd95(a, b, (1.0, 1.0, 2.0)) == 2.0


def test_empty_masks():
    empty, full = np.zeros((2, 2, 2), dtype=bool), np.ones((2, 2, 2), dtype=bool)
    assert hd95(empty, empty, (1, 1, 1)) == 0.0
    assert np.isnan(hd95(empty, full, (1, 1, 1)))
    assert np.isnan(hd95(full, empty, (1, 1, 1)))


def test_bad_input():
    with pytest.raises(ValueError, match="one shape"):
        hd95(np.ones((1, 1, 1)), np.ones((1, 1, 2)), (1, 1, 1))
    with pytest.raises(ValueError, match="spacing_mm must be positive"):
        hd95(np.ones((1, 1, 1)), np.ones((1, 1, 1)), (0, 1, 1))
    with pytest.raises(ValueError, match=r"must be \(Z, Y, X\), got shape \(2, 2\)"):
        hd95(np.ones((2, 2)), np.ones((2, 2)), (1, 1, 1))
    with pytest.raises(ValueError, match=r"one shape, got \(1, 1, 1\) and \(1, 1, 2\)"):
        TruthSurface.of(np.ones((1, 1, 2)), (1, 1, 1)).distances(np.ones((1, 1, 1)))


@pytest.mark.parametrize(("many", "pairs"), [(0, 200), (10**9, 200), (10**9, 0)])
@pytest.mark.parametrize("seed", range(12))
def test_cached_truth_equals_brute_force_wherever_the_prediction_is(seed, many, pairs, monkeypatch):
    monkeypatch.setattr(surface, "MARGIN_MM", 2.0)
    monkeypatch.setattr(surface, "MANY", many)  # what is beyond the margin: by the whole volume's transform, the tree,
    monkeypatch.setattr(surface, "PAIRS", pairs)  # or the transform of a box
    rng = np.random.default_rng(seed)
    spacing_mm = tuple(rng.uniform(0.4, 6, 3))
    truth = np.zeros((9, 14, 12), dtype=bool)
    truth[2:5, 3:9, 4:8] = rng.random((3, 6, 4)) < 0.8
    cached = TruthSurface.of(truth, spacing_mm)
    beyond = np.zeros_like(truth)
    beyond[7:, 12:, 10:] = True
    for prediction in (truth, rng.random(truth.shape) < 0.1, truth ^ (rng.random(truth.shape) < 0.02), beyond):
        found = cached.distances(prediction)
        expected = plain_distances(prediction, truth, spacing_mm)
        np.testing.assert_allclose(np.sort(found.to_truth), np.sort(expected[0]), rtol=0, atol=1e-9)
        np.testing.assert_allclose(np.sort(found.to_prediction), np.sort(expected[1]), rtol=0, atol=1e-9)
        assert hd95_of(found) == pytest.approx(hd95(prediction, truth, spacing_mm), abs=1e-9)
        assert hd95_pooled(found) == pytest.approx(np.percentile(np.concatenate(expected), 95), abs=1e-9)


def test_cached_truth_and_empty_masks():
    empty, full = np.zeros((2, 2, 2), dtype=bool), np.ones((2, 2, 2), dtype=bool)
    of_empty, of_full = TruthSurface.of(empty, (1, 1, 1)), TruthSurface.of(full, (1, 1, 1))
    nothing, missed, spurious = of_empty.distances(empty), of_full.distances(empty), of_empty.distances(full)
    assert (hd95_of(nothing), hd95_pooled(nothing)) == (0.0, 0.0)
    assert (missed.to_truth.size, missed.to_prediction.size) == (0, 8)
    assert (spurious.to_truth.size, spurious.to_prediction.size) == (8, 0)
    for one_empty in (missed, spurious):
        assert np.isnan([hd95_of(one_empty), hd95_pooled(one_empty)]).all()
    assert hd95(np.ones((0, 3, 3)), np.ones((0, 3, 3)), (1, 1, 1)) == 0.0


def test_both_rules_by_hand():
    distances = SurfaceDistances(np.array([1.0, 2.0]), np.array([0.0, 0.0, 0.0]))
    assert hd95_of(distances) == pytest.approx(1.95)
    assert hd95_pooled(distances) == pytest.approx(1.8)


MASKS = arrays(bool, (3, 4, 5)).filter(np.any)
SPACINGS = st.tuples(*[st.floats(0.3, 8)] * 3)


@settings(deadline=None, max_examples=100)
@given(MASKS, MASKS, SPACINGS, st.floats(0.1, 10))
def test_laws(a, b, spacing_mm, scale):
    distance = hd95(a, b, spacing_mm)
    assert hd95(a, a, spacing_mm) == 0.0
    assert hd95(b, a, spacing_mm) == distance
    assert hd95(a, b, tuple(scale * side for side in spacing_mm)) == pytest.approx(scale * distance, rel=1e-9)
    assert hd95(a[:, ::-1], b[:, ::-1], spacing_mm) == pytest.approx(distance, rel=1e-12)
    found = TruthSurface.of(b, spacing_mm).distances(a)
    assert hd95_of(found) == pytest.approx(distance, rel=1e-12)
    # Percentiles between two points interpolate, so the bound on the pooled one is the next point above.
    above = max(np.percentile(side, 95, method="higher") for side in (found.to_truth, found.to_prediction))
    assert hd95_pooled(found) <= above + 1e-9


def test_monai_agrees():
    metrics = pytest.importorskip("monai.metrics")
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    for _ in range(50):
        spacing_mm = tuple(rng.uniform(0.4, 6, 3))
        a, b = rng.random((2, *rng.integers(3, 12, 3))) < rng.uniform(0.05, 0.95)
        a[0, 0, 0] = b[-1, -1, -1] = True
        one, other = (torch.from_numpy(mask[np.newaxis, np.newaxis]) for mask in (a, b))
        theirs = metrics.compute_hausdorff_distance(
            one, other, include_background=True, percentile=95, spacing=spacing_mm
        )
        assert hd95(a, b, spacing_mm) == pytest.approx(float(theirs), abs=1e-4)
