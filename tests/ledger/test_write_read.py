"""Against MLflow's own SQLite store: what a trial leaves, and what another process reads."""

import hashlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from urllib.parse import urlparse

import numpy as np
import pytest

from segcal.errors import BadData, UsageError
from segcal.ledger.names import tag
from segcal.ledger.read import finished_keys, load_checkpoint, models, ood_digest
from segcal.ledger.store import open_store
from segcal.ledger.write import TrialRun, end_sweep, log_report, start_sweep
from segcal.records import EpochRecord


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return open_store()


def record(epoch, dice, weights=None):
    return EpochRecord(epoch, 0.5, dice, (dice, dice, float("nan")), 0.005, 1.0, weights)


def weights(value):
    return {"layer.weight": np.full((2, 3), value, dtype=np.float32), "steps": np.array(value, dtype=np.int64)}


class Clock:
    """Seconds that pass when the test says so."""

    now = 0.0

    def __call__(self):
        return self.now


class Counting:
    """A client that notes how many metrics each call brings."""

    def __init__(self, client):
        self._client, self.batches = client, []

    def __getattr__(self, name):
        return getattr(self._client, name)

    def log_batch(self, run_id, metrics=(), **others):
        if metrics:
            self.batches.append(len(metrics))
        return self._client.log_batch(run_id, metrics=metrics, **others)


@pytest.fixture
def begin(store, trained, tiny_task, cohort):
    """A trial under way, whose writes are counted and whose clock stands still."""

    def make(client=store):
        clock, counting = Clock(), Counting(client)
        sweep = start_sweep(store, "calib", "sweep", {}, "")
        run = TrialRun(counting, sweep, trained[1][0], tiny_task, cohort.manifest, "1.0", {}, clock)
        return run, counting, clock

    return make


@pytest.fixture
def finished_trial(store, trained, tiny_task, cohort):
    config, clock = trained[1][0], Clock()
    sweep = start_sweep(store, "calib", "sweep", {"data": "x"}, "seeds: 1")
    run = TrialRun(store, sweep, config, tiny_task, cohort.manifest, "1.0", {"device": "cpu"}, clock)
    for epoch in (record(1, 0.4, weights(1)), record(2, 0.3), record(3, 0.6, weights(3))):
        clock.now += 60
        run.epoch(epoch)
    run.finish()
    return store, sweep, run, config


def test_a_trial_is_a_nested_run_with_params_and_metrics(finished_trial):
    store, sweep, run, config = finished_trial
    found = store.get_run(run.run_id)
    assert found.data.tags["mlflow.parentRunId"] == sweep.run_id
    assert found.info.run_name == "ce seed 0"
    assert found.info.status == "FINISHED"
    assert found.data.params["loss"] == "cross_entropy"
    assert found.data.params["data_digest"] == config.data_digest
    assert found.data.params["system.device"] == "cpu"
    history = store.get_metric_history(run.run_id, "val_dice")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.4), (2, 0.3), (3, 0.6)]
    assert "val_dice.enhancing" not in found.data.metrics  # undefined is not a number
    assert found.inputs.dataset_inputs[0].dataset.digest == config.data_digest


def history(store, run, metric="val_dice"):
    return [(value.step, value.value) for value in store.get_metric_history(run.run_id, metric)]


@pytest.mark.parametrize("end", ["finish", "fail"])
def test_quick_epochs_arrive_together_when_the_trial_ends_and_superseded_checkpoints_never(store, begin, end):
    run, client, _ = begin()
    run.epoch(record(1, 0.4, weights(1)))
    run.epoch(record(2, 0.6, weights(2)))
    run.epoch(record(3, 0.3))
    assert client.batches == []
    run.finish() if end == "finish" else run.fail("FloatingPointError: no longer finite")
    assert client.batches == [3 * 6]
    assert history(store, run) == [(1, 0.4), (2, 0.6), (3, 0.3)]
    assert history(store, run, "train_loss") == [(1, 0.5), (2, 0.5), (3, 0.5)]
    (model,) = store.search_logged_models([store.get_run(run.run_id).info.experiment_id])
    assert model.tags[tag("epoch")] == "2"
    assert {metric.key: metric.value for metric in model.metrics}["val_dice"] == 0.6
    assert {metric.step for metric in model.metrics} == {2}


