import logging
from dataclasses import replace

import numpy as np
import pytest

from segcal.data import faults
from segcal.data.layouts import acdc, recognise
from segcal.data.prepare_case import read_case
from segcal.tasks import TASKS
from tests.data.layouts.conftest import ball

HEART = TASKS["heart"]


def write(root, name, ed=1, es=9, group="training", identity_sform=False):
    affine = np.diag([1.5, 1.5, 9.0, 1.0])
    first, second = (ball(seed, spacing=(9.0, 1.5, 1.5), labels=(1, 2, 3), affine=affine) for seed in (ed, es))
    folder = root / group / name
    acdc.write_case(folder, {"ED": (ed, *first), "ES": (es, *second)}, {"Group": "NOR"}, identity_sform=identity_sform)
    return folder, first


def test_the_frame_is_the_one_of_info_cfg_and_not_the_first(tmp_path):
    write(tmp_path, "patient001")
    _folder, (image, label) = write(tmp_path, "patient002", ed=4, es=1)
    cases = acdc.find(tmp_path, HEART).cases
    assert [(case.case_id, case.group, case.label.name) for case in cases] == [
        ("patient001", "training", "patient001_frame01_gt.nii.gz"),
        ("patient002", "training", "patient002_frame04_gt.nii.gz"),
    ]
    volumes, classes = read_case(cases[1], HEART)
    np.testing.assert_array_equal(volumes["cine"].array, image.array)
    np.testing.assert_array_equal(classes.array, label.array)


def test_an_identity_sform_is_seen_through(tmp_path, caplog):
    write(tmp_path, "patient001", identity_sform=True)
    (case,) = acdc.find(tmp_path, HEART).cases
    with caplog.at_level(logging.WARNING):
        volumes, _ = read_case(case, HEART)
    assert volumes["cine"].spacing_mm == (9.0, 1.5, 1.5)
    assert "says 1x1x1 mm, pixdim 1.5x1.5x9 mm; pixdim and qform are used" in caplog.text


def test_with_and_without_testing_and_the_group_itself(tmp_path):
    write(tmp_path, "patient001")
    assert len(acdc.find(tmp_path, HEART).cases) == 1
    write(tmp_path, "patient101", group="testing")
    assert [case.case_id for case in acdc.find(tmp_path, HEART).cases] == ["patient001"]  # the paper's 100
    assert [case.case_id for case in acdc.find(tmp_path / "training", HEART).cases] == ["patient001"]
    write(tmp_path / "flat", "patient001", group="")
    assert len(acdc.find(tmp_path / "flat", HEART).cases) == 1
    assert all(acdc.recognise(folder) for folder in (tmp_path, tmp_path / "training", tmp_path / "flat"))


@pytest.mark.parametrize(
    ("text", "got"),
    [
        (None, "got none"),
        ("ES: 9\nGroup: NOR\n", "got no line ED"),
        ("ED: first\n", "got ED: first"),
        ("ED: ²\n", "got ED: ²"),
    ],
)
def test_info_cfg_without_ed(tmp_path, text, got):
    folder, _ = write(tmp_path, "patient001")
    (folder / "Info.cfg").unlink()
    if text:
        (folder / "Info.cfg").write_text(text)
    (fault,) = acdc.find(tmp_path, HEART).faults
    assert isinstance(fault, faults.BadInfo)
    assert got in str(fault)


def test_files_that_are_missing_or_double(tmp_path, kinds):
    for number in range(1, 4):
        write(tmp_path, f"patient00{number}")
    (tmp_path / "training/patient001/patient001_frame01_gt.nii.gz").unlink()
    double = tmp_path / "training/patient002/patient002_frame01.nii.gz"
    double.with_suffix("").write_bytes(b"x")
    write(tmp_path, "patient003", group="")
    found = acdc.find(tmp_path, HEART)
    assert sorted((fault.case_id, kind) for fault, kind in zip(found.faults, kinds(found), strict=True)) == [
        ("patient001", "MissingChannel"),
        ("patient002", "DoubledCase"),
        ("patient003", "DoubledCase"),
    ]


@pytest.mark.parametrize("text", ["ed: 1\nES: 9\n", "\ufeffED: 1\r\nES: 9\r\n", "ES: 9\n ED : 1 \n"])
def test_info_cfg_as_other_editors_leave_it(tmp_path, text):
    folder, _ = write(tmp_path, "patient001")
    (folder / "Info.cfg").write_text(text, encoding="utf-8", newline="")
    found = acdc.find(tmp_path, HEART)
    assert (len(found.cases), found.faults) == (1, [])


def test_the_archives_own_folder_and_capitals(tmp_path):
    write(tmp_path / "database", "patient001")
    write(tmp_path / "database", "patient101", group="Testing")
    assert [case.group for case in acdc.find(tmp_path, HEART).cases] == ["training"]
    assert len(acdc.find(tmp_path, replace(HEART, groups=())).cases) == 2


def test_it_is_not_taken_for_brats(tmp_path):
    write(tmp_path, "patient001")
    assert [recognise(folder) for folder in (tmp_path, tmp_path / "training")] == ["acdc", "acdc"]
