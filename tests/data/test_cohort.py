"""Which case is in which split."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segcal.data import faults
from segcal.data.case_files import CaseFiles, ImageFile
from segcal.data.cohort import assign_splits
from segcal.data.taskfile import load_task
from segcal.tasks import TASKS

BRAIN = TASKS["brain"]


def case(case_id, site=""):
    return CaseFiles(case_id, Path("."), {}, ImageFile((Path("seg"),)), site, "HGG")


def paper_cohort():
    sites = [("CBICA", 88), ("TCIA", 102), ("2013", 20)]
    return [case(f"Brats17_{site}_{i:03d}_1", site) for site, n in sites for i in range(n)]


def counts(splits):
    return [list(splits.values()).count(split) for split in ("train", "val", "test")]


def test_the_papers_cohort_splits_as_in_the_paper(caplog):
    with caplog.at_level(logging.WARNING):
        splits = assign_splits(paper_cohort(), BRAIN)
    assert counts(splits) == [66, 22, 102]
    assert all(("TCIA" in case_id) == (split == "test") for case_id, split in splits.items())
    assert "20 cases of 2013 are in no split" in caplog.text
    assert "expected" not in caplog.text


def test_other_counts_are_told(caplog):
    with caplog.at_level(logging.WARNING):
        splits = assign_splits(paper_cohort()[40:170], BRAIN)
    assert counts(splits) == [36, 12, 82]
    assert "66/22/102 expected in train/val/test, found 36/12/82" in caplog.text


def test_order_of_the_files_does_not_matter_and_the_seed_does():
    cases = paper_cohort()
    assert assign_splits(cases, BRAIN) == assign_splits(cases[::-1], BRAIN)
    assert assign_splits(cases, BRAIN) != assign_splits(cases, load_task("brain", {"split_seed": 1}))


@given(st.integers(3, 60), st.tuples(*[st.floats(0.1, 1)] * 3), st.integers(0, 5))
def test_a_cohort_without_sites_is_divided_once_and_completely(n, fractions, seed):
    task = load_task("brain", {"split_sites": {}, "split_counts": {}, "split_fractions": fractions, "split_seed": seed})
    splits = assign_splits([case(f"p{i}") for i in range(n)], task)
    assert len(splits) == n
    assert min(counts(splits)) >= 1


def test_four_patients_are_two_one_one():
    task = load_task("brain", {"split_fractions": [0.5, 0.25, 0.25], "split_counts": {}})
    assert counts(assign_splits([case(f"brats_2013_{i}") for i in range(4)], task)) == [2, 1, 1]


def test_too_few_cases():
    with pytest.raises(faults.BadSplit, match="at least 3 cases are needed"):
        assign_splits([case("a"), case("b")], BRAIN)
    with pytest.raises(faults.BadSplit, match="must each hold a case, got 0/1/1"):
        assign_splits([case("a", "CBICA"), case("b", "TCIA")], BRAIN)


@pytest.mark.parametrize(("task", "n", "expected"), [("heart", 100, [40, 10, 50]), ("prostate", 40, [16, 4, 20])])
def test_cohorts_without_sites_split_as_in_the_paper(caplog, task, n, expected):
    with caplog.at_level(logging.WARNING):
        splits = assign_splits([case(f"p{i:03d}") for i in range(n)], TASKS[task])
        assert counts(splits) == expected
        assert not caplog.text
        assign_splits([case(f"p{i:03d}") for i in range(n - 1)], TASKS[task])
    assert "/".join(map(str, expected)) + " expected in train/val/test, found " in caplog.text


@given(st.lists(st.integers(0, 12), min_size=12, max_size=40).filter(lambda patients: len(set(patients)) >= 3))
def test_cases_of_one_patient_are_never_divided(patients):
    cases = [replace(case(f"c{i}"), patient=f"P{patient}") for i, patient in enumerate(patients)]
    splits = assign_splits(cases, load_task("heart", {"split_counts": {}}))
    for patient in set(patients):
        assert len({splits[f"c{i}"] for i, other in enumerate(patients) if other == patient}) == 1
    assert set(splits.values()) == {"train", "val", "test"}


def test_two_patients_are_too_few_however_many_their_scans():
    cases = [replace(case(f"c{i}"), patient=f"P{i % 2}") for i in range(10)]
    with pytest.raises(faults.BadSplit, match="at least 3 cases are needed"):
        assign_splits(cases, TASKS["heart"])


def given_split(*splits):
    return [replace(case(f"c{i}"), split=split) for i, split in enumerate(splits)]


def test_what_the_layout_says_is_kept_and_what_it_does_not_is_divided():
    task = load_task("heart", {"split_counts": {}})
    splits = assign_splits(given_split("test", "test", "", "", "", "", ""), task)
    assert [splits[f"c{i}"] for i in (0, 1)] == ["test", "test"]
    assert counts(splits) == [4, 1, 2]
    assert splits == assign_splits(given_split("test", "test", "", "", "", "", "")[::-1], task)


def test_a_layout_that_leaves_a_split_empty():
    with pytest.raises(faults.BadSplit, match="train, val and test must each hold a case, got 2/0/1"):
        assign_splits(given_split("train", "train", "test"), TASKS["heart"])


def test_a_site_that_is_not_there_is_told_and_not_replaced_by_chance():
    cases = [case(f"a{i}", "CBICA") for i in range(9)] + [case("b", "2013")]
    with pytest.raises(faults.BadSplit, match=r"cases of the sites CBICA, TCIA must be there, got 2013, CBICA;"):
        assign_splits(cases, BRAIN)
    assert len(assign_splits(cases, load_task("brain", {"split_sites": {}}))) == 10
