from dataclasses import replace

import numpy as np
import pytest

from segcal.analysis.roles import Roles
from segcal.analysis.sensitivity import pooled_table, reliability, sensitivity_table
from segcal.measure.case import N_BINS
from segcal.records import Method
from segcal.report.tables import number
from tests.analysis.conftest import make_config, make_rows, make_scores

CE, DICE = Method("ce", "ce", 1, "cross_entropy"), Method("dice", "dice", 1, "soft_dice")


def roles_of(*methods, **configs):
    known = {m.recipe: configs.get(m.recipe, make_config(m.recipe, classes=3)) for m in methods}
    return Roles(tuple(methods), known, {m.recipe: 1 for m in methods})


@pytest.fixture
def task(gland):
    return replace(gland, labels={1: "a", 2: "b"})


@pytest.fixture
def scores(task):
    """Two patients, two draws of ce; ce is read in another way, too."""
    base = {
        "nll@box": [1.0, 2.0], "nll_loose@box": [0.9, 1.9], "brier@box": [0.3, 0.6], "ece@box": [0.1, 0.2],
        "ece15@box": [0.15, 0.25], "ece20@box": [0.2, 0.3], "dice@a": [0.5, np.nan], "dice@b": [0.7, 0.9],
        "hd95@a": [3.0, np.nan], "hd95@b": [5.0, 7.0], "hd95_pooled@a": [2.0, np.nan], "hd95_pooled@b": [4.0, 6.0],
        "hd95_worst@a": [3.0, 50.0], "hd95_worst@b": [5.0, 7.0],
    }  # fmt: skip
    twice = {name: np.array(values) * 2 for name, values in base.items()}
    read = {"nll@box": [0.25, 0.75], "brier@box": [0.125, 0.25], "ece@box": [0.5, 0.75], "dice@a": [0.25, np.nan],
            "dice@b": [0.5, 0.75]}  # fmt: skip
    far = dict.fromkeys(base, 9e9)
    return make_scores(
        task, make_rows(CE, base), make_rows(CE, twice, draw=1), make_rows(CE, read, variant="prior_corrected"),
        make_rows(DICE, base), make_rows(CE, far, split="ood", cases=["o"]),
    )  # fmt: skip


def test_every_entry_is_a_mean_over_patients_of_means_over_draws(scores, task):
    table = sensitivity_table(scores, roles_of(CE, DICE), task)
    found = dict(table.rows)
    assert table.columns == ("ce", "dice")
    expected = {
        "ECE %, 10 bins (default)": (22.5, 15.0), "ECE %, 15 bins": (30.0, 20.0), "ECE %, 20 bins": (37.5, 25.0),
        "Brier, summed over classes (default)": (0.675, 0.45),
        "Brier, mean over classes (Eq. 4 as printed)": (0.225, 0.15),
        "NLL, clip 1e-12; single models exact (default)": (2.25, 1.5), "NLL, every model clipped at 1e-06": (2.1, 1.4),
        "mean Dice (default)": ((0.75 + 1.2) / 2, (0.5 + 0.8) / 2),
        "HD95, mm, larger direction (default)": ((4.5 + 9) / 2, (3 + 6) / 2),
        "HD95, mm, both directions pooled": ((3 + 7.5) / 2, (2 + 5) / 2),
        "HD95, mm, missed structures = image diagonal": ((39.75 + 9) / 2, (26.5 + 6) / 2),
    }  # fmt: skip
    for title, values in expected.items():
        assert found[title] == tuple(map(number, values)), title
    read = {title: cells for title, cells in found.items() if "prior-corrected" in title}
    name = "prior-corrected (p/w, renormalised)"
    assert read == {
        f"NLL, {name}": ("0.500", ""), f"Brier, {name}": (number(0.1875), ""), f"ECE %, {name}": (number(62.5), ""),
        f"mean Dice, {name}": (number((0.25 + 0.625) / 2), ""),
    }  # fmt: skip
    assert not any("sigmoids over their sum" in title for title in found)  # nobody was read in that way
    assert len(found) == len(expected) + len(read)


