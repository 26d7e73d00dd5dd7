import numpy as np
import pytest

from segcal.measure.surface import hd95


def plain_surface(mask):
    """Voxels of the mask with a background 6-neighbour; outside the volume is background."""
    padded = np.pad(mask, 1)
    points = []
    for z, y, x in np.argwhere(mask):
        around = [(0, 1, 1), (2, 1, 1), (1, 0, 1), (1, 2, 1), (1, 1, 0), (1, 1, 2)]
        if not all(padded[z + dz, y + dy, x + dx] for dz, dy, dx in around):
            points.append((z, y, x))
    return np.array(points, dtype=float)


def plain_hd95(a, b, spacing_mm):
    first, second = plain_surface(a) * spacing_mm, plain_surface(b) * spacing_mm
    table = np.sqrt(((first[:, None] - second[None]) ** 2).sum(axis=-1))
    return max(np.percentile(table.min(axis=1), 95), np.percentile(table.min(axis=0), 95))


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
