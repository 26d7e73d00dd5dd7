"""Images in, a folder a case out: what is predicted lies where it was, and what fails leaves nothing."""

import fcntl
import hashlib
import json
import logging
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from segcal.data.native import labels_to_native
from segcal.data.unlabelled import case_of_files
from segcal.data.voxels.itk_files import write_itk
from segcal.data.voxels.nifti import write_nifti
from segcal.ensemble import predict
from segcal.ensemble.loaded import load_ensemble
from segcal.ensemble.predict import predict_case, predict_images
from segcal.errors import UsageError
from segcal.ledger.store import open_store
from segcal.volume import Volume
from tests.ensemble.identity import identity, task_of

DOCS = Path(__file__).parents[2] / "docs" / "predict.md"

FILES = ["check.png", "entropy.nii.gz", "labels.nii.gz", "probability-background.nii.gz", "probability-core.nii.gz",
         "probability-rim.nii.gz", "result.json"]  # fmt: skip
GREY = np.array([0, 50, 100], dtype=np.float32)  # of background, core and rim


def shown(shape=(4, 24, 28), at=(1, 6, 8)) -> np.ndarray:
    """Classes (Z, Y, X) without any symmetry: a block of core, a smaller one of rim on one side of it."""
    z, y, x = at
    classes = np.zeros(shape, dtype=np.uint8)
    classes[z : z + 2, y : y + 9, x : x + 6] = 1
    classes[z, y : y + 4, x + 6 : x + 9] = 2
    return classes


def tilt(degrees: float, flips=(1, 1, 1)) -> np.ndarray:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    return turn * flips


def write_shown(path: Path, classes: np.ndarray, axes: np.ndarray, spacing_mm=(3.0, 1.0, 0.8)) -> Path:
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing_mm[::-1]
    affine[:3, 3] = (-31.5, 12.25, 7.0)
    write = write_nifti if path.name.endswith((".nii", ".nii.gz")) else write_itk
    write(path, Volume(GREY[classes], spacing_mm, affine))
    return path


def read(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj).transpose(2, 1, 0)


GRIDS = {
    "LPS": np.diag([-1.0, -1.0, 1.0]),
    "RAS": np.eye(3),
    "flipped": np.diag([-1.0, 1.0, -1.0]),
    "sagittal": np.eye(3)[[2, 0, 1]] * [1, -1, -1],
    "oblique": tilt(17),
    "oblique and flipped": tilt(-12, (1, -1, -1)),
}


@pytest.mark.parametrize("orientation", ["lps", "stored"])
@pytest.mark.parametrize("grid", GRIDS)
def test_labels_land_where_they_were(tmp_path, grid, orientation):
    """On the same grid nothing is resampled: turning, cropping and padding alone must come back exactly."""
    image = write_shown(tmp_path / "P1.nii.gz", shown(), GRIDS[grid])
    task = task_of(orientation=orientation, crop=(16, 48) if grid != "sagittal" else (48, 16))
    if grid == "sagittal":  # the turned axes are others; a crop that holds everything
        task = task_of(orientation=orientation, crop=(32, 32))
    result = predict_case(identity(task), case_of_files([image], task), tmp_path / "out")
    folder = tmp_path / "out" / "P1"
    expected = np.array([0, 5, 7])[shown()]
    labels = read(folder / "labels.nii.gz")
    np.testing.assert_array_equal(labels, expected)
    before, after = nib.load(image), nib.load(folder / "labels.nii.gz")
    np.testing.assert_array_equal(after.affine, before.affine)
    assert after.shape == before.shape
    assert after.get_data_dtype() == np.uint8
    for name in FILES[1:6]:
        np.testing.assert_array_equal(nib.load(folder / name).affine, before.affine)
        assert nib.load(folder / name).shape == before.shape
    assert result["structures"]["core"]["volume_ml"] == pytest.approx(2 * 9 * 6 * 2.4 / 1000)
    assert result["structures"]["rim"]["volume_ml"] == pytest.approx(4 * 3 * 2.4 / 1000)


