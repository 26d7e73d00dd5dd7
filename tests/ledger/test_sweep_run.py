"""Against MLflow's own SQLite store: a sweep's run, and what a killed process left open."""

import json

import pytest

from segcal.ledger.names import tag
from segcal.ledger.sweep_run import close_left, dataset_of, end_sweep, start_sweep
from tests.fresh_store import fresh_store


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return fresh_store(tmp_path)


def status(store, run_id):
    return store.get_run(run_id).info.status


def open_run(store, sweep, storage):
    """A run that its process left RUNNING."""
    return store.create_run(sweep.experiment_id, tags={tag("storage"): storage, tag("kind"): "trial"}).info.run_id


def test_a_sweeps_run_holds_its_plan_its_data_and_where_its_records_are(store, cohort):
    params = {"data": "/d", "seeds": 3}
    sweep = start_sweep(store, "calib", "sweep tiny", params, "seeds: 3\n", cohort.manifest, "tiny", "/records/calib")
    found = store.get_run(sweep.run_id)
    assert (found.info.run_name, found.info.status, sweep.adopted) == ("sweep tiny", "RUNNING", False)
    assert found.data.params == {"sweep.data": "/d", "sweep.seeds": "3"}
    assert found.data.tags.items() >= {
        tag("kind"): "sweep", tag("experiment"): "calib", tag("storage"): "/records/calib",
    }.items()  # fmt: skip
    assert store.get_experiment(sweep.experiment_id).name == "calib"
    assert sorted(file.path for file in store.list_artifacts(sweep.run_id)) == ["manifest.json", "sweep.yaml"]
    (data,) = found.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("segcal-tiny", cohort.digest)


def test_the_data_are_named_by_case_and_split(cohort):
    data = dataset_of("tiny", cohort.manifest).dataset
    profile = json.loads(data.profile)
    assert profile["cases"] == {"train": 3, "val": 1, "test": 3}
    assert len(profile["splits"]) == 7


def test_the_run_of_mlflow_run_becomes_the_parent(store, monkeypatch):
    where = store.create_experiment("calib")
    launcher = store.create_run(where).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", launcher)
    sweep = start_sweep(store, "calib", "sweep brain", {"scale": "demo"}, "")
    assert (sweep.run_id, sweep.adopted) == (launcher, True)
    assert store.get_run(launcher).info.run_name == "sweep brain"
    end_sweep(store, sweep, "FINISHED")
    assert status(store, launcher) == "RUNNING"  # mlflow run ends what it began
    elsewhere = start_sweep(store, "other", "sweep brain", {}, "")
    assert elsewhere.run_id != launcher
    assert store.get_run(launcher).data.tags[tag("sweep_run")] == elsewhere.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)  # left over from another store
    assert not start_sweep(store, "calib", "sweep brain", {}, "").adopted


def test_no_run_stays_open_when_a_sweep_ends(store):
    sweep = start_sweep(store, "calib", "sweep", {}, "", storage="/a")
    killed = open_run(store, sweep, "/a")
    end_sweep(store, sweep, "FAILED")
    assert (status(store, killed), status(store, sweep.run_id)) == ("KILLED", "FAILED")
    assert store.get_run(killed).data.tags[tag("error")] == "its process ended before it did"
    assert tag("error") not in store.get_run(sweep.run_id).data.tags


@pytest.mark.parametrize("storage", ["/records/calib", "s3://bucket/sweeps/calib", "/home/o'neill's/calib", "/ä b/c"])
def test_only_what_is_open_on_the_same_records_is_closed(store, storage):
    dead = start_sweep(store, "calib", "sweep", {}, "", storage=storage)
    left = [dead.run_id, open_run(store, dead, storage)]
    now = start_sweep(store, "calib", "sweep", {}, "", storage=storage)
    other = start_sweep(store, "calib", "sweep", {}, "", storage=f"{storage}-2")
    elsewhere = start_sweep(store, "elsewhere", "sweep", {}, "", storage=storage)
    ended = open_run(store, dead, storage)
    store.set_terminated(ended, "FAILED")
    untouched = [now.run_id, other.run_id, open_run(store, other, f"{storage}-2"), elsewhere.run_id]
    untouched.append(store.create_run(now.experiment_id).info.run_id)  # of somebody else, without segcal's tags
    assert close_left(store, now.experiment_id, storage, {now.run_id}) == 2
    assert [status(store, run) for run in left] == ["KILLED"] * 2
    assert [status(store, run) for run in untouched] == ["RUNNING"] * 5
    assert status(store, ended) == "FAILED"
    assert close_left(store, now.experiment_id, storage, {now.run_id}) == 0
