import hashlib
import json
import logging
import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from segcal.data import faults
from segcal.data.case_files import ImageFile
from segcal.data.check import check_cohort
from segcal.data.prepare import prepare
from segcal.data.prepared import MANIFEST, open_prepared
from segcal.data.slices import Slices
from segcal.data.taskfile import load_task
from segcal.data.voxels.nifti import write_nifti
from segcal.data.voxels.read import read_image
from segcal.errors import BadData
from segcal.volume import Volume

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "brats2013"


@pytest.fixture
def folder(tmp_path, blobs, monkeypatch):
    monkeypatch.setenv("SEGCAL_HOME", str(tmp_path / "home"))
    return shutil.copytree(blobs, tmp_path / "cohort")


def test_prepared_arrays_are_checked_scaled_and_renumbered(cohort, tiny_task, blobs):
    assert cohort.counts() == {"train": 3, "val": 1, "test": 3}
    for split in ("train", "val", "test"):
        for case in cohort.cases(split):
            assert case.image.shape == (3, 4, 32, 32)
            assert case.image.dtype == np.float32
            assert isinstance(case.image, np.memmap)
            assert 0 <= case.image.min() < case.image.max() <= 1
            assert np.unique(case.truth).tolist() == [0, 1, 2, 3]  # from 0, 1, 2, 4
            assert case.spacing_mm == (3.0, 1.0, 1.0)
    assert {case.site for case in cohort.cases("test")} == {"TCIA"}


def test_manifest_says_what_the_data_are(cohort, blobs):
    manifest = json.loads((cohort.folder / MANIFEST).read_text())
    entry = next(e for e in manifest["cases"] if e["case_id"] == "Brats17_CBICA_T00_1")
    source = blobs / "HGG" / entry["case_id"] / f"{entry['case_id']}_flair.nii.gz"
    assert entry["sources"]["flair"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert entry["native"]["shape"] == [4, 32, 32]
    learned = [np.asarray(case.truth) for split in ("train", "val") for case in cohort.cases(split)]
    assert list(cohort.class_voxels) == np.bincount(np.concatenate(learned).ravel(), minlength=4).tolist()


def test_the_same_cohort_is_prepared_once(folder, tiny_task):
    said = []

    def progress(*step):
        said.append(step)

    first = prepare(folder, tiny_task, progress)
    times = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    assert len(said) == 7
    again = prepare(folder, tiny_task, progress)
    assert again.digest == first.digest
    assert len(said) == 7
    assert {path: path.stat().st_mtime_ns for path in again.folder.iterdir()} == times


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"curve_draws": 99}, True),
        ({"box_margin_mm": 3.0}, True),
        ({"ensemble_sizes": (1,)}, True),
        ({"name": "other"}, True),
        ({"crop": (16, 16)}, False),
        ({"spacing_mm": (3.0, 2.0, 2.0)}, False),
        ({"intensity": "minmax"}, False),
        ({"intensity_inside": "all"}, False),
        ({"orientation": "stored"}, False),
        ({"label_resampling": "nearest"}, False),
        ({"channels": ("flair", "t1ce", "t2")}, False),
        ({"labels": {2: "edema", 1: "non-enhancing", 4: "enhancing"}}, False),
        ({"split_seed": 1}, False),
    ],
)
def test_the_digest_follows_what_the_arrays_depend_on(folder, tiny_task, change, same):
    assert (prepare(folder, replace(tiny_task, **change)).digest == prepare(folder, tiny_task).digest) == same


def test_a_changed_source_is_another_cohort(folder, tiny_task):
    before = prepare(folder, tiny_task).digest
    first, second = sorted((folder / "HGG").iterdir())[:2]
    shutil.copy(second / f"{second.name}_t2.nii.gz", first / f"{first.name}_t2.nii.gz")
    assert prepare(folder, tiny_task).digest != before


