"""A table of paths: nothing outside its folder, no patient in two splits."""

import pytest

from segcal.data import faults
from segcal.data.cohort import assign_splits
from segcal.data.layouts import find_cases, recognise
from segcal.data.prepare_case import read_case
from segcal.data.taskfile import load_task
from segcal.data.voxels.dicom import write_series
from segcal.data.voxels.nifti import write_nifti
from segcal.errors import UsageError
from tests.data.layouts.conftest import ball

TASK = load_task("prostate", {"layout": "csv", "split_counts": {}})


def write(root, rows, header="case,t2,label,split,site,patient"):
    for index in range(6):
        image, label = ball(index)
        write_nifti(root / "somewhere" / f"{index} t2.nii.gz", image)
        write_nifti(root / "labels" / f"{index}.nii.gz", label)
    (root / "cases.csv").write_text("\n".join([header, *rows]) + "\n")
    return root


def line(index, split="", patient="", site="A"):
    return f"c{index},somewhere/{index} t2.nii.gz,labels/{index}.nii.gz,{split},{site},{patient}"


def test_paths_splits_and_sites_are_those_of_the_table(tmp_path):
    rows = [line(0, "train"), "", "# a remark", line(1, "val"), line(2, "test", site="B"), line(3, "test")]
    assert recognise(write(tmp_path, rows)) == "csv"
    found = find_cases(tmp_path, TASK)
    assert not found.faults
    assert [(case.case_id, case.split, case.site) for case in found.cases] == [
        ("c0", "train", "A"),
        ("c1", "val", "A"),
        ("c2", "test", "B"),
        ("c3", "test", "A"),
    ]
    assert assign_splits(found.cases, TASK) == {"c0": "train", "c1": "val", "c2": "test", "c3": "test"}
    read_case(found.cases[2], TASK)


def test_only_what_is_needed_must_be_there(tmp_path):
    rows = [f"c{i},somewhere/{i} t2.nii.gz,labels/{i}.nii.gz" for i in range(6)]
    write(tmp_path, rows, header="\ufeffcase, t2, label")  # as spreadsheets write it
    found = find_cases(tmp_path, TASK)
    assert not found.faults
    assert set(assign_splits(found.cases, TASK).values()) == {"train", "val", "test"}


def test_a_folder_of_dicom_slices(tmp_path):
    image, _ = ball(0)
    write(tmp_path, ["c0,series,labels/0.nii.gz,,,"])
    write_series(tmp_path / "series", image, "1.2.3.4.5.6.7", "p", "1.2", "t2")
    (case,) = find_cases(tmp_path, TASK).cases
    volumes, _ = read_case(case, TASK)
    assert volumes["t2"].array.shape == image.array.shape


@pytest.mark.parametrize("path", ["../secret.nii.gz", "somewhere/../../secret.nii.gz", "/etc/passwd"])
def test_paths_out_of_the_folder_are_refused(tmp_path, path):
    write(tmp_path / "cohort", [line(1), f"c0,{path},labels/0.nii.gz,,,"])
    found = find_cases(tmp_path / "cohort", TASK)
    (fault,) = found.faults
    assert isinstance(fault, faults.UnsafePath)
    assert f"got {path}; copy or move the file into the folder" in str(fault)
    assert [case.case_id for case in found.cases] == ["c1"]


def test_an_absolute_link_out_of_the_folder_is_refused_when_it_is_read(tmp_path):
    write(tmp_path / "cohort", [line(0)])
    write_nifti(tmp_path / "secret.nii.gz", ball(0)[0])
    target = tmp_path / "cohort" / "somewhere" / "0 t2.nii.gz"
    target.unlink()
    target.symlink_to(tmp_path / "secret.nii.gz")
    (case,) = find_cases(tmp_path / "cohort", TASK).cases
    with pytest.raises(faults.UnsafePath):
        read_case(case, TASK)


