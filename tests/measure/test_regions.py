import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segcal.measure.case import CaseTally, score_case
from segcal.measure.regions import dilated_box
from segcal.tasks import TaskSpec
from segcal.volume import Case, Prediction

SHAPE = (5, 6, 7)
quick = settings(deadline=None, max_examples=40, database=None)


def task(margin_mm=1.0, margin_slices=1):
    return TaskSpec(
        name="toy", layout="brats", channels=("t2",), labels={1: "core", 2: "rim"}, crop=(16, 16),
        spacing_mm=(None, None, None), batch=1, box_margin_mm=margin_mm, box_margin_slices=margin_slices,
    )  # fmt: skip


@st.composite
def truths(draw):
    """A few voxels of foreground, perhaps none, perhaps on the border."""
    truth = np.zeros(SHAPE, dtype=np.uint8)
    for voxel in draw(st.lists(st.tuples(*[st.integers(0, side - 1) for side in SHAPE]), max_size=3)):
        truth[voxel] = draw(st.integers(1, 2))
    return truth


@st.composite
def cases(draw):
    """Probabilities of three classes, some exactly 0, with a truth."""
    raw = draw(arrays(np.float64, (3, *SHAPE), elements=st.integers(0, 5).map(float), fill=st.nothing()))
    raw[0] += raw.sum(axis=0) == 0
    return (raw / raw.sum(axis=0)).astype(np.float32), Case(
        "c", np.zeros((1, *SHAPE), np.float32), draw(truths()), (3.0, 1.0, 0.5)
    )


def mask(truth, box):
    inside = np.zeros(truth.shape, dtype=bool)
    inside[box] = True
    return inside


def test_golden_box():
    truth = np.zeros((6, 40, 40), dtype=np.uint8)
    truth[3, 20:22, 5:8] = 1
    box = dilated_box(truth, (3, 0.5, 0.5), 8, 2)
    assert box == (slice(1, 6), slice(4, 38), slice(0, 24))
    assert mask(truth, box).sum() == 4080


def test_margin_of_one_voxel_by_hand():
    truth = np.zeros((3, 5, 5), dtype=np.uint8)
    truth[1, 2, 2] = 3
    assert dilated_box(truth, (9.0, 1.0, 1.0), 0.0, 0) == (slice(1, 2), slice(2, 3), slice(2, 3))
    assert dilated_box(truth, (9.0, 1.0, 0.5), 1.0, 0) == (slice(1, 2), slice(1, 4), slice(0, 5))
    assert dilated_box(truth, (9.0, 1.0, 1.0), 0.0, 1) == (slice(0, 3), slice(2, 3), slice(2, 3))


def test_margin_grows_to_whole_voxels_and_is_not_fooled_by_rounding():
    truth = np.zeros((1, 201, 201), dtype=np.uint8)
    truth[0, 100, 100] = 1
    assert dilated_box(truth, (1, 0.3, 0.1), 8, 0)[1:] == (slice(73, 128), slice(20, 181))  # 26.7 -> 27; 8 / 0.1 -> 80
    assert dilated_box(truth, (1, 0.7, 0.7), 2.1, 0)[1] == slice(97, 104)  # 2.1 / 0.7 = 3.0000000000000004


def test_no_foreground_is_an_empty_box():
    truth = np.zeros((2, 3, 4), dtype=np.uint8)
    assert truth[dilated_box(truth, (1, 1, 1), 8, 2)].size == 0


@quick
@given(truths(), st.sampled_from([0.0, 0.5, 1.0, 2.4]), st.integers(0, 2))
def test_box_holds_every_voxel_within_the_margin_of_the_foregrounds_extent(truth, margin_mm, margin_slices):
    """Voxel by voxel: inside where the distance to the extent on each axis is at most the (rounded up) margin."""
    spacing_mm = (3.0, 1.0, 0.5)
    reach = (margin_slices, int(np.ceil(margin_mm / 1.0)), int(np.ceil(margin_mm / 0.5)))
    expected = np.full(truth.shape, bool(truth.any()))
    for axis, present in enumerate(np.nonzero(truth)):
        for index in range(truth.shape[axis] if present.size else 0):
            if index < present.min() - reach[axis] or index > present.max() + reach[axis]:
                np.moveaxis(expected, axis, 0)[index] = False
    found = mask(truth, dilated_box(truth, spacing_mm, margin_mm, margin_slices))
    np.testing.assert_array_equal(found, expected)


@quick
@given(cases())
def test_whole_is_inside_plus_outside_the_box(given_):
    probs, case = given_
    inside = mask(case.truth, dilated_box(case.truth, case.spacing_mm, 1.0, 1))
    p_true = np.take_along_axis(probs, case.truth[None].astype(int), 0)[0].astype(float)
    squared = ((probs.astype(float) - np.eye(3)[case.truth].transpose(3, 0, 1, 2)) ** 2).sum(axis=0)
    found = score_case(Prediction(probs), case, task())
    for region, where in {"box": inside, "whole": np.ones(SHAPE, dtype=bool)}.items():
        n = where.sum()
        if not n:
            assert np.isnan(found[f"nll@{region}"])
            continue
        assert found[f"clipped@{region}"] == (p_true[where] < 1e-12).sum()
        expected = {
            "nll": -np.log(np.maximum(p_true[where], 1e-12)).mean(),
            "brier": squared[where].mean(),
            "confidence": probs.max(axis=0)[where].mean(dtype=float),
            "accuracy": (probs.argmax(axis=0) == case.truth)[where].mean(),
        }
        for metric, value in expected.items():
            assert found[f"{metric}@{region}"] == pytest.approx(value, rel=1e-6, abs=1e-6), metric


@quick
@given(cases(), st.sets(st.integers(1, SHAPE[0] - 1)), st.randoms(use_true_random=False))
def test_neither_the_cut_into_slabs_nor_their_order_matters(given_, cuts, random):
    probs, case = given_
    bounds = [0, *sorted(cuts), SHAPE[0]]
    slabs = list(itertools.pairwise(bounds))
    random.shuffle(slabs)
    tally = CaseTally(case, task())
    for first, stop in slabs:
        tally.add(tally.slab(first, [Prediction(probs[:, first:stop])], 1))
    found = {name: values[0] for name, values in tally.scores().metrics.items()}
    assert found == pytest.approx(score_case(Prediction(probs), case, task()), rel=1e-9, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize(
    ("shape", "margins", "message"),
    [
        ((3, 3), (8, 2), r"truth must be \(Z, Y, X\), got shape \(3, 3\)"),
        ((1, 3, 3), (-1, 2), "margins must not be negative, got -1 mm and 2 slices"),
        ((1, 3, 3), (8, -2), "margins must not be negative, got 8 mm and -2 slices"),
    ],
)
def test_bad_input_states_rule_and_value(shape, margins, message):
    with pytest.raises(ValueError, match=message):
        dilated_box(np.ones(shape, dtype=np.uint8), (1, 1, 1), *margins)