def test_a_running_trial_is_written_every_few_seconds_then_every_minute(store, begin):
    run, client, clock = begin()
    written = []
    for second in range(1, 301):
        clock.now = float(second)
        run.epoch(record(second, 0.4))
        if sum(client.batches) == 6 * second:
            written.append(second)
    assert written == [5, 10, 20, 40, 80, 140, 200, 260]
    assert history(store, run)[-1][0] == 260


def test_a_batch_holds_a_thousand_metrics_at_most(store, begin):
    run, client, _ = begin()
    for epoch in range(1, 1501):
        run.epoch(record(epoch, 0.4, weights(1) if epoch == 1 else None))
    run.finish()
    assert client.batches == [1000] * 9
    assert len(history(store, run)) == 1500


def test_a_trial_whose_checkpoint_cannot_be_kept_still_says_why(store, begin):
    run, client, clock = begin()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    client.log_model_artifacts = full
    clock.now = 5.0
    with pytest.raises(OSError, match="No space left"):
        run.epoch(record(1, 0.4, weights(1)))
    run.fail("OSError: No space left on device")
    found = store.get_run(run.run_id)
    assert (found.info.status, found.data.tags[tag("error")]) == ("FAILED", "OSError: No space left on device")
    assert found.data.metrics["val_dice"] == 0.4  # numbers need no file


def test_every_best_so_far_that_is_written_is_a_ready_model_with_its_metrics(finished_trial):
    store, sweep, run, _ = finished_trial
    found = store.search_logged_models([sweep.experiment_id])
    assert len(found) == 2
    assert {str(model.status) for model in found} == {"READY"}
    linked = {model.tags[tag("epoch")]: {m.key: m.value for m in model.metrics}["val_dice"] for model in found}
    assert linked == {"1": 0.4, "3": 0.6}
    assert {model.source_run_id for model in found} == {run.run_id}


def test_the_best_checkpoint_is_registered_and_read_back(finished_trial):
    store, _, run, config = finished_trial
    (ref,) = models(store, "calib")
    assert ref.name == f"segcal-tiny-{config.recipe}"
    assert (ref.version, ref.seed, ref.key, ref.run_id) == (1, 0, config.key, run.run_id)
    assert (ref.val_dice, ref.epoch) == (0.6, 3)
    checkpoint = load_checkpoint(store, ref)
    np.testing.assert_array_equal(checkpoint.weights["layer.weight"], np.full((2, 3), 3, dtype=np.float32))
    assert checkpoint.config["seed"] == 0
    assert checkpoint.task["name"] == "tiny"
    assert finished_keys(store, "calib") == {config.key}
    assert finished_keys(store, "elsewhere") == set()


def weights_file(store, ref) -> Path:
    location = store.get_logged_model(ref.model_id).artifact_location
    return Path(urlparse(location).path) / "weights.safetensors"


def test_altered_weights_are_refused_by_name(finished_trial):
    store = finished_trial[0]
    (ref,) = models(store, "calib")
    path = weights_file(store, ref)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == ref.weights_sha256
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(BadData, match=rf"{ref.name} version 1: the weights' sha256 must be {ref.weights_sha256[:12]}"):
        load_checkpoint(store, ref)
    os.remove(path)
    shutil.rmtree(path.parent)
    with pytest.raises(BadData, match=f"{ref.name} version 1: the checkpoint's files must be there"):
        load_checkpoint(store, ref)


def test_of_a_trial_registered_twice_the_newest_counts(finished_trial, tiny_task, cohort):
    store, sweep, _, config = finished_trial
    again = TrialRun(store, sweep, config, tiny_task, cohort.manifest, "1.1", {})
    again.epoch(record(1, 0.7, weights(7)))
    again.finish()
    (ref,) = models(store, "calib")
    assert (ref.version, ref.code_version, ref.val_dice) == (2, "1.1", 0.7)


