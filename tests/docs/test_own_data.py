"""The faults that docs/own-data.md quotes are what `segcal data check` says, word for word."""

import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from segcal.cli import main
from segcal.data.layouts import nnunet
from segcal.volume import Volume

PAGE = (Path(__file__).parents[2] / "docs" / "own-data.md").read_text()
CHANNELS = ("t1ce", "t2", "flair")
QUOTED = [line for block in re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder like the page's: nine cases of 12 slices of 80 x 80 voxels, all noise but for nested boxes of labels."""
    root = tmp_path_factory.mktemp("own") / "Dataset501_Brains"
    rng, affine = np.random.default_rng(0), np.diag([-2.4, -2.4, 8.0, 1.0])
    truth = np.zeros((12, 80, 80), np.uint8)
    for label in (1, 2, 3):
        truth[2 + label : 10 - label, 10 * label : 70 - 10 * label, 20:40] = label

    def noise():
        return Volume(rng.integers(1, 999, truth.shape), (8.0, 2.4, 2.4), affine)

    for number in range(1, 10):
        channels = {name: noise() for name in CHANNELS}
        nnunet.write_case(root, f"brain_{number:03d}", channels, Volume(truth, (8.0, 2.4, 2.4), affine))
    nnunet.write_dataset(root, CHANNELS, ("non-enhancing", "edema", "enhancing"), 9)
    return root


def stored(path, array, scale):
    """Write a label anew, with its voxels scaled along x, y, z."""
    image = nib.load(path)
    affine = image.affine.copy()
    affine[:3, :3] = affine[:3, :3] @ np.diag(scale)
    nib.Nifti1Image(array(np.asarray(image.dataobj)), affine).to_filename(path)


def finer(labels):
    return labels.repeat(2, axis=0).repeat(2, axis=1)


def renumbered(labels):
    return np.where(labels == 3, 4, labels)


def said(capsys, *argv):
    capsys.readouterr()
    code = main(["data", "check", *map(str, argv)])
    captured = capsys.readouterr()
    faults = [line.partition("FAULT ")[2] for line in captured.out.splitlines() if "FAULT " in line]
    return code, faults, captured.err.splitlines()


def test_each_quoted_fault_is_what_check_says(whole, tmp_path, capsys, monkeypatch):
    broken = tmp_path / "Dataset501_Brains"
    shutil.copytree(whole, broken)
    images, labels = broken / "imagesTr", broken / "labelsTr"
    (images / "brain_003_0001.nii.gz").unlink()
    shutil.copy(images / "brain_009_0000.nii.gz", images / "brain_099_0000.nii.gz")
    (images / "brain_001_0000.nii.gz").write_bytes(b"")
    (images / "brain_004_0002.nii.gz").write_bytes((images / "brain_004_0002.nii.gz").read_bytes()[:20_000])
    stored(labels / "brain_005.nii.gz", finer, (0.5, 0.5, 1))
    stored(labels / "brain_008.nii.gz", np.asarray, (1, 1, 0.5))
    stored(labels / "brain_007.nii.gz", renumbered, (1, 1, 1))
    monkeypatch.chdir(broken)
    code, faults, _ = said(capsys, ".")
    assert (code, len(faults)) == (4, 7)
    (tmp_path / "brains.yaml").write_text(
        "name: brains\nlayout: nnunet\nchannels: [t1ce, t2, flair]\n"
        "labels: {1: non-enhancing, 2: edema, 3: enhancing}\n"
        "spacing_mm: [null, 3, 3]\ncrop: [64, 64]\nbatch: 8\n"
    )
    info = (whole / "dataset.json").read_text()
    (broken / "dataset.json").write_text(info.replace('"t2"', '"t2w"'))
    code, _, absent = said(capsys, broken, "--task", tmp_path / "brains.yaml")
    assert code == 2
    (broken / "dataset.json").write_text(info.replace('"edema": 2', '"edema": 3').replace('ing": 3', 'ing": 2'))
    code, renamed, _ = said(capsys, broken, "--task", tmp_path / "brains.yaml")
    assert code == 4
    assert sorted(QUOTED) == sorted([*faults, *absent, *renamed])
