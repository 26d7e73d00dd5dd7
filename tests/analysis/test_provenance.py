from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segcal.analysis.ensembles import recipes
from segcal.analysis.provenance import data_table, member_table, notes
from segcal.data.prepared import PreparedCohort
from segcal.records import Method
from tests.analysis.conftest import make_config, make_ref, make_rows, make_scores

CE, MC = Method("ce", "ce", 1, "cross_entropy"), Method("ce_mc", "ce_mc", 1, "cross_entropy", 3)
FINE = {"dice@gland": 0.5, "hd95@gland": 3.0, "entropy@gland": 0.2, "clipped@whole": 0.0}


def cohort(digest, *entries, crop=(32, 32)):
    cases = [
        {
            "case_id": f"{digest}{i}",
            "split": split,
            "site": site,
            "shape": [depth, 32, 32],
            "spacing_mm": [3.0, 1.0, 0.5],
        }
        for i, (split, site, depth) in enumerate(entries)
    ]
    return PreparedCohort(Path(), {"digest": digest, "parameters": {"crop": crop}, "cases": cases})


def pool(label, count, **changed):
    """One recipe with so many seeds, under its label as its name."""
    (found,) = recipes([make_ref(make_config(label, seed, **changed)) for seed in range(count)])
    return replace(found, recipe=label)


def test_data_are_told_split_by_split():
    near = cohort("abc", ("train", "B", 10), ("val", "B", 20), ("train", "A", 5), ("test", "", 7))
    table = data_table(near, cohort("far", ("ood", "X", 3), ("ood", "X", 4)))
    assert table.rows == (
        ("train", ("2", "A, B", "15")), ("val", ("1", "B", "20")), ("test", ("1", "not given", "7")),
        ("out of distribution", ("2", "X", "7")),
    )  # fmt: skip
    assert "32x32 voxels in-plane; spacing (z, y, x) 3x1x0.5 mm" in table.caption
    assert "Digest abc, out of distribution far." in table.caption


def test_an_empty_split_has_a_row_of_zeros():
    table = data_table(cohort("abc", ("train", "A", 5), ("test", "A", 5), crop=(16, 32, 32)), None)
    assert table.rows[1] == ("val", ("0", "", "0"))
    assert "16x32x32 voxels; " in table.caption
    assert table.caption.endswith("Digest abc.")


def test_members_are_told_with_their_range():
    (recipe,) = recipes([make_ref(make_config("ce", seed), val_dice=v) for seed, v in enumerate((0.5, 0.9, 0.7))])
    ((label, cells),) = member_table([recipe]).rows
    assert (label, cells[:3]) == ("ce", ("3", "0.700 (0.500 to 0.900)", "1 to 3"))
    assert cells[3].startswith("segcal-tiny-cross_entropy-")


@pytest.fixture
def told(gland):
    def of(*parts, chosen=(), methods=(CE,), more=(), task=gland):
        return notes(chosen, methods, make_scores(task, *parts), task, more)

    return of


def rows(patients, method=CE, draw=0, **changed):
    numbers = FINE | changed
    return make_rows(method, numbers, draw, cases=[f"p{i}" for i in range(patients)])


def test_one_patient_and_few_patients_are_told(told):
    assert "One test patient: there is no spread, no interval and no test" in told(rows(1))[0]
    assert told(rows(19))[0].startswith("19 test patients: intervals are wide")
    assert len(told(rows(20))) == 1  # the clipped voxels alone


def test_a_single_seed_and_a_small_pool_are_told(told):
    found = told(rows(20), chosen=[pool("ce", 1), pool("dice", 5), pool("ce_mc", 2)], methods=(CE, MC))
    assert found[:-1] == (
        "ce: the pool holds 1 members: the curve has M = 1, no ensemble of 2, 5, 10.",
        "ce: a single seed; what is said of it may be said of that seed alone.",
        "dice: the pool holds 5 members: the curve has M = 1, 2, 5, no ensemble of 10.",
    )
    assert told(rows(20), chosen=[pool("dice", 10)])[:-1] == ()


def test_what_was_found_on_the_way_comes_first(told):
    assert told(rows(20), more=("gone",))[0] == "gone"


def test_a_structure_that_is_nowhere_is_told_once(told):
    nothing = dict.fromkeys(("dice@gland", "hd95@gland", "entropy@gland"), np.nan)
    found = told(rows(20, **nothing))
    assert found[:-1] == ("gland: in no test case and no prediction; nothing can be said of it.",)


def test_undefined_values_are_counted_over_the_shown_predictions(told):
    dice, distance = np.full(20, 0.5), np.full(20, 3.0)
    dice[:2], distance[:5] = np.nan, np.nan
    curve = make_rows(Method("ce", "ce", 2), dict.fromkeys(FINE, np.nan), full=False, cases=["p0"])
    far = make_rows(CE, dict.fromkeys(FINE, np.nan), split="ood", cases=["o"])
    found = told(rows(20, **{"dice@gland": dice, "hd95@gland": distance}), rows(20, draw=1), curve, far)
    assert [note.split(" (")[0] for note in found[:-1]] == [
        "Dice of gland: not defined in 2 of 40 predictions", "HD95 of gland: not defined in 5 of 40 predictions",
    ]  # fmt: skip


def test_clipped_voxels_are_summed_over_draws_of_the_plain_reading(told):
    read = make_rows(CE, FINE | {"clipped@whole": 1000.0}, variant="prior_corrected")
    found = told(rows(20, **{"clipped@whole": 2.0}), rows(20, draw=1, **{"clipped@whole": 1.0}), read)
    assert found[-1] == "Voxels whose mean probability was clipped at 1e-12 in the NLL: 60, over all draws."