def test_a_failed_trial_says_why_and_registers_nothing(store, trained, tiny_task, cohort):
    sweep = start_sweep(store, "calib", "sweep", {}, "")
    run = TrialRun(store, sweep, trained[1][0], tiny_task, cohort.manifest, "1.0", {})
    run.fail("FloatingPointError: no longer finite")
    found = store.get_run(run.run_id)
    assert (found.info.status, found.data.tags[tag("error")]) == ("FAILED", "FloatingPointError: no longer finite")
    with pytest.raises(BadData, match="must hold registered models, got none"):
        models(store, "calib")


def test_no_run_stays_open_when_a_sweep_ends(store, trained, tiny_task, cohort):
    sweep = start_sweep(store, "calib", "sweep", {}, "")
    killed = TrialRun(store, sweep, trained[1][0], tiny_task, cohort.manifest, "1.0", {})
    end_sweep(store, sweep, "FINISHED")
    assert store.get_run(killed.run_id).info.status == "KILLED"
    assert store.get_run(sweep.run_id).info.status == "FINISHED"


def test_the_run_of_mlflow_run_becomes_the_parent(store, monkeypatch):
    where = store.create_experiment("calib")
    launcher = store.create_run(where).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", launcher)
    sweep = start_sweep(store, "calib", "sweep brain", {"scale": "demo"}, "")
    assert (sweep.run_id, sweep.adopted) == (launcher, True)
    end_sweep(store, sweep, "FINISHED")
    assert store.get_run(launcher).info.status == "RUNNING"  # mlflow run ends what it began
    elsewhere = start_sweep(store, "other", "sweep brain", {}, "")
    assert elsewhere.run_id != launcher
    assert store.get_run(launcher).data.tags[tag("sweep_run")] == elsewhere.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)  # left over from another store
    assert not start_sweep(store, "calib", "sweep brain", {}, "").adopted


def test_trials_that_start_together_do_not_race_for_the_data(store, trained, tiny_task, cohort):
    """Without the sweep's own record of the data, all but one died of `UNIQUE constraint failed: datasets`."""
    sweep = start_sweep(store, "calib", "sweep", {}, "", cohort.manifest, "tiny")
    (data,) = store.get_run(sweep.run_id).inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("segcal-tiny", cohort.digest)
    together = Barrier(8)

    def start(seed):
        together.wait()
        config = replace(trained[1][0], seed=seed)
        return TrialRun(store, sweep, config, tiny_task, cohort.manifest, "1.0", {}).run_id

    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(start, range(8)))
    digests = [store.get_run(run).inputs.dataset_inputs[0].dataset.digest for run in runs]
    assert digests == [cohort.digest] * 8


def test_an_unknown_experiment_names_the_nearest(trained):
    store = open_store(trained[0])
    with pytest.raises(UsageError, match="no experiment named 'tinny'; did you mean 'tiny'"):
        models(store, "tinny")


def test_members_come_by_recipe_and_seed(trained):
    refs = models(open_store(trained[0]), "tiny")
    assert [(ref.label, ref.seed) for ref in refs] == [(label, seed) for label in ("ce", "dice") for seed in range(3)]
    assert {ref.key for ref in refs} == {config.key for config in trained[1]}


def test_a_report_is_a_finished_run_with_its_files(store, tmp_path):
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "report.html").write_text("<html>")
    run_id = log_report(
        store, "calib", "report", folder, {"seed": "0"}, {"box.NLL.ce": 0.5, "nan": float("nan"), "ECE % = é": 1}
    )
    run = store.get_run(run_id)
    assert (run.info.status, run.data.tags[tag("kind")]) == ("FINISHED", "report")
    assert run.data.metrics == {"box.NLL.ce": 0.5, "ECE _ _ é": 1.0}
    assert [file.path for file in store.list_artifacts(run_id)] == ["report.html"]


def test_other_keys_do_not_count_as_finished(finished_trial):
    store, _, _, config = finished_trial
    assert replace(config, lr=0.1).key not in finished_keys(store, "calib")


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
