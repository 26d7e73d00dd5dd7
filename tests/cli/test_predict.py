"""`segcal predict`, as a user meets it, with an ensemble that predicts what the image shows."""

import argparse
import errno
import json

import numpy as np
import pytest

import segcal.ensemble.loaded
import segcal.ledger.store
from segcal.cli import main
from segcal.cli.predict import add_predict
from segcal.errors import BadData, SegcalError, UsageError
from tests.ensemble.identity import identity, task_of
from tests.ensemble.test_predict import GRIDS, shown, write_shown

MODEL = "models:/segcal-plain-ensemble@champion"


@pytest.fixture
def run(monkeypatch, capsys):
    """Calls the verb; returns what it raised, stdout and stderr."""
    asked = []
    monkeypatch.setattr(segcal.ledger.store, "open_store", lambda **options: "store")
    monkeypatch.setattr(segcal.ensemble.loaded, "load_ensemble", lambda *given: asked.append(given) or identity())

    def call(*argv):
        parser = argparse.ArgumentParser()
        add_predict(parser.add_subparsers(required=True))
        arguments = parser.parse_args(["predict", *map(str, argv)])
        raised = None
        try:
            arguments.run(arguments)
        except Exception as error:
            raised = error
        return raised, *capsys.readouterr()

    call.asked = asked
    return call


def test_results_are_told_and_written(run, tmp_path):
    image = write_shown(tmp_path / "P1.nii.gz", shown(), GRIDS["LPS"])
    raised, out, err = run("--model", MODEL, image, "--out", tmp_path / "out")
    assert raised is None
    assert run.asked == [("store", MODEL)]
    lines = out.splitlines()
    assert lines[0] == "P1  not flagged: mean H(S) 0.325 <= 0.400 nats (false positives: 4.8%)"
    assert lines[1].split() == ["core", "0.26", "ml", "H(S)", "0.325", "Dice", "0.59", "(0.30", "to", "0.83)"]
    assert lines[2].split()[:3] == ["rim", "0.03", "ml"]
    assert f"written: a folder for each case in {tmp_path / 'out'}" in err
    assert (tmp_path / "out" / "P1" / "labels.nii.gz").is_file()


def test_json_holds_results_and_failures_and_a_failure_is_bad_data(run, tmp_path):
    image = write_shown(tmp_path / "P1.nii.gz", shown(), GRIDS["LPS"])
    raised, out, err = run("--json", "--model", MODEL, image, tmp_path / "P2.nii.gz", "--out", tmp_path / "out")
    assert isinstance(raised, BadData)
    assert raised.exit_code == 4
    assert "got 1 of 2 that were not" in str(raised)
    told = json.loads(out)
    assert [result["case"] for result in told["results"]] == ["P1"]
    assert told["results"][0] == json.loads((tmp_path / "out" / "P1" / "result.json").read_text())
    (failure,) = told["failures"]
    assert failure["fault"] == "MissingCase"
    assert failure["message"] in err
    assert not (tmp_path / "out" / "P2").exists()


def test_nothing_but_failures(run, tmp_path):
    raised, out, err = run("--model", MODEL, tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", "--out", tmp_path / "out")
    assert isinstance(raised, BadData)
    assert out == ""
    assert "written" not in err
    assert not (tmp_path / "out").exists()


def test_what_is_not_predicted_is_said(run, tmp_path):
    classes = np.zeros((2, 8, 8), dtype=np.uint8)
    image = write_shown(tmp_path / "P1.nii.gz", classes, GRIDS["LPS"])
    raised, out, _ = run("--model", MODEL, image, "--out", tmp_path / "out")
    assert raised is None
    lines = out.splitlines()
    assert lines[0] == ("P1  OUT OF DISTRIBUTION: nothing is predicted, threshold 0.400 nats (false positives: 4.8%)")
    assert lines[1].split() == ["core", "0.00", "ml", "not", "predicted"]


def test_an_interrupt_says_what_is_finished_and_goes_on_up(run, tmp_path, monkeypatch, capsys):
    images = [write_shown(tmp_path / f"P{n}.nii.gz", shown(), GRIDS["LPS"]) for n in (1, 2)]
    made = identity()

    class Interrupted(type(made)):
        def predict(self, image, case_id=""):
            if case_id == "P2":
                raise KeyboardInterrupt
            return super().predict(image, case_id)

    stopped = Interrupted(made.name, made.version, made.manifest, task_of(), ())
    monkeypatch.setattr(segcal.ensemble.loaded, "load_ensemble", lambda *given: stopped)
    with pytest.raises(KeyboardInterrupt):
        run("--model", MODEL, *images, "--out", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["P1"]
    assert main(["predict", "--model", MODEL, *map(str, images), "--out", str(tmp_path / "out")]) == 130
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == (
        f"segcal: interrupted; 1 cases are finished in {tmp_path / 'out'}; the same command predicts all of them again"
    )


def test_a_full_disk_names_the_folder_that_needs_room(run, tmp_path, monkeypatch):
    image = write_shown(tmp_path / "P1.nii.gz", shown(), GRIDS["LPS"])

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("segcal.ensemble.predict.draw_check", full)
    raised, _, _ = run("--model", MODEL, image, "--out", tmp_path / "out")
    assert isinstance(raised, SegcalError)
    assert str(raised).startswith(f"{tmp_path / 'out'} must have room for the maps, got a full disk after 0 cases")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_same_name_twice_is_a_wrong_request(run, tmp_path):
    image = write_shown(tmp_path / "P1.nii.gz", shown(), GRIDS["LPS"])
    raised, _, _ = run("--model", MODEL, image, image, "--out", tmp_path / "out")
    assert isinstance(raised, UsageError)
    assert raised.exit_code == 2
