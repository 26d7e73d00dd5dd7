import os
import sys

import pytest

from segcal.ledger.launch import CALLER, SweepExperiment
from segcal.ledger.store import open_store


def project(folder, name="segcal"):
    (folder / "MLproject").write_text(f"name: {name}\n")
    return str(folder)


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv(CALLER, "")


def test_answers_for_a_sweep_of_segcal_only(tmp_path, monkeypatch):
    uri = project(tmp_path)
    answers = {
        ("mlflow", "run", uri, "-e", "sweep"): True,
        ("/venv/bin/mlflow", "run", uri, "-e", "sweep", "-P", "task=brain"): True,
        ("mlflow", "run", f"file://{uri}", "-e", "sweep"): True,
        ("mlflow", "run", "https://git.example.org/group/segcal.git", "-e", "sweep"): True,
        ("mlflow", "run", "git@git.example.org:group/segcal", "-e", "sweep"): True,
        ("mlflow", "run", "https://git.example.org/group/other.git", "-e", "sweep"): False,
        ("mlflow", "run", str(tmp_path.parent), "-e", "sweep", "-P", f"data={uri}"): False,
        ("mlflow", "run", "x" * 5000, "-e", "sweep"): False,
        ("mlflow", "run", uri, "-e", "report"): False,
        ("mlflow", "ui"): False,
        ("pytest", "run", uri, "-e", "sweep"): False,
        ("mlflow", "run", str(tmp_path / "elsewhere"), "-e", "sweep"): False,
    }
    for argv, expected in answers.items():
        monkeypatch.setattr(sys, "argv", list(argv))
        assert SweepExperiment().in_context() is expected, argv


def test_the_commands_work_where_mlflow_was_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for entry in ("sweep", "report"):
        os.environ[CALLER] = ""
        monkeypatch.setattr(sys, "argv", ["mlflow", "run", "https://git.example.org/segcal", "-e", entry])
        SweepExperiment()
        assert os.environ[CALLER] == str(tmp_path)
    os.environ[CALLER] = ""
    monkeypatch.setattr(sys, "argv", ["mlflow", "run", "https://git.example.org/other", "-e", "sweep"])
    SweepExperiment()
    assert os.environ[CALLER] == ""


def test_does_not_answer_for_other_projects(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["mlflow", "run", project(tmp_path, "other"), "-e", "sweep"])
    assert SweepExperiment().in_context() is False


def test_the_experiment_is_calib_or_the_one_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    client = open_store()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", client.tracking_uri)
    monkeypatch.setattr(sys, "argv", ["mlflow", "run", ".", "-e", "sweep"])
    assert client.get_experiment(SweepExperiment().get_experiment_id()).name == "calib"
    monkeypatch.setattr(sys, "argv", ["mlflow", "run", ".", "-e", "sweep", "-P", "experiment=mine"])
    assert client.get_experiment(SweepExperiment().get_experiment_id()).name == "mine"


def test_a_store_that_is_away_ends_mlflow_with_the_line_and_the_code_of_segcal(monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr(sys, "argv", ["mlflow", "run", ".", "-e", "sweep"])
    with pytest.raises(SystemExit) as ended:
        SweepExperiment().get_experiment_id()
    assert ended.value.code == 5
    assert capsys.readouterr().err.startswith(
        "segcal: the tracking store must answer, got no answer from http://127.0.0.1:9"
    )
