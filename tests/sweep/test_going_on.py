"""A sweep that is called again after something changed; its trials are trained here, one after another, without Ray."""

import shutil

import pytest

from segcal.errors import BadData
from segcal.journal.checkpoint import WEIGHTS
from segcal.journal.reading import records, trial_storage
from segcal.journal.storage import Storage
from segcal.ledger.read import models
from segcal.ledger.store import open_store
from segcal.sweep.outcome import Outcome
from segcal.sweep.plan import load_plan
from segcal.sweep.run_sweep import run_sweep
from segcal.sweep.run_trial import run_trial
from tests.conftest import write_blobs

SMALL = ["epochs=2", "patience=2"]


@pytest.fixture
def sweep(tmp_path, tiny_files, monkeypatch):
    """sweep(data, *settings) -> (its result, the lines it said)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def run_all(assignments, resources, say, *, address, views, lost):
        for assignment in assignments:
            for view in views:
                view.began(assignment.config.key)
            run_trial(assignment)
        return Outcome(finished=[assignment.config.key for assignment in assignments])

    monkeypatch.setattr("segcal.sweep.schedule.run_all", run_all)

    def call(data, *settings):
        said = []
        plan = load_plan(tiny_files[1], settings=[*SMALL, *settings])
        return run_sweep(plan, str(data), said.append, storage=str(tmp_path / "mlflow-trials")), said

    return call


def storage(tmp_path):
    return Storage(str(tmp_path / "mlflow-trials" / "tiny"))


def forget(tmp_path, monkeypatch):
    """Lose what MLflow knows."""
    shutil.rmtree(tmp_path / "mlruns")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'new.db'}")


def test_a_changed_file_adds_keeps_and_names(sweep, blobs, tmp_path):
    first, said = sweep(blobs, "seeds=2")
    assert len(first.finished) == 4
    assert not any("since the last call" in line for line in said)
    before = {ref.key: ref.weights_sha256 for ref in models(open_store(), "tiny")}
    second, said = sweep(blobs, "seeds=[1, 2]")
    assert (second.already_finished, sorted(second.finished)) == (2, ["ce seed 2", "dice seed 2"])
    assert "2 trials are new since the last call: ce seed 2, dice seed 2" in said
    assert "2 trials are no longer asked for, and kept: ce seed 0, dice seed 0" in said
    after = {ref.key: ref.weights_sha256 for ref in models(open_store(), "tiny")}
    assert before.items() < after.items()
    assert len(after) == len(records(storage(tmp_path))) == 6


def test_changed_data_below_the_same_path_make_every_trial_a_new_one(sweep, tmp_path):
    data = write_blobs(tmp_path / "data")
    sweep(data, "seeds=1")
    shutil.rmtree(data)
    write_blobs(data, seed=1)
    again, said = sweep(data, "seeds=1")
    assert (again.already_finished, len(again.finished)) == (0, 2)
    (line,) = [line for line in said if line.startswith(f"the data in {data} changed: digest ")]
    assert line.endswith("every trial is a new one")
    assert len(models(open_store(), "tiny")) == 4


def test_a_registry_that_was_lost_is_told_again_and_nothing_is_trained(sweep, blobs, tmp_path, monkeypatch):
    sweep(blobs, "seeds=1")
    before = {ref.key: ref.weights_sha256 for ref in models(open_store(), "tiny")}
    forget(tmp_path, monkeypatch)
    again, _ = sweep(blobs, "seeds=1")
    assert (again.already_finished, again.finished, again.untold) == (2, (), {})
    assert {ref.key: ref.weights_sha256 for ref in models(open_store(), "tiny")} == before


def test_records_that_were_lost_are_not_needed_for_what_is_registered(sweep, blobs, tmp_path):
    sweep(blobs, "seeds=1")
    shutil.rmtree(tmp_path / "mlflow-trials")
    again, _ = sweep(blobs, "seeds=1")
    assert (again.already_finished, again.finished) == (2, ())


def test_damaged_weights_that_mlflow_does_not_have_are_trained_again(sweep, blobs, tmp_path, monkeypatch):
    sweep(blobs, "seeds=1")
    before = {key: record.weights_sha256 for key, record in records(storage(tmp_path)).items()}
    forget(tmp_path, monkeypatch)
    trial = trial_storage(storage(tmp_path), next(iter(before)))
    trial.write(WEIGHTS, trial.read(WEIGHTS)[:-1])
    again, said = sweep(blobs, "seeds=1")
    assert len(again.finished) == 1
    (line,) = [line for line in said if "its weights were damaged: set aside as weights.safetensors." in line]
    assert line.endswith("it is to be trained again")
    assert {ref.key: ref.weights_sha256 for ref in models(open_store(), "tiny")} == before


def test_records_of_a_newer_version_are_refused(sweep, blobs, tmp_path):
    sweep(blobs, "seeds=1")
    trial = trial_storage(storage(tmp_path), next(iter(records(storage(tmp_path)))))
    trial.write("trial.json", trial.read("trial.json").replace(b'"format": 1', b'"format": 2'))
    with pytest.raises(BadData, match="must be 1 at most, got 2; use the segcal that wrote it, or another experiment"):
        sweep(blobs, "seeds=1")
