"""Cohorts on disk: the traps of the real ones are in them, and they are made once."""

import csv
import filecmp
import logging

import nibabel as nib
import numpy as np
import pydicom
import pytest

from segcal.data.check import check_cohort
from segcal.data.layouts import find_cases
from segcal.data.phantom import embedded
from segcal.data.phantom.embedded import EMBEDDED, SEED, embedded_cohort, write_cohort
from segcal.data.prepare_case import read_case
from segcal.data.taskfile import load_task
from segcal.data.voxels.read import read_image
from segcal.errors import UsageError

FOLDERS = {"brain": ["."], "heart": ["."], "prostate": ["PROSTATEx", "PROMISE12"]}


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory):
    root = tmp_path_factory.mktemp("embedded")
    for task in FOLDERS:
        write_cohort(task, root / task, cases=9, size=48)
    return root


@pytest.mark.parametrize(("task", "folder", "layout"), [
    ("brain", ".", "brats"), ("heart", ".", "acdc"), ("prostate", "PROSTATEx", "prostatex"),
    ("prostate", "PROMISE12", "promise12"), ("prostate3d", "PROSTATEx", "prostatex"),
])  # fmt: skip
def test_every_cohort_passes_the_checks_of_real_ones(cohorts, task, folder, layout):
    checks = list(check_cohort(cohorts / task.removesuffix("3d") / folder, load_task(task, {"layout": layout})))
    assert [check.message for check in checks if check.fault] == []
    assert len(checks) == {"prostatex": 6, "promise12": 3}.get(layout, 9)
    assert all(check.labels for check in checks)


def test_hearts_have_broken_sforms_and_other_frames_than_the_first(cohorts, caplog):
    found = find_cases(cohorts / "heart", load_task("heart"))
    frames = {case.label.name.partition("_frame")[2][:2] for case in found.cases}
    identity = []
    for case in found.cases:
        header = nib.load(case.label.paths[0]).header
        if np.array_equal(header.get_sform(), np.eye(4)):
            identity.append(case)
            assert header.get_zooms()[0] > 3
    assert len(identity) == 2  # every fourth
    assert len(frames) > 1
    with caplog.at_level(logging.WARNING):
        volume = read_image(identity[0].label, cohorts, identity[0].case_id)
    assert "pixdim and qform are used" in caplog.text
    assert volume.spacing_mm[0] >= 7


def test_prostates_have_three_series_a_tilt_and_labels_on_their_own_grid(cohorts):
    root = cohorts / "prostate" / "PROSTATEx"
    for case in find_cases(root, load_task("prostate")).cases:
        series = [folder for folder in (root / "PROSTATEx" / case.case_id).rglob("*") if any(folder.glob("*.dcm"))]
        first = [pydicom.dcmread(next(folder.glob("*.dcm"))) for folder in series]
        names = sorted(header.SeriesDescription for header in first)
        assert names == ["t2_tse_sag", "t2_tse_tra", "t2_tse_tra_repeat"]
        image = read_image(case.channels["t2"], root, case.case_id)
        label = read_image(case.label, root, case.case_id)
        tilt = np.degrees(np.arccos(np.abs(image.affine[2, 2]) / image.spacing_mm[0]))
        assert 4 < tilt < 19
        assert len(set(label.spacing_mm)) == 1
        np.testing.assert_allclose(np.abs(np.diag(label.affine)[:3]), label.spacing_mm[::-1], rtol=1e-5)


def test_the_other_cohort_has_matrices_and_coils_of_its_own(cohorts):
    root = cohorts / "prostate" / "PROMISE12"
    cases = find_cases(root, load_task("prostate", {"layout": "promise12"})).cases
    with (root / "coil.csv").open() as file:
        coils = {row["case"]: row["coil"] for row in csv.DictReader(file)}
    assert {case.case_id: case.site for case in cases} == coils
    assert set(coils.values()) == {"endorectal", "phased-array"}
    assert sorted(path.suffix for path in root.iterdir()) == [".csv", *[".mhd"] * 6, *[".raw"] * 6]


