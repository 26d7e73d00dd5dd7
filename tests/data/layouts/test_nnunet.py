"""nnU-Net raw: a user's own data, with any channels and labels."""

import json

import numpy as np
import pytest

from segcal.data import faults
from segcal.data.cohort import assign_splits
from segcal.data.layouts import find_cases, recognise
from segcal.data.prepare_case import read_case
from segcal.data.taskfile import load_task
from segcal.data.voxels.itk_files import write_itk
from segcal.data.voxels.nifti import write_nifti
from segcal.errors import UsageError
from segcal.volume import Volume
from tests.data.layouts.conftest import ball

VERSION_2 = {"channel_names": {"0": "T2", "1": "ADC"}, "labels": {"background": 0, "gland": 1, "lesion": 2}}
VERSION_1 = {"modality": {"0": "T2", "1": "ADC"}, "labels": {"0": "background", "1": "gland", "2": "lesion"}}


def write(root, cases=4, dataset=VERSION_2, end=".nii.gz", part="Tr", first=0):
    (root / f"images{part}").mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(dataset))
    save = write_nifti if ".nii" in end else write_itk
    for index in range(first, first + cases):
        image, label = ball(index, labels=(1, 2))
        for number in range(2):
            other = Volume(image.array * (number + 1), image.spacing_mm, image.affine)
            save(root / f"images{part}" / f"case_{index:03d}_{number:04d}{end}", other)
        save(root / f"labels{part}" / f"case_{index:03d}{end}", label)
    return root


