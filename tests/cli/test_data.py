"""`segcal data` on folders of every kind, as a user meets it."""

import json
import logging
import shutil

import nibabel as nib
import numpy as np
import pytest

from segcal.cli import main
from segcal.data.phantom.embedded import write_cohort


def run(capsys, *argv):
    code = main([str(word) for word in argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory):
    root = tmp_path_factory.mktemp("cohorts")
    for task in ("heart", "prostate"):
        write_cohort(task, root / task, cases=6, size=48)
    return root


FOLDERS = {"heart": "heart", "prostate/PROSTATEx": "prostate", "prostate/PROMISE12": "prostate"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_is_checked_as_what_it_looks_like(capsys, cohorts, folder):
    code, out, err = run(capsys, "data", "check", cohorts / folder)
    head, _, *rows = out.splitlines()
    assert code == 0
    assert head.startswith(f"task {FOLDERS[folder]}, layout {folder.split('/')[-1].lower().replace('heart', 'acdc')};")
    assert rows
    assert f"{len(rows)} cases, no faults" in err
    task = run(capsys, "data", "check", cohorts / folder, "--task", FOLDERS[folder], "--json")
    assert [entry["fault"] for entry in json.loads(task[1])] == [""] * len(rows)


def test_a_folder_of_another_layout_is_named(capsys, cohorts):
    code, out, err = run(capsys, "data", "check", cohorts / "heart", "--task", "brain")
    assert code == 4
    assert "there must be cases in the brats layout, got none; this looks like acdc: --layout acdc" in out
    assert "got 1 fault in" in err
    code, _, err = run(capsys, "data", "check", cohorts / "heart", "--layout", "acdd")
    assert (code, "no layout named 'acdd'; did you mean 'acdc'" in err) == (2, True)


def test_a_folder_of_no_layout(capsys, tmp_path):
    (tmp_path / "some").mkdir()
    code, out, err = run(capsys, "data", "check", tmp_path)
    assert (code, out) == (4, "")
    assert "it must be laid out as one of brats, acdc, prostatex, promise12, msd, nnunet, csv, got none of these" in err


def test_prepare_3d_and_the_cohort_that_is_only_tested_on(capsys, cohorts, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("SEGCAL_HOME", str(tmp_path))
    (tmp_path / "small.yaml").write_text(
        "name: small\nlayout: prostatex\nood_layout: promise12\nchannels: [t2]\nlabels: {1: prostate}\n"
        "spacing_mm: [4, 2, 2]\ncrop: [16, 48, 48]\nbatch: 1\nsplit_counts: {train: 16, val: 4, test: 20}\n"
    )
    with caplog.at_level(logging.WARNING):
        code, out, _ = run(
            capsys, "data", "prepare", cohorts / "prostate/PROSTATEx", "--task", tmp_path / "small.yaml", "--json"
        )
    assert (code, json.loads(out)["cases"]) == (0, {"train": 2, "val": 1, "test": 1})
    assert "16/4/20 expected in train/val/test, found 2/1/1" in caplog.text
    ood = ("data", "prepare", cohorts / "prostate/PROMISE12", "--task", tmp_path / "small.yaml", "--ood", "--json")
    code, out, _ = run(capsys, *ood)
    assert (code, json.loads(out)["cases"]) == (0, {"train": 0, "val": 0, "test": 0, "ood": 2})


def test_sheets_of_any_cohort(capsys, cohorts, tmp_path):
    for folder in FOLDERS:
        code, out, _ = run(capsys, "data", "sheet", cohorts / folder, "--out", tmp_path / folder, "--slices", "3")
        assert (code, out.strip()) == (0, str(tmp_path / folder / "sheet-01.png"))


def damage(path, how):
    content = path.read_bytes()
    path.write_bytes(
        {"short": content[:-50], "empty": b"", "flip": content[:-5] + bytes([content[-5] ^ 1]) + b"1234"}[how]
    )


@pytest.mark.parametrize(
    ("folder", "victim", "how", "fault"),
    [
        ("heart", "*frame*_gt.nii.gz", "short", "Truncated"),
        ("heart", "*frame*_gt.nii.gz", "empty", "EmptyFile"),
        ("heart", "*frame*_gt.nii.gz", "flip", "Corrupt"),
        ("prostate/PROSTATEx", "*tra-*/1-05.dcm", "short", "Truncated"),
        ("prostate/PROSTATEx", "*tra-*/1-05.dcm", "empty", "EmptyFile"),
        ("prostate/PROSTATEx", "annotations/*.nrrd", "short", "Truncated"),
        ("prostate/PROMISE12", "*.raw", "short", "Truncated"),
        ("prostate/PROMISE12", "*.mhd", "empty", "EmptyFile"),
    ],
)
def test_every_damaged_file_exits_4_with_its_name(capsys, cohorts, tmp_path, monkeypatch, folder, victim, how, fault):
    monkeypatch.setenv("SEGCAL_HOME", str(tmp_path / "home"))
    root = shutil.copytree(cohorts / folder, tmp_path / "copy")
    ed = {patient.name: (patient / "Info.cfg").read_text()[4:].split()[0] for patient in root.rglob("patient???")}
    files = sorted(
        path for path in root.rglob(victim) if not ed or f"frame{int(ed[path.parent.name]):02d}" in path.name
    )
    damage(files[0], how)
    code, out, err = run(capsys, "data", "check", root)
    assert code == 4
    assert f"FAULT {fault}: " in out
    assert "Traceback" not in err
    code, _, err = run(capsys, "data", "prepare", root, "--task", FOLDERS[folder])
    assert code == 4
    assert not list((tmp_path / "home").rglob("manifest.json"))


def test_nan_in_an_image_is_found_in_every_cohort_that_can_hold_it(capsys, cohorts, tmp_path):
    root = shutil.copytree(cohorts / "heart", tmp_path / "copy")
    for path in sorted(root.rglob("*frame*.nii.gz")):
        image = nib.load(path)
        array = np.asarray(image.dataobj).astype(np.float32)
        if "_gt" not in path.name:
            array[3, 3, 1] = np.nan
        nib.Nifti1Image(array, image.get_qform()).to_filename(path)
    code, out, _ = run(capsys, "data", "check", root)
    assert code == 4
    assert out.count("FAULT NotFinite") == 6


def test_demo_writes_what_check_accepts(capsys, tmp_path):
    out = tmp_path / "hearts"
    code, said, err = run(
        capsys, "data", "demo", "--task", "heart", "--out", out, "--cases", "4", "--size", "40", "--json"
    )
    assert (code, json.loads(said)) == (0, {"folder": str(out), "cases": 4})
    assert "generated 4/4: patient004" in err
    assert run(capsys, "data", "check", out)[0] == 0
