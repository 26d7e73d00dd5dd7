"""Medical Segmentation Decathlon: components of 4-D files, and label numbers of its own."""

import json

import nibabel as nib
import numpy as np
import pytest

from segcal.data import faults
from segcal.data.layouts import find_cases, recognise
from segcal.data.prepare_case import read_case
from segcal.data.taskfile import load_task
from segcal.errors import UsageError
from tests.data.layouts.conftest import ball

BRAIN = {"modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
         "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"}}  # fmt: skip
PROSTATE = {"modality": {"0": "T2", "1": "ADC"}, "labels": {"0": "background", "1": "PZ", "2": "TZ"}}
HEART = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "left atrium"}}


def write(root, dataset, cases=4):
    (root / "imagesTr").mkdir(parents=True)
    (root / "labelsTr").mkdir()
    (root / "dataset.json").write_text(json.dumps(dataset))
    n, labels = len(dataset["modality"]), tuple(int(key) for key in dataset["labels"] if key != "0")
    for index in range(cases):
        image, truth = ball(index, labels=labels)
        stacked = np.stack([image.array.transpose(2, 1, 0) * (i + 1) for i in range(n)], axis=-1)
        stacked = stacked[..., 0] if n == 1 else stacked
        nib.Nifti1Image(stacked, image.affine).to_filename(root / "imagesTr" / f"x_{index:03d}.nii.gz")
        nib.Nifti1Image(truth.array.transpose(2, 1, 0), image.affine).to_filename(
            root / "labelsTr" / f"x_{index:03d}.nii.gz"
        )
    (root / "imagesTr" / "._x_000.nii.gz").write_bytes(b"the real archives hold these")
    return root


def test_brain_tumours_as_our_brain_task_knows_them(tmp_path):
    root = write(tmp_path / "Task01_BrainTumour", BRAIN)
    assert recognise(root) == "msd"
    task = load_task("brain", {"layout": "msd"})
    found = find_cases(root, task)
    assert not found.faults
    assert [image.component for image in found.cases[0].channels.values()] == [2, 3, 0]  # t1ce, t2, flair
    volumes, label = read_case(found.cases[0], task)
    image, truth = ball(0, labels=(1, 2, 3))
    np.testing.assert_array_equal(volumes["t1ce"].array, image.array * 3)
    np.testing.assert_array_equal(volumes["flair"].array, image.array)
    edema, core, enhancing = (truth.array == value for value in (1, 2, 3))
    assert (label.array[edema] == 2).all()  # classes of the task: non-enhancing, edema, enhancing
    assert (label.array[core] == 1).all()
    assert (label.array[enhancing] == 3).all()
    assert {case.site for case in found.cases} == {""}  # a split by site is not possible


def test_zones_make_the_gland(tmp_path):
    root = write(tmp_path / "Task05_Prostate", PROSTATE)
    task = load_task("prostate", {"layout": "msd"})
    case, *_ = find_cases(root, task).cases
    _, label = read_case(case, task)
    np.testing.assert_array_equal(label.array, ball(0, labels=(1, 2))[1].array > 0)
    with pytest.raises(UsageError, match="no channel named 't1ce'"):
        find_cases(root, load_task("brain", {"layout": "msd"}))


def test_any_other_task_as_it_calls_itself(tmp_path):
    root = write(tmp_path / "Task02_Heart", HEART)
    task = load_task(str(root))
    assert (task.name, task.layout, task.channels) == ("task02-heart", "msd", ("mri",))
    assert task.labels == {1: "left atrium"}
    found = find_cases(root, task)
    assert found.cases[0].channels["mri"].component is None
    read_case(found.cases[0], task)


def test_files_without_their_partner_and_a_short_4d_file(tmp_path, kinds):
    root = write(tmp_path / "Task01_BrainTumour", BRAIN)
    (root / "labelsTr" / "x_000.nii.gz").unlink()
    (root / "imagesTr" / "x_001.nii.gz").unlink()
    image = ball(2)[0]
    nib.Nifti1Image(np.stack([image.array.transpose(2, 1, 0)] * 2, axis=-1), image.affine).to_filename(
        root / "imagesTr" / "x_002.nii.gz"
    )
    task = load_task("brain", {"layout": "msd"})
    found = find_cases(root, task)
    assert kinds(found) == ["MissingChannel", "MissingChannel"]
    with pytest.raises(faults.Unreadable, match="must be 4-D with at least 3 components"):
        read_case(found.cases[0], task)


def test_the_labels_are_known_by_their_names_not_by_the_folders(tmp_path):
    root = write(tmp_path / "renamed", BRAIN)
    task = load_task("brain", {"layout": "msd"})
    _, label = read_case(find_cases(root, task).cases[0], task)
    assert (label.array[ball(0, labels=(1, 2, 3))[1].array == 1] == 2).all()  # edema, the task's second class


def test_names_that_contradict_the_task_are_refused(tmp_path, kinds):
    labels = {"0": "background", "1": "gland", "2": "lesion"}
    root = write(tmp_path / "mine", {**PROSTATE, "labels": labels})
    task = load_task("prostate", {"layout": "msd", "labels": {2: "gland", 1: "lesion"}, "structure_weights": {}})
    found = find_cases(root, task)
    assert kinds(found) == ["BadInfo"]