@pytest.mark.parametrize("task", sorted(FOLDERS))
def test_the_same_seed_writes_the_same_bytes(cohorts, tmp_path, task):
    write_cohort(task, tmp_path / "again", cases=9, size=48)
    write_cohort(task, tmp_path / "other", cases=4, size=48, seed=5)
    files = sorted(path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*") if path.is_file())
    _, differ, failed = filecmp.cmpfiles(cohorts / task, tmp_path / "again", files, shallow=False)
    assert (differ, failed) == ([], [])
    images = [path for path in files if path.suffix in (".gz", ".dcm", ".raw")]
    same, _, _ = filecmp.cmpfiles(cohorts / task, tmp_path / "other", images[:3], shallow=False)
    assert same == []


def test_case_i_does_not_depend_on_how_many_there_are(cohorts, tmp_path):
    write_cohort("heart", tmp_path / "few", cases=4, size=48)
    for path in (tmp_path / "few").rglob("patient002*.nii.gz"):
        assert path.read_bytes() == (cohorts / "heart" / path.relative_to(tmp_path / "few")).read_bytes()


def test_embedded_cohorts_are_made_once(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "CASES", 4)
    monkeypatch.setitem(embedded.EMBEDDED, "brain", embedded.EmbeddedCohort("brain", 32, EMBEDDED["brain"].write))
    said = []
    first = embedded_cohort("brain", tmp_path, lambda *step: said.append(step))
    assert [step[1:3] for step in said] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert embedded_cohort("brain", tmp_path, lambda *step: said.append(step)) == first
    assert len(said) == 4
    assert first[1] is None


def test_what_was_not_finished_is_never_found(tmp_path, monkeypatch):
    def killed(out, index, cases, size, seed):
        if index == 2:
            raise KeyboardInterrupt
        (out / f"{index}").mkdir(parents=True)
        return str(index)

    monkeypatch.setitem(embedded.EMBEDDED, "brain", embedded.EmbeddedCohort("brain", 32, killed))
    with pytest.raises(KeyboardInterrupt):
        write_cohort("brain", tmp_path / "out", cases=6)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("task", ["brain", "prostate"])
def test_the_same_patients_as_an_nnunet_folder(tmp_path, task):
    """Images and labels on one grid, labels numbered from 1, two new images without labels."""
    write_cohort(task, tmp_path / "Dataset501_Mine", cases=6, size=32, layout="nnunet")
    EMBEDDED[task].write(tmp_path / "own", 1, 6, 32, SEED)
    root = tmp_path / "Dataset501_Mine"
    folders = sorted(path.name for path in root.iterdir())
    assert folders == ["dataset.json", "imagesTr", "imagesTs", "labelsTr"]
    theirs = load_task(str(root))
    assert theirs.labels == dict(enumerate(load_task(task).structures, start=1))
    assert [check.message for check in check_cohort(root, theirs) if check.fault] == []
    cases = find_cases(root, theirs).cases
    assert [case.case_id for case in cases] == [f"{task}_{number:03d}" for number in range(1, 5)]
    new = sorted(path.name for path in (root / "imagesTs").iterdir())
    assert new == [f"{task}_{number:03d}_{n:04d}.nii.gz" for number in (5, 6) for n in range(len(theirs.channels))]
    one, other = cases[1], find_cases(tmp_path / "own", load_task(task)).cases[0]
    (volumes, label), (same, outline) = read_case(one, theirs), read_case(other, load_task(task))
    assert list(volumes) == list(same)
    for name, volume in volumes.items():
        np.testing.assert_array_equal(volume.array, same[name].array)
    np.testing.assert_array_equal(label.array, outline.array)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"task": "lung"}, "no embedded data for task 'lung'"),
        ({"cases": 3}, "cases must be at least 4"),
        ({"cases": 5, "layout": "nnunet"}, r"at least 6 \(train, val, test and new images\), got cases=5"),
        ({"layout": "msd"}, "written as nnunet, or as the task's own layout, got 'msd'"),
        ({"size": 16}, "size must be at least 32 voxels, got size=16"),
        ({"out": "."}, "--out must be a new folder"),
    ],
)
def test_a_wrong_request(tmp_path, more, message):
    given = {"task": "brain", "out": "new", **more}
    with pytest.raises(UsageError, match=message):
        write_cohort(
            given["task"], tmp_path / given["out"], given.get("cases"), given.get("size"), layout=given.get("layout")
        )
