"""What another process reads of an experiment, from MLflow's own SQLite store."""

import hashlib
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from mlflow.exceptions import MlflowException

from segcal.environment import environment
from segcal.errors import BadData, UsageError
from segcal.journal.checkpoint import pack
from segcal.ledger.names import WEIGHTS
from segcal.ledger.read import checkpoint_is_there, finished_keys, load_checkpoint, models, ood_digest
from segcal.ledger.store import IMPATIENT, open_store
from segcal.ledger.sweep_run import end_sweep, start_sweep
from segcal.ledger.trial_run import TrialRun
from segcal.records import EpochRecord, ModelRef
from segcal.trial import TrialConfig
from tests.fresh_store import fresh_store

CONFIG = TrialConfig(
    task="tiny", label="ce", data_digest="d1", in_channels=3, n_classes=4, dims=2, seed=0, loss="cross_entropy",
    head="softmax", weights="none", class_weights=(1.0, 1.0, 1.0, 1.0), batch=4,
)  # fmt: skip


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGCAL_HOME", str(tmp_path / "home"))  # of listings
    return fresh_store(tmp_path)


@pytest.fixture
def finish(store, tiny_task):
    """Makes a run of a trial whose third epoch is the best, with these weights."""
    sweep = start_sweep(store, "calib", "sweep", {}, "")

    def make(weights, dice=0.6, code_version="1.0"):
        run = TrialRun(store, sweep, CONFIG, asdict(tiny_task), None, code_version, {})
        epochs = [
            (EpochRecord(epoch, 0.5, value, (value,) * 3, 0.005, 1.0), epoch)
            for epoch, value in enumerate((0.4, 0.3, dice), 1)
        ]
        run.epochs(epochs)
        data, digest = pack({"layer.weight": np.full((2, 3), weights, dtype=np.float32)})
        run.checkpoint(epochs[2], data, digest)
        run.register(3, dice, digest)
        run.end("finished", "", {}, "")
        return run

    return make


def test_the_best_checkpoint_is_registered_and_read_back(store, finish):
    run = finish(3)
    (ref,) = models(store, "calib")
    assert ref.name == f"segcal-tiny-{CONFIG.recipe}"
    assert (ref.version, ref.seed, ref.key, ref.run_id) == (1, 0, CONFIG.key, run.run_id)
    assert (ref.val_dice, ref.epoch, ref.code_version, ref.data_digest) == (0.6, 3, "1.0", "d1")
    checkpoint = load_checkpoint(store, ref)
    np.testing.assert_array_equal(checkpoint.weights["layer.weight"], np.full((2, 3), 3, dtype=np.float32))
    assert checkpoint.config["seed"] == 0
    assert checkpoint.task["name"] == "tiny"
    assert finished_keys(store, "calib") == {CONFIG.key}
    assert finished_keys(store, "elsewhere") == set()
    assert replace(CONFIG, lr=0.1).key not in finished_keys(store, "calib")


def test_altered_weights_are_refused_by_name(store, finish):
    finish(3)
    (ref,) = models(store, "calib")
    location = store.get_logged_model(ref.model_id).artifact_location
    path = Path(location.removeprefix("file://")) / "weights.safetensors"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == ref.weights_sha256
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(BadData, match=rf"{ref.name} version 1: the weights' sha256 must be {ref.weights_sha256[:12]}"):
        load_checkpoint(store, ref)
    shutil.rmtree(path.parent)
    with pytest.raises(BadData, match=f"{ref.name} version 1: the checkpoint's files must be there"):
        load_checkpoint(store, ref)


def test_a_checkpoint_is_there_until_its_file_or_its_model_is_gone(store, finish):
    finish(3)
    (ref,) = models(store, "calib")
    assert checkpoint_is_there(store, ref)
    assert not checkpoint_is_there(store, replace(ref, model_id="m-none"))
    for path in Path("mlruns").rglob("weights.safetensors"):
        path.unlink()
    assert not checkpoint_is_there(store, ref)


@pytest.mark.parametrize("tracking_server", ["sqlite"], indirect=True)
def test_a_checkpoint_that_lies_with_a_server_is_looked_for_there(tracking_server):
    client = open_store(tracking_server.uri)
    experiment = client.create_experiment("looked for")
    model = client.create_logged_model(experiment, name="m")
    ref = ModelRef("m", 1, model.model_id, "r", "t", "r", "l", 0, "d", "1", "k", "0", 0.5, 1, 0)
    assert not checkpoint_is_there(client, ref)
    Path(tracking_server.folder, WEIGHTS).write_bytes(b"w")
    client.log_model_artifact(model.model_id, str(Path(tracking_server.folder, WEIGHTS)))
    assert checkpoint_is_there(client, ref)
    tracking_server.stop()
    with environment(IMPATIENT), pytest.raises(MlflowException):
        checkpoint_is_there(client, ref)


def test_of_a_trial_registered_twice_the_newest_counts(store, finish):
    old = finish(3)
    store.set_tag(old.run_id, "segcal.key", "renamed by hand")  # so that the trial gets another run
    new = finish(7, dice=0.7, code_version="1.1")
    (ref,) = models(store, "calib")
    assert (ref.version, ref.code_version, ref.val_dice, ref.run_id) == (2, "1.1", 0.7, new.run_id)


def test_an_experiment_without_models(store):
    start_sweep(store, "calib", "sweep", {}, "")
    with pytest.raises(BadData, match="must hold registered models, got none"):
        models(store, "calib")


def test_an_unknown_experiment_names_the_nearest(store):
    store.create_experiment("tiny")
    with pytest.raises(UsageError, match="no experiment named 'tinny'; did you mean 'tiny'"):
        models(store, "tinny")


def test_members_come_by_recipe_and_seed(trained):
    refs = models(open_store(trained[0]), "tiny")
    assert [(ref.label, ref.seed) for ref in refs] == [(label, seed) for label in ("ce", "dice") for seed in range(3)]
    assert {ref.key for ref in refs} == {config.key for config in trained[1]}


def test_the_out_of_distribution_cohort_is_that_of_the_newest_sweep_on_the_same_data(store):
    def sweep(**params):
        end_sweep(store, start_sweep(store, "away", "sweep", params, ""), "FINISHED")

    assert ood_digest(store, "away", "d1") is None
    sweep(data_digest="d1", ood_digest="o1")
    sweep(data_digest="d2", ood_digest="o2")
    sweep(data_digest="d1")  # called again without --ood: the cohort of before still belongs to these data
    assert (ood_digest(store, "away", "d1"), ood_digest(store, "away", "d2")) == ("o1", "o2")
    assert ood_digest(store, "away", "d3") is None
    sweep(data_digest="d1", ood_digest="o3")
    assert ood_digest(store, "away", "d1") == "o3"
