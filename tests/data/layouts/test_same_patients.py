"""The same patients, laid out in four ways, are the same prepared data; and every layout is told from the others."""

import json
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from segcal.data.layouts import LAYOUTS, find_cases, recognise
from segcal.data.native import labels_to_native
from segcal.data.phantom.embedded import write_cohort
from segcal.data.prepare_case import prepare_case, read_case
from segcal.errors import BadData, UsageError
from segcal.tasks import TASKS

TASK = replace(TASKS["brain"], spacing_mm=(4.0, 1.7, 1.7), crop=(112, 112))


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory):
    """Folders by layout; the first one is written by the generator, the others are made of its files."""
    root = tmp_path_factory.mktemp("same")
    write_cohort("brain", root / "brats", cases=4, size=48)
    cases = find_cases(root / "brats", TASK).cases
    dataset = {"channel_names": {"0": "FLAIR", "1": "T1CE", "2": "T2"}, "labels": {"ncr": 1, "ed": 2, "et": 4}}
    nnunet, msd = root / "Dataset001_Brain", root / "decathlon, renamed"
    for folder in (nnunet, msd):
        for part in ("imagesTr", "labelsTr"):
            (folder / part).mkdir(parents=True)
    (nnunet / "dataset.json").write_text(json.dumps(dataset))
    labels = {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"}
    (msd / "dataset.json").write_text(
        json.dumps({"modality": {"0": "FLAIR", "1": "T1w", "2": "T1gd", "3": "T2w"}, "labels": labels})
    )
    lines = ["case,flair,t2,t1ce,label,patient"]
    for case in cases:
        path = {name: image.paths[0] for name, image in case.images.items()}
        for number, name in enumerate(("flair", "t1ce", "t2")):
            shutil.copy(path[name], nnunet / "imagesTr" / f"{case.case_id}_{number:04d}.nii.gz")
        shutil.copy(path["label"], nnunet / "labelsTr" / f"{case.case_id}.nii.gz")
        loaded = {name: nib.load(file) for name, file in path.items()}
        t1 = path["t2"].with_name(f"{case.case_id}_t1.nii.gz")
        order = [loaded["flair"], nib.load(t1), loaded["t1ce"], loaded["t2"]]
        stacked = np.stack([np.asarray(image.dataobj) for image in order], axis=-1)
        name = f"{case.case_id}.nii.gz"
        nib.Nifti1Image(stacked, loaded["t2"].affine).to_filename(msd / "imagesTr" / name)
        labels = np.asarray(loaded["label"].dataobj)
        theirs = np.select([labels == 2, labels == 1, labels == 4], [1, 2, 3], 0).astype(np.uint8)
        nib.Nifti1Image(theirs, loaded["t2"].affine).to_filename(msd / "labelsTr" / name)
        columns = [str(path[name].relative_to(root / "brats")) for name in ("flair", "t2", "t1ce", "label")]
        lines.append(",".join([case.case_id, *columns, ""]))
    shutil.copytree(root / "brats", root / "csv")
    (root / "csv" / "cases.csv").write_text("\n".join(lines) + "\n")
    return {"brats": root / "brats", "nnunet": nnunet, "msd": msd, "csv": root / "csv"}


@pytest.mark.parametrize("layout", ["nnunet", "msd", "csv"])
def test_they_prepare_to_the_same_arrays(cohorts, layout):
    for one, other in zip(
        find_cases(cohorts["brats"], TASK).cases,
        find_cases(cohorts[layout], replace(TASK, layout=layout, groups=())).cases,
        strict=True,
    ):
        image, truth, entry = prepare_case(one, TASK)
        same_image, same_truth, same_entry = prepare_case(other, TASK)
        np.testing.assert_array_equal(image, same_image)
        np.testing.assert_array_equal(truth, same_truth)
        assert entry | {"site": "", "group": ""} == same_entry | {"site": "", "group": ""}


@pytest.mark.parametrize("layout", ["brats", "nnunet", "msd", "csv"])
def test_labels_come_back_in_every_layout(cohorts, layout):
    task = replace(TASK, layout=layout, groups=(), spacing_mm=(2.0, 1.0, 1.0), crop=(208, 208))
    for case in find_cases(cohorts[layout], task).cases:
        _, label = read_case(case, task)
        _, truth, entry = prepare_case(case, task)
        back = labels_to_native(truth, task.n_classes, entry).array
        for number in range(1, task.n_classes):
            a, b = label.array == number, back == number
            if a.sum() * np.prod(label.spacing_mm) > 1000:
                assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.97


def test_a_folder_is_recognised_as_what_it_is(cohorts, tmp_path):
    assert recognise(cohorts["nnunet"]) == "nnunet"
    assert recognise(cohorts["msd"]) == "msd"
    assert recognise(cohorts["brats"]) == "brats"
    assert recognise(tmp_path) is None
    assert recognise(tmp_path / "absent") is None
    assert set(LAYOUTS.built_in) == {"brats", "acdc", "prostatex", "promise12", "msd", "nnunet", "csv"}


@pytest.mark.parametrize("layout", sorted(LAYOUTS.built_in))
@pytest.mark.parametrize("folder", ["brats", "nnunet", "empty"])
def test_no_layout_finds_cases_in_a_folder_of_another(cohorts, tmp_path, layout, folder):
    if layout == folder or (layout, folder) == ("msd", "nnunet"):  # both have imagesTr; its files are called otherwise
        return
    task = replace(TASKS["brain"], layout=layout, ids=())
    if known := LAYOUTS[layout].channels:
        task = replace(task, channels=known[:1])
    root = tmp_path if folder == "empty" else cohorts[folder]
    found = find_cases(root, task)
    assert not found.cases
    assert all(isinstance(fault, BadData) for fault in found.faults)
    if folder == "brats":
        assert "this looks like brats: --layout brats" in str(found.faults[0])


@pytest.mark.parametrize(("layout", "known"), [("acdc", "cine"), ("prostatex", "t2"), ("promise12", "t2")])
def test_channels_that_a_layout_does_not_have(tmp_path, layout, known):
    task = replace(TASKS["brain"], layout=layout, channels=(known, "adc"))
    with pytest.raises(UsageError, match=f"the {layout} layout has no channel named 'adc'; known: {known}"):
        find_cases(tmp_path, task)
