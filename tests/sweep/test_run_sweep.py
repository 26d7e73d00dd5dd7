"""A sweep over data of other layouts; its trials are stand-ins, so that only what surrounds them is run."""

from dataclasses import asdict

import numpy as np
import pytest

from segcal.cli import main
from segcal.data.phantom.embedded import write_cohort
from segcal.errors import SweepHeld, UsageError
from segcal.journal.reading import trial_storage
from segcal.journal.record import read_record
from segcal.journal.trial import TrialJournal
from segcal.ledger.names import tag
from segcal.ledger.read import models
from segcal.ledger.store import open_store
from segcal.ledger.sweep_run import start_sweep
from segcal.records import EpochRecord
from segcal.sweep.held import held_sweep, records_id, sweep_storage
from segcal.sweep.outcome import Outcome
from segcal.sweep.plan import load_plan
from segcal.sweep.run_sweep import reconcile, run_sweep
from segcal.trial import TrialConfig
from tests.fresh_store import fresh_store


@pytest.fixture(scope="module")
def prostates(tmp_path_factory):
    root = tmp_path_factory.mktemp("prostates")
    write_cohort("prostate", root / "p", cases=7, size=48)
    return root / "p"


@pytest.fixture
def assigned(tmp_path, monkeypatch):
    """Assignments that the sweep would have trained."""
    monkeypatch.chdir(tmp_path)
    given = []

    def run_all(assignments, resources, say, **options):
        given.extend(assignments)
        return Outcome(finished=[assignment.config.key for assignment in assignments])

    monkeypatch.setattr("segcal.sweep.schedule.run_all", run_all)
    return given


SMALL = ["seeds=1", "task_fields.crop=[16, 48, 48]", "task_fields.spacing_mm=[6, 3, 3]"]


def test_the_cohort_that_is_only_tested_on_is_prepared_and_recorded_and_never_learnt_from(prostates, assigned):
    said = []
    plan = load_plan(task="prostate3d", settings=SMALL)
    run_sweep(plan, str(prostates / "PROSTATEx"), said.append, ood=str(prostates / "PROMISE12"))
    assert [assignment.config.dims for assignment in assigned] == [3] * 6  # two recipes have 2 seeds of their own
    assert any("out of distribution: " in line and "2 cases, never learnt from" in line for line in said)
    client = open_store()
    experiment = client.get_experiment_by_name("calib").experiment_id
    (run,) = client.search_runs([experiment])
    assert run.data.params["sweep.ood_data"].endswith("PROMISE12")
    assert run.data.params["sweep.ood_digest"] not in (run.data.params["sweep.data_digest"], "")


def test_a_task_without_such_a_cohort(prostates, assigned, tmp_path):
    write_cohort("heart", tmp_path / "hearts", cases=4, size=40)
    with pytest.raises(UsageError, match="--ood needs the layout of that cohort, got none; set ood_layout in the task"):
        run_sweep(load_plan(task="heart"), str(tmp_path / "hearts"), print, ood=str(prostates / "PROMISE12"))
    assert assigned == []


def test_patients_in_two_splits_end_with_4(assigned, tmp_path, capsys):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "cases.csv").write_text(
        "case,t2,label,split,patient\na,a.nii,a.nii,train,P\nb,b.nii,b.nii,test,P\nc,c.nii,c.nii,val,Q\n"
    )
    code = main(["sweep", "--task", "prostate", "--set", "task_fields.layout=csv", "--data", str(tmp_path / "d")])
    assert code == 4
    assert "b: cases of patient P must be in one split, got a in train and b in test" in capsys.readouterr().err


