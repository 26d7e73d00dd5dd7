"""What segcal relies on, held against each store: a SQLite file, `mlflow server` on SQLite and on PostgreSQL."""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from pathlib import Path

import mlflow.artifacts
import pytest
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from segcal.ledger.store import experiment_id, open_store

WRITER = Path(__file__).with_name("plain_trial.py")
_spec = importlib.util.spec_from_file_location("plain_trial", WRITER)
plain_trial = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(plain_trial)

KEYS = plain_trial.KEYS
NAN = float("nan")


@pytest.fixture
def store(store_uri, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # files of a store without a server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    return open_store(store_uri)


@pytest.fixture
def run_id(store):
    return store.create_run(new_experiment(store)).info.run_id


def new_experiment(client):
    return experiment_id(client, f"servers-{uuid.uuid4().hex[:8]}")


def metrics_of(epochs, model_id=None):
    values = [(key, plain_trial.value(0, key, epoch), epoch) for epoch in epochs for key in KEYS]
    return [Metric(key, value, 1000 + epoch, epoch, model_id=model_id) for key, value, epoch in values]


def stored(client, run_id):
    """How often each (key, step, value, timestamp) is stored."""
    return Counter(
        (m.key, m.step, m.value, m.timestamp) for key in KEYS for m in client.get_metric_history(run_id, key)
    )


def once(metrics):
    return Counter({(m.key, m.step, m.value, m.timestamp): 1 for m in metrics})


def test_metrics_sent_again_are_stored_once(store, run_id):
    whole = metrics_of(range(1, 41))
    for batch in (whole[:100], whole, whole):
        store.log_batch(run_id, metrics=batch)
    assert stored(store, run_id) == once(whole)
    assert store.get_run(run_id).data.metrics["lr"] == plain_trial.value(0, "lr", 40)


def test_metrics_of_a_model_sent_again_are_stored_once(store, run_id):
    experiment = store.get_run(run_id).info.experiment_id
    model = store.create_logged_model(experiment, name="m", source_run_id=run_id).model_id
    alone, linked = metrics_of([1]), metrics_of([1], model)
    for batch in (alone, linked[:3], linked, linked):  # also numbers that were sent before there was a model
        store.log_batch(run_id, metrics=batch)
    assert stored(store, run_id) == once(alone)
    held = store.get_logged_model(model).metrics
    assert Counter((m.key, m.step, m.value, m.timestamp) for m in held) == once(alone)


def test_a_hundred_linked_metrics_of_different_names_can_be_sent_again(store, run_id):
    """MLflow 3.17 refuses more for ever, once some of them are stored (`UNIQUE constraint failed`)."""
    experiment = store.get_run(run_id).info.experiment_id
    model = store.create_logged_model(experiment, name="m", source_run_id=run_id).model_id
    linked = [Metric(f"structure.{index}", index / 7, 1000, 1, model_id=model) for index in range(100)]
    for batch in (linked[:50], linked, linked):
        store.log_batch(run_id, metrics=batch)
    assert len(store.get_logged_model(model).metrics) == 100


def test_what_is_not_a_number_can_be_sent_again(store, run_id):
    odd = [Metric("lr", NAN, 1, 1), Metric("lr", float("inf"), 1, 2), Metric("lr", -float("inf"), 1, 3)]
    store.log_batch(run_id, metrics=odd[:1])
    store.log_batch(run_id, metrics=odd)
    store.log_batch(run_id, metrics=odd)
    values = {m.step: m.value for m in store.get_metric_history(run_id, "lr")}
    assert len(store.get_metric_history(run_id, "lr")) == 3
    assert values[1] != values[1]
    assert (values[2], values[3]) == (sys.float_info.max, -sys.float_info.max)  # MLflow has no infinity


def test_a_run_that_ended_can_be_taken_up_again(store, run_id):
    for end in ("FAILED", "KILLED", "FINISHED"):
        store.set_terminated(run_id, end)
        assert store.get_run(run_id).info.status == end
        store.update_run(run_id, status="RUNNING")
        assert store.get_run(run_id).info.status == "RUNNING"
        store.log_batch(run_id, metrics=metrics_of([1]), tags=[RunTag("again", end)])
    before = store.get_run(run_id).info.end_time  # stays until the run ends again
    time.sleep(0.01)
    store.set_terminated(run_id, "FINISHED")
    assert store.get_run(run_id).info.end_time > before
    assert stored(store, run_id) == once(metrics_of([1]))


def test_parameters_and_tags_can_be_sent_again(store, run_id):
    for _ in range(2):
        store.log_batch(run_id, params=[Param("a", "1"), Param("b", "2")], tags=[RunTag("t", "1")])
    with pytest.raises(MlflowException) as refused:
        store.log_batch(run_id, params=[Param("a", "3"), Param("c", "4")], metrics=metrics_of([1]))
    assert (refused.value.error_code, refused.value.get_http_status_code()) == ("INVALID_PARAMETER_VALUE", 400)
    assert store.get_run(run_id).data.params == {"a": "1", "b": "2"}
    assert not stored(store, run_id)
    store.delete_tag(run_id, "t")
    with pytest.raises(MlflowException) as absent:
        store.delete_tag(run_id, "t")
    assert absent.value.error_code == "RESOURCE_DOES_NOT_EXIST"


def test_models_and_versions_of_a_run_are_found_again(store, run_id, tmp_path):
    """Made twice they are two, so a writer in doubt looks first."""
    experiment = store.get_run(run_id).info.experiment_id
    name = f"m-{run_id}"
    first, second = (
        store.create_logged_model(experiment, name="m", source_run_id=run_id, tags={"segcal.key": "k"}).model_id
        for _ in range(2)
    )
    where = f"source_run_id = '{run_id}' AND tags.`segcal.key` = 'k'"
    assert {model.model_id for model in store.search_logged_models([experiment], where)} == {first, second}
    for _ in range(2):
        store.delete_logged_model(second)
    assert [model.model_id for model in store.search_logged_models([experiment], where)] == [first]
    (tmp_path / "files").mkdir()
    for content in ("half", "whole"):
        (tmp_path / "files" / "w").write_text(content)
        store.log_model_artifacts(first, str(tmp_path / "files"))
    store.finalize_logged_model(first, "READY")
    store.finalize_logged_model(first, "READY")
    location = store.get_logged_model(first).artifact_location
    folder = mlflow.artifacts.download_artifacts(artifact_uri=location, tracking_uri=store.tracking_uri)
    assert {path.name: path.read_text() for path in Path(folder).iterdir()} == {"w": "whole"}
    store.create_registered_model(name)
    for _ in range(2):
        store.create_model_version(name, f"models:/{first}", run_id, model_id=first, await_creation_for=0)
    found = store.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    assert sorted(int(version.version) for version in found) == [1, 2]


@pytest.mark.fault
def test_a_batch_whose_server_is_killed_is_sent_again_until_it_arrives(tracking_server, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    client = open_store(tracking_server.uri)
    run_id = client.create_run(new_experiment(client)).info.run_id
    batches = [metrics_of(range(first, first + 120)) for first in (1, 121, 241)]
    refused = []

    def send():
        try:
            client.log_batch(run_id, metrics=batches[1])
        except MlflowException as error:
            refused.append(error)

    client.log_batch(run_id, metrics=batches[0])
    sender = threading.Thread(target=send)
    sender.start()
    time.sleep(0.05)  # in mid-batch
    tracking_server.stop()
    sender.join()
    begun = time.monotonic()
    with pytest.raises(MlflowException) as down:
        client.log_batch(run_id, metrics=batches[2])
    assert time.monotonic() - begun < 5
    assert all(error.get_http_status_code() >= 500 for error in [down.value, *refused])
    tracking_server.start()
    for batch in batches:
        client.log_batch(run_id, metrics=batch)
    assert stored(client, run_id) == once(metrics_of(range(1, 361)))


@pytest.mark.fault
def test_eight_writers_lose_nothing(store, tmp_path, record_property):
    experiment = new_experiment(store)
    parent = store.create_run(experiment).info.run_id
    store.log_inputs(parent, datasets=[plain_trial.DATA])  # as a sweep does: of eight that race to, some die
    versions_before = len(store.search_model_versions(f"name = '{plain_trial.MODEL}'", max_results=1000))
    go, environment = tmp_path / "go", {**os.environ, "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
    writers = [
        subprocess.Popen(
            [sys.executable, WRITER, store.tracking_uri, experiment, parent, str(seed), go],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for seed in range(8)
    ]  # fmt: skip
    try:
        while not all(Path(f"{go}.{seed}").exists() for seed in range(8)):
            assert all(writer.poll() is None for writer in writers)
            time.sleep(0.05)
        begun = time.monotonic()
        go.touch()
        said = [writer.communicate(timeout=300)[1] for writer in writers]
        took = time.monotonic() - begun
    finally:
        for writer in writers:
            writer.kill()
    assert [
        (writer.returncode, text[-2000:]) for writer, text in zip(writers, said, strict=True) if writer.returncode
    ] == []
    written = [json.loads(Path(f"{go}.{seed}.json").read_text()) for seed in range(8)]
    calls = sum(trial["calls"] for trial in written)
    record_property("calls per second", calls / took)
    kind = store.tracking_uri.split(":")[0]
    print(f"eight writers on {kind}: {calls} calls in {took:.1f} s, {calls / took:.0f} a second")
    for trial in written:
        complete(store, experiment, trial)
    versions = store.search_model_versions(f"name = '{plain_trial.MODEL}'", max_results=1000)
    assert len(versions) == versions_before + 8
    assert len({version.version for version in versions}) == len(versions)


def complete(client, experiment, trial):
    """Each of a trial's numbers once, its checkpoints whole, its last one registered."""
    run_id, seed = trial["run_id"], trial["seed"]
    run = client.get_run(run_id)
    assert (run.info.status, len(run.data.params)) == ("FINISHED", 20)
    assert run.inputs.dataset_inputs[0].dataset.digest == "digest"
    for key in KEYS:
        found = sorted((m.step, m.value) for m in client.get_metric_history(run_id, key))
        assert found == [(epoch, plain_trial.value(seed, key, epoch)) for epoch in range(1, plain_trial.EPOCHS + 1)]
    models = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    assert {model.model_id for model in models} == set(trial["checkpoints"])
    for model in models:
        assert str(model.status) == "READY"
        assert len(model.metrics) == len(KEYS)
        uri, folder = client.tracking_uri, model.artifact_location
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=folder, tracking_uri=uri))
        weights = (folder / "weights.safetensors").read_bytes()
        assert hashlib.sha256(weights).hexdigest() == trial["checkpoints"][model.model_id]
        assert json.loads((folder / "config.json").read_text()) == {"seed": seed}
    (version,) = client.search_model_versions(f"run_id = '{run_id}'")
    assert version.source == f"models:/{list(trial['checkpoints'])[-1]}"
