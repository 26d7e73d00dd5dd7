import numpy as np
import pytest

from segcal.data.prepare_case import scale_intensity
from segcal.data.resample import crop_or_pad, resample, resample_labels


def centres(n, spacing):
    return (np.arange(n) + 0.5) * spacing


@pytest.mark.parametrize("target", [2.0, 1.5, 0.5])
def test_a_ramp_in_mm_stays_the_same_ramp(target):
    """The half-voxel shift of the origin is kept: values follow the position of the new centres."""
    ramp = np.broadcast_to(centres(24, 1.0), (3, 4, 24))
    out = resample(ramp, (2.0, 1.0, 1.0), (2.0, 1.0, target))
    inside = slice(2, -2)
    np.testing.assert_allclose(out[1, 1, inside], centres(out.shape[2], target)[inside], atol=1e-4)
    assert out.shape == (3, 4, round(24 / target))


def test_every_axis_is_its_own():
    rng = np.random.default_rng(0)
    array = rng.random((4, 6, 8)).astype(np.float32)
    halved = resample(array, (1.0, 1.0, 1.0), (2.0, 1.0, 1.0))
    np.testing.assert_allclose(halved, (array[::2] + array[1::2]) / 2, atol=1e-6)


def test_constant_and_equal_spacing():
    constant = np.full((3, 5, 5), 7.0, dtype=np.float32)
    assert (resample(constant, (3, 1, 1), (1.7, 0.6, 2.3)) == 7).all()
    array = np.random.default_rng(0).random((2, 3, 4)).astype(np.float32)
    np.testing.assert_array_equal(resample(array, (1, 1, 1), (1, 1, 1)), array)


def test_labels_linear_takes_the_largest_share_and_ties_the_nearest():
    row = np.array([0, 1, 1, 1, 2, 2, 0, 0], dtype=np.uint8).reshape(1, 1, 8)
    linear = resample_labels(row, 3, (1, 1, 1), (1, 1, 2), "linear")
    assert linear.ravel().tolist() == [1, 1, 2, 0]
    assert linear.dtype == np.uint8
    thirds = np.array([1, 1, 0, 0, 2, 2], dtype=np.uint8).reshape(1, 1, 6)
    assert resample_labels(thirds, 3, (1, 1, 1), (1, 1, 3), "nearest").ravel().tolist() == [1, 2]
    assert resample_labels(thirds, 3, (1, 1, 1), (1, 1, 1.2), "linear").ravel().tolist() == [1, 1, 0, 2, 2]


@pytest.mark.parametrize("how", ["linear", "nearest"])
def test_no_structure_grows_or_shrinks_where_two_slices_become_one(how):
    """With "ties take the lowest class" the inner one of two shells gained 9% and the outer one lost 20%."""
    z, y, x = np.mgrid[0:40, 0:40, 0:40] - 19.3
    distance = np.sqrt(z**2 + y**2 + x**2)
    nested = np.select([distance < 9, distance < 12, distance < 16], [1, 3, 2], 0).astype(np.uint8)
    there = resample_labels(nested, 4, (1, 1, 1), (2, 1, 1), how)
    native, prepared = np.bincount(nested.ravel()), 2 * np.bincount(there.ravel())
    np.testing.assert_allclose(prepared, native, rtol=0.03)


def test_a_large_structure_survives_the_way_there_and_back():
    z, y, x = np.mgrid[0:20, 0:40, 0:40]
    ball = ((z - 10) ** 2 * 4 + (y - 20) ** 2 + (x - 19) ** 2 < 15**2).astype(np.uint8)
    there = resample_labels(ball, 2, (2, 1, 1), (2, 1.5, 1.5), "linear")
    back = resample_labels(there, 2, (2, 1.5, 1.5), (2, 1, 1), "linear")[:, :40, :40]
    assert 2 * (back & ball).sum() / (back.sum() + ball.sum()) > 0.97


@pytest.mark.parametrize(("have", "want"), [((5, 8), (3, 4)), ((5, 8), (9, 8)), ((4, 7), (6, 3)), ((4, 4), (4, 4))])
def test_crop_or_pad_keeps_the_centre_and_tells_the_offset(have, want):
    array = np.arange(2 * have[0] * have[1]).reshape(2, *have) + 1
    out, offset = crop_or_pad(array, want)
    assert out.shape == (2, *want)
    for y in range(want[0]):
        for x in range(want[1]):
            source = (y + offset[0], x + offset[1])
            inside = 0 <= source[0] < have[0] and 0 <= source[1] < have[1]
            assert out[1, y, x] == (array[1, *source] if inside else 0)


def test_scaling_by_hand():
    array = np.concatenate([np.zeros(50), np.arange(1.0, 102.0)])
    scaled = scale_intensity(array, "percentile", "nonzero")
    low, high = np.percentile(np.arange(1.0, 102.0), [1, 99])
    np.testing.assert_allclose(scaled[50:], np.clip((array[50:] - low) / (high - low), 0, 1), rtol=1e-6)
    assert (scaled[:50] == 0).all()
    assert scale_intensity(array, "minmax", "nonzero")[-1] == 1.0
    assert scale_intensity(array, "minmax", "nonzero")[50] == 0.0
    everything = scale_intensity(array - 50, "minmax")
    np.testing.assert_allclose(everything, array / 101, atol=1e-6)
    for flat in (np.zeros((2, 2)), np.full((2, 2), 5.0)):
        assert (scale_intensity(flat, "percentile") == 0).all()
