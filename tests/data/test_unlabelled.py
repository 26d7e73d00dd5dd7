"""What somebody may name to have it predicted, and what is said of the rest. Small files, no network."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from segcal.data import unlabelled
from segcal.data.faults import BadInfo, DoubledCase, MissingCase, MissingChannel, Truncated, Unreadable, UnsafePath
from segcal.data.prepare_case import read_channels
from segcal.data.unlabelled import case_of_files, find_unlabelled
from segcal.data.voxels.dicom import write_series
from segcal.data.voxels.itk_files import write_itk
from segcal.data.voxels.nifti import write_nifti
from segcal.errors import UsageError
from segcal.tasks import TASKS
from segcal.volume import Volume

BRAIN, PROSTATE = TASKS["brain"], TASKS["prostate"]
AFFINE = np.diag([-1.0, -1.0, 3.0, 1.0])
VALUES = {"t1ce": 1, "t2": 2, "flair": 3}


def volume(value: float) -> Volume:
    array = np.full((3, 4, 5), value, dtype=np.float32)
    array[0, 0, 0] = 0
    return Volume(array, (3.0, 1.0, 1.0), AFFINE)


def four_d(path: Path, values) -> Path:
    array = np.stack([volume(value).array.transpose(2, 1, 0) for value in values], axis=-1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, AFFINE), path)
    return path


@pytest.fixture(scope="module")
def brains(tmp_path_factory):
    """Patient P1 in every way that its three channels may lie."""
    root = tmp_path_factory.mktemp("brains")
    for name, value in VALUES.items():
        write_nifti(root / "HGG" / "P1" / f"P1_{name}.nii.gz", volume(value))
        write_nifti(root / "bare" / "P1" / f"{name}.nii.gz", volume(value))
        write_nifti(root / "task_order" / f"P1_{list(VALUES).index(name):04d}.nii.gz", volume(value))
        number = {"flair": 0, "t1": 1, "t1ce": 2, "t2": 3}[name]
        write_nifti(root / "Dataset1" / "imagesTs" / f"P1_{number:04d}.nii.gz", volume(value))
        write_itk(root / "mixed" / f"P1-{name.upper()}.mha", volume(value))
        write_series(root / "series" / "P1" / name, volume(value), f"1.2.3.{value}", "P1", "1.2.3", name)
    for name, value in {"t1c": 1, "t2w": 2, "t2f": 3, "t1n": 9, "seg": 1}.items():
        write_nifti(root / "2023" / "P1" / f"P1-{name}.nii.gz", volume(value))
    write_nifti(root / "HGG" / "P1" / "P1_t1.nii.gz", volume(9))  # a channel that the task does without
    write_nifti(root / "HGG" / "P1" / "P1_seg.nii.gz", volume(1))
    write_nifti(root / "Dataset1" / "imagesTs" / "P1_0001.nii.gz", volume(9))
    (root / "Dataset1" / "imagesTr").mkdir()
    names = {"0": "FLAIR", "1": "T1", "2": "T1CE", "3": "T2"}
    (root / "Dataset1" / "dataset.json").write_text(json.dumps({"channel_names": names, "labels": {"a": 1}}))
    four_d(root / "four" / "P1.nii.gz", VALUES.values())
    return root


WAYS = [
    "HGG", "HGG/P1", "bare/P1", "bare", "task_order", "Dataset1/imagesTs", "mixed", "2023", "series", "series/P1",
    "four", "four/P1.nii.gz",
    "HGG/P1/P1_t1ce.nii.gz,HGG/P1/P1_t2.nii.gz,HGG/P1/P1_flair.nii.gz",
    "bare/P1/t1ce.nii.gz,bare/P1/t2.nii.gz,bare/P1/flair.nii.gz",
    "flair=HGG/P1/P1_flair.nii.gz,t1ce=mixed/P1-T1CE.mha,t2=task_order/P1_0001.nii.gz",
    "t1ce=series/P1/t1ce, t2=series/P1/t2, flair=series/P1/flair",
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_name_three_channels_finds_the_same_images(brains, way, monkeypatch):
    monkeypatch.chdir(brains)
    found = find_unlabelled(way, BRAIN)
    assert not found.faults
    (case,) = found.cases
    assert case.case_id == ("P1" if "series/P1/t1ce," not in way else case.case_id)
    assert list(case.channels) == list(BRAIN.channels)
    volumes = read_channels(case.channels, case.root, case.case_id)
    assert {name: read.array.max() for name, read in volumes.items()} == VALUES
    np.testing.assert_allclose(volumes["t2"].affine, AFFINE, atol=1e-5)


def test_one_channel_is_a_file_of_any_format_a_series_or_a_folder_of_them(tmp_path):
    write_nifti(tmp_path / "P1.nii.gz", volume(1))
    write_itk(tmp_path / "Case00.mhd", volume(2))
    write_itk(tmp_path / "Case00_segmentation.mhd", volume(1))
    write_itk(tmp_path / "P3.nrrd", volume(3))
    write_series(tmp_path / "below" / "S4", volume(4), "1.2.3.4", "S4", "1.2.3", "t2")
    one = find_unlabelled(str(tmp_path / "P3.nrrd"), PROSTATE)
    assert [(case.case_id, list(case.channels)) for case in one.cases] == [("P3", ["t2"])]
    folder = find_unlabelled(str(tmp_path), PROSTATE)
    assert [case.case_id for case in folder.cases] == ["Case00", "P1", "P3"]  # no label map
    (series,) = find_unlabelled(str(tmp_path / "below"), PROSTATE).cases
    assert series.case_id == "S4"
    assert len(series.channels["t2"].paths) == 3
    assert read_channels(series.channels, series.root, "S4")["t2"].array.max() == 4


def test_a_file_may_have_a_comma_in_its_name(tmp_path):
    write_nifti(tmp_path / "Doe, Jane=1.nii.gz", volume(1))
    (case,) = find_unlabelled(str(tmp_path / "Doe, Jane=1.nii.gz"), PROSTATE).cases
    assert case.case_id == "Doe, Jane=1"


def test_a_wrong_number_of_channels_says_what_is_needed_and_what_was_there(brains, tmp_path, monkeypatch):
    monkeypatch.chdir(brains)
    needs = "task brain needs 3 channels (t1ce, t2, flair), got "
    for argument, got in {
        "HGG/P1/P1_t1ce.nii.gz": "1 in P1_t1ce.nii.gz",
        "HGG/P1/P1_t1ce.nii.gz,HGG/P1/P1_t2.nii.gz": "2 (P1_t1ce.nii.gz, P1_t2.nii.gz)",
        "t1ce=HGG/P1/P1_t1ce.nii.gz,flair=HGG/P1/P1_flair.nii.gz": "no t2",
        "mixed/P1-T2.mha": "1 (P1-T2.mha)",
        str(four_d(tmp_path / "P2.nii.gz", range(4))): "4 in P2.nii.gz",
        "series/P1/t2": "one DICOM series",
    }.items():
        found = find_unlabelled(argument, BRAIN)
        assert not found.cases
        (fault,) = found.faults
        assert isinstance(fault, MissingChannel)
        assert needs + got in str(fault)
        assert "t1ce=FILE,t2=FILE,flair=FILE" in str(fault)
    (fault,) = find_unlabelled("four/P1.nii.gz", PROSTATE).faults
    assert "task prostate needs 1 channel (t2), got 3 in P1.nii.gz" in str(fault)


def test_a_case_without_a_channel_does_not_hide_the_others(tmp_path):
    for name in VALUES:
        write_nifti(tmp_path / "P1" / f"P1_{name}.nii.gz", volume(1))
        write_nifti(tmp_path / "flat" / f"P3_{name}.nii.gz", volume(1))
    write_nifti(tmp_path / "P2" / "P2_t2.nii.gz", volume(1))
    write_nifti(tmp_path / "flat" / "P4_t1ec.nii.gz", volume(1))  # misspelt
    (tmp_path / "P5").mkdir()
    found = find_unlabelled(str(tmp_path), BRAIN)
    assert [case.case_id for case in found.cases] == ["P1", "P3"]
    assert [(fault.case_id, type(fault)) for fault in found.faults] == [
        ("P2", MissingChannel), ("P5", MissingCase), ("P4_t1ec", MissingChannel),
    ]  # fmt: skip
    assert "no t1ce, flair" in str(found.faults[0])


def test_predictions_among_the_images_are_no_cases(tmp_path):
    for name in VALUES:
        write_nifti(tmp_path / "P1" / f"P1_{name}.nii.gz", volume(1))
    write_nifti(tmp_path / "predictions" / "P1" / "labels.nii.gz", volume(1))
    (tmp_path / "predictions" / "P1" / "result.json").write_text("{}")
    found = find_unlabelled(str(tmp_path), BRAIN)
    assert [case.case_id for case in found.cases] == ["P1"]
    assert not found.faults
    (fault,) = find_unlabelled(str(tmp_path / "predictions"), BRAIN).faults
    assert isinstance(fault, MissingCase)


def test_unknown_and_repeated_channels(brains, monkeypatch, tmp_path):
    monkeypatch.chdir(brains)
    with pytest.raises(UsageError, match="no channel named 't1c'; did you mean 't1ce'"):
        find_unlabelled("t1c=a.nii,t2=b.nii,flair=c.nii", BRAIN)
    with pytest.raises(UsageError, match=r"got 'b\.nii' without one"):
        find_unlabelled("t1ce=a.nii,b.nii,flair=c.nii", BRAIN)
    (fault,) = find_unlabelled("t2=a.nii,t2=b.nii,flair=c.nii", BRAIN).faults
    assert isinstance(fault, DoubledCase)
    for end in (".nii", ".nii.gz"):
        write_nifti(tmp_path / f"P1_t2{end}", volume(1))
    write_nifti(tmp_path / "P1_t1ce.nii", volume(1))
    write_nifti(tmp_path / "P1_flair.nii", volume(1))
    (fault,) = find_unlabelled(str(tmp_path), BRAIN).faults
    assert isinstance(fault, DoubledCase)


def test_what_is_no_image(brains, tmp_path):
    for argument, kind, words in (
        (str(tmp_path / "absent.nii.gz"), MissingCase, "no such file or folder"),
        (str(tmp_path), MissingCase, "none"),
        (str(brains / "Dataset1"), MissingCase, "imagesTs"),
        ("x" * 5000, MissingCase, "no such file"),
    ):
        (fault,) = find_unlabelled(argument, BRAIN).faults
        assert isinstance(fault, kind)
        assert words in str(fault)
    (tmp_path / "short.nii.gz").write_bytes((brains / "HGG/P1/P1_t2.nii.gz").read_bytes()[:40])
    (tmp_path / "text.nii").write_text("no image" * 100)
    (fault,) = find_unlabelled(str(tmp_path / "short.nii.gz"), PROSTATE).faults
    assert isinstance(fault, Truncated)
    (fault,) = find_unlabelled(str(tmp_path / "text.nii"), PROSTATE).faults
    assert isinstance(fault, Unreadable)
    (tmp_path / "raw" / "imagesTs").mkdir(parents=True)
    write_nifti(tmp_path / "raw" / "imagesTs" / "P1_0000.nii.gz", volume(1))
    (tmp_path / "raw" / "dataset.json").write_text('{"channel_names": {"0": "CT"}, "labels": {"a": 1}}')
    (fault,) = find_unlabelled(str(tmp_path / "raw" / "imagesTs"), PROSTATE).faults
    assert isinstance(fault, BadInfo)
    assert "no 't2' among ct" in str(fault)


def test_a_folder_never_names_a_case_after_its_parent(tmp_path, monkeypatch):
    write_series(tmp_path / "S1", volume(1), "1.2.3", "S1", "1.2", "t2")
    (tmp_path / "S1" / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "S1" / "inner")
    (case,) = find_unlabelled("..", PROSTATE).cases
    assert case.case_id == "S1"


def test_a_damaged_slice_is_not_left_out_in_silence(tmp_path):
    write_series(tmp_path / "S1", volume(1), "1.2.3", "S1", "1.2", "t2")
    (tmp_path / "S1" / "1-03.dcm").write_bytes(b"lost")
    (case,) = find_unlabelled(str(tmp_path / "S1"), PROSTATE).cases
    with pytest.raises(Unreadable):
        read_channels(case.channels, case.root, case.case_id)


def test_a_root_keeps_files_inside(tmp_path):
    write_nifti(tmp_path / "outside.nii.gz", volume(1))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "P1.nii.gz").symlink_to(tmp_path / "outside.nii.gz")
    with pytest.raises(UnsafePath):
        case_of_files([tmp_path / "in" / "P1.nii.gz"], PROSTATE, root=tmp_path / "in")
    assert case_of_files([tmp_path / "in" / "P1.nii.gz"], PROSTATE).case_id == "P1"


@pytest.mark.parametrize("argument", ["", "  "])
def test_an_empty_word_is_not_the_folder_one_stands_in(tmp_path, monkeypatch, argument):
    write_nifti(tmp_path / "P1.nii.gz", volume(1))
    monkeypatch.chdir(tmp_path)
    found = find_unlabelled(argument, PROSTATE)
    assert found.cases == []
    assert "got an empty one" in str(found.faults[0])


def test_a_linked_folder_is_told_of(tmp_path):
    write_nifti(tmp_path / "in" / "P1" / "P1.nii.gz", volume(1))
    write_nifti(tmp_path / "far" / "P2.nii.gz", volume(1))
    (tmp_path / "in" / "P2").symlink_to(tmp_path / "far")
    found = find_unlabelled(str(tmp_path / "in"), PROSTATE)
    assert [case.case_id for case in found.cases] == ["P1"]
    (fault,) = found.faults
    assert isinstance(fault, UnsafePath)
    assert f"a link to {tmp_path / 'far'}; name it itself" in str(fault)
    assert [case.case_id for case in find_unlabelled(str(tmp_path / "in" / "P2"), PROSTATE).cases] == ["P2"]


@pytest.mark.parametrize("name", ["annotations", "labelsTr", "masks", "Segmentations"])
def test_a_folder_of_labels_is_no_folder_of_images(tmp_path, name):
    write_nifti(tmp_path / "scans" / "P1.nii.gz", volume(1))
    write_nifti(tmp_path / name / "P2.nii.gz", volume(1))
    found = find_unlabelled(str(tmp_path), PROSTATE)
    assert ([case.case_id for case in found.cases], found.faults) == (["P1"], [])


def test_folders_too_deep_are_told_of(tmp_path):
    write_nifti(tmp_path / "a" / "b" / "c" / "d" / "P1.nii.gz", volume(1))
    (fault,) = find_unlabelled(str(tmp_path), PROSTATE).faults
    assert str(fault).startswith("c: a folder must hold images")
    assert "got further folders, 4 below the one that is named; name one nearer to the images" in str(fault)
    assert [case.case_id for case in find_unlabelled(str(tmp_path / "a"), PROSTATE).cases] == ["P1"]


def test_a_folder_that_may_not_be_read_stops_no_other(tmp_path, monkeypatch):
    for name in ("P1", "P2"):
        write_nifti(tmp_path / name / f"{name}.nii.gz", volume(1))
    listed = unlabelled.files

    def refuse(folder):
        if folder.name == "P1":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(unlabelled, "files", refuse)
    found = find_unlabelled(str(tmp_path), PROSTATE)
    assert [case.case_id for case in found.cases] == ["P2"]
    assert "P1: its files must be readable, got Permission denied" in str(found.faults[0])
    assert "Permission denied" in str(find_unlabelled(str(tmp_path / "P1"), PROSTATE).faults[0])
