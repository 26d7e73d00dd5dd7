"""Digests of image files, and whether they say how the patient lies."""

import hashlib
import re

import nibabel as nib

from segcal.data.source_files import file_digests, is_placed
from segcal.data.unlabelled import case_of_files
from segcal.data.voxels.itk_files import write_itk
from segcal.data.voxels.nifti import write_nifti
from tests.data.test_unlabelled import PROSTATE, volume


def test_digests_are_of_every_file(tmp_path):
    write_itk(tmp_path / "P1.mhd", volume(1))
    case = case_of_files([tmp_path / "P1.mhd"], PROSTATE)
    expected = [
        {"file": name, "sha256": hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()}
        for name in ("P1.mhd", "P1.raw")
    ]
    assert file_digests(case.channels, case.root, case.case_id) == {"t2": expected}


def test_orientation_without_information(tmp_path):
    image = nib.Nifti1Image(volume(1).array.transpose(2, 1, 0), None)
    image.header.set_zooms((1, 1, 3))
    nib.save(image, tmp_path / "lost.nii.gz")
    write_nifti(tmp_path / "placed.nii.gz", volume(1))
    write_itk(tmp_path / "placed.mha", volume(1))
    write_itk(tmp_path / "placed.nrrd", volume(1))
    header = (tmp_path / "placed.mha").read_bytes()
    (tmp_path / "lost.mha").write_bytes(re.sub(rb"TransformMatrix = .*\n", b"", header))
    placed = {path.name: is_placed(case_of_files([path], PROSTATE).channels["t2"], "P1") for path in tmp_path.iterdir()}
    assert placed == {name: name.startswith("placed") for name in placed}
    assert len(placed) == 5
