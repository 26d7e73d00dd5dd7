import math
from dataclasses import replace

import numpy as np
import pytest

from segcal.analysis.laws import check_laws
from segcal.measure.case import REGIONS
from segcal.records import Method
from tests.analysis.conftest import make_rows, make_scores

GOOD = {
    "voxels": 10.0, "nll": 0.5, "brier": 0.3, "ece": 0.1, "ece15": 0.1, "ece30": 0.12, "accuracy": 0.8,
    "confidence": 0.75, "p_true": 0.7, "entropy": 0.6, "member_entropy": 0.55,
}  # fmt: skip
NAMES = (
    "|mean confidence - accuracy| <= ECE",
    "ECE <= 1 - mean p(true class)",
    "1 - mean p(true class) <= 1 - exp(-NLL)",
    "ECE with 15 bins <= ECE with 30 bins, which are nested",
    "Brier <= 0.8146 NLL",
    "0 <= H(S) <= ln 2",
    "NLL of an ensemble <= mean NLL of its members",
    "members' mean Brier - Brier of the ensemble = members' variance",
    "mean NLL over all subsets of a size falls with the size",
    "mean Brier over all subsets of a size falls with the size",
    "mutual information = entropy of the ensemble - mean entropy of its members >= 0",
    "sums over the whole volume >= sums over the box",
)


def rows(size=1, draw=0, seeds=(0,), entropy=0.4, recipe="r", whole=None, cases=("c",), **changed):
    """A row of one subset: the same in the box as in the whole volume, which is ten times as large."""
    box = GOOD | {"variance": np.nan} | changed
    if size == 1:
        box = {name: value for name, value in box.items() if name not in ("entropy", "member_entropy")} | changed
    whole = box | {"voxels": 100.0} | (whole or {})
    numbers = {f"{name}@box": value for name, value in box.items()}
    numbers |= {f"{name}@whole": value for name, value in whole.items()}
    options = {"seeds": seeds, "cases": cases}
    return make_rows(Method(recipe, "ce", size), numbers | {"entropy@gland": entropy}, draw, **options)


@pytest.fixture
def check(gland):
    def of(*parts):
        return {law.law: law for law in check_laws(make_scores(gland, *parts).frame, gland)}

    return of


@pytest.fixture
def broken(check):
    def of(*parts):
        return {law.law: law.broken for law in check(*parts).values() if law.broken}

    return of


def test_good_rows_break_nothing_and_are_counted(check):
    found = check(rows())
    assert tuple(found) == NAMES
    assert [law.broken for law in found.values()] == [0] * 12
    assert [law.checked for law in found.values()] == [2, 2, 2, 2, 2, 1, 0, 0, 0, 0, 0, 5]  # no ensemble here


def test_undefined_rows_are_not_counted(check):
    nothing = {name: np.nan for name in GOOD if name != "entropy"}
    found = check(rows(entropy=np.nan, whole=GOOD | {"voxels": 100.0}, **nothing))
    assert [law.checked for law in found.values()] == [1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("changed", "law"),
    [
        ({"ece": 0.04, "ece15": 0.04}, 0), ({"ece": 0.35}, 1), ({"p_true": 0.5, "whole": {"p_true": 0.5}}, 2),
        ({"ece15": 0.13}, 3), ({"brier": 0.41}, 4), ({"entropy": 0.7}, 5), ({"entropy": -0.1}, 5),
    ],
)  # fmt: skip
def test_laws_of_single_rows_are_seen_to_break(broken, changed, law):
    one = changed.pop("entropy", None)
    found = broken(rows(**changed) if one is None else rows(entropy=one))
    assert found == {NAMES[law]: 1 if law == 5 else 2}


def test_bounds_hold_with_equality_and_with_the_dust_of_float32(broken):
    edge = {
        "ece": 0.3,
        "ece15": 0.3,
        "ece30": 0.3,
        "p_true": 0.7,
        "nll": -math.log(0.7),
        "accuracy": 1.0,
        "confidence": 0.7,
    }
    assert broken(rows(**edge, brier=0.8146 * -math.log(0.7), entropy=math.log(2))) == {}
    assert broken(rows(**edge, brier=0.8146 * -math.log(0.7) + 9e-6, entropy=math.log(2) + 9e-6)) == {}


def pool(nll=(0.5, 0.6), brier=(0.3, 0.32)):
    return [
        row for seed, (n, b) in enumerate(zip(nll, brier, strict=True))
        for row in rows(draw=seed, seeds=(seed,), nll=n, brier=b)
    ]  # fmt: skip


def pair(**changed):
    options = {"nll": 0.54, "brier": 0.3, "variance": 0.01, "seeds": (0, 1)} | changed
    return rows(2, **options)


def test_a_good_ensemble_is_counted(check):
    found = check(pool(), pair())
    assert {law.law: law.broken for law in found.values() if law.broken} == {}
    assert [found[name].checked for name in NAMES[6:11]] == [2, 2, 2, 2, 2]


def test_an_ensemble_worse_than_its_members_is_found(check):
    assert not check(pool(), pair(nll=0.5499))[NAMES[6]].broken
    law = check(pool(), pair(nll=0.56))[NAMES[6]]
    assert (law.broken, law.worst) == (2, "ce, 2 members, draw 0, c by 0.01")


