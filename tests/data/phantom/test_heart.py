import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import ConvexHull

from segcal.data.phantom.heart import GROUPS, heart_phantom

SMALL = {"shape": (10, 64, 64), "spacing_mm": (9.0, 3.4, 3.4)}
RV, MYO, LV = 1, 2, 3
ML = np.prod(SMALL["spacing_mm"]) / 1000


def patient(index, group, phase="ED"):
    return heart_phantom(np.random.default_rng([3, index]), group, phase, **SMALL)


def ml(phantom, label):
    return np.count_nonzero(phantom.truth == label) * ML


@pytest.fixture(scope="module")
def pairs():
    """End-diastole and end-systole of three patients a group."""
    return {group: [(patient(i, group), patient(i, group, "ES")) for i in range(3)] for group in GROUPS}


def test_the_same_generator_gives_the_same_patient_and_another_another():
    one, two, other = (patient(seed, "NOR") for seed in (5, 5, 6))
    np.testing.assert_array_equal(one.image, two.image)
    np.testing.assert_array_equal(one.truth, two.truth)
    assert (one.truth != other.truth).any()


def test_volumes_are_those_of_hearts(pairs):
    """Ranges of adults at end-diastole; the left ventricle ejects more than half where it is healthy."""
    for group, found in pairs.items():
        for ed, es in found:
            assert set(np.unique(ed.truth)) == {0, RV, MYO, LV}
            assert 60 < ml(ed, RV) < 220
            assert 70 < ml(ed, MYO) < 220
            assert 60 < ml(ed, LV) < 260
            ejected = 1 - ml(es, LV) / ml(ed, LV)
            assert 0.5 < ejected < 0.8 if group in ("NOR", "HCM", "RV") else 0.15 < ejected < 0.5
            assert ml(es, RV) < ml(ed, RV)
            assert ml(es, MYO) == pytest.approx(ml(ed, MYO), rel=0.25)  # muscle keeps its volume


def test_groups_differ_as_their_names_say(pairs):
    mean = {
        (group, label): np.mean([ml(ed, label) for ed, _ in pairs[group]]) for group in GROUPS for label in (1, 2, 3)
    }
    assert mean["DCM", LV] > 1.4 * mean["NOR", LV]
    assert mean["HCM", MYO] > 1.25 * mean["NOR", MYO]
    assert mean["RV", RV] > 1.4 * mean["NOR", RV]
    assert mean["MINF", LV] > mean["NOR", LV]


def middle(phantom):
    """The slice of the largest right ventricle among those below the valves."""
    areas = (phantom.truth == RV).sum(axis=(1, 2))
    return phantom.truth[int(np.argmax(areas[2:])) + 2]


def solidity(mask):
    points = np.argwhere(mask)
    corners = np.concatenate([points + offset for offset in ((0, 0), (0, 1), (1, 0), (1, 1))])
    return mask.sum() / ConvexHull(corners).volume


def test_the_right_ventricle_is_a_crescent_that_hugs_the_septum(pairs):
    for ed, _ in pairs["NOR"] + pairs["MINF"] + pairs["DCM"]:
        z = middle(ed)
        assert solidity(z == RV) < 0.9
        assert solidity((z == LV) | (z == MYO)) > 0.93
        assert solidity(z == RV) < solidity((z == LV) | (z == MYO)) - 0.05
        touching = ndimage.binary_dilation(z == MYO, iterations=2) & (z == RV)
        assert touching.sum() > 0.1 * (z == RV).sum()
        columns = [np.argwhere(z == label)[:, 1].mean() for label in (RV, LV)]
        assert columns[0] < columns[1] - 5  # on the patient's right, which lies left in the picture


def test_the_myocardium_is_a_closed_ring_about_the_cavity(pairs):
    for found in pairs.values():
        for ed, _ in found:
            for z in ed.truth:
                if (z == LV).any():
                    assert (ndimage.binary_fill_holes(z == MYO)[z == LV]).all()
                    assert not (ndimage.binary_dilation(z == LV) & np.isin(z, (0, RV))).any()


def test_blood_is_bright_and_papillary_muscles_count_as_cavity(pairs):
    for ed, _ in pairs["NOR"]:
        mean = [ed.image[ed.truth == label].mean() for label in (RV, MYO, LV)]
        assert min(mean[0], mean[2]) > 1.8 * mean[1]
        inside = ndimage.binary_erosion(ed.truth == LV, np.ones((1, 3, 3)))
        assert np.percentile(ed.image[inside], 2) < 0.6 * np.median(ed.image[inside])


@pytest.mark.parametrize(
    ("group", "phase", "message"), [("XYZ", "ED", "group must be"), ("NOR", "MD", "phase must be")]
)
def test_unknown_group_or_phase(group, phase, message):
    with pytest.raises(ValueError, match=message):
        heart_phantom(np.random.default_rng(0), group, phase)