def test_a_faulty_case_leaves_nothing_to_trust_and_can_be_mended(folder, tiny_task, tmp_path):
    case = sorted((folder / "HGG").iterdir())[3]
    path = case / f"{case.name}_seg.nii.gz"
    good = path.read_bytes()
    path.write_bytes(good[:-30])
    with pytest.raises(faults.Truncated, match=case.name):
        prepare(folder, tiny_task)
    assert not list((tmp_path / "home").rglob(MANIFEST))
    path.write_bytes(good)
    assert prepare(folder, tiny_task).counts()["train"] == 3


def test_what_a_killed_preparation_left_is_not_believed(folder, tiny_task):
    whole = prepare(folder, tiny_task)
    expected = {path.name: path.read_bytes() for path in whole.folder.glob("*.npy")}
    partial = whole.folder.with_name(whole.folder.name + ".partial")
    whole.folder.rename(partial)
    (partial / MANIFEST).unlink()
    victim = whole.manifest["cases"][2]["case_id"]
    (partial / f"{victim}.case.json").unlink()
    (partial / f"{victim}.image.npy").write_bytes(b"half")
    with pytest.raises(BadData, match="must have a manifest"):
        open_prepared(partial)
    again = prepare(folder, tiny_task)
    assert {path.name: path.read_bytes() for path in again.folder.glob("*.npy")} == expected


def _prepare_apart(folder, task, results):
    results.put(prepare(folder, task).digest)


