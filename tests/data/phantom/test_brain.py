import numpy as np
import pytest

from segcal.data.phantom.brain import brain_phantom
from segcal.data.phantom.fields import Grid, smooth_field, soft_step, thick_slices

SMALL = {"shape": (8, 48, 48), "spacing_mm": (10.0, 4.0, 4.0)}


@pytest.fixture(scope="module")
def patients():
    return [brain_phantom(np.random.default_rng([1, i]), site, **SMALL) for i in range(4) for site in ("CBICA", "TCIA")]


def test_the_same_generator_gives_the_same_patient_and_another_another():
    one, two, other = (brain_phantom(np.random.default_rng(seed), "TCIA", **SMALL) for seed in (5, 5, 6))
    for name in one.channels:
        np.testing.assert_array_equal(one.channels[name], two.channels[name])
    np.testing.assert_array_equal(one.truth, two.truth)
    assert (one.truth != other.truth).any()


def test_images_are_skull_stripped_and_tumours_lie_in_the_brain(patients):
    for patient in patients:
        brain = patient.channels["flair"] > 0
        assert set(patient.channels) == {"t1", "t1ce", "t2", "flair"}
        for image in patient.channels.values():
            assert image.shape == SMALL["shape"]
            assert image.dtype == np.float32
            assert ((image > 0) == brain).all()
        assert 0.15 < brain.mean() < 0.75
        assert brain[patient.truth > 0].all()


def test_every_patient_has_every_structure_in_a_plausible_volume(patients):
    for patient in patients:
        ml = np.prod(patient.spacing_mm) / 1000
        assert set(np.unique(patient.truth)) == {0, 1, 2, 4}
        assert 10 < (patient.truth > 0).sum() * ml < 190


def test_contrasts_are_those_of_the_sequences(patients):
    for patient in patients[::2]:  # CBICA-like; the other site's contrast is shifted
        healthy = (patient.truth == 0) & (patient.channels["t1"] > 0)
        mean = {
            (name, label): image[patient.truth == label].mean() / image[healthy].mean()
            for name, image in patient.channels.items()
            for label in (1, 2, 4)
        }
        assert mean["flair", 2] > 1.3  # edema is bright
        assert mean["t1ce", 4] > 1.15  # the rim enhances
        assert mean["t1ce", 4] > mean["t1ce", 1] + 0.2  # the necrosis does not
        assert mean["t2", 1] > mean["t1", 1]


def test_the_target_site_is_noisier(patients):
    def noise(patient):
        image = patient.channels["t2"]
        inside = image > 0
        steps = np.diff(image, axis=2)[inside[:, :, 1:] & inside[:, :, :-1]]
        return np.median(np.abs(steps)) / image[inside].mean()

    assert np.mean([noise(p) for p in patients[1::2]]) > np.mean([noise(p) for p in patients[::2]])


def test_unknown_site():
    with pytest.raises(ValueError, match="site must be one of CBICA, TCIA, got site='MGH'"):
        brain_phantom(np.random.default_rng(0), "MGH")


def test_a_random_field_has_its_deviation_and_its_length():
    grid = Grid((1, 128, 128), (1.0, 1.0, 1.0), np.zeros(3))
    fields = [smooth_field(np.random.default_rng(seed), grid, 8.0, 2.0)[0] for seed in range(20)]

    def correlation(lag):
        return np.mean([np.mean(f[:, lag:] * f[:, : 128 - lag]) for f in fields]) / np.mean([np.var(f) for f in fields])

    assert np.mean([f.std() for f in fields]) == pytest.approx(2.0, rel=0.15)
    assert correlation(1) > 0.9
    assert correlation(8) < 0.6
    assert abs(correlation(24)) < 0.15


def test_steps_and_slices():
    assert soft_step(np.array([-50.0, 0.0, 50.0]), 1.0).tolist() == pytest.approx([0, 0.5, 1])
    assert thick_slices(np.arange(6.0).reshape(6, 1, 1), 3).ravel().tolist() == [1.0, 4.0]