def one_epoch(records, seed, end):
    """A trial on record; end: whether its process lived to finish it."""
    config = TrialConfig(
        task="tiny", label="ce", data_digest="d1", in_channels=3, n_classes=2, dims=2, seed=seed, loss="cross_entropy",
        head="softmax", weights="none", class_weights=(1.0, 1.0), batch=4,
    )  # fmt: skip
    journal = TrialJournal(trial_storage(records, config.key))
    journal.begin(config.key, asdict(config), {"name": "tiny", "labels": {"1": "a"}}, "1.0", {})
    weights = {"w": np.full(3, seed, dtype=np.float32)}
    state = {"best.w": weights["w"], "training.best_epoch": np.ones(1), "training.best": np.ones(1)}
    journal.epoch(EpochRecord(1, 0.5, 0.5, (0.5,), 0.005, 1.0, weights, state=lambda: state))
    if end:
        journal.finish()
    return config.key


def test_what_a_killed_sweep_left_is_told_and_closed_and_nothing_trained(assigned, tmp_path):
    client, said = fresh_store(tmp_path), []
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    records = sweep_storage(uri, "calib")
    dead = start_sweep(client, "calib", "sweep", {}, "", storage=records_id(records))
    finished, cut_short = one_epoch(records, 0, True), one_epoch(records, 1, False)
    for _ in range(2):
        assert reconcile("calib", said.append) == {}
        assert [ref.key for ref in models(client, "calib")] == [finished]
        runs = client.search_runs([dead.experiment_id], f"tags.`{tag('kind')}` = 'trial'")
        assert {run.data.tags[tag("key")]: run.info.status for run in runs} == {
            finished: "FINISHED", cut_short: "KILLED",
        }  # fmt: skip
        assert client.get_run(dead.run_id).info.status == "KILLED"
        assert read_record(trial_storage(records, cut_short)).state == "stopped"
    assert said == [
        "experiment 'calib': 2 trials told to MLflow, 1 runs closed",
        "experiment 'calib': 0 trials told to MLflow, 0 runs closed",
    ]
    assert assigned == []
    assert "lease.json" not in records.names()


def test_there_is_nothing_to_tell_without_records(assigned, tmp_path):
    fresh_store(tmp_path)
    with pytest.raises(UsageError, match=r"experiment 'calib' must have records, got none in .*; name its --storage"):
        reconcile("calib", print)
    assert not (tmp_path / "mlflow-trials").exists()


def test_a_sweep_that_is_held_is_left_alone(prostates, assigned, tmp_path):
    fresh_store(tmp_path)
    with held_sweep(sweep_storage(f"sqlite:///{tmp_path}/mlflow.db", "calib"), print):
        with pytest.raises(SweepHeld, match="a sweep must have one driver, got a second"):
            run_sweep(load_plan(task="prostate3d", settings=SMALL), str(prostates / "PROSTATEx"), print)
        with pytest.raises(SweepHeld):
            reconcile("calib", print)
    assert assigned == []


def test_a_version_that_was_deleted_does_not_come_back_by_itself(assigned, tmp_path):
    client = fresh_store(tmp_path)
    one_epoch(sweep_storage(f"sqlite:///{tmp_path}/mlflow.db", "calib"), 0, True)
    reconcile("calib", print)
    (ref,) = models(client, "calib")
    client.delete_model_version(ref.name, str(ref.version))
    said = []
    assert reconcile("calib", said.append) == {}
    assert client.search_model_versions("") == []
    assert said == ["experiment 'calib': 0 trials told to MLflow, 0 runs closed"]


@pytest.mark.parametrize("how", ["named", "environment", "neither"])
def test_data_are_shared_by_a_storage_that_is_named_here_or_in_the_environment(
    tiny_files, blobs, assigned, tmp_path, monkeypatch, how
):
    fresh_store(tmp_path)
    shared = str(tmp_path / "shared")
    if how == "environment":
        monkeypatch.setenv("SEGCAL_STORAGE", shared)
    run_sweep(load_plan(tiny_files[1]), str(blobs), print, storage=shared if how == "named" else None)
    (records,) = {assignment.storage for assignment in assigned}
    digest = assigned[0].config.data_digest
    if how == "neither":
        assert not records.has("prepared")
        assert {assignment.prepared is None for assignment in assigned} == {False}
    else:
        assert records.uri == f"{shared}/tiny"
        assert records.at("prepared", digest).has("manifest.json")
        assert {assignment.prepared for assignment in assigned} == {None}