def test_members_are_those_of_the_recipe_and_the_seeds(check):
    three = pool((0.5, 0.6, 9.0), (0.3, 0.32, 0.3))
    foreign = rows(seeds=(0,), recipe="other", nll=99.0)
    found = check(three, foreign, pair(nll=0.56))
    assert found[NAMES[6]].broken == 2  # neither the third seed nor the other recipe's first one is a member
    found = check(three, pair(nll=0.56, seeds=(0, 2)))
    assert found[NAMES[6]].broken == 0


def test_members_are_compared_case_by_case(check):
    cases = ("z", "a")
    singles = [rows(draw=s, seeds=(s,), nll=np.array(v), cases=cases) for s, v in enumerate(([0.5, 1.5], [0.6, 1.6]))]
    both = rows(2, seeds=(0, 1), nll=np.array([0.54, 1.54]), variance=0.0, cases=cases)
    assert check(*singles, both)[NAMES[6]].broken == 0
    turned = rows(2, seeds=(0, 1), nll=np.array([1.54, 0.54]), variance=0.0, cases=cases)
    law = check(*singles, turned)[NAMES[6]]
    assert law.broken == 2
    assert "z by 0.99" in law.worst


@pytest.mark.parametrize("variance", [0.0099, 0.0101])
def test_the_variance_must_be_the_gap_exactly(broken, variance):
    assert broken(pool(), pair(variance=variance)) == {NAMES[7]: 2}


def test_an_ensemble_that_was_not_decomposed_is_not_asked_for_its_variance(check):
    found = check(pool(), pair(variance=np.nan, entropy=np.nan, member_entropy=np.nan))
    assert (found[NAMES[7]].checked, found[NAMES[10]].checked) == (0, 0)


def test_mutual_information_is_not_negative(check):
    numbers = {"entropy@box": 0.5, "member_entropy@box": 0.56}
    more = pair()
    more[0] |= numbers
    law = check(pool(), more)[NAMES[10]]
    assert (law.checked, law.broken) == (2, 1)


def test_more_members_are_better_in_the_mean_over_all_subsets(check):
    singles = pool((0.5, 0.6, 0.7), (0.3, 0.3, 0.3))
    pairs = [
        row for draw, (seeds, nll) in enumerate({(0, 1): 0.54, (0, 2): 0.59, (1, 2): 0.64}.items())
        for row in pair(draw=draw, seeds=seeds, nll=nll, brier=0.29)
    ]  # fmt: skip
    good = rows(3, seeds=(0, 1, 2), nll=0.589, brier=0.28, variance=0.02)
    found = check(singles, pairs, good)
    assert (found[NAMES[8]].checked, found[NAMES[8]].broken) == (4, 0)  # M = 2 and 3, in two regions
    worse = rows(3, seeds=(0, 1, 2), nll=0.595, brier=0.295, variance=0.005)
    found = check(singles, pairs, worse)
    assert (found[NAMES[8]].broken, found[NAMES[9]].broken) == (2, 2)
    assert found[NAMES[8]].worst == "r c box M=3 by 0.005"
    found = check(singles, pairs[:2], worse)  # not all pairs were drawn: M = 3 against M = 1
    assert (found[NAMES[8]].checked, found[NAMES[8]].broken) == (2, 0)


def test_what_lies_outside_the_box_is_not_negative(check):
    law = check(rows(whole={"nll": 0.04}))[NAMES[11]]  # 10 x 0.5 in the box, 100 x 0.04 in all
    assert (law.checked, law.broken) == (5, 1)
    assert law.worst == "ce, 1 members, draw 0, c by 0.01"


def test_other_readings_obey_the_laws_of_rows_and_are_no_members(check, gland):
    read = make_rows(
        Method("r", "ce", 2),
        {f"{name}@{region}": v for name, v in (GOOD | {"nll": 5.0, "brier": 1.5}).items() for region in REGIONS},
        variant="prior_corrected", seeds=(0, 1), cases=("c",),
    )  # fmt: skip
    found = check(pool(), pair(), read)
    assert found[NAMES[6]].broken == found[NAMES[8]].broken == 0
    assert found[NAMES[4]].checked == 8


def test_a_structure_with_a_regions_name_at_its_end_is_no_region(gland):
    task = replace(gland, labels={1: "x@box"})
    part = rows()
    for row in part:
        row["entropy@x@box"] = row.pop("entropy@gland")
        row["dice@x@box"] = 0.5
    found = check_laws(make_scores(task, part).frame, task)
    assert [law.broken for law in found] == [0] * 12
    assert found[5].checked == 1


def test_no_law_is_broken_by_untrained_networks(study):
    report, scores = study
    assert {law.law: law.broken for law in report.laws if law.broken} == {}
    assert all(law.checked > 0 for law in report.laws)
    plain = scores.frame[scores.frame.variant == ""]
    ensembles = (plain["size"] > 1).sum()
    assert {law.law: law.checked for law in report.laws}[NAMES[6]] == 2 * ensembles
