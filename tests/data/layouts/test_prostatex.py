"""Which of a patient's series was annotated, and a label on a grid of its own."""

import logging
import shutil

import numpy as np
import pydicom
import pytest

from segcal.data import faults
from segcal.data.layouts import prostatex
from segcal.data.prepare_case import read_case
from segcal.data.voxels.dicom import write_series
from segcal.data.voxels.itk_files import write_itk
from segcal.data.voxels.nifti import write_nifti
from segcal.tasks import TASKS
from segcal.volume import Volume
from tests.data.layouts.conftest import ball

TASK = TASKS["prostate"]
ROOT_UID = "1.2.826.0.1.3680043.8.498.5"


def tilted(degrees=14.0, spacing=(3.0, 1.0, 1.0)):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    affine = np.eye(4)
    affine[:3, :3] = np.diag([-1, -1, 1]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.diag(spacing[::-1])
    affine[:3, 3] = [20.0, 5.0, -40.0]
    return affine


def own_grid(label):
    """The label on an isotropic grid along the patient's axes, by the nearest voxel of the tilted one."""
    corners = np.array([[x, y, z, 1] for x in (0, 21) for y in (0, 19) for z in (0, 5)]) @ label.affine.T
    low, high = corners[:, :3].min(axis=0) - 4, corners[:, :3].max(axis=0) + 4
    side = 0.5
    grid = np.diag([-side, -side, side, 1.0])
    grid[:3, 3] = [high[0], high[1], low[2]]
    n = np.ceil((high - low) / side).astype(int)
    z, y, x = np.mgrid[: n[2], : n[1], : n[0]]
    points = grid[:3, :3] @ np.stack([x, y, z]).reshape(3, -1) + grid[:3, 3:]
    at = np.rint(np.linalg.inv(label.affine)[:3] @ np.vstack([points, np.ones(points.shape[1])])).astype(int)
    inside = ((at >= 0) & (at < np.array(label.array.shape[::-1])[:, None])).all(axis=0)
    values = np.zeros(points.shape[1], dtype=np.uint8)
    values[inside] = label.array[at[2, inside], at[1, inside], at[0, inside]]
    return Volume(values.reshape(z.shape), (side,) * 3, grid)


def write(root, number=0, annotated="t2_tse_tra"):
    """A patient with two axial T2 series and one sagittal."""
    image, label = ball(number, affine=tilted())
    other, _ = ball(number + 50, affine=tilted(3.0))
    sagittal = Volume(image.array.transpose(2, 0, 1), (1.0, 3.0, 1.0), image.affine[:, [1, 2, 0, 3]])
    series = {"t2_tse_tra": image, "t2_tse_tra_late": other, "t2_tse_sag": sagittal}
    uids = {name: f"{ROOT_UID}.{number + 1}.{index}" for index, name in enumerate(series, start=1)}
    case_id = f"ProstateX-{number:04d}"
    prostatex.write_case(root, case_id, series, uids, own_grid(label), annotated)
    return case_id, image, label, uids


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def test_the_annotated_series_is_taken_and_its_label_lands_on_the_tilted_grid(tmp_path):
    _case_id, image, label, uids = write(tmp_path)
    assert prostatex.recognise(tmp_path)
    (case,) = prostatex.find(tmp_path, TASK).cases
    assert case.channels["t2"].series == uids["t2_tse_tra"]
    volumes, classes = read_case(case, TASK)
    np.testing.assert_array_equal(volumes["t2"].array, image.array)
    np.testing.assert_allclose(volumes["t2"].affine, image.affine, atol=1e-3)
    assert dice(classes.array > 0, label.array > 0) > 0.97


@pytest.mark.parametrize("annotated", ["t2_tse_tra", "t2_tse_tra_late", "t2_tse_sag"])
def test_the_reference_decides_not_the_name_of_the_series(tmp_path, annotated):
    _, _, _, uids = write(tmp_path, annotated=annotated)
    (case,) = prostatex.find(tmp_path, TASK).cases
    assert case.channels["t2"].series == uids[annotated]


def without_reference(root, case_id):
    path = root / "annotations" / f"{case_id}.nrrd"
    gland = own_grid(ball(affine=tilted())[1])
    path.unlink()
    write_itk(path, gland)
    return path


def test_several_t2_series_and_no_reference(tmp_path):
    case_id, *_ = write(tmp_path)
    without_reference(tmp_path, case_id)
    (fault,) = prostatex.find(tmp_path, TASK).faults
    assert isinstance(fault, faults.AmbiguousSeries)
    assert "got 2 (t2_tse_tra, t2_tse_tra_late); name its SeriesInstanceUID in references.csv" in str(fault)


def test_a_single_axial_t2_series_needs_none(tmp_path):
    case_id, _, _, uids = write(tmp_path)
    without_reference(tmp_path, case_id)
    for folder in (tmp_path / "PROSTATEx").rglob("*late*"):
        shutil.rmtree(folder)
    (case,) = prostatex.find(tmp_path, TASK).cases
    assert case.channels["t2"].series == uids["t2_tse_tra"]


@pytest.mark.parametrize("how", ["references.csv", "file name"])
def test_other_ways_to_say_which_series(tmp_path, how):
    case_id, _, _, uids = write(tmp_path)
    path = without_reference(tmp_path, case_id)
    wanted = uids["t2_tse_tra_late"]
    if how == "references.csv":
        (tmp_path / "references.csv").write_text(f"case,series_uid\n{case_id},{wanted}\n")
    else:
        path.rename(path.with_name(f"{case_id}_{wanted}_gland.nrrd"))
    (case,) = prostatex.find(tmp_path, TASK).cases
    assert case.channels["t2"].series == wanted


def test_a_reference_to_a_series_that_is_not_there(tmp_path):
    case_id, *_ = write(tmp_path)
    without_reference(tmp_path, case_id)
    (tmp_path / "references.csv").write_text(f"case,series_uid\n{case_id},1.2.3.4.5.6\n")
    (fault,) = prostatex.find(tmp_path, TASK).faults
    assert isinstance(fault, faults.MissingCase)
    assert "1.2.3.4.5.6" in str(fault)
    (tmp_path / "references.csv").write_text("name,uid\nx,y\n")
    (fault,) = prostatex.find(tmp_path, TASK).faults
    assert isinstance(fault, faults.BadInfo)


def test_series_that_share_one_folder_are_told_apart(tmp_path):
    case_id, image, _, _uids = write(tmp_path)
    folders = sorted((tmp_path / "PROSTATEx" / case_id).glob("*/*"))
    for number, folder in enumerate(folders):
        for path in folder.iterdir():
            path.rename(folders[0].parent / f"{path.stem}-{number}.dcm")
    (case,) = prostatex.find(tmp_path, TASK).cases
    volumes, _ = read_case(case, TASK)
    np.testing.assert_array_equal(volumes["t2"].array, image.array)


@pytest.mark.parametrize("end", [".nii.gz", ".mhd", ".mha"])
def test_annotations_of_other_formats(tmp_path, end):
    case_id, _, label, uids = write(tmp_path)
    (tmp_path / "annotations" / f"{case_id}.nrrd").unlink()
    path = tmp_path / "elsewhere" / f"{case_id}_gland{end}"
    (write_nifti if end == ".nii.gz" else write_itk)(path, own_grid(label))
    (tmp_path / "references.csv").write_text(f"case,series_uid\n{case_id},{uids['t2_tse_tra']}\n")
    (case,) = prostatex.find(tmp_path, TASK).cases
    assert dice(read_case(case, TASK)[1].array > 0, label.array > 0) > 0.97


def test_a_dicom_segmentation_brings_its_reference_and_its_zones_make_the_gland(tmp_path):
    highdicom = pytest.importorskip("highdicom")
    case_id, _, label, uids = write(tmp_path)
    (tmp_path / "annotations" / f"{case_id}.nrrd").unlink()
    folder = next(folder for folder in (tmp_path / "PROSTATEx" / case_id).glob("*/*t2_tse_tra-*"))
    sources = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    for source in sources:
        for tag in ("StudyID", "AccessionNumber", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"):
            setattr(source, tag, "")
    zones = label.array.copy()
    zones[:, :10][zones[:, :10] > 0] = 2
    code = highdicom.sr.CodedConcept("41216001", "SCT", "Prostate")
    kind = highdicom.sr.CodedConcept("123037004", "SCT", "Anatomical structure")
    described = [
        highdicom.seg.SegmentDescription(number, name, kind, code, highdicom.seg.SegmentAlgorithmTypeValues.MANUAL)
        for number, name in ((1, "peripheral zone"), (2, "transition zone"))
    ]
    segmentation = highdicom.seg.Segmentation(
        sources, zones, highdicom.seg.SegmentationTypeValues.BINARY, described, f"{ROOT_UID}.77", 5,
        f"{ROOT_UID}.77.1", 1, "segcal", "tests", "1", "0",
    )  # fmt: skip
    (folder.parent / "seg").mkdir()
    segmentation.save_as(folder.parent / "seg" / "1-1.dcm")
    found = prostatex.find(tmp_path, TASK)
    assert not found.faults
    (case,) = found.cases
    assert case.channels["t2"].series == uids["t2_tse_tra"]
    assert dice(read_case(case, TASK)[1].array > 0, label.array > 0) > 0.97
    path = folder.parent / "seg" / "1-1.dcm"
    good = path.read_bytes()
    path.write_bytes(good[:-20])
    with pytest.raises(faults.Truncated):
        read_case(case, TASK)
    for cut in range(200, len(good) - 700, 397):
        path.write_bytes(good[:cut])
        with pytest.raises(faults.DataFault):
            read_case(case, TASK)
    # Moved between the slices of a series it is found all the same.
    path.write_bytes(good)
    path.rename(folder / "1-02b.dcm")
    (case,) = prostatex.find(tmp_path, TASK).cases
    assert case.label.name == "1-02b.dcm"
    # One frame that lies far away would make a volume of a hundred thousand slices.
    far = pydicom.dcmread(folder / "1-02b.dcm")
    position = far.PerFrameFunctionalGroupsSequence[-1].PlanePositionSequence[0]
    first = far.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
    along = np.cross(*np.array(far.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
                               .ImageOrientationPatient, dtype=float).reshape(2, 3))  # fmt: skip
    there = np.array(first.ImagePositionPatient, dtype=float) + along * 3.0 * 1_000_000
    position.ImagePositionPatient = [f"{value:.10g}"[:16] for value in there]
    far.save_as(folder / "1-02b.dcm")
    with pytest.raises((faults.TooLarge, faults.Unreadable)):
        read_case(case, TASK)


def test_annotations_that_cannot_be_read_are_faults_of_their_patient(tmp_path, kinds):
    for number in range(4):
        write(tmp_path, number)
    annotations = tmp_path / "annotations"
    (annotations / "ProstateX-0000.nrrd").unlink()
    (annotations / "ProstateX-0000.nrrd").symlink_to(tmp_path / "nowhere.nrrd")
    (annotations / "ProstateX-0001.nrrd").write_bytes(b"")
    shutil.move(annotations / "ProstateX-0002.nrrd", tmp_path.parent / "outside.nrrd")
    (annotations / "ProstateX-0002.nrrd").symlink_to(tmp_path.parent / "outside.nrrd")
    found = prostatex.find(tmp_path, TASK)
    assert kinds(found) == ["MissingChannel", "EmptyFile", "UnsafePath"]
    assert [case.case_id for case in found.cases] == ["ProstateX-0003"]


def test_capitals(tmp_path):
    write(tmp_path)
    for path in [*tmp_path.rglob("*.dcm"), *tmp_path.rglob("*.nrrd")]:
        path.rename(path.with_suffix(path.suffix.upper()))
    (case,) = prostatex.find(tmp_path, TASK).cases
    read_case(case, TASK)


@pytest.mark.parametrize("which", [0, 2, -1])
@pytest.mark.parametrize("content", [b"", b"no image at all"])
def test_a_broken_slice_is_never_left_out_in_silence(tmp_path, which, content):
    case_id, *_ = write(tmp_path)
    (folder,) = (tmp_path / "PROSTATEx" / case_id).glob("*/*t2_tse_tra-*")
    sorted(folder.iterdir())[which].write_bytes(content)
    (case,) = prostatex.find(tmp_path, TASK).cases
    with pytest.raises((faults.EmptyFile, faults.Unreadable)):
        read_case(case, TASK)


def test_a_label_drawn_elsewhere_is_refused(tmp_path):
    case_id, _, label, uids = write(tmp_path)
    away = own_grid(label)
    away.affine[:3, 3] += [60, 0, 0]
    write_itk(tmp_path / "annotations" / f"{case_id}.nrrd", away, {prostatex.REFERENCE_KEY: uids["t2_tse_tra"]})
    (case,) = prostatex.find(tmp_path, TASK).cases
    with pytest.raises(faults.GridMismatch, match=r"must lie within the image, got \d+% of it outside"):
        read_case(case, TASK)


def test_patients_without_annotation_annotations_without_patient_and_two_annotations(tmp_path, caplog, kinds):
    for number in range(3):
        write(tmp_path, number)
    (tmp_path / "annotations" / "ProstateX-0000.nrrd").unlink()
    shutil.copy(tmp_path / "annotations" / "ProstateX-0001.nrrd", tmp_path / "annotations" / "ProstateX-0001_b.nrrd")
    shutil.copy(tmp_path / "annotations" / "ProstateX-0001.nrrd", tmp_path / "annotations" / "ProstateX-0009.nrrd")
    with caplog.at_level(logging.WARNING):
        found = prostatex.find(tmp_path, TASK)
    assert [case.case_id for case in found.cases] == ["ProstateX-0002"]
    assert kinds(found) == ["DoubledCase", "MissingCase"]
    assert "1 patients without an annotation are left out" in caplog.text


def test_a_list_of_ids(tmp_path):
    from segcal.data.layouts import find_cases
    from segcal.data.taskfile import load_task

    for number in range(3):
        write(tmp_path, number)
    task = load_task("prostate", {"ids": ["ProstateX-0002", "ProstateX-0007"]})
    found = find_cases(tmp_path, task)
    assert [case.case_id for case in found.cases] == ["ProstateX-0002"]
    assert [fault.case_id for fault in found.faults] == ["ProstateX-0007"]


def test_nothing_of_it_in_other_folders(tmp_path):
    (tmp_path / "ProstateX-0000").mkdir()
    assert not prostatex.recognise(tmp_path)
    write_series(tmp_path / "ProstateX-0000" / "a", ball()[0], f"{ROOT_UID}.1", "p", "1.2", "t2")
    assert prostatex.recognise(tmp_path)