@pytest.mark.parametrize("dataset", [VERSION_2, VERSION_1])
@pytest.mark.parametrize("end", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_folder_tells_its_task_and_its_cases(tmp_path, dataset, end):
    root = write(tmp_path / "Dataset042_My Prostate", dataset=dataset, end=end)
    assert recognise(root) == "nnunet"
    task = load_task(str(root))
    assert (task.name, task.layout, task.channels) == ("dataset042-my-prostate", "nnunet", ("t2", "adc"))
    assert task.labels == {1: "gland", 2: "lesion"}
    assert (task.spacing_mm, task.crop) == ((None, 1.0, 1.0), (32, 32))
    found = find_cases(root, task)
    assert not found.faults
    volumes, label = read_case(found.cases[1], task)
    image, truth = ball(1, labels=(1, 2))
    np.testing.assert_array_equal(volumes["adc"].array, 2 * image.array)
    np.testing.assert_array_equal(label.array, truth.array)


def test_the_grid_is_that_of_axial_slices_however_the_file_is_stored(tmp_path):
    write(tmp_path, cases=1)
    _, label = ball(0)
    turned = Volume(label.array.transpose(2, 0, 1), (1.0, 3.0, 1.0), label.affine[:, [1, 2, 0, 3]])  # x, z, y
    write_nifti(tmp_path / "labelsTr" / "case_000.nii.gz", turned)
    task = load_task(str(tmp_path))
    assert (task.spacing_mm, task.crop) == ((None, 1.0, 1.0), (32, 32))


def test_the_folder_that_one_stands_in_has_its_own_name(tmp_path, monkeypatch):
    monkeypatch.chdir(write(tmp_path / "Dataset007_Mine", cases=3))
    assert load_task(".").name == "dataset007-mine"


def test_the_suggested_crop_is_no_larger_than_the_image(tmp_path):
    """Headers hold 2.4000001 mm."""
    write(tmp_path, cases=1)
    label = Volume(np.zeros((4, 80, 64), np.uint8), (8.0, 2.4, 2.4), np.diag([-2.4, -2.4, 8.0, 1.0]))
    write_nifti(tmp_path / "labelsTr" / "case_000.nii.gz", label)
    task = load_task(str(tmp_path))
    assert (task.spacing_mm, task.crop) == ((None, 2.4, 2.4), (80, 64))


def test_channels_are_found_by_name_whatever_their_order(tmp_path):
    task = load_task(str(write(tmp_path)), {"channels": ["ADC", "T2"]})
    (case, *_) = find_cases(tmp_path, task).cases
    assert [image.name for image in case.channels.values()] == ["case_000_0001.nii.gz", "case_000_0000.nii.gz"]
    with pytest.raises(UsageError, match="no channel named 'DWI'"):
        find_cases(tmp_path, load_task(str(tmp_path), {"channels": ["DWI"]}))


def test_a_channel_that_the_json_lists_and_no_file_has(tmp_path, kinds):
    dataset = {**VERSION_2, "channel_names": {"0": "T2", "1": "ADC", "2": "DWI"}}
    write(tmp_path, cases=2, dataset=dataset)
    found = find_cases(tmp_path, load_task(str(tmp_path)))
    assert kinds(found) == ["MissingChannel", "MissingChannel"]
    assert "dataset.json lists the channel 'dwi', so case_000_0002 must be there, got no file; add it" in str(
        found.faults[0]
    )


def test_labelled_test_images_are_the_test_split_and_the_rest_is_divided(tmp_path):
    write(tmp_path, cases=5)
    write(tmp_path, cases=3, part="Ts", first=5)
    task = load_task(str(tmp_path))
    splits = assign_splits(find_cases(tmp_path, task).cases, task)
    assert {case_id for case_id, split in splits.items() if split == "test"} == {f"case_00{i}" for i in (5, 6, 7)}
    assert sorted(splits.values()).count("val") == 1
    only = find_cases(tmp_path, load_task(str(tmp_path), {"groups": ["imagesTr"]}))
    assert len(only.cases) == 5


def test_unlabelled_test_images_do_not_matter(tmp_path):
    write(tmp_path)
    write(tmp_path, cases=1, part="Ts", first=9)
    (tmp_path / "labelsTs" / "case_009.nii.gz").unlink()
    found = find_cases(tmp_path, load_task(str(tmp_path)))
    assert (len(found.cases), found.faults) == (4, [])


def test_images_without_labels_and_files_twice(tmp_path, kinds):
    write(tmp_path)
    (tmp_path / "labelsTr" / "case_002.nii.gz").unlink()
    (tmp_path / "imagesTr" / "case_001_0000.nii").write_bytes(b"x")
    (tmp_path / "imagesTr" / "._case_003_0000.nii.gz").write_bytes(b"left by a Mac")
    found = find_cases(tmp_path, load_task(str(tmp_path)))
    assert sorted(kinds(found)) == ["DoubledCase", "MissingChannel"]
    assert [case.case_id for case in found.cases] == ["case_000", "case_003"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", "it must be JSON"),
        ([1], "it must hold an object"),
        ({"channel_names": ["T2"]}, "channel_names must number the channels from 0"),
        ({"channel_names": {"1": "T2", "2": "ADC"}}, "must number the channels from 0, got 1, 2"),
        ({"channel_names": {"0": "T2", "1": "t2"}}, "channel names must differ"),
        ({"labels": {}}, "labels must name the structures"),
        ({"labels": {"background": 0, "whole": [1, 2]}}, "label 'whole' must be one number, got the region"),
        ({"labels": {"background": 0, "gland": 1, "ignore": 2}}, "got an 'ignore' label"),
        ({"labels": {"background": 0, "gland": "x"}}, "label 'gland' must be one whole number"),
        ({"labels": {"background": 0, "gland": "²"}}, "label 'gland' must be one whole number"),
        (
            {"labels": {"background": 0, "gland": 1, "cyst": 1}},
            "labels must have different numbers, got gland and cyst",
        ),
        ({"channel_names": {"0": "T2", "²": "ADC"}}, "must number the channels from 0, got 0, ²"),
        ({"labels": {"background": 0, "gland": 300}}, "labels must be numbers from 1 to 255"),
    ],
)
def test_a_dataset_json_that_makes_no_sense(tmp_path, change, message):
    root = write(tmp_path, cases=1)
    task = load_task(str(root))
    content = change if isinstance(change, str) else json.dumps(VERSION_2 | change if isinstance(change, dict) else [1])
    (root / "dataset.json").write_text(content)
    with pytest.raises(faults.BadInfo, match=message) as caught:
        load_task(str(root))
    assert "\n" not in str(caught.value)
    found = find_cases(root, task)
    if "label" in message:  # a task that names the values itself does without
        assert found.faults == []
    else:
        assert isinstance(found.faults[0], faults.BadInfo)


def test_regions_of_labels_are_no_hindrance_for_a_task_that_names_the_values(tmp_path):
    write(tmp_path, dataset={**VERSION_2, "labels": {"background": 0, "whole": [1, 2], "core": [2]}})
    with pytest.raises(faults.BadInfo, match=r"got the region \[1, 2\]; name the values themselves in a task file"):
        load_task(str(tmp_path))
    task = load_task("prostate", {"layout": "nnunet", "labels": {1: "rim", 2: "core"}, "structure_weights": {}})
    _, label = read_case(find_cases(tmp_path, task).cases[0], task)
    assert np.unique(label.array).tolist() == [0, 1, 2]


def test_a_name_that_means_another_number_is_refused_not_swapped(tmp_path):
    write(tmp_path, dataset={**VERSION_2, "labels": {"background": 0, "gland": 2, "lesion": 1}})
    task = load_task("prostate", {"layout": "nnunet", "labels": {1: "gland", 2: "lesion"}, "structure_weights": {}})
    (fault,) = find_cases(tmp_path, task).faults
    assert "label 'gland' must have the task's number 1, got 2" in str(fault)


def test_groups_of_another_layout_say_nothing_here(tmp_path):
    write(tmp_path)
    found = find_cases(tmp_path, load_task(str(tmp_path), {"groups": ["HGG"]}))
    assert len(found.cases) == 4
