"""Preparing without a label is what preparing with one does, bit for bit."""

from dataclasses import replace

import numpy as np
import pytest

from segcal.data.case_files import ImageFile
from segcal.data.faults import GridMismatch, TooLarge
from segcal.data.layouts import find_cases
from segcal.data.prepare_case import prepare_case, prepare_image, read_channels
from segcal.data.voxels.nifti import write_nifti
from segcal.tasks import TASKS
from segcal.volume import Volume


@pytest.mark.parametrize("fields", [{}, {"spacing_mm": (2.0, 0.7, 1.3), "crop": (16, 48)}, {"orientation": "stored"}])
def test_an_image_is_prepared_alike_with_and_without_its_label(blobs, tiny_task, fields):
    task = replace(tiny_task, **fields)
    for case in find_cases(blobs, task).cases[:2]:
        image, truth, entry = prepare_case(case, task)
        alone, way_back = prepare_image(read_channels(case.channels, case.root, case.case_id), task, case.case_id)
        assert alone.dtype == np.float32
        assert alone.tobytes() == image.tobytes()
        assert way_back == {key: entry[key] for key in way_back}
        assert set(entry) - set(way_back) == {"case_id", "site", "group", "cropped_away", "class_voxels"}
        assert tuple(way_back["shape"]) == truth.shape == image.shape[1:]


def test_the_way_back_of_a_grid_worked_out_by_hand():
    """4 slices of 3 mm stay; 10 x 20 voxels of 2 x 1 mm become 20 x 20 of 1 mm; the crop cuts 2 and pads 6."""
    task = replace(TASKS["prostate"], spacing_mm=(None, 1.0, 1.0), crop=(16, 32))
    affine = np.diag([-1.0, -2.0, 3.0, 1.0])
    array = np.arange(800, dtype=np.float32).reshape(4, 10, 20)
    image, way_back = prepare_image({"t2": Volume(array, (3.0, 2.0, 1.0), affine)}, task, "P1")
    assert image.shape == (1, 4, 16, 32)
    assert way_back["resampled_shape"] == [4, 20, 20]
    assert way_back["crop_offset"] == [2, -6]
    assert way_back["spacing_mm"] == [3.0, 1.0, 1.0]
    assert way_back["native"]["shape"] == way_back["native"]["turned_shape"] == [4, 10, 20]
    assert image[0, :, :, :6].max() == 0
    np.testing.assert_allclose(image[0, 0, :, 6:26].mean(axis=1).argsort(), np.arange(16))  # rows keep their order


def test_channels_on_different_grids_are_a_fault(tmp_path):
    paths = {}
    for name, size in {"t1ce": 4, "t2": 5}.items():
        paths[name] = tmp_path / f"{name}.nii.gz"
        write_nifti(paths[name], Volume(np.ones((3, 4, size), np.float32), (1.0, 1.0, 1.0), np.eye(4)))
    with pytest.raises(GridMismatch, match="t2 must lie on the grid of t1ce"):
        read_channels({name: ImageFile((path,)) for name, path in paths.items()}, tmp_path, "P1")


def test_a_grid_beyond_the_caps_is_refused_before_it_is_made():
    task = replace(TASKS["prostate3d"], spacing_mm=(1.0, 1.0, 1.0))
    volume = Volume(np.ones((20, 20, 20), np.float32), (90.0, 90.0, 90.0), np.diag([90.0, 90.0, 90.0, 1.0]))
    with pytest.raises(TooLarge):
        prepare_image({"t2": volume}, task, "P1")
