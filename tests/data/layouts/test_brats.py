"""The BraTS layout, in the names of all its years."""

import shutil

import numpy as np
import pytest

from segcal.data import faults
from segcal.data.case_files import ImageFile
from segcal.data.cohort import assign_splits
from segcal.data.layouts import brats, find_cases
from segcal.data.prepare_case import read_case
from segcal.data.taskfile import load_task
from segcal.data.voxels.itk_files import write_itk
from segcal.data.voxels.nifti import write_nifti
from segcal.data.voxels.read import read_image
from segcal.errors import UsageError
from segcal.tasks import TASKS
from segcal.volume import Volume

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
    with pytest.raises(UsageError, match="the brats layout has no channel named 'flare'; did you mean 'flair'"):
        find_cases(tmp_path, load_task("brain", {"channels": ["flare"]}))


def names(root, rename, label=None):
    """Give the files of a 2017 folder other names, and the labels other values."""
    for path in sorted(root.rglob("*.nii.gz")):
        case_id, _, name = path.name.removesuffix(".nii.gz").rpartition("_")
        if name == "seg" and label:
            volume = read_image(ImageFile((path,)), root, case_id)
            write_nifti(path, Volume(label(volume.array).astype(np.uint8), volume.spacing_mm, volume.affine))
        target = path.parent / rename(case_id, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if ".mha" in target.name:
            volume = read_image(ImageFile((path,)), root, case_id)
            write_itk(target, Volume(np.rint(volume.array).astype(np.int16), volume.spacing_mm, volume.affine))
        else:
            write_nifti(target, read_image(ImageFile((path,)), root, case_id))
        path.unlink()


def read_labels_of(root, task=BRAIN):
    found = brats.find(root, task)
    assert not found.faults
    (case,) = found.cases
    volumes, label = read_case(case, task)
    assert {name: float(volume.array.max()) for name, volume in volumes.items()} == {"t1ce": 2, "t2": 3, "flair": 4}
    return case, np.unique(label.array).tolist()


def test_2023_has_other_names_and_3_for_enhancing(tmp_path):
    write(tmp_path, "BraTS-GLI-00005-000", "")
    new = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f", "seg": "seg"}
    names(tmp_path, lambda case_id, name: f"{case_id}-{new[name]}.nii.gz", lambda a: np.where(a == 4, 3, a))
    case, labels = read_labels_of(tmp_path)
    assert labels == [0, 3]  # the third class, enhancing
    assert case.patient == "BraTS-GLI-00005"


def test_2023_values_mean_what_the_file_says_where_a_task_speaks_of_them(tmp_path):
    write(tmp_path, "BraTS-GLI-00005-000", "")
    new = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f", "seg": "seg"}
    names(tmp_path, lambda case_id, name: f"{case_id}-{new[name]}.nii.gz", lambda a: np.where(a == 4, 3, a))
    task = load_task("brain", {"labels": {1: "core", 2: "edema", 3: "enhancing"}, "structure_weights": {}})
    assert read_labels_of(tmp_path, task)[1] == [0, 3]


def test_two_scans_of_a_2023_patient_stay_together(tmp_path):
    for index in range(6):
        for scan in range(2):
            write(tmp_path, f"BraTS-GLI-0000{index}-00{scan}", "")
    splits = assign_splits(brats.find(tmp_path, BRAIN).cases, load_task("brain", {"split_counts": {}}))
    for index in range(6):
        assert splits[f"BraTS-GLI-0000{index}-000"] == splits[f"BraTS-GLI-0000{index}-001"]


def test_the_misnamed_label_of_2020(tmp_path):
    write(tmp_path, "BraTS20_Training_355", "")
    names(
        tmp_path,
        lambda case_id, name: "W39_1998.09.19_Segm.nii" if name == "seg" else f"{case_id}_{name}.nii",
    )
    case, labels = read_labels_of(tmp_path)
    assert (case.label.name, labels) == ("W39_1998.09.19_Segm.nii", [0, 3])


def test_2015_lies_deeper_and_splits_the_core_in_two(tmp_path):
    write(tmp_path, "brats_tcia_pat101_0001")
    old = {"t1": "MR_T1", "t1ce": "MR_T1c", "t2": "MR_T2", "flair": "MR_Flair", "seg": "XX.O.OT"}

    def rename(case_id, name):
        stem = f"VSD.Brain.XX.O.{old[name]}.54{len(name)}" if name != "seg" else "VSD.Brain_3more.XX.O.OT.54555"
        return f"{stem}/{stem}.mha"

    def necrosis_and_core(a):
        a = a.copy()
        a[1, 0, 0], a[1, 1, 1], a[1, 2, 2] = 1, 3, 2
        return a

    names(tmp_path, rename, necrosis_and_core)
    case, labels = read_labels_of(tmp_path)
    assert labels == [0, 1, 2, 3]
    _, label = read_case(case, BRAIN)
    assert label.array[1, 0, 0] == label.array[1, 1, 1] == 1  # necrosis and non-enhancing core are one structure
    assert (case.site, case.group) == ("TCIA", "HGG")


def test_sites_of_2018_carry_numbers(tmp_path):
    for case_id in ("Brats18_CBICA_AAB_1", "Brats18_TCIA01_131_1", "Brats18_TCIA08_105_1", "Brats18_2013_0_1"):
        write(tmp_path, case_id)
    sites = {case.case_id: case.site for case in brats.find(tmp_path, BRAIN).cases}
    assert sites == {
        "Brats18_2013_0_1": "2013", "Brats18_CBICA_AAB_1": "CBICA",
        "Brats18_TCIA01_131_1": "TCIA", "Brats18_TCIA08_105_1": "TCIA",
    }  # fmt: skip


def test_scans_of_a_2015_patient_stay_together(tmp_path):
    scans = {"105": ("0001", "0117", "0187"), "260": ("0001", "0129"), "309": ("0001",), "401": ("0001",)}
    for patient, ends in scans.items():
        for end in ends:
            write(tmp_path, f"brats_tcia_pat{patient}_{end}")
    cases = brats.find(tmp_path, BRAIN).cases
    assert {case.patient for case in cases} == {f"brats_tcia_pat{patient}" for patient in scans}
    assert {case.site for case in cases} == {"TCIA"}


def test_archives_wrap_their_cases_in_folders_called_brats_too(tmp_path):
    below = tmp_path / "BraTS2020_TrainingData" / "MICCAI_BraTS2020_TrainingData"
    write(below, "BraTS20_Training_001", "")
    (below / "BraTS20_Training_002").mkdir()
    found = brats.find(tmp_path, BRAIN)
    assert [case.case_id for case in found.cases] == ["BraTS20_Training_001"]
    assert fault_kinds(tmp_path) == [faults.MissingCase]
    assert "BraTS20_Training_002: a case folder must hold images" in str(found.faults[0])
