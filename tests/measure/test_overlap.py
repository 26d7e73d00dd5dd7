import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segcal.measure.overlap import dice

LABELS = arrays(np.uint8, st.integers(0, 12), elements=st.integers(0, 3))
PAIRS = st.integers(0, 12).flatmap(lambda n: st.tuples(*[arrays(np.uint8, n, elements=st.integers(0, 3))] * 2))
quick = settings(deadline=None, max_examples=60, database=None)


def plain_dice(prediction, truth, label):
    """Twice the size of the intersection over the sum of sizes, by sets of positions."""
    a, b = ({i for i, value in enumerate(labels) if value == label} for labels in (prediction, truth))
    return 2 * len(a & b) / (len(a) + len(b)) if a or b else float("nan")


@pytest.mark.parametrize(
    ("prediction", "truth", "expected"),
    [
        ([[1, 1], [0, 0]], [[1, 0], [1, 0]], 1 / 2),
        ([[1, 1], [1, 0]], [[1, 0], [0, 0]], 1 / 2),
        ([[1, 1], [1, 1]], [[1, 1], [1, 0]], 6 / 7),
        ([[1, 0], [0, 2]], [[1, 0], [0, 2]], 1.0),
        ([[1, 0], [0, 0]], [[2, 0], [0, 0]], 0.0),
    ],
)
def test_four_voxels_by_hand(prediction, truth, expected):
    assert dice(np.array(prediction), np.array(truth), 1) == pytest.approx(expected, abs=1e-15)


def test_absent_in_truth_but_predicted_is_0_and_absent_in_both_is_nan():
    nothing, something = np.zeros((2, 2), dtype=np.uint8), np.array([[0, 2], [0, 0]], dtype=np.uint8)
    assert dice(something, nothing, 2) == 0.0
    assert dice(nothing, something, 2) == 0.0
    assert np.isnan(dice(something, something, 1))
    assert np.isnan(dice(np.zeros(0, dtype=int), np.zeros(0, dtype=int), 1))


@quick
@given(PAIRS, st.integers(0, 3))
def test_equals_counting_positions(pair, label):
    assert dice(*pair, label) == pytest.approx(plain_dice(*pair, label), abs=1e-15, nan_ok=True)


@quick
@given(LABELS, st.integers(0, 3))
def test_a_map_agrees_with_itself(labels, label):
    assert dice(labels, labels, label) == pytest.approx(1.0 if (labels == label).any() else np.nan, nan_ok=True)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"one shape, got \(2,\) and \(3,\)"):
        dice(np.zeros(2, dtype=int), np.zeros(3, dtype=int), 1)
