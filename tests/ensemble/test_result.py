"""The numbers of result.json, each by other means."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t

from segcal.ensemble.foresight import novelty
from segcal.ensemble.loaded import EnsemblePrediction
from segcal.ensemble.result import Outcome, case_result, label_values, mask_volume_ml, warnings_of
from segcal.volume import Volume
from tests.ensemble.identity import LINE, identity, task_of

SPACING = (4.0, 0.5, 0.8)  # mm


def outcome(labels=None, entropies=None, way_back=None) -> Outcome:
    """12 voxels of core, 3 of rim, on a native grid of 4 x 0.5 x 0.8 mm."""
    classes = np.zeros((2, 32, 32), dtype=np.uint8)
    classes[0, 10:12, 10:16] = 1
    classes[1, 5, 5:8] = 2
    labels = classes if labels is None else labels
    entropies = {"core": 0.3, "rim": 0.4} if entropies is None else entropies
    probs = np.zeros((3, *classes.shape), dtype=np.float32)
    native = {"shape": [2, 32, 32], "spacing_mm": list(SPACING), "affine": np.eye(4).tolist(),
              "turned_spacing_mm": [3.0, 1.0, 1.0], "turned_shape": [2, 32, 32], "axes": []}  # fmt: skip
    usual = {"spacing_mm": [3.0, 1.0, 1.0], "crop_offset": [0, 0], "resampled_shape": [2, 32, 32], "native": native}
    usual["native"] = native | (way_back or {}).pop("native", {}) if way_back else native
    found = EnsemblePrediction(probs, labels, np.zeros(classes.shape, np.float32), entropies)
    return Outcome("P1", found, usual | (way_back or {}), Volume(classes, SPACING, np.eye(4)), {"t2": []})


def structures(ensemble, of):
    return case_result(ensemble, of, {}, [])["structures"]


def test_volume_in_ml_of_anisotropic_voxels():
    """A voxel of 4 x 0.5 x 0.8 mm has 1.6 mm3: 12 of them 0.0192 ml."""
    found = structures(identity(), outcome())
    assert found["core"]["volume_ml"] == pytest.approx(0.0192)
    assert found["rim"]["volume_ml"] == pytest.approx(3 * 1.6 / 1000)
    assert mask_volume_ml(np.zeros((2, 2, 2), bool), SPACING) == 0
    assert mask_volume_ml(np.ones((100, 10, 10), bool), (1.0, 1.0, 1.0)) == 10.0


def test_predicted_dice_by_hand():
    """At the mean entropy: y = 2 - 5 * 0.3 = 0.5, half width t_8(0.975) * 0.5 * sqrt(1 + 1/10)."""
    found = structures(identity(), outcome())["core"]["predicted_dice"]
    half = t.ppf(0.975, 8) * 0.5 * math.sqrt(1.1)
    assert found["point"] == pytest.approx(1 / (1 + math.exp(-0.5)))
    assert found["low"] == pytest.approx(1 / (1 + math.exp(half - 0.5)))
    assert found["high"] == pytest.approx(1 / (1 + math.exp(-half - 0.5)))
    assert found["level"] == 0.95
    assert found["extrapolated"] is False


def test_a_dice_beyond_the_fitted_entropies_is_marked_and_warned_of():
    of = outcome(entropies={"core": 0.41, "rim": 0.19})
    found = structures(identity(), of)
    assert found["core"]["predicted_dice"]["extrapolated"]
    assert found["rim"]["predicted_dice"]["extrapolated"]
    told = warnings_of(identity(), of)
    assert len(told) == 2
    assert told[0].startswith("H(S) of core is 0.41 nats, beyond the 0.2 to 0.4")


def test_what_is_unknown_is_null_with_a_reason_and_never_nan():
    of = outcome(entropies={"core": 0.3, "rim": math.nan})
    result = case_result(identity(dice={"core": None, "rim": LINE}, novelty=None), of, {}, [])
    json.dumps(result, allow_nan=False)
    core, rim = result["structures"]["core"], result["structures"]["rim"]
    assert core["predicted_dice"] is None
    assert "too few" in core["predicted_dice_reason"]
    assert rim["segment_entropy_nats"] is None
    assert rim["predicted_dice_reason"] == "nothing is predicted of this structure"
    assert result["out_of_distribution"] is None
    assert "no threshold" in result["out_of_distribution_reason"]


def test_the_flag_compares_the_mean_entropy_of_what_is_predicted():
    found = case_result(identity(), outcome(), {}, [])["out_of_distribution"]
    assert found["score_nats"] == pytest.approx(0.35)
    assert found["flag"] is False
    assert found["false_positive_rate"] == 1 / 21
    assert (found["threshold_nats"], found["n_source"], found["n_target"], found["detected_share"]) == (
        0.4,
        20,
        10,
        0.7,
    )
    one = case_result(identity(), outcome(entropies={"core": 0.41, "rim": math.nan}), {}, [])["out_of_distribution"]
    assert one["score_nats"] == 0.41
    assert one["flag"] is True


def test_the_case_that_set_the_threshold_is_not_flagged_by_rounding():
    made = identity(novelty=novelty([0.1, 0.2, 0.3, 0.4]))
    result = case_result(made, outcome(entropies={"core": 0.4 + 4e-10, "rim": math.nan}), {}, [])
    assert result["out_of_distribution"]["flag"] is False
    assert result["structures"]["core"]["predicted_dice"]["extrapolated"] is False


def test_nothing_predicted_is_warned_of_and_flagged():
    of = outcome(entropies={"core": math.nan, "rim": math.nan})
    assert warnings_of(identity(), of) == ["nothing is predicted: look whether the structures are there"]
    found = case_result(identity(), of, {}, [])["out_of_distribution"]
    assert (found["flag"], found["score_nats"], found["threshold_nats"]) == (True, None, 0.4)


def test_nothing_predicted_in_the_middle_of_a_larger_image():
    """What is looked for may lie beyond the crop."""
    way_back = {"crop_offset": [10, 0], "resampled_shape": [4, 52, 32]}
    of = outcome(entropies={"core": math.nan, "rim": math.nan}, way_back=way_back)
    assert warnings_of(identity(), of) == [
        "nothing is predicted: look whether the structures are there, within the 32x32 mm around its centre that the "
        "networks see"
    ]


@pytest.mark.parametrize(
    ("spacing_mm", "told"),
    [
        ([3.0, 1.0, 1.0], []),
        ([3.75, 1.25, 0.6], []),  # 25% beyond, not more
        ([3.76, 1.0, 1.0], ["3.76 mm along z (training: 1 to 3 mm)"]),
        ([1.0, 10.0, 1.0], ["10 mm along y (training: 1 mm)"]),
        ([0.74, 1.0, 0.59], ["0.74 mm along z (training: 1 to 3 mm), 0.59 mm along x (training: 0.8 to 1 mm)"]),
    ],
)  # fmt: skip
def test_spacings_far_from_training(spacing_mm, told):
    assert warnings_of(identity(), outcome(way_back={"native": {"turned_spacing_mm": spacing_mm}})) == [
        f"voxels are far from those of training: {text}; predicted Dice and flag need not hold" for text in told
    ]


@pytest.mark.parametrize(
    ("offset", "whole", "at", "cut"),
    [
        ([4, 0], [2, 40, 32], (0, 0, 9), "core"),  # the crop begins 4 rows below the image's border
        ([4, 0], [2, 40, 32], (0, 31, 9), "core"),
        ([4, 0], [2, 36, 32], (0, 31, 9), ""),  # the image ends where the crop does
        ([0, 0], [2, 32, 32], (0, 0, 0), ""),  # the border of the crop is the image's
        ([0, 3], [2, 32, 38], (1, 9, 0), "core"),
        ([0, -3], [2, 32, 26], (1, 9, 0), ""),  # padded
        ([0, 3], [2, 32, 38], (1, 9, 1), ""),  # near the border, not at it
        ([4, 4], [2, 40, 40], (0, 9, 9), ""),
    ],
)
def test_structures_that_the_crop_cuts(offset, whole, at, cut):
    labels = np.zeros((2, 32, 32), dtype=np.uint8)
    labels[at] = 1
    told = warnings_of(identity(), outcome(labels, way_back={"crop_offset": offset, "resampled_shape": whole}))
    assert told == ([f"{cut} cut at the border of the 32x32 mm that the networks see: what lies beyond has no label"]
                    if cut else [])  # fmt: skip


def test_a_crop_of_volumes_cuts_slices_too():
    task = task_of(crop=(16, 32, 32), spacing_mm=(3.0, 1.0, 1.0))
    labels = np.zeros((16, 32, 32), dtype=np.uint8)
    labels[15, 9, 9] = 2
    back = {"crop_offset": [2, 0, 0], "resampled_shape": [20, 32, 32]}
    assert warnings_of(identity(task), outcome(labels, way_back=back))[0].startswith(
        "rim cut at the border of the 48x32x32"
    )


def test_labels_have_the_values_of_the_tasks_files():
    assert label_values(identity()) == {0: 0, 1: 5, 2: 7}  # 2 means core too, and stands later
    assert structures(identity(), outcome())["rim"]["label"] == 7


def test_the_result_names_the_model_and_its_members():
    result = case_result(identity(), replace(outcome(), sources={"t2": [{"file": "a", "sha256": "0"}]}), {}, ["w"])
    assert result["model"] == {
        "name": "segcal-plain-ensemble", "version": 3, "task": "plain", "recipe": "CE",
        "members": [{"name": "net", "version": 4, "weights_sha256": "ab" * 32}],
    }  # fmt: skip
    assert result["native"] == {"axes": "zyx", "shape": [2, 32, 32], "spacing_mm": list(SPACING),
                                "affine": np.eye(4).tolist()}  # fmt: skip
    assert result["sources"]["t2"] == [{"file": "a", "sha256": "0"}]
    assert result["warnings"] == ["w"]
    assert result["format"] == 1
    assert result["code_version"]