def test_class_weights_are_compared_where_both_were_trained(scores, task):
    caption = sensitivity_table(scores, roles_of(CE, DICE), task).caption
    assert "only one rule was trained (inverse_frequency)" in caption
    other = Method("ce_none", "ce_none", 1, "cross_entropy")
    plain = make_config("ce_none", classes=3, weights="none", class_weights=(1.0,) * 3)
    frame = scores.frame[scores.frame.recipe == "ce"]
    wide = {name: [4.0, 8.0] for name in frame.columns if "@" in name}
    both = make_scores(task, make_rows(CE, wide), make_rows(other, {name: [1.0, 2.0] for name in wide}))
    table = sensitivity_table(both, roles_of(CE, other, ce_none=plain), task)
    assert "recipes with inverse_frequency and none, each with its own ensemble" in table.caption
    rows = dict(table.rows)
    assert rows["NLL, class weights none instead of inverse_frequency"] == (number(1.5), "")
    assert rows["ECE %, class weights none instead of inverse_frequency"] == (number(150.0), "")
    assert rows["NLL, clip 1e-12; single models exact (default)"] == (number(6.0), number(1.5))
    assert "only one rule was trained; add" in sensitivity_table(scores, roles_of(DICE), task).caption


@pytest.fixture
def bins(gland):
    """Two test cases of one voxel a bin, with errors of opposite sign, and one out of distribution."""
    top = np.zeros((3, 2, N_BINS, 3))
    top[0, :, 7] = [10, 7.5, 10]  # 10 voxels of mean confidence 0.75, all right
    top[1, :, 7] = [10, 7.5, 5]  # half of them right
    top[2, :, 3] = [1000, 350, 0]
    top[0, 1, 9] = [80, 76, 80]  # outside the box
    classwise = np.zeros((3, 2, 2, N_BINS, 3))
    classwise[:, :, 0] = top
    ece = [0.25, 0.25]
    return make_scores(
        gland,
        make_rows(CE, {"ece@box": ece, "ece@whole": [0.1, 0.25], "ece_classwise@box": [0.1, 0.3]}),
        make_rows(CE, {"ece@box": [9]}, split="ood", cases=["o"]),
        top=top, classwise=classwise,
    )  # fmt: skip


def test_errors_of_opposite_sign_cancel_in_the_pool(bins):
    ((title, cells),) = pooled_table(bins, [CE]).rows
    assert title == "ce"
    assert cells[0] == "0.000\nby patient 25.00"  # 15 of 20 are right at a confidence of 0.75
    assert cells[1] == "0.000\nby patient 20.00"
    assert cells[2] == "4.00\nby patient 17.50"  # of 100 voxels, 80 too unsure by 0.05 each
    assert cells[3] == "2.00\nby patient n/a"  # mean over two classes, of which one has no error


def test_nothing_in_the_box_is_no_error_of_zero(gland):
    scores = make_scores(gland, make_rows(CE, {"ece@box": [np.nan, np.nan]}))
    assert pooled_table(scores, [CE]).rows[0][1][0] == "n/a\nby patient n/a"


def test_reliability_is_pooled_over_the_test_cases(bins):
    box, whole = reliability(bins, [CE])
    assert (box.title, box.region, whole.region) == ("ce", "box", "whole")
    assert box.count.tolist() == [0] * 7 + [20, 0, 0]
    assert (box.confidence[7], box.accuracy[7], box.ece) == (0.75, 0.75, 0.0)
    assert np.isnan(box.confidence[[0, 9]]).all()
    assert (whole.count[9], whole.accuracy[9]) == (80, 1.0)
    assert whole.ece == pytest.approx(0.04)


def test_pooled_bins_of_a_study_are_those_of_its_cases(study, material):
    report, _ = study
    cases = {case.case_id: case for case in material.cohort.cases("test")}
    for bins in report.reliability:
        of_cases = sum(case.truth.size for case in cases.values())
        draws = 1 if "ensemble" in bins.title else 2 if "MC" in bins.title else 4
        if bins.region == "whole":
            assert bins.count.sum() == of_cases * draws
    assert {(bins.title, bins.region) for bins in report.reliability} == {
        (m, region)
        for region in ("box", "whole")
        for m in ("ce", "dice", "ce_mc, MC dropout", "dice_mc, MC dropout", "ce, ensemble of 4", "dice, ensemble of 4")
    }