def test_a_crop_of_volumes_comes_back_too_and_cuts_what_it_does_not_hold(tmp_path):
    """A crop of 2 of 4 slices: slices 1 and 2 are seen, the others are background."""
    task = task_of(crop=(2, 32, 32), spacing_mm=(3.0, 1.0, 0.8))
    image = write_shown(tmp_path / "P1.nii.gz", shown(at=(2, 6, 8)), GRIDS["flipped"])
    result = predict_case(identity(task), case_of_files([image], task), tmp_path)
    expected = np.array([0, 5, 7])[shown(at=(2, 6, 8))]
    expected[[0, 3]] = 0
    np.testing.assert_array_equal(read(tmp_path / "P1" / "labels.nii.gz"), expected)
    assert result["warnings"] == [
        "core, rim cut at the border of the 6x32x26 mm that the networks see: what lies beyond has no label"
    ]


def test_labels_probabilities_and_entropy_agree_voxel_by_voxel(tmp_path):
    """From 1.6 mm back to 0.8 mm: labels are the largest probability, entropy is theirs, the borders are between."""
    task = task_of(spacing_mm=(None, 2.0, 1.6), crop=(16, 16))
    image = write_shown(tmp_path / "P1.nii.gz", shown(), tilt(17))
    predict_case(identity(task), case_of_files([image], task), tmp_path)
    folder = tmp_path / "P1"
    probs = np.stack([read(folder / f"probability-{name}.nii.gz") for name in ("background", "core", "rim")])
    assert probs.dtype == np.float32
    np.testing.assert_allclose(probs.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(read(folder / "labels.nii.gz"), np.array([0, 5, 7])[probs.argmax(axis=0)])
    p = probs.astype(float)
    expected = -(p * np.log(np.where(p > 0, p, 1))).sum(axis=0)
    np.testing.assert_allclose(read(folder / "entropy.nii.gz"), expected, atol=1e-6)
    core = read(folder / "labels.nii.gz") == 5
    assert 2 * np.count_nonzero(core & (shown() == 1)) / (core.sum() + (shown() == 1).sum()) > 0.85
    assert (np.abs(probs[1] - 0.45) < 0.2).any()  # a soft border: no nearest neighbour


@pytest.mark.parametrize("name", ["P1.mha", "P1.mhd", "P1.nrrd", "P1.nii"])
def test_other_formats_come_back_as_nifti_of_the_same_grid(tmp_path, name):
    axes = tilt(10, (-1, -1, 1))
    image = write_shown(tmp_path / name, shown(), axes)
    predict_case(identity(), case_of_files([image], task_of()), tmp_path)
    np.testing.assert_array_equal(read(tmp_path / "P1" / "labels.nii.gz"), np.array([0, 5, 7])[shown()])
    expected = np.eye(4)
    expected[:3, :3] = axes * (0.8, 1.0, 3.0)
    expected[:3, 3] = (-31.5, 12.25, 7.0)
    np.testing.assert_allclose(nib.load(tmp_path / "P1" / "labels.nii.gz").affine, expected, atol=1e-5)


def test_the_folder_and_its_result(tmp_path):
    image = write_shown(tmp_path / "P1.nii.gz", shown(), GRIDS["LPS"])
    result = predict_case(identity(), case_of_files([image], task_of()), tmp_path / "out")
    folder = tmp_path / "out" / "P1"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert json.loads((folder / "result.json").read_text()) == result
    assert result["case"] == "P1"
    assert result["sources"] == {
        "t2": [{"file": "P1.nii.gz", "sha256": hashlib.sha256(image.read_bytes()).hexdigest()}]
    }
    assert result["native"]["spacing_mm"] == pytest.approx([3.0, 1.0, 0.8])
    assert result["structures"]["core"]["segment_entropy_nats"] == pytest.approx(0.325083, abs=1e-5)  # of p = 0.9
    assert result["warnings"] == []
    files = result["files"]
    assert {files["labels"], files["entropy"], files["check"], *files["probabilities"].values()} < set(FILES)
    assert (folder / "check.png").read_bytes()[:4] == b"\x89PNG"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["P1"]


def test_a_broken_case_writes_nothing_and_the_others_go_on(tmp_path):
    good = [write_shown(tmp_path / f"P{n}.nii.gz", shown(), GRIDS["LPS"]) for n in (1, 3)]
    cut = tmp_path / "P2.nii.gz"
    cut.write_bytes(good[0].read_bytes()[:-60])
    bad = GREY[shown()]
    bad[0, 0, 0] = np.nan
    write_nifti(tmp_path / "P4.nii.gz", Volume(bad, (3.0, 1.0, 0.8), np.diag([-0.8, -1.0, 3.0, 1.0])))
    (tmp_path / "P5.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    arguments = [str(tmp_path / name) for name in ("P1.nii.gz", "P2.nii.gz", "P3.nii.gz", "P4.nii.gz", "P5.png", "P6")]
    steps = []
    found = predict_images(identity(), arguments, tmp_path / "out", lambda *step: steps.append(step))
    assert [result["case"] for result in found.results] == ["P1", "P3"]
    assert {failure.case.removeprefix(str(tmp_path) + "/"): failure.fault for failure in found.failures} == {
        "P6": "MissingCase", "P2": "Truncated", "P4": "NotFinite", "P5": "Unreadable",
    }  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["P1", "P3"]
    assert steps[-1] == ("predicted", 5, 5, "P5 (failed)")
    assert steps[0] == ("predicted", 1, 5, "P1")


def test_a_name_that_no_folder_can_have_stops_no_other(tmp_path):
    for name in ("P" * 160, "Q1"):
        write_shown(tmp_path / "in" / f"{name}.nii.gz", shown(), GRIDS["LPS"])
    found = predict_images(identity(), [str(tmp_path / "in")], tmp_path / "out")
    assert [result["case"] for result in found.results] == ["Q1"]
    assert [(failure.case, failure.fault) for failure in found.failures] == [("P" * 160, "UsageError")]


def test_a_file_that_may_not_be_read_stops_no_other(tmp_path, monkeypatch):
    images = [write_shown(tmp_path / f"P{n}.nii.gz", shown(), GRIDS["LPS"]) for n in (1, 2)]
    read_channels = predict.read_channels

    def refuse(channels, root, case_id):
        if case_id == "P1":
            raise PermissionError(13, "Permission denied", "P1.nii.gz")
        return read_channels(channels, root, case_id)

    monkeypatch.setattr(predict, "read_channels", refuse)
    found = predict_images(identity(), [str(image) for image in images], tmp_path / "out")
    assert [result["case"] for result in found.results] == ["P2"]
    (failure,) = found.failures
    assert failure.fault == "Unreadable"
    assert "got Permission denied (P1.nii.gz); check who may read them" in failure.message


def test_what_a_killed_call_left_is_removed_and_what_another_call_writes_is_not(tmp_path):
    image = write_shown(tmp_path / "P1.nii.gz", shown(), GRIDS["LPS"])
    for name in ("killed", "running", "young", "replacing"):
        (tmp_path / "out" / f".predict-{name}" / "new").mkdir(parents=True)
    (tmp_path / "out" / ".predict-replacing" / "old").mkdir()  # the only copy of an older prediction
    for name in ("killed", "running", "replacing"):
        os.utime(tmp_path / "out" / f".predict-{name}", (1, 1))
    held = os.open(tmp_path / "out" / ".predict-running", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_SH)
    predict_images(identity(), [str(image)], tmp_path / "out")
    os.close(held)
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == [".predict-replacing", ".predict-running", ".predict-young", "P1"]


def test_it_holds_what_it_writes(tmp_path, monkeypatch):
    image = write_shown(tmp_path / "P1.nii.gz", shown(), GRIDS["LPS"])
    seen = []

    def look(picture, path):
        os.utime(path.parents[1], (1, 1))
        predict._remove_abandoned(tmp_path / "out")
        seen.append(path.parent.is_dir())

    monkeypatch.setattr(predict, "draw_check", look)
    predict_case(identity(), case_of_files([image], task_of()), tmp_path / "out")
    assert seen == [True]


def test_one_image_for_two_channels_is_warned_of(tmp_path):
    task = task_of(channels=("t1", "t2", "flair"))
    one = write_shown(tmp_path / "a.nii.gz", shown(), GRIDS["LPS"])
    other = write_shown(tmp_path / "b.nii.gz", shown(at=(0, 2, 3)), GRIDS["LPS"])
    result = predict_case(identity(task), case_of_files([one, other, one], task, "P1"), tmp_path / "out")
    assert result["warnings"] == ["t1 and flair are the same image, voxel by voxel"]


def test_every_key_of_the_result_is_documented(tmp_path):
    image = write_shown(tmp_path / "P1.nii.gz", shown(), GRIDS["LPS"])
    result = predict_case(identity(), case_of_files([image], task_of()), tmp_path)
    chosen = {"t2", "core", "rim", "background"}  # names of the task

    def keys(of) -> set[str]:
        parts = of.values() if isinstance(of, dict) else of if isinstance(of, list) else ()
        return set(of if isinstance(of, dict) else ()).union(*map(keys, parts))

    told = DOCS.read_text()
    assert sorted(key for key in keys(result) - chosen if f"`{key}`" not in told) == []


def test_two_cases_of_one_name_are_refused_before_anything_is_written(tmp_path):
    for site in "AB":
        write_shown(tmp_path / site / "P1.nii.gz", shown(), GRIDS["LPS"])
    with pytest.raises(UsageError, match="name of its own, got 'P1'"):
        predict_images(identity(), [str(tmp_path / "A" / "P1.nii.gz"), str(tmp_path / "B")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_older_prediction_is_replaced_whole(tmp_path):
    image = write_shown(tmp_path / "P1.nii.gz", shown(), GRIDS["LPS"])
    (tmp_path / "out" / "P1").mkdir(parents=True)
    (tmp_path / "out" / "P1" / "old.txt").write_text("old")
    (tmp_path / "out" / "P1" / "result.json").write_text("{}")
    predict_case(identity(), case_of_files([image], task_of()), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out" / "P1").iterdir()) == FILES
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["P1"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_case_leaves_the_finished_and_the_old_ones(tmp_path, monkeypatch, error):
    images = [write_shown(tmp_path / f"P{n}.nii.gz", shown(), GRIDS["LPS"]) for n in (1, 2)]
    (tmp_path / "out" / "P2").mkdir(parents=True)
    (tmp_path / "out" / "P2" / "result.json").write_text("{}")
    draw = predict.draw_check

    def interrupted(picture, path):
        if picture.case_id == "P2":
            raise error
        draw(picture, path)

    monkeypatch.setattr(predict, "draw_check", interrupted)
    with pytest.raises(error):
        predict_images(identity(), [str(image) for image in images], tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["P1", "P2"]
    assert sorted(path.name for path in (tmp_path / "out" / "P1").iterdir()) == FILES
    assert [path.name for path in (tmp_path / "out" / "P2").iterdir()] == ["result.json"]


def test_images_are_never_replaced(tmp_path):
    """--out is the folder of the cases: OUT/P1 is where the images of P1 lie."""
    image = write_shown(tmp_path / "P1" / "P1.nii.gz", shown(), GRIDS["LPS"])
    before = image.read_bytes()
    other = write_shown(tmp_path / "P2.nii.gz", shown(), GRIDS["LPS"])
    for content in (None, "{}"):  # a result beside the images does not make them one either
        if content:
            (tmp_path / "P1" / "result.json").write_text(content)
        found = predict_images(identity(), [str(tmp_path / "P1"), str(other)], tmp_path)
        assert [result["case"] for result in found.results] == ["P2"]
        assert "P1: what is replaced must be an older prediction" in found.failures[0].message
        assert image.read_bytes() == before
    (tmp_path / "out" / "P2").mkdir(parents=True)
    (tmp_path / "out" / "P2" / "thesis.txt").write_text("of mine")
    found = predict_images(identity(), [str(other)], tmp_path / "out")
    assert "without result.json; give another --out" in found.failures[0].message
    assert [path.name for path in (tmp_path / "out" / "P2").iterdir()] == ["thesis.txt"]


def test_out_must_be_a_folder(tmp_path):
    image = write_shown(tmp_path / "P1.nii.gz", shown(), GRIDS["LPS"])
    with pytest.raises(UsageError, match="--out must be a folder, got the file"):
        predict_images(identity(), [str(image)], image)


def test_a_replacement_that_fails_leaves_the_old_prediction(tmp_path, monkeypatch):
    image = write_shown(tmp_path / "P1.nii.gz", shown(), GRIDS["LPS"])
    (tmp_path / "out" / "P1").mkdir(parents=True)
    (tmp_path / "out" / "P1" / "result.json").write_text("{}")
    rename = Path.rename

    def fail(path, target):
        if path.name == "new":
            raise OSError("no space")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no space"):
        predict_case(identity(), case_of_files([image], task_of()), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / "P1").iterdir()] == ["result.json"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["P1"]


def test_what_the_reader_warns_of_stands_in_the_result(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    affine = np.diag([-0.8, -1.0, 3.0, 1.0])
    write_nifti(tmp_path / "P1.nii.gz", Volume(GREY[shown()], (3.0, 1.0, 0.8), affine), sform=np.eye(4))
    result = predict_case(identity(), case_of_files([tmp_path / "P1.nii.gz"], task_of()), tmp_path)
    (warning,) = result["warnings"]
    assert warning.startswith("sform of P1.nii.gz says 1x1x1 mm")
    assert sum("sform of P1" in record.getMessage() for record in caplog.records) == 1  # told once


def test_an_image_that_does_not_say_how_it_lies_is_warned_of(tmp_path, caplog):
    image = nib.Nifti1Image(GREY[shown()].transpose(2, 1, 0), None)
    image.header.set_zooms((0.8, 1, 3))
    nib.save(image, tmp_path / "P1.nii.gz")
    result = predict_case(identity(), case_of_files([tmp_path / "P1.nii.gz"], task_of()), tmp_path)
    assert result["warnings"] == ["P1.nii.gz does not say how the patient lies in it: left and right may be swapped"]
    assert "P1: P1.nii.gz does not say" in caplog.text


def test_an_image_of_one_value_is_warned_of(tmp_path):
    image = write_shown(tmp_path / "P1.nii.gz", np.zeros((2, 8, 8), dtype=np.uint8), GRIDS["LPS"])
    result = predict_case(identity(), case_of_files([image], task_of()), tmp_path)
    assert result["warnings"] == [
        "every voxel of t2 has one value",
        "nothing is predicted: look whether the structures are there",
    ]
    assert [of["volume_ml"] for of in result["structures"].values()] == [0, 0]
    assert read(tmp_path / "P1" / "labels.nii.gz").max() == 0


def test_names_of_structures_become_names_of_files(tmp_path):
    task = task_of(labels={1: "a/b", 2: "a b", 3: "background", 300: "Ödem"})
    grey = np.array([0, 25, 50, 75, 100], np.float32)
    classes = shown()
    classes[0, 0, 0], classes[0, 0, 1] = 3, 4
    write_nifti(tmp_path / "P1.nii.gz", Volume(grey[classes], (3.0, 1.0, 0.8), np.diag([-0.8, -1.0, 3.0, 1.0])))
    result = predict_case(identity(task, dice={}), case_of_files([tmp_path / "P1.nii.gz"], task), tmp_path)
    names = result["files"]["probabilities"]
    assert len(set(names.values())) == len(names) == 5
    assert names["a/b"] == "probability-a-b.nii.gz"
    assert all((tmp_path / "P1" / name).is_file() for name in names.values())
    labels = read(tmp_path / "P1" / "labels.nii.gz")
    assert set(np.unique(labels)) == {0, 1, 2, 3, 300}


def test_a_name_that_would_leave_the_folder_is_refused(tmp_path):
    image = write_shown(tmp_path / "P1.nii.gz", shown(), GRIDS["LPS"])
    for name in ("..", "a/b", ".hidden", "x" * 151, "a\nb"):
        with pytest.raises(UsageError, match="must do for a folder"):
            predict_case(identity(), case_of_files([image], task_of(), name), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_trained_ensemble_predicts_files_as_it_predicts_prepared_cases(registered, blobs, cohort, tmp_path):
    """The tiny task keeps the native grid, so labels and H(S) must be those of the prepared case itself."""
    uri, created, _ = registered
    ensemble = load_ensemble(open_store(uri), created["uri"])
    found = predict_images(ensemble, [str(blobs / "HGG")], tmp_path)
    assert not found.failures
    assert len(found.results) == 7
    (case, *_) = cohort.cases("test")
    entry = next(entry for entry in cohort.manifest["cases"] if entry["case_id"] == case.case_id)
    alone = ensemble.predict(case.image, case.case_id)
    labels = labels_to_native(alone.labels, ensemble.task.n_classes, entry).array
    written = read(tmp_path / case.case_id / "labels.nii.gz")
    np.testing.assert_array_equal(written, np.array([0, 1, 2, 4])[labels])
    result = next(result for result in found.results if result["case"] == case.case_id)
    for name, entropy in alone.segment_entropy.items():
        assert result["structures"][name]["segment_entropy_nats"] == (entropy if np.isfinite(entropy) else None)
    volumes = [of["volume_ml"] for of in result["structures"].values()]
    assert volumes == pytest.approx([np.count_nonzero(written == value) * 3 / 1000 for value in (1, 2, 4)])
    assert len(result["model"]["members"]) == 2
    assert {of["file"]: of["sha256"] for parts in result["sources"].values() for of in parts} == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (blobs / "HGG" / case.case_id).iterdir()
        if not path.name.endswith(("_seg.nii.gz", "_t1.nii.gz"))
    }
