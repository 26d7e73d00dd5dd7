"""The BraTS layout and the split of a cohort."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segcal.data import faults
from segcal.data.case_files import CaseFiles, ImageFile
from segcal.data.cohort import assign_splits
from segcal.data.layouts import brats, find_cases
from segcal.data.taskfile import load_task
from segcal.data.voxels.read import read_image
from segcal.errors import UsageError
from segcal.tasks import TASKS

BRAIN = TASKS["brain"]
NAMES = ("t1", "t1ce", "t2", "flair")


def write(root, case_id, group="HGG"):
    channels = {name: np.full((2, 4, 6), index + 1.0) for index, name in enumerate(NAMES)}
    truth = np.zeros((2, 4, 6), dtype=np.uint8)
    truth[0, 0, 0] = 4
    brats.write_case(root, case_id, group, channels, truth, (2.0, 1.0, 1.0))


def test_graded_tree_gives_cases_with_sites_and_only_the_wanted_grade(tmp_path):
    for case_id, group in (("Brats17_TCIA_B_1", "HGG"), ("Brats17_CBICA_A_1", "HGG"), ("Brats17_TCIA_C_1", "LGG")):
        write(tmp_path, case_id, group)
    found = brats.find(tmp_path, BRAIN)
    assert not found.faults
    assert [(c.case_id, c.site, c.group) for c in found.cases] == [
        ("Brats17_CBICA_A_1", "CBICA", "HGG"),
        ("Brats17_TCIA_B_1", "TCIA", "HGG"),
    ]
    assert list(found.cases[0].channels) == ["t1ce", "t2", "flair"]
    assert len(brats.find(tmp_path, load_task("brain", {"groups": []})).cases) == 3


@pytest.mark.parametrize("below", ["", "HGG"])
def test_flat_folder_and_the_grade_folder_itself(tmp_path, below):
    for index in range(3):
        write(tmp_path / below, f"BraTS2021_0000{index}", "")
    assert [case.site for case in brats.find(tmp_path / below, BRAIN).cases] == ["", "", ""]


def test_uncompressed_files_and_other_folders_beside_the_cases(tmp_path):
    write(tmp_path, "BraTS20_Training_001", "")
    folder = tmp_path / "BraTS20_Training_001"
    for path in list(folder.glob("*.nii.gz")):
        read_image(ImageFile((path,)), tmp_path, "c")
        plain = path.with_suffix("")
        import gzip

        plain.write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    (tmp_path / "docs").mkdir()
    (tmp_path / ".cache").mkdir()
    (case,) = brats.find(tmp_path, BRAIN).cases
    assert case.label.name == "BraTS20_Training_001_seg.nii"


def test_voxels_labels_and_geometry_come_back(tmp_path):
    write(tmp_path, "Brats17_CBICA_A_1")
    (case,) = brats.find(tmp_path, BRAIN).cases
    for name, value in (("t1ce", 2), ("t2", 3), ("flair", 4)):
        volume = read_image(case.channels[name], tmp_path, case.case_id)
        assert (volume.array == value).all()
        assert volume.spacing_mm == (2.0, 1.0, 1.0)
        assert np.diag(volume.affine).tolist() == [-1, -1, 2, 1]  # LPS
    assert read_image(case.label, tmp_path, case.case_id).array[0, 0, 0] == 4


def fault_kinds(root):
    return [type(fault) for fault in brats.find(root, BRAIN).faults]


def test_every_fault_of_names_is_found_at_once(tmp_path):
    for index in range(4):
        write(tmp_path, f"Brats17_CBICA_{index}_1")
    hgg = tmp_path / "HGG"
    (hgg / "Brats17_CBICA_0_1" / "Brats17_CBICA_0_1_t2.nii.gz").unlink()
    double = hgg / "Brats17_CBICA_1_1" / "Brats17_CBICA_1_1_flair.nii.gz"
    shutil.copy(double, double.with_suffix(""))
    (hgg / "Brats17_CBICA_9_1").mkdir()
    found = brats.find(tmp_path, BRAIN)
    assert fault_kinds(tmp_path) == [faults.MissingChannel, faults.DoubledCase, faults.MissingCase]
    assert "add Brats17_CBICA_0_1_t2.nii.gz" in str(found.faults[0])
    assert [case.case_id for case in found.cases] == ["Brats17_CBICA_2_1", "Brats17_CBICA_3_1"]


def test_a_case_in_two_folders(tmp_path):
    write(tmp_path, "Brats17_CBICA_A_1", "HGG")
    write(tmp_path, "Brats17_CBICA_A_1", "")
    (fault,) = brats.find(tmp_path, BRAIN).faults
    assert isinstance(fault, faults.DoubledCase)
    assert "HGG/Brats17_CBICA_A_1" in str(fault)


def test_no_case_and_an_unknown_channel(tmp_path):
    assert [type(fault) for fault in find_cases(tmp_path, BRAIN).faults] == [faults.MissingCase]
    with pytest.raises(UsageError, match="no BraTS channel named 'flare'; did you mean 'flair'"):
        brats.find(tmp_path, load_task("brain", {"channels": ["flare"]}))


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
