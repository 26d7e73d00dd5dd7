"""What a contact sheet shows: rows from files, with their faults."""

import numpy as np
import pytest

from segcal.data.layouts import brats
from segcal.data.sheet import sheet_rows
from segcal.data.taskfile import load_task
from segcal.errors import UsageError
from tests.conftest import write_blobs


def test_every_case_is_a_row_of_slices_over_its_labels(blobs, tiny_task):
    rows = list(sheet_rows(blobs, tiny_task, slices=3))
    assert [row.case_id for row in rows] == sorted(row.case_id for row in rows)
    assert len(rows) == 7
    for row in rows:
        assert row.fault == ""
        assert row.caption.startswith(("CBICA\nflair, 4x32x32\n3x1x1 mm", "TCIA\nflair, 4x32x32\n3x1x1 mm"))
        assert [z for z, _, _ in row.slices] == [0, 2, 3]
        for _, image, classes in row.slices:
            assert image.shape == classes.shape
            assert 0 <= image.min() <= image.max() <= 1
        assert max(classes.max() for _, _, classes in row.slices) == 3


def test_pixels_that_are_not_square_and_empty_borders(tmp_path):
    image = np.zeros((3, 40, 60))
    image[:, 10:30, 20:50] = 500
    truth = np.zeros(image.shape, dtype=np.uint8)
    truth[1, 15:20, 25:30] = 2
    brats.write_case(tmp_path, "Brats17_CBICA_A_1", "HGG", dict.fromkeys(brats.CHANNELS, image), truth, (5.0, 2.0, 1.0))
    (row,) = sheet_rows(tmp_path, load_task("brain"))
    assert row.aspect == 2.0
    assert {picture.shape for _, picture, _ in row.slices} == {(20, 30)}
    assert sum(int((classes == 2).sum()) for _, _, classes in row.slices) == 25


def test_large_pictures_are_thinned(tmp_path):
    image = np.random.default_rng(0).uniform(1, 9, (1, 700, 500))
    truth = np.zeros(image.shape, dtype=np.uint8)
    brats.write_case(tmp_path, "Brats17_CBICA_A_1", "HGG", dict.fromkeys(brats.CHANNELS, image), truth, (5.0, 1.0, 1.0))
    (row,) = sheet_rows(tmp_path, load_task("brain"))
    assert row.slices[0][1].shape == (234, 167)  # every third pixel
    assert len(row.slices) == 1


def test_faults_of_names_come_first_and_faults_of_files_in_their_place(tmp_path, tiny_task):
    root = write_blobs(tmp_path, cases=3)
    first, second, _ = sorted((root / "HGG").iterdir())
    (first / f"{first.name}_t2.nii.gz").unlink()
    (second / f"{second.name}_flair.nii.gz").write_bytes(b"")
    rows = list(sheet_rows(root, tiny_task))
    assert [row.case_id for row in rows[:2]] == [first.name, second.name]
    assert [bool(row.fault) for row in rows] == [True, True, False]
    assert "0 bytes" in rows[1].fault
    assert rows[1].slices == ()


def test_a_wrong_request(blobs, tiny_task):
    with pytest.raises(UsageError, match="no channel named 'adc'"):
        sheet_rows(blobs, tiny_task, channel="adc")
    with pytest.raises(UsageError, match="--slices must be at least 1, got 0"):
        sheet_rows(blobs, tiny_task, slices=0)