def test_a_patient_in_two_splits_is_refused_and_a_silent_case_follows_its_patient(tmp_path):
    rows = [line(0, "train", "P1"), line(1, "", "P1"), line(2, "val", "P2"), line(3, "test", "P3")]
    write(tmp_path, rows)
    assert assign_splits(find_cases(tmp_path, TASK).cases, TASK)["c1"] == "train"
    write(tmp_path, [*rows[:1], line(1, "test", "P1"), *rows[2:]])
    with pytest.raises(faults.BadSplit, match="cases of patient P1 must be in one split, got c0 in train and c1 in"):
        assign_splits(find_cases(tmp_path, TASK).cases, TASK)


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        ([line(0), line(0)], "DoubledCase", "a case must stand in one line, got line 3"),
        ([",a,b,,,"], "BadInfo", "line 2 must name its case"),
        (["a/b,a,b,,,"], "BadInfo", "no / and no leading"),
        ([line(0, "training")], "BadInfo", "must be train, val or test, got 'training'"),
        (["c0,,labels/0.nii.gz,,,"], "MissingChannel", "column 't2' must hold a path, got an empty cell"),
    ],
)
def test_lines_that_make_no_sense(tmp_path, kinds, rows, kind, message):
    found = find_cases(write(tmp_path, rows), TASK)
    assert kinds(found) == [kind]
    assert message in str(found.faults[0])


def test_a_missing_column_and_no_table_at_all(tmp_path, kinds):
    found = find_cases(write(tmp_path, [], header="case,T2,label"), TASK)
    assert kinds(found) == ["BadInfo"]
    assert "it must have the column 't2', got case, T2, label; add it" in str(found.faults[0])
    (tmp_path / "cases.csv").write_bytes(b"case,t2,label\n\xff\xfe\xfa,a,b\n")
    assert "must be a table of text" in str(find_cases(tmp_path, TASK).faults[0])
    (tmp_path / "cases.csv").unlink()
    assert kinds(find_cases(tmp_path, TASK)) == ["MissingCase"]


def test_a_table_does_not_tell_its_labels(tmp_path):
    with pytest.raises(UsageError, match="the csv layout does not tell the labels; name a task with --task"):
        load_task(str(write(tmp_path, [line(0)])))


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ([line(0)], "case,t2,t2,label,split,site", "its columns must differ, got case, t2, t2"),
        (["x" * 101 + ",a,b,,,"], None, "must name its case with 1 to 100 characters"),
        (["a\0b,a,b,,,"], None, "must name its case"),
        (["..,a,b,,,"], None, "must name its case"),
    ],
)
def test_names_that_make_no_files(tmp_path, rows, header, message):
    root = write(tmp_path, rows, **({"header": header} if header else {}))
    (fault,) = find_cases(root, TASK).faults
    assert isinstance(fault, faults.BadInfo)
    assert message in str(fault)


def test_two_series_in_one_folder(tmp_path):
    image, _ = ball(0)
    write(tmp_path, ["c0,series,labels/0.nii.gz,,,"])
    for number, uid in enumerate(("1.2.3.4.5.6.7", "1.2.3.4.5.6.8")):
        write_series(tmp_path / f"s{number}", image, uid, "p", "1.2", "t2")
        for path in (tmp_path / f"s{number}").iterdir():
            (tmp_path / "series").mkdir(exist_ok=True)
            path.rename(tmp_path / "series" / f"{number}-{path.name}")
    (case,) = find_cases(tmp_path, TASK).cases
    with pytest.raises(faults.AmbiguousSeries):
        read_case(case, TASK)


@pytest.mark.parametrize("name", ["y" * 300 + ".nii.gz", "0\0.nii.gz"])
def test_paths_that_no_file_can_have(tmp_path, name):
    (case,) = find_cases(write(tmp_path, [f"c0,{name},labels/0.nii.gz,,,"]), TASK).cases
    with pytest.raises(faults.MissingChannel, match="names that can be opened"):
        read_case(case, TASK)
