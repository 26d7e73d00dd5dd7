import numpy as np
import pytest

from segcal.data.taskfile import load_task
from segcal.measure.calibration import brier, ece, nll
from segcal.measure.case import CaseTally, score_case
from segcal.measure.overlap import dice
from segcal.measure.regions import dilated_box
from segcal.measure.surface import hd95
from segcal.measure.uncertainty import logit, segment_entropy
from segcal.volume import Case, Prediction

TASK = load_task("brain", {"box_margin_mm": 2.0, "box_margin_slices": 1})
SPACING_MM = (3.0, 1.0, 1.0)


@pytest.fixture
def example():
    rng = np.random.default_rng(4)
    truth = np.zeros((7, 12, 12), dtype=np.uint8)
    truth[2:5, 4:8, 4:8] = rng.integers(0, 4, (3, 4, 4))
    logits = rng.normal(0, 1, (4, *truth.shape)) + 2 * np.eye(4)[truth].transpose(3, 0, 1, 2)
    probs = np.exp(logits) / np.exp(logits).sum(axis=0)
    return Case("c", np.zeros((3, 7, 12, 12), np.float32), truth, SPACING_MM), probs.astype(np.float32)


def values(scores):
    return {(score.region or score.structure, score.metric): score.value for score in scores}


def test_every_metric_equals_its_plain_function(example):
    case, probs = example
    found = values(score_case(Prediction(probs), case, TASK))
    box = dilated_box(case.truth, SPACING_MM, 2.0, 1)
    for region, part in {"box": box, "whole": (slice(None),) * 3}.items():
        inside, truth = probs[(slice(None), *part)], case.truth[part]
        for name, function in {"nll": nll, "brier": brier, "ece": ece}.items():
            assert found[region, name] == pytest.approx(function(inside, truth), rel=1e-6)
        assert found[region, "accuracy"] == pytest.approx((inside.argmax(axis=0) == truth).mean())
    labels = probs.argmax(axis=0)
    for label, structure in enumerate(TASK.structures, start=1):
        assert found[structure, "dice"] == dice(labels, case.truth, label)
        assert found[structure, "hd95"] == hd95(labels == label, case.truth == label, SPACING_MM)
        assert found[structure, "entropy"] == pytest.approx(segment_entropy(probs, label))


@pytest.mark.parametrize("slab", [1, 2, 5])
def test_slab_by_slab_is_the_whole(example, slab):
    case, probs = example
    tally = CaseTally(case, TASK)
    for first in range(0, 7, slab):
        tally.add(Prediction(probs[:, first : first + slab]), first)
    assert values(tally.scores()) == pytest.approx(values(score_case(Prediction(probs), case, TASK)), rel=1e-12)


def test_whole_is_inside_and_outside_the_box(example):
    case, probs = example
    tally = CaseTally(case, TASK)
    tally.add(Prediction(probs), 0)
    box, whole = tally.regions()["box"], tally.regions()["whole"]
    p_true = np.take_along_axis(probs, case.truth[None].astype(int), 0)[0].astype(float)
    outside = np.ones(case.truth.shape, dtype=bool)
    outside[dilated_box(case.truth, SPACING_MM, 2.0, 1)] = False
    assert whole.voxels - box.voxels == outside.sum()
    assert whole.nll_sum - box.nll_sum == pytest.approx(-np.log(p_true[outside]).sum())
    assert whole.bins.sum(axis=1) == pytest.approx([case.truth.size, probs.max(axis=0).sum(), whole.bins[2].sum()])


def test_a_single_model_is_not_clipped_and_an_ensemble_is_counted(example):
    case, _ = example
    log_probs = np.full((4, *case.truth.shape), -200.0, dtype=np.float32)
    log_probs[0] = 0.0
    probs = np.exp(log_probs)
    wrong = int((case.truth > 0).sum())
    single = values(score_case(Prediction(probs, log_probs), case, TASK))
    assert single["whole", "nll"] == pytest.approx(200 * wrong / case.truth.size)
    assert single["whole", "clipped"] == 0
    mean = values(score_case(Prediction(probs), case, TASK))
    assert mean["whole", "nll"] == pytest.approx(-np.log(1e-12) * wrong / case.truth.size)
    assert mean["whole", "clipped"] == wrong


def test_what_is_nowhere_is_not_a_number():
    case = Case("c", np.zeros((3, 2, 4, 4)), np.zeros((2, 4, 4), dtype=np.uint8), SPACING_MM)
    probs = np.zeros((4, 2, 4, 4))
    probs[0] = 1
    found = values(score_case(Prediction(probs), case, TASK))
    assert np.isnan([found[s, m] for s in TASK.structures for m in ("dice", "hd95", "entropy")]).all()
    assert np.isnan([found["box", m] for m in ("nll", "brier", "ece")]).all()
    assert found["whole", "nll"] == 0.0


def test_predicted_but_absent_is_dice_0_and_no_distance():
    case = Case("c", np.zeros((3, 1, 4, 4)), np.zeros((1, 4, 4), dtype=np.uint8), SPACING_MM)
    probs = np.zeros((4, 1, 4, 4))
    probs[1] = 1
    found = values(score_case(Prediction(probs), case, TASK))
    assert found["non-enhancing", "dice"] == 0.0
    assert np.isnan(found["non-enhancing", "hd95"])
    assert found["non-enhancing", "hd95_worst"] == pytest.approx(np.sqrt(3**2 + 4**2 + 4**2))
    assert np.isnan(found["edema", "hd95_worst"])
    assert found["non-enhancing", "entropy"] == 0.0


def test_a_wrong_shape_names_the_case(example):
    case, probs = example
    with pytest.raises(ValueError, match=r"shape \(4, 7, 12, 12\) of c, got \(3, 7, 12, 12\)"):
        score_case(Prediction(probs[:3]), case, TASK)


def test_dice_and_logit_by_hand():
    assert dice(np.array([1, 1, 0, 2]), np.array([1, 0, 0, 2]), 1) == pytest.approx(2 / 3)
    assert dice(np.array([0, 1]), np.array([0, 0]), 1) == 0.0
    assert np.isnan(dice(np.zeros(3, int), np.zeros(3, int), 1))
    np.testing.assert_allclose(logit(np.array([0.5, 0.0, 1.0])), [0, np.log(0.001 / 0.999), np.log(0.999 / 0.001)])


def test_ties_take_the_lowest_class():
    probs = np.full((2, 4), 0.5)
    assert np.isnan(segment_entropy(probs, 1))
    assert segment_entropy(probs, 0) == pytest.approx(np.log(2))


def test_a_slice_that_is_missing_or_added_twice_is_noticed(example):
    case, probs = example
    for starts in ([0], [0, 3, 3]):
        tally = CaseTally(case, TASK)
        for first in starts:
            tally.add(Prediction(probs[:, first : first + 4]), first)
        with pytest.raises(ValueError, match="every slice must be added once"):
            tally.scores()
