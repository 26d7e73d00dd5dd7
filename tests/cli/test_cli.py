"""Exit codes and one-line errors, as a user meets them."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from segcal.cli import main
from segcal.data.layouts.brats import find
from segcal.ledger.store import open_store


def run(capsys, *argv):
    code = main([str(word) for word in argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def one_line_error(err):
    lines = [line for line in err.splitlines() if line.startswith("segcal: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


def test_task_show_prints_a_file_that_loads_again(capsys, tmp_path):
    code, out, _ = run(capsys, "task", "show", "brain")
    assert code == 0
    (tmp_path / "mine.yaml").write_text(out)
    assert run(capsys, "task", "show", tmp_path / "mine.yaml")[1].splitlines()[1:] == out.splitlines()[1:]
    assert json.loads(run(capsys, "task", "show", "brain", "--json")[1])["channels"] == ["t1ce", "t2", "flair"]


def test_check_lists_good_cases(capsys, blobs, tiny_files):
    code, out, _ = run(capsys, "data", "check", blobs, "--task", tiny_files[0])
    assert code == 0
    assert len(out.splitlines()) == 2 + 7
    assert "4x32x32" in out
    assert "non-enhancing, edema, enhancing" in out


def test_check_lists_all_faults_and_exits_4(capsys, blobs, tiny_files, tmp_path):
    root = shutil.copytree(blobs, tmp_path / "copy")
    first, second = sorted((root / "HGG").iterdir())[:2]
    (first / f"{first.name}_t2.nii.gz").unlink()
    (second / f"{second.name}_seg.nii.gz").write_bytes(b"")
    code, out, err = run(capsys, "data", "check", root, "--task", tiny_files[0], "--json")
    faults = {entry["case_id"]: entry["fault"] for entry in json.loads(out) if entry["fault"]}
    assert code == 4
    assert faults == {first.name: "MissingChannel", second.name: "EmptyFile"}
    assert "got 2 faults" in one_line_error(err)


def test_prepare_prints_the_digest(capsys, blobs, tiny_files, cohort):
    code, out, _ = run(capsys, "data", "prepare", blobs, "--task", tiny_files[0], "--json")
    assert (code, json.loads(out)["digest"]) == (0, cohort.digest)


def test_sweep_of_bad_data_exits_4_and_leaves_nothing_to_trust(capsys, blobs, tiny_files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGCAL_HOME", str(tmp_path / "home"))
    root = shutil.copytree(blobs, tmp_path / "copy")
    case = sorted((root / "HGG").iterdir())[2]
    path = case / f"{case.name}_flair.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])
    code, _, err = run(capsys, "sweep", tiny_files[1], "--data", root)
    assert code == 4
    assert f"{case.name}: {path.name} must" in one_line_error(err)
    assert not list((tmp_path / "home").rglob("manifest.json"))


def rewrite(path, change, affine=None):
    image = nib.load(path)
    array = change(np.asarray(image.dataobj).astype(np.float32))
    nib.Nifti1Image(array, image.affine if affine is None else affine).to_filename(path)


def one_voxel(value):
    def change(array):
        array[3, 3, 1] = value
        return array

    return change


def flip(path):
    content = bytearray(path.read_bytes())
    content[-6] ^= 0xFF  # the stored CRC
    path.write_bytes(bytes(content))


BREAK = {
    "missing channel": (lambda flair, seg: flair.unlink(), "no flair"),
    "doubled channel": (lambda flair, seg: shutil.copy(flair, flair.with_suffix("")), "must be there once"),
    "case without files": (lambda flair, seg: [f.unlink() for f in flair.parent.iterdir()], "an empty folder"),
    "doubled case": (lambda flair, seg: shutil.copytree(flair.parent, flair.parents[2] / flair.parent.name), "once"),
    "truncated": (lambda flair, seg: flair.write_bytes(flair.read_bytes()[:-99]), "whole gzip stream"),
    "wrong CRC": (lambda flair, seg: flip(flair), "gzip checksum"),
    "empty": (lambda flair, seg: flair.write_bytes(b""), "0 bytes"),
    "NaN": (lambda flair, seg: rewrite(flair, one_voxel(np.nan)), "finite voxels, got 1 NaN"),
    "label": (lambda flair, seg: rewrite(seg, one_voxel(77)), "must be 0, 1, 2, 4, got 77"),
    "other shape": (lambda flair, seg: rewrite(seg, lambda a: a[:-1]), "must lie on the grid"),
    "other place": (lambda flair, seg: rewrite(seg, lambda a: a, np.diag([-1, -1, 3, 1.0])), "must lie on the grid"),
}


@pytest.mark.parametrize("kind", BREAK)
def test_every_broken_cohort_exits_4_and_leaves_nothing_to_trust(
    capsys, blobs, tiny_files, tmp_path, monkeypatch, kind
):
    monkeypatch.setenv("SEGCAL_HOME", str(tmp_path / "home"))
    root = shutil.copytree(blobs, tmp_path / "copy")
    case = sorted((root / "HGG").iterdir())[2]
    break_it, message = BREAK[kind]
    break_it(case / f"{case.name}_flair.nii.gz", case / f"{case.name}_seg.nii.gz")
    code, _, err = run(capsys, "data", "prepare", root, "--task", tiny_files[0])
    line = one_line_error(err)
    assert code == 4
    assert line.startswith(f"segcal: {case.name}: ")
    assert message in line
    assert not list((tmp_path / "home").rglob("manifest.json"))
    assert run(capsys, "data", "check", root, "--task", tiny_files[0])[0] == 4


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["sweep", "--task", "brian"], 2, "did you mean 'brain'"),
        (["sweep", "--set", "seeds=[3, 3]"], 2, "seeds must differ, got 3 more than once"),
        (["sweep", "--set", "recipes.ce.loss=dise"], 2, "no loss named 'dise'"),
        (["sweep", "--set", "foo=1"], 2, "no key named 'foo'"),
        (["sweep", "--scale", "paper"], 2, "scale 'paper' needs real images"),
        (["sweep", "absent.yaml"], 2, "cannot read absent.yaml"),
        (["sweep", "--data", "no/such/folder"], 4, "the data must be a folder"),
        (["data", "check", "no/such/folder"], 4, "the data must be a folder"),
        (["data", "demo", "--task", "lung", "--out", "x"], 2, "no embedded data for task 'lung'"),
        (
            ["data", "demo", "--out", "x", "--cases", "2"],
            2,
            "cases must be at least 4",
        ),
        (["task", "show", "x.yaml"], 2, "cannot read x.yaml"),
    ],
)
def test_a_wrong_request_is_one_line_with_its_exit_code(capsys, tmp_path, monkeypatch, argv, code, message):
    monkeypatch.chdir(tmp_path)
    got, _, err = run(capsys, *argv)
    assert got == code
    assert message in one_line_error(err)


def test_an_experiment_without_models_exits_4(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    open_store().create_experiment("empty")
    code, _, err = run(capsys, "report", "--experiment", "empty")
    assert code == 4
    assert "must hold registered models, got none" in one_line_error(err)


READING = [
    ["report"],
    ["ensemble", "list"],
    ["ensemble", "create", "--experiment", "calib", "--recipe", "ce"],
    ["ensemble", "promote", "models:/segcal-brain-ensemble/1"],
    ["ensemble", "show", "models:/segcal-brain-ensemble/1"],
    ["gc"],
    ["predict", "--model", "models:/segcal-brain-ensemble@champion", "--out", "out", "."],
]


@pytest.mark.parametrize("argv", READING, ids=" ".join)
def test_where_no_store_is_reading_makes_none(capsys, tmp_path, monkeypatch, argv):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *argv)
    assert code == 5
    assert f"the tracking store must be there, got nothing at {tmp_path}/mlflow.db" in one_line_error(err)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_request_for_a_report_is_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    open_store()
    for option, value, message in (
        ("--experiment", "none", "no experiment named 'none'"),
        ("--resamples", "0", "resamples must be at least 1 and the seed not negative, got --resamples 0"),
        ("--seed", "-1", "got --resamples 10000 --seed -1"),
    ):
        code, _, err = run(capsys, "report", option, value)
        assert code == 2
        assert message in one_line_error(err)


@pytest.mark.parametrize("verb", [["sweep"], ["report"], ["doctor"]])
def test_a_store_that_does_not_answer_exits_5(capsys, tmp_path, monkeypatch, verb):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    code, _, err = run(capsys, *verb)
    assert code == 5
    assert "tracking store must answer" in one_line_error(err)


def test_doctor_says_what_would_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, "doctor", "--json")
    findings = json.loads(out)
    assert code == 0
    assert findings["store answers"] is True
    assert "14 trials of 4 recipes of brain (scale demo)" in findings["would run"]
    assert list(tmp_path.iterdir()) == []  # the first sweep makes a store, or finds that it cannot


def test_usage_and_help(capsys):
    for argv, code in (
        (["--help"], 0),
        (["sweep", "--help"], 0),
        (["data", "demo", "--help"], 0),
        (["fly"], 2),
        ([], 2),
    ):
        with pytest.raises(SystemExit) as ended:
            main(argv)
        assert ended.value.code == code
    assert "example: segcal sweep" in capsys.readouterr().out


def test_demo_cohort_is_read_back_through_the_layout(capsys, tmp_path):
    from segcal.tasks import TASKS

    out = tmp_path / "phantoms"
    code, said, _ = run(capsys, "data", "demo", "--out", out, "--cases", "4", "--size", "32")
    assert (code, said.strip()) == (0, str(out))
    assert [case.site for case in find(out, TASKS["brain"]).cases] == ["CBICA", "CBICA", "CBICA", "TCIA"]
    assert run(capsys, "data", "check", out)[0] == 0
    assert run(capsys, "data", "demo", "--out", out)[0] == 2
