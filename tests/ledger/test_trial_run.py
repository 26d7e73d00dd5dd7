"""Against MLflow's own SQLite store: what a trial's run holds, and that telling it again changes nothing."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

from segcal.journal.checkpoint import pack
from segcal.ledger.names import tag
from segcal.ledger.sweep_run import start_sweep
from segcal.ledger.trial_run import TrialRun
from segcal.records import EpochRecord
from segcal.trial import TrialConfig
from tests.fresh_store import fresh_store

CONFIG = TrialConfig(
    task="tiny", label="ce", data_digest="d1", in_channels=3, n_classes=4, dims=2, seed=0, loss="cross_entropy",
    head="softmax", weights="none", class_weights=(1.0, 1.0, 1.0, 1.0), batch=4,
)  # fmt: skip
STARTED_MS = 1_700_000_000_000


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return fresh_store(tmp_path)


@pytest.fixture
def begin(store, tiny_task, cohort):
    """Makes a TrialRun of the same trial, as another process would."""
    manifest = {**cohort.manifest, "digest": CONFIG.data_digest}
    first = start_sweep(store, "calib", "sweep", {}, "", manifest, "tiny", "/records/calib")

    def make(client=store, sweep=first, code_version="1.0", **changes):
        config = replace(CONFIG, **changes)
        return TrialRun(client, sweep, config, asdict(tiny_task), manifest, code_version, {"device": "cpu"})

    make.sweep = first
    return make


def told(*dice):
    """Epochs 1, 2, ... with this validation Dice; the third structure has none."""
    return [
        (EpochRecord(epoch, 0.5, value, (value, value, float("nan")), 0.005, 1.0), STARTED_MS + epoch)
        for epoch, value in enumerate(dice, 1)
    ]


def packed(value):
    return pack({"layer.weight": np.full((2, 3), value, dtype=np.float32)})


def history(store, run, metric="val_dice"):
    return [(value.step, value.value) for value in store.get_metric_history(run.run_id, metric)]


def whole_trial(run):
    """Everything that a finished trial of three epochs has to tell, each call made twice."""
    epochs = told(0.4, 0.3, 0.6)
    for _ in range(2):
        run.epochs(epochs[:1])
        run.checkpoint(epochs[0], *packed(1))
        run.epochs(epochs)
        run.checkpoint(epochs[2], *packed(3))
        run.register(3, 0.6, packed(3)[1])
        run.end("finished", "", {"notes": "its checkpoint was damaged"}, "all of it\n")


class Changed:
    """A client some of whose methods are others."""

    def __init__(self, client, **methods):
        self._client = client
        vars(self).update(methods)

    def __getattr__(self, name):
        return getattr(self._client, name)


class Counting(Changed):
    """A client that notes the epochs of the metrics that each call brings."""

    def __init__(self, client):
        super().__init__(client)
        self.batches = []

    def log_batch(self, run_id, metrics=(), **others):
        if metrics:
            self.batches.append([metric.step for metric in metrics])
        return self._client.log_batch(run_id, metrics=metrics, **others)


def test_a_trial_is_a_nested_run_with_params_metrics_data_and_its_log(store, begin):
    run = begin()
    whole_trial(run)
    found = store.get_run(run.run_id)
    assert found.data.tags["mlflow.parentRunId"] == begin.sweep.run_id
    assert (found.info.run_name, found.info.status) == ("ce seed 0", "FINISHED")
    assert found.data.params["loss"] == "cross_entropy"
    assert found.data.params["data_digest"] == "d1"
    assert found.data.params["system.device"] == "cpu"
    assert found.data.tags.items() >= {
        tag("kind"): "trial", tag("storage"): "/records/calib", tag("key"): CONFIG.key, tag("seed"): "0",
        tag("step"): "plain", tag("notes"): "its checkpoint was damaged",
    }.items()  # fmt: skip
    assert history(store, run) == [(1, 0.4), (2, 0.3), (3, 0.6)]
    assert history(store, run, "train_loss") == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert [metric.timestamp - STARTED_MS for metric in store.get_metric_history(run.run_id, "lr")] == [1, 2, 3]
    assert "val_dice.enhancing" not in found.data.metrics  # undefined is not a number
    assert [data.dataset.digest for data in found.inputs.dataset_inputs] == ["d1"]
    log = store.download_artifacts(run.run_id, "log.txt")
    assert Path(log).read_text() == "all of it\n"


def test_options_of_a_plug_ins_loss_are_parameters_one_by_one(store, begin):
    plain = set(store.get_run(begin().run_id).data.params)
    changes = {"loss": "focal", "loss_options": {"gamma": 2.0}, "plugins": ("segcal-focal==0.1.0",)}
    run = begin(**changes)
    run.checkpoint(told(0.4)[0], *packed(1))
    params = store.get_run(run.run_id).data.params
    assert set(params) - plain == {"loss_options.gamma", "plugins"}  # a trial without plug-ins has none of them
    assert (params["loss_options.gamma"], params["plugins"]) == ("2.0", "('segcal-focal==0.1.0',)")
    (model,) = store.search_logged_models([begin.sweep.experiment_id], f"source_run_id = '{run.run_id}'")
    assert model.params["loss_options.gamma"] == "2.0"


def test_every_checkpoint_is_a_ready_model_with_its_metrics(store, begin):
    run = begin()
    whole_trial(run)
    found = store.search_logged_models([begin.sweep.experiment_id])
    assert [str(model.status) for model in found] == ["READY", "READY"]
    linked = {model.tags[tag("epoch")]: {(m.key, m.step): m.value for m in model.metrics} for model in found}
    assert {epoch: metrics["val_dice", int(epoch)] for epoch, metrics in linked.items()} == {"1": 0.4, "3": 0.6}
    assert {model.source_run_id for model in found} == {run.run_id}
    (best,) = [model for model in found if model.tags[tag("epoch")] == "3"]
    assert best.tags[tag("weights_sha256")] == packed(3)[1]
    folder = Path(best.artifact_location.removeprefix("file://"))
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "task.json", "weights.safetensors"]
    assert json.loads((folder / "config.json").read_text())["seed"] == 0
    (version,) = store.search_model_versions("")
    assert (version.name, int(version.version), version.run_id) == (f"segcal-tiny-{CONFIG.recipe}", 1, run.run_id)
    assert version.source == f"models:/{best.model_id}"
    assert version.tags[tag("val_dice")] == "0.600000"


def test_telling_it_again_in_another_process_doubles_nothing(store, begin):
    whole_trial(first := begin())
    before = [store.get_metric_history(first.run_id, name) for name in ("train_loss", "val_dice", "lr", "seconds")]
    whole_trial(again := begin(code_version="1.1"))
    assert again.run_id == first.run_id
    trials = store.search_runs([begin.sweep.experiment_id], f"tags.`{tag('kind')}` = 'trial'")
    assert [run.info.status for run in trials] == ["FINISHED"]
    after = [store.get_metric_history(first.run_id, name) for name in ("train_loss", "val_dice", "lr", "seconds")]
    assert [[vars(m) for m in metric] for metric in after] == [[vars(m) for m in metric] for metric in before]
    assert len(store.search_logged_models([begin.sweep.experiment_id])) == 2
    assert len(store.search_model_versions("")) == 1
    assert len(trials[0].inputs.dataset_inputs) == 1


def test_a_trial_that_goes_on_is_told_from_where_it_was(store, begin):
    first = begin()
    first.epochs(told(0.4, 0.3))
    client = Counting(store)
    again = begin(client)
    again.epochs(told(0.4, 0.3, 0.6))
    assert client.batches == [[3] * 6]
    assert history(store, again) == [(1, 0.4), (2, 0.3), (3, 0.6)]
    again.epochs(told(0.4))  # fewer than it was told before
    again.epochs(told(0.4, 0.3, 0.6, 0.7))
    assert client.batches == [[3] * 6, [4] * 6]


def test_an_adopted_run_runs_again_below_the_sweep_that_goes_on_with_it(store, begin):
    first = begin()
    first.end("failed", "out of GPU memory", {"again_with_gpus": "0.5"}, "")
    tags = store.get_run(first.run_id).data.tags
    assert (tags[tag("error")], tags[tag("again_with_gpus")]) == ("out of GPU memory", "0.5")
    first.end("pruned", "", {}, "")
    second = start_sweep(store, "calib", "sweep", {}, "", storage="/moved/calib")
    again = begin(sweep=second)
    found = store.get_run(again.run_id)
    assert (again.run_id, found.info.status) == (first.run_id, "RUNNING")
    assert found.data.tags["mlflow.parentRunId"] == second.run_id
    assert found.data.tags[tag("storage")] == "/moved/calib"
    assert not {tag("error"), tag("again_with_gpus"), tag("pruned")} & found.data.tags.keys()


def test_another_experiment_or_another_trial_is_another_run(store, begin):
    elsewhere = start_sweep(store, "other", "sweep", {}, "")
    runs = {begin().run_id, begin(sweep=elsewhere).run_id, begin(seed=1).run_id, begin(lr=0.1).run_id}
    assert len(runs) == 4
    assert begin(label="renamed").run_id in runs  # a name for people is no part of a trial


@pytest.mark.parametrize(
    ("state", "status", "tags"),
    [
        ("finished", "FINISHED", {}),
        ("failed", "FAILED", {"error": "E: why"}),
        ("stopped", "KILLED", {"error": "E: why"}),
        ("pruned", "FINISHED", {"pruned": "true"}),
    ],
)
def test_how_a_run_is_closed(store, begin, state, status, tags):
    run = begin()
    run.end(state, tags.get("error", ""), {"again_with_gpus": "0.5"}, "")
    found = store.get_run(run.run_id)
    assert found.info.status == status
    assert {name: found.data.tags.get(tag(name)) for name in ("error", "pruned")} == {
        "error": None, "pruned": None, **tags,
    }  # fmt: skip
    assert found.data.tags[tag("again_with_gpus")] == "0.5"
    assert store.search_model_versions("") == []


def test_a_long_reason_is_cut(store, begin):
    run = begin()
    run.end("failed", "x" * 9000, {}, "")
    assert store.get_run(run.run_id).data.tags[tag("error")] == "x" * 500


def test_a_batch_holds_a_thousand_metrics_at_most_and_no_epoch_is_divided(store, begin):
    client = Counting(store)
    run = begin(client)
    epochs = [
        (replace(record, val_dice_by_structure=(0.4, 0.4, 0.4 if record.epoch % 2 else float("nan"))), time_ms)
        for record, time_ms in told(*[0.4] * 500)
    ]
    run.epochs(epochs)
    assert max(map(len, client.batches)) <= 1000
    assert len(client.batches) == 4
    whole = [set(batch) for batch in client.batches]
    assert sum(map(len, whole)) == len(set.union(*whole)) == 500
    assert [step for step, _ in history(store, run)] == list(range(1, 501))


def test_an_upload_that_was_cut_short_is_removed_and_made_again(store, begin):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    run = begin(Changed(store, log_model_artifacts=full))
    epochs = told(0.4)
    run.epochs(epochs)
    with pytest.raises(OSError, match="No space left"):
        run.checkpoint(epochs[0], *packed(1))
    assert not run.has(1)
    (pending,) = store.search_logged_models([begin.sweep.experiment_id])
    assert str(pending.status) == "PENDING"
    again = begin()
    assert store.search_logged_models([begin.sweep.experiment_id]) == []
    again.checkpoint(epochs[0], *packed(1))
    (model,) = store.search_logged_models([begin.sweep.experiment_id])
    assert (str(model.status), model.tags[tag("epoch")], again.has(1)) == ("READY", "1", True)
    assert history(store, again) == [(1, 0.4)]


def test_a_trial_whose_checkpoint_cannot_be_kept_still_says_why(store, begin):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    run = begin(Changed(store, log_model_artifacts=full))
    run.epochs(told(0.4))
    with pytest.raises(OSError, match="No space left"):
        run.checkpoint(told(0.4)[0], *packed(1))
    run.end("failed", "OSError: No space left on device", {}, "")
    found = store.get_run(run.run_id)
    assert (found.info.status, found.data.tags[tag("error")]) == ("FAILED", "OSError: No space left on device")
    assert found.data.metrics["val_dice"] == 0.4  # numbers need no file


def test_data_that_could_not_be_linked_at_first_are_linked_later(store, begin):
    # the next time, and nothing links its data any more.
    def away(*arguments, **options):
        raise ConnectionError("away")

    with pytest.raises(ConnectionError):
        begin(Changed(store, log_inputs=away))
    found = store.get_run(begin().run_id)
    assert [data.dataset.digest for data in found.inputs.dataset_inputs] == ["d1"]


def test_trials_that_start_together_do_not_race_for_the_data(store, begin):
    """Without the sweep's own record of the data, all but one died of `UNIQUE constraint failed: datasets`."""
    (data,) = store.get_run(begin.sweep.run_id).inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("segcal-tiny", "d1")
    together = Barrier(8)

    def start(seed):
        together.wait()
        return begin(seed=seed).run_id

    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(start, range(8)))
    assert [store.get_run(run).inputs.dataset_inputs[0].dataset.digest for run in runs] == ["d1"] * 8