def test_two_processes_prepare_one_cohort_without_harm(folder, tiny_task):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=_prepare_apart, args=(folder, tiny_task, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert results.get(timeout=60) == results.get(timeout=60) == prepare(folder, tiny_task).digest
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0


def test_check_lists_every_kind_of_fault_at_once(folder, tiny_task):
    cases = sorted((folder / "HGG").iterdir())

    def file(index, name):
        return cases[index] / f"{cases[index].name}_{name}.nii.gz"

    file(0, "t2").unlink()
    file(1, "flair").write_bytes(b"")
    file(2, "seg").write_bytes(file(2, "seg").read_bytes()[:-5])
    shutil.copy(file(3, "t1ce"), file(3, "seg"))
    checks = {check.case_id: check for check in check_cohort(folder, tiny_task)}
    found = [checks[case.name].fault for case in cases]
    assert found == ["MissingChannel", "EmptyFile", "Truncated", "UnknownLabel", "", "", ""]
    good = checks[cases[4].name]
    assert (good.shape, good.spacing_mm, good.site) == ((4, 32, 32), (3.0, 1.0, 1.0), "TCIA")
    assert good.labels == ("non-enhancing", "edema", "enhancing")


def test_slices_are_the_slices_of_the_cases(cohort):
    cases = cohort.cases("train")
    slices = Slices(cases)
    assert len(slices) == 12
    image, truth = slices[6]
    assert (image.dtype, truth.dtype) == (torch.float32, torch.uint8)
    np.testing.assert_array_equal(image, cases[1].image[:, 2])
    np.testing.assert_array_equal(truth, cases[1].truth[2])


@pytest.mark.skipif(not REAL.is_dir(), reason="the four real patients are not beside this checkout")
def test_real_patients_are_prepared(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGCAL_HOME", str(tmp_path / "home"))
    example = str(Path(__file__).parents[2] / "examples" / "brats2013.yaml")
    cohort = prepare(REAL, load_task(example, {"spacing_mm": [8.0, 4.0, 4.0], "crop": [64, 64]}))
    assert cohort.counts() == {"train": 2, "val": 1, "test": 1}
    for case in cohort.cases("train"):
        assert case.image.shape == (2, 19, 64, 64)
        assert np.unique(case.truth).tolist() == [0, 1, 2, 3]
        assert 0.2 < float(case.image[:, case.truth == 2].mean()) < 0.9


def test_the_same_image_in_two_splits_is_refused(folder, tiny_task):
    cases = sorted((folder / "HGG").iterdir())
    train, test = cases[0], cases[-1]  # CBICA and TCIA
    for name in ("t1", "t1ce", "t2", "flair"):
        shutil.copy(train / f"{train.name}_{name}.nii.gz", test / f"{test.name}_{name}.nii.gz")
    with pytest.raises(faults.DoubledCase, match="an image must be in one split, got t1ce of"):
        prepare(folder, tiny_task)
    doubled = [check for check in check_cohort(folder, tiny_task) if check.fault]
    assert [(check.fault, check.case_id) for check in doubled] == [("DoubledCase", test.name)]
    assert f"its images must be its own, got those of {train.name}" in doubled[0].message


def test_empty_labels_may_be_alike(folder, tiny_task):
    cases = sorted((folder / "HGG").iterdir())
    for case in (cases[0], cases[-1]):
        path = case / f"{case.name}_seg.nii.gz"
        volume = read_image(ImageFile((path,)), folder, "c")
        write_nifti(path, Volume(np.zeros(volume.array.shape, np.uint8), volume.spacing_mm, volume.affine))
    assert prepare(folder, tiny_task).counts() == {"train": 3, "val": 1, "test": 3}


@pytest.mark.parametrize("damage", ["gone", "short", "no manifest", "half a manifest"])
def test_damaged_prepared_data_are_not_trusted_but_prepared_anew(folder, tiny_task, damage, caplog):
    whole = prepare(folder, tiny_task)
    expected = {path.name: path.read_bytes() for path in whole.folder.iterdir()}
    victim = whole.folder / f"{whole.manifest['cases'][1]['case_id']}.image.npy"
    if damage == "gone":
        victim.unlink()
    elif damage == "short":
        victim.write_bytes(victim.read_bytes()[:-1])
    elif damage == "no manifest":
        (whole.folder / MANIFEST).unlink()
    else:
        (whole.folder / MANIFEST).write_text((whole.folder / MANIFEST).read_text()[:99])
    with pytest.raises(BadData, match="prepared data"):
        open_prepared(whole.folder)
    with caplog.at_level(logging.WARNING):
        again = prepare(folder, tiny_task)
    assert {path.name: path.read_bytes() for path in again.folder.iterdir()} == expected
    assert "they are prepared anew" in caplog.text


def test_a_case_may_be_called_manifest(folder, tiny_task):
    case = sorted((folder / "HGG").iterdir())[0]
    for path in case.iterdir():
        path.rename(case / path.name.replace(case.name, "manifest"))
    case.rename(case.with_name("manifest"))
    task = replace(tiny_task, split_sites={}, split_counts={})
    whole = prepare(folder, task)
    assert sum(whole.counts().values()) == 7
    assert open_prepared(whole.folder).manifest["cases"]


def test_a_grid_too_fine_for_any_memory_is_refused(folder, tiny_task):
    with pytest.raises(faults.TooLarge, match="its prepared grid must hold at most"):
        prepare(folder, replace(tiny_task, spacing_mm=(0.04, 0.04, 0.04)))


def test_check_sees_what_the_splits_break(folder, tiny_task):
    kept = sorted((folder / "HGG").iterdir())[:2]
    for case in sorted((folder / "HGG").iterdir()):
        if case not in kept:
            shutil.rmtree(case)
    (fault,) = [check for check in check_cohort(folder, tiny_task) if check.fault]
    assert (fault.fault, fault.case_id) == ("BadSplit", "cohort")


def test_a_change_of_sites_is_a_change_of_the_manifest(folder, tiny_task, tmp_path):
    lines = ["case,t2,label,split,site"]
    for index, case in enumerate(sorted((folder / "HGG").iterdir())):
        split = ("train", "val", "test")[min(index, 2)]
        lines.append(f"c{index},HGG/{case.name}/{case.name}_t2.nii.gz,HGG/{case.name}/{case.name}_seg.nii.gz,{split},A")
    task = replace(tiny_task, layout="csv", channels=("t2",), split_sites={}, groups=())
    (folder / "cases.csv").write_text("\n".join(lines))
    first = prepare(folder, task)
    (folder / "cases.csv").write_text("\n".join(lines).replace(",A", ",B"))
    assert prepare(folder, task).digest != first.digest
    (folder / "cases.csv").write_text("# a remark\n" + "\n".join(lines))
    assert prepare(folder, task).digest == first.digest
