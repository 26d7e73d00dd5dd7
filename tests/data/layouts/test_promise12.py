from dataclasses import replace

import numpy as np

from segcal.data.layouts import find_cases, promise12
from segcal.data.prepare_case import read_case
from segcal.tasks import TASKS
from tests.data.layouts.conftest import ball

TASK = replace(TASKS["prostate"], layout="promise12")


def test_cases_anywhere_below_the_root_with_their_coil(tmp_path):
    for number, folder in enumerate(("TrainingData_Part1", "TrainingData_Part2/deeper", "")):
        promise12.write_case(tmp_path / folder, f"Case0{number}", *ball(number))
    (tmp_path / "coil.csv").write_text("# measured by us\ncase,coil\nCase00,endorectal\nCase01,phased-array\n")
    found = promise12.find(tmp_path, TASK)
    assert not found.faults
    assert [(case.case_id, case.site) for case in found.cases] == [
        ("Case00", "endorectal"),
        ("Case01", "phased-array"),
        ("Case02", "unknown"),
    ]
    volumes, label = read_case(found.cases[1], TASK)
    np.testing.assert_array_equal(volumes["t2"].array, ball(1)[0].array)
    np.testing.assert_array_equal(label.array, ball(1)[1].array)
    only = promise12.find(tmp_path, replace(TASK, groups=("endorectal",)))
    assert [case.case_id for case in only.cases] == ["Case00"]
    assert promise12.recognise(tmp_path)


def test_the_shipped_list_does_not_pretend_to_know(tmp_path):
    promise12.write_case(tmp_path, "Case07", *ball())
    assert promise12.find(tmp_path, TASK).cases[0].site == "unknown"


def test_a_test_set_without_labels_is_left_out_and_a_lost_label_is_a_fault(tmp_path, kinds):
    for number in range(3):
        promise12.write_case(tmp_path / "train", f"Case0{number}", *ball())
    promise12.write_case(tmp_path / "test", "Case30", *ball())
    (tmp_path / "test" / "Case30_segmentation.mhd").unlink()
    assert len(promise12.find(tmp_path, TASK).cases) == 3
    assert kinds(promise12.find(tmp_path, TASK)) == []
    (tmp_path / "train" / "Case01_segmentation.mhd").unlink()
    assert kinds(promise12.find(tmp_path, TASK)) == ["MissingChannel"]


def test_a_case_twice_and_an_unknown_coil(tmp_path, kinds):
    for folder in ("a", "b"):
        promise12.write_case(tmp_path / folder, "Case00", *ball())
    (tmp_path / "coil.csv").write_text("case,coil\nCase00,rectal\n")
    found = promise12.find(tmp_path, TASK)
    assert kinds(found) == ["BadInfo", "DoubledCase"]
    assert "must be endorectal, phased-array, unknown, got 'rectal'" in str(found.faults[0])


def test_a_label_without_its_image_is_a_fault(tmp_path, kinds):
    for number in range(3):
        promise12.write_case(tmp_path, f"Case0{number}", *ball())
    (tmp_path / "Case01.mhd").unlink()
    found = promise12.find(tmp_path, TASK)
    assert kinds(found) == ["MissingChannel"]
    assert "Case01_segmentation.mhd must have its image beside it, got none; restore Case01.mhd" in str(found.faults[0])


def test_capitals(tmp_path):
    promise12.write_case(tmp_path, "Case00", *ball())
    for path in list(tmp_path.glob("*.mhd")):
        path.rename(path.with_suffix(".MHD"))
    (case,) = promise12.find(tmp_path, TASK).cases
    read_case(case, TASK)


def test_a_broken_list_of_coils_is_told_also_where_ids_are_chosen(tmp_path, kinds):
    promise12.write_case(tmp_path, "Case00", *ball())
    (tmp_path / "coil.csv").write_text("case,coils\nCase00,endorectal\n")
    found = find_cases(tmp_path, replace(TASK, ids=("Case00", "Case07")))
    assert kinds(found) == ["BadInfo"]
    assert "coil.csv: it must have the column 'coil'" in str(found.faults[0])
