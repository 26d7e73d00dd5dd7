"""Metrics of plug-ins on a case of four voxels."""

import numpy as np
import pytest

from segcal.errors import SegcalError
from segcal.measure.case import columns, score_case
from segcal.measure.metric import METRICS, Metric, added_metrics
from segcal.tasks import TaskSpec
from segcal.volume import Case, Prediction

TASK = TaskSpec(
    name="t", layout="brats", channels=("a",), labels={1: "core"}, spacing_mm=(None, None, None), crop=(16, 16),
    batch=1, box_margin_mm=0.0, box_margin_slices=0,
)  # fmt: skip
TRUTH = np.array([[[0, 0, 1, 1]]])
P_CORE = np.array([0.1, 0.4, 0.6, 0.2], dtype=np.float32).reshape(1, 1, 4)
HEAD = "import numpy as np\nfrom segcal.measure.metric import Metric\n"


def scores():
    case = Case("c", np.zeros((1, 1, 1, 4), np.float32), TRUTH, (1.0, 1.0, 1.0))
    return score_case(Prediction(np.stack([1 - P_CORE, P_CORE])), case, TASK)


def test_of_a_region_and_of_a_structure(packages):
    packages.install(
        "more", HEAD + "gap = Metric('region', lambda r: (r.top[..., 1] - r.top[..., 2]).sum(-1) / r.voxels)\n"
        "size = Metric('structure', lambda s: s.predicted, better='high')\n",
        metrics={"gap": "gap", "size": "size"},
    )  # fmt: skip
    before = set(columns(TASK))
    found = scores()
    assert list(found) == columns(TASK)
    assert {"gap@box", "gap@whole", "size@core"} == before - {
        c for c in before if c.partition("@")[0] in METRICS.built_in
    }
    # confidences 0.9 0.6 0.6 0.8, right but for the last; the box holds the last two
    assert found["gap@whole"] == pytest.approx((0.9 + 0.6 + 0.6 + 0.8 - 3) / 4)
    assert found["gap@box"] == pytest.approx((0.6 + 0.8 - 1) / 2)
    assert found["size@core"] == 1.0
    assert (METRICS["gap"].title, METRICS["size"].better) == ("gap", "high")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("lambda r: r.nll[:0]", r"must give 1 numbers, one a subset, or NaN, got shape \(0,\)"),
        ("lambda r: 0.5", r"got shape \(\)"),
        ("lambda r: ['low']", "ValueError: could not convert string to float"),
        ("lambda r: r.absent", "AttributeError: 'RegionSums' object has no attribute 'absent'"),
        ("lambda r: np.full(r.nll.shape, np.inf)", "got an infinite one"),
        ("lambda r: np.multiply(r.brier, 0, out=r.brier)", "read-only"),
        ("lambda r: exit('no\\nlicence')", "SystemExit: no licence; correct or uninstall it"),
    ],
)
def test_what_one_gets_wrong_is_told_with_its_name(packages, body, reason):
    packages.install("more", HEAD + f"bad = Metric('region', {body})\n", metrics={"bad": "bad"})
    with pytest.raises(SegcalError, match=rf"the metric 'bad' of more 1\.0 \(more:bad\).*{reason}"):
        scores()


def test_distances_are_read_only_too(packages):
    code = "bad = Metric('structure', lambda s: s.distances[0].to_truth.sort())\n"
    packages.install("more", HEAD + code, metrics={"bad": "bad"})
    with pytest.raises(SegcalError, match=r"the metric 'bad' of more .*read-only"):
        scores()


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ("len", "a metric must be a segcal.measure.metric.Metric, got builtin_function_or_method"),
        (
            "Metric('voxel', len)",
            "must be of 'region' or 'structure', and better 'low' or 'high', got 'voxel' and 'low'",
        ),
        ("Metric('region', len, better='up')", "got 'region' and 'up'"),
        ("Metric('region', 3)", "a metric's compute must be a function, got int"),
        ("Metric('region', len, scale=0)", "a metric's scale must be above 0, got 0"),
    ],
)
def test_one_of_a_wrong_kind_is_left_out(packages, made, reason):
    packages.install("more", HEAD + f"bad = {made}\n", metrics={"bad": "bad"})
    assert "bad" not in METRICS
    assert reason in METRICS.unknown("bad")
    assert added_metrics() == ()


def test_name_version_and_source_are_its_identity(packages):
    packages.install("more", HEAD + "m = Metric('region', lambda r: r.nll)\n", "1.0", metrics={"m": "m"})
    ((name, origin, source),) = added_metrics()
    assert (name, origin) == ("m", "more==1.0")
    (packages.folder / "more.py").write_text(HEAD + "m = Metric('region', lambda r: 2 * r.nll)\n")
    packages.look_again()
    assert added_metrics()[0][:2] == (name, origin)
    assert added_metrics()[0][2] != source


def test_a_metric_of_segcal_is_one_too():
    assert METRICS["ece"].of == "region"
    assert isinstance(METRICS["dice"], Metric)
