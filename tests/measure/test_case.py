import numpy as np
import pytest

from segcal.data.taskfile import load_task
from segcal.measure.calibration import brier, ece, ece_classwise, nll
from segcal.measure.case import CaseTally, columns, score_case
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


def collect(case, probs, starts, log_probs=None, **options):
    tally = CaseTally(case, TASK, **options)
    for first, end in starts:
        slabs = [Prediction(p[:, first:end], None if log_probs is None else log_probs[:, first:end]) for p in probs]
        tally.add(tally.slab(first, slabs, len(slabs)))
    return tally.scores()


def test_every_metric_equals_its_plain_function(example):
    case, probs = example
    found = score_case(Prediction(probs), case, TASK)
    assert list(found) == columns(TASK)
    box = dilated_box(case.truth, SPACING_MM, 2.0, 1)
    for region, part in {"box": box, "whole": (slice(None),) * 3}.items():
        inside, truth = probs[(slice(None), *part)], case.truth[part]
        plain = {"nll": nll, "brier": brier, "ece": ece, "ece_classwise": ece_classwise}
        for name, function in plain.items():
            assert found[f"{name}@{region}"] == pytest.approx(function(inside, truth), rel=1e-9)
        for n_bins in (15, 20, 30):
            assert found[f"ece{n_bins}@{region}"] == pytest.approx(ece(inside, truth, n_bins), rel=1e-9)
        assert found[f"accuracy@{region}"] == pytest.approx((inside.argmax(axis=0) == truth).mean())
    labels = probs.argmax(axis=0)
    for label, structure in enumerate(TASK.structures, start=1):
        assert found[f"dice@{structure}"] == dice(labels, case.truth, label)
        assert found[f"hd95@{structure}"] == hd95(labels == label, case.truth == label, SPACING_MM)
        assert 0 < found[f"hd95_pooled@{structure}"] <= found[f"hd95@{structure}"]
        assert found[f"entropy@{structure}"] == pytest.approx(segment_entropy(probs, label))


@pytest.mark.parametrize("slab", [1, 2, 5])
def test_slab_by_slab_is_the_whole(example, slab):
    case, probs = example
    found = collect(case, [probs], [(first, first + slab) for first in range(0, 7, slab)]).metrics
    whole = score_case(Prediction(probs), case, TASK)
    assert {name: values[0] for name, values in found.items()} == pytest.approx(whole, rel=1e-9, nan_ok=True)


def test_subsets_are_scored_as_stored_ensembles(example):
    case, probs = example
    other = np.roll(probs, 1, axis=3)
    both = (probs.astype(float) + other) / 2
    found = collect(case, [probs, other], [(0, 7)], subsets=[(0,), (1,), (0, 1)]).metrics
    for s, map_ in enumerate((probs, other, both)):
        plain = score_case(Prediction(map_), case, TASK)
        assert {name: values[s] for name, values in found.items()} == pytest.approx(plain, rel=1e-6, nan_ok=True)


def test_only_full_subsets_have_distances_and_bins(example):
    case, probs = example
    found = collect(case, [probs], [(0, 7)], subsets=[(0,), (0,)], full=np.array([True, False]))
    assert np.isfinite(found.metrics["hd95@edema"]).tolist() == [True, False]
    assert np.isnan(found.metrics["hd95_worst@edema"]).tolist() == [False, True]
    assert found.metrics["dice@edema"][0] == found.metrics["dice@edema"][1]
    assert (found.top.shape, found.classwise.shape, found.segments.shape) == (
        (1, 2, 10, 3), (1, 2, 4, 10, 3), (1, 3, 60),
    )  # fmt: skip
    labels = probs.argmax(axis=0)
    assert found.top[0, 1, :, 0].sum() == case.truth.size
    assert found.top[0, 1, :, 2].sum() == (labels == case.truth).sum()
    assert found.segments[0].sum(axis=1).tolist() == [(labels == label).sum() for label in (1, 2, 3)]


def test_the_decomposition_is_there_where_it_was_asked_for(example):
    """Law 2 and law 6 in per-voxel means, over the box and the whole volume."""
    case, probs = example
    pair = [probs, np.roll(probs, 1, axis=3)]
    found = collect(case, pair, [(0, 7)], subsets=[(0,), (1,), (0, 1)], decomposed=np.array([False, False, True]))
    for region in ("box", "whole"):
        get = {name: found.metrics[f"{name}@{region}"] for name in ("brier", "variance", "entropy", "member_entropy")}
        assert np.isnan(get["variance"]).tolist() == [True, True, False]
        assert get["brier"][:2].mean() - get["brier"][2] == pytest.approx(get["variance"][2], abs=1e-6)
        assert get["entropy"][2] > get["member_entropy"][2] > 0


def test_a_single_model_is_not_clipped_and_an_ensemble_is_counted(example):
    case, _ = example
    log_probs = np.full((4, *case.truth.shape), -200.0, dtype=np.float32)
    log_probs[0] = 0.0
    probs = np.exp(log_probs)
    wrong = int((case.truth > 0).sum())
    single = score_case(Prediction(probs, log_probs), case, TASK)
    assert single["nll@whole"] == pytest.approx(200 * wrong / case.truth.size)
    assert single["clipped@whole"] == 0
    mean = score_case(Prediction(probs), case, TASK)
    assert mean["nll@whole"] == pytest.approx(-np.log(1e-12) * wrong / case.truth.size)
    assert mean["nll_loose@whole"] == pytest.approx(-np.log(1e-6) * wrong / case.truth.size)
    assert mean["clipped@whole"] == wrong


def test_what_is_nowhere_is_not_a_number():
    case = Case("c", np.zeros((3, 2, 4, 4)), np.zeros((2, 4, 4), dtype=np.uint8), SPACING_MM)
    probs = np.zeros((4, 2, 4, 4))
    probs[0] = 1
    found = score_case(Prediction(probs), case, TASK)
    assert np.isnan([found[f"{m}@{s}"] for s in TASK.structures for m in ("dice", "hd95", "entropy")]).all()
    assert np.isnan([found[f"{m}@box"] for m in ("nll", "brier", "ece")]).all()
    assert found["nll@whole"] == 0.0


def test_predicted_but_absent_is_dice_0_and_no_distance():
    case = Case("c", np.zeros((3, 1, 4, 4)), np.zeros((1, 4, 4), dtype=np.uint8), SPACING_MM)
    probs = np.zeros((4, 1, 4, 4))
    probs[1] = 1
    found = score_case(Prediction(probs), case, TASK)
    assert found["dice@non-enhancing"] == 0.0
    assert np.isnan(found["hd95@non-enhancing"])
    assert found["hd95_worst@non-enhancing"] == pytest.approx(np.sqrt(3**2 + 4**2 + 4**2))
    assert np.isnan(found["hd95_worst@edema"])
    assert found["entropy@non-enhancing"] == 0.0


def test_a_wrong_shape_names_the_case(example):
    case, probs = example
    with pytest.raises(ValueError, match=r"must have \(4, 12, 12\) classes, rows and columns of c, got \(3, 12, 12\)"):
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
        with pytest.raises(ValueError, match="every slice must be added once"):
            collect(case, [probs], [(first, first + 4) for first in starts])
