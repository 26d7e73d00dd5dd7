"""Against MLflow's own SQLite store: what is on record arrives once, however often the server is away."""

import math
import random
import re
import time
from dataclasses import asdict, replace

import numpy as np
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INVALID_PARAMETER_VALUE

from segcal.journal.checkpoint import WEIGHTS
from segcal.journal.reading import trial_storage
from segcal.journal.record import CUT_SHORT, is_told, read_record, write_record
from segcal.journal.storage import Storage
from segcal.journal.trial import TrialJournal
from segcal.ledger.names import tag
from segcal.ledger.read import load_checkpoint, models
from segcal.ledger.sweep_run import start_sweep
from segcal.records import EpochRecord
from segcal.sweep import project as module
from segcal.sweep.project import Projection, Telling
from segcal.trial import TrialConfig
from tests.fresh_store import fresh_store

DICE = (0.3, 0.5, 0.4, 0.6)
AWAY = "the tracking store does not answer"


def config(seed):
    return TrialConfig(
        task="tiny", label="ce", data_digest="d1", in_channels=3, n_classes=4, dims=2, seed=seed, loss="cross_entropy",
        head="softmax", weights="none", class_weights=(1.0, 1.0, 1.0, 1.0), batch=4,
    )  # fmt: skip


KEYS = [config(seed).key for seed in range(2)]


class Sweep:
    """An experiment, its records, and trials that are trained as far as a test asks for."""

    def __init__(self, folder, task):
        self.client = fresh_store(folder)
        self.storage = Storage(str(folder / "records"))
        self.run = start_sweep(self.client, "calib", "sweep", {}, "", storage=self.storage.uri)
        self.said = []
        self._task = asdict(task)

    def journal(self, seed=0):
        journal = TrialJournal(self.trial(seed), lambda: 0.0)  # writes after every epoch
        journal.begin(config(seed).key, asdict(config(seed)), self._task, "1.0", {"host": "h"})
        return journal

    def trial(self, seed=0):
        return trial_storage(self.storage, config(seed).key)

    def train(self, seed=0, until=4, end="finish", journal=None, bits=0.0):
        """Epochs up to one of them, from where the trial is; end: finish, or what its record is to say then.

        bits: what its weights are off by, as another GPU's would be.
        """
        journal = journal or self.journal(seed)
        done = int(journal.state["training.epoch"][0]) if journal.state else 0
        for epoch in range(done + 1, until + 1):
            best = int(np.argmax(DICE[:epoch])) + 1
            weights = {"w": np.full(3, 10 * seed + best + bits, dtype=np.float32)}
            state = {
                "best.w": weights["w"], "training.epoch": np.array([float(epoch)]),
                "training.best_epoch": np.array([float(best)]), "training.best": np.array([DICE[best - 1]]),
            }  # fmt: skip
            dice = (DICE[epoch - 1], DICE[epoch - 1], math.nan)
            journal.epoch(
                EpochRecord(
                    epoch,
                    1 / epoch + seed,
                    DICE[epoch - 1],
                    dice,
                    0.005,
                    1.0,
                    weights if best == epoch else None,
                    state=lambda state=state: state,
                )
            )
        if end == "finish":
            journal.finish()
        elif end:
            journal.end(end, "E: why" if end == "failed" else "")

    def tell(self, *seeds, client=None, sweep=None, grace_s=1e9):
        """All that is on record, by a projection that is closed at once."""
        projection = Projection(client or self.client, sweep or self.run, self.storage, self.said.append, Clock())
        projection.watch(config(seed).key for seed in seeds)
        return projection.close(grace_s)

    def runs(self):
        trials = f"tags.`{tag('kind')}` = 'trial'"
        return {
            int(run.data.tags[tag("seed")]): run for run in self.client.search_runs([self.run.experiment_id], trials)
        }

    def history(self, seed=0, metric="val_dice"):
        run = self.runs()[seed]
        return [(value.step, value.value) for value in self.client.get_metric_history(run.info.run_id, metric)]

    def checkpoints(self, seed=0):
        """Epochs of the READY models of a trial; any other is not expected."""
        found = self.client.search_logged_models([self.run.experiment_id])
        ours = [model for model in found if model.tags[tag("seed")] == str(seed)]
        assert {str(model.status) for model in ours} <= {"READY"}
        return sorted(int(model.tags[tag("epoch")]) for model in ours)


class Clock:
    """Ten seconds pass whenever it is looked at, so that nothing is waited for."""

    now = 0.0

    def __call__(self):
        self.now += 10
        return self.now


@pytest.fixture
def sweep(tmp_path, monkeypatch, tiny_task):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGCAL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(module, "POLL_S", 0.01)
    return Sweep(tmp_path, tiny_task)


def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


ALL = [*enumerate(DICE, 1)]


def whole(sweep, seed=0):
    """A finished trial is in MLflow whole, and once."""
    run = sweep.runs()[seed]
    assert run.info.status == "FINISHED"
    assert sweep.history(seed) == ALL
    assert sweep.history(seed, "train_loss") == [(epoch, 1 / epoch + seed) for epoch, _ in ALL]
    assert sweep.history(seed, "lr") == [(epoch, 0.005) for epoch, _ in ALL]
    assert len(set(checkpoints := sweep.checkpoints(seed))) == len(checkpoints)
    assert checkpoints[-1] == 4
    (ref,) = [ref for ref in models(sweep.client, "calib") if ref.seed == seed]
    assert (ref.run_id, ref.epoch, ref.val_dice) == (run.info.run_id, 4, 0.6)
    np.testing.assert_array_equal(load_checkpoint(sweep.client, ref).weights["w"], np.full(3, 10 * seed + 4))
    versions = sweep.client.search_model_versions(f"run_id = '{run.info.run_id}'")
    assert len(versions) == 1
    assert is_told(sweep.trial(seed), read_record(sweep.trial(seed)))
    return run


def test_a_finished_trial_is_told_once(sweep):
    sweep.train()
    for _ in range(2):
        assert sweep.tell(0) == {}
        run = whole(sweep)
        assert sweep.checkpoints() == [4]  # those it surpassed never get there
    assert run.data.params["system.host"] == "h"
    assert run.data.tags["mlflow.parentRunId"] == sweep.run.run_id
    log = sweep.client.download_artifacts(run.info.run_id, "log.txt")
    with open(log) as text:
        assert "finished after 4 epochs" in text.read()
    assert sweep.said == []


def test_a_trial_is_told_while_it_runs_and_when_it_ends(sweep):
    projection = Projection(sweep.client, sweep.run, sweep.storage, sweep.said.append, Clock())
    projection.start()
    view = Telling(projection)
    journal = sweep.journal()
    sweep.train(until=2, end="", journal=journal)
    view.began(KEYS[0])  # not before: after one epoch it would be told of that one
    until(lambda: "READY" in [str(m.status) for m in sweep.client.search_logged_models([sweep.run.experiment_id])])
    assert (sweep.history(), sweep.checkpoints()) == (ALL[:2], [2])
    assert sweep.runs()[0].info.status == "RUNNING"
    assert not is_told(sweep.trial(), read_record(sweep.trial()))
    journal.state = {"training.epoch": np.array([2.0])}
    sweep.train(journal=journal)
    view.ended(KEYS[0], "finished", epoch=4)
    until(lambda: is_told(sweep.trial(), read_record(sweep.trial())))
    whole(sweep)
    assert projection.close(10) == {}
    assert sweep.checkpoints()[0] == 2


@pytest.mark.parametrize(("end", "status"), [("failed", "FAILED"), ("stopped", "KILLED"), ("pruned", "FINISHED")])
def test_how_trials_end(sweep, end, status):
    sweep.train(until=3, end=end)
    assert sweep.tell(0) == {}
    run = sweep.runs()[0]
    assert run.info.status == status
    assert run.data.tags.get(tag("error")) == ("E: why" if end == "failed" else None)
    assert run.data.tags.get(tag("pruned")) == ("true" if end == "pruned" else None)
    assert sweep.history() == ALL[:3]
    assert sweep.client.search_model_versions("") == []
    assert is_told(sweep.trial(), read_record(sweep.trial()))


def test_a_trial_whose_process_is_gone_is_closed_as_it_is(sweep):
    sweep.train(until=2, end="")
    assert sweep.tell(0) == {}
    run = sweep.runs()[0]
    assert (run.info.status, run.data.tags[tag("error")]) == ("KILLED", CUT_SHORT)
    assert (sweep.history(), sweep.checkpoints()) == (ALL[:2], [2])
    sweep.train()  # goes on after epoch 2
    second = start_sweep(sweep.client, "calib", "sweep", {}, "", storage=sweep.storage.uri)
    assert sweep.tell(0, sweep=second) == {}
    again = whole(sweep)
    assert again.info.run_id == run.info.run_id
    assert again.data.tags["mlflow.parentRunId"] == second.run_id
    assert tag("error") not in again.data.tags
    assert sweep.checkpoints() == [2, 4]


def test_a_trial_that_could_not_say_why_it_failed(sweep):
    sweep.train(until=1, end="")
    projection = Projection(sweep.client, sweep.run, sweep.storage, sweep.said.append, Clock())
    projection.watch(KEYS)  # the second never began
    projection.failed(KEYS[0], "its process died 4 times")
    assert projection.close(1e9) == {}
    assert sweep.runs()[0].info.status == "FAILED"
    assert sweep.runs()[0].data.tags[tag("error")] == "its process died 4 times"
    assert list(sweep.runs()) == [0]


def test_what_was_set_aside_is_noted(sweep):
    sweep.train(until=3, end="stopped")
    record = read_record(sweep.trial())
    write_record(sweep.trial(), replace(record, notes=["its record was damaged", "its metrics too"]))
    assert sweep.tell(0) == {}
    assert sweep.runs()[0].data.tags[tag("notes")] == "its record was damaged; its metrics too"
    assert sweep.said == ["ce seed 0: its record was damaged", "ce seed 0: its metrics too"]


class Unreliable:
    """A client that fails now and then: before what it was asked for, or after it."""

    def __init__(self, client, seed, errors=4):
        self._client, self._random, self.errors = client, random.Random(seed), errors

    def __getattr__(self, name):
        call = getattr(self._client, name)

        def unreliable(*arguments, **options):
            fails = self.errors > 0 and self._random.random() < 0.25
            if not fails:
                return call(*arguments, **options)
            self.errors -= 1
            if self._random.random() < 0.5:
                call(*arguments, **options)
            raise self._random.choice(
                [MlflowException("internal error"), ConnectionError("refused"), TimeoutError("no answer")]
            )

        return unreliable


@pytest.mark.parametrize("seed", range(8))
def test_a_server_that_is_away_now_and_then_is_told_all_and_nothing_twice(sweep, seed):
    client = Unreliable(sweep.client, seed)
    for stage in (1, 3):  # each time the driver is killed, and another goes on
        for trial in range(2):
            sweep.train(trial, until=stage, end="")
        assert sweep.tell(0, 1, client=client) == {}
        client.errors += 4
    for trial in range(2):
        sweep.train(trial)
    assert sweep.tell(0, 1, client=client) == {}
    runs = sweep.client.search_runs([sweep.run.experiment_id], f"tags.`{tag('kind')}` = 'trial'")
    assert len(runs) == 2
    for trial in range(2):
        whole(sweep, trial)
        assert sweep.checkpoints(trial) == [1, 2, 4]
    assert client.errors < 12


def test_a_server_that_stays_away_costs_the_grace_and_nothing_is_lost(sweep):
    class Away:
        def __getattr__(self, name):
            def call(*arguments, **options):
                raise ConnectionError("refused")

            return call

    for seed in range(2):
        sweep.train(seed)
    assert sweep.tell(0, 1, client=Away(), grace_s=1000) == dict.fromkeys(KEYS, AWAY)
    assert sweep.said == [f"{AWAY} (ConnectionError: refused): training goes on, all is kept on disk"]
    assert not is_told(sweep.trial(), read_record(sweep.trial()))
    assert sweep.tell(0, 1) == {}
    whole(sweep, 0)
    whole(sweep, 1)


class Refusing:
    """A client that refuses to take metrics, of one trial or of any."""

    def __init__(self, client, error, seed=None):
        self._client, self._error, self._seed, self.asked = client, error, seed, 0

    def __getattr__(self, name):
        return getattr(self._client, name)

    def log_batch(self, run_id, metrics=(), **options):
        tags = self._client.get_run(run_id).data.tags
        if metrics and self._seed in (None, int(tags[tag("seed")])):
            self.asked += 1
            raise self._error
        return self._client.log_batch(run_id, metrics=metrics, **options)


def test_a_trial_that_mlflow_refuses_is_given_up_and_the_others_told(sweep):
    for seed in range(2):
        sweep.train(seed)
    error = MlflowException("step must not\nbe so", error_code=INVALID_PARAMETER_VALUE)
    client = Refusing(sweep.client, error, seed=0)
    assert sweep.tell(0, 1, client=client) == {KEYS[0]: "MlflowException: step must not"}
    assert client.asked == module.TRIES
    whole(sweep, 1)
    assert sweep.said == [f"trial {KEYS[0]}: MLflow could not be told of it: MlflowException: step must not"]
    assert not is_told(sweep.trial(0), read_record(sweep.trial(0)))
    assert sweep.tell(0) == {}  # another day
    whole(sweep, 0)


def test_a_trial_that_mlflow_refuses_for_a_while_is_told_in_the_end_and_said_so_once(sweep):
    client = Refusing(sweep.client, MlflowException("not now", error_code=INVALID_PARAMETER_VALUE))
    projection = Projection(client, sweep.run, sweep.storage, sweep.said.append, Clock())
    sweep.train()
    projection.start(KEYS[:1])
    until(lambda: client.asked > module.TRIES + 2)
    client._seed = -1  # none
    until(lambda: is_told(sweep.trial(), read_record(sweep.trial())))
    assert projection.close(10) == {}
    whole(sweep)
    assert sweep.said == [f"trial {KEYS[0]}: MLflow could not be told of it: MlflowException: not now"]


def test_a_server_that_answers_again_is_said_so(sweep):
    class Away(Unreliable):
        def __getattr__(self, name):
            if self.errors <= 0:
                return getattr(self._client, name)

            def call(*arguments, **options):
                self.errors -= 1
                raise ConnectionError("refused")

            return call

    sweep.train()
    assert sweep.tell(0, client=Away(sweep.client, 0)) == {}
    whole(sweep)
    assert sweep.said[0] == f"{AWAY} (ConnectionError: refused): training goes on, all is kept on disk"
    assert re.fullmatch(r"the tracking store answers again after \d+ s: it is told all", sweep.said[1])
    assert len(sweep.said) == 2


def test_a_record_of_a_newer_version_is_given_up_at_once(sweep):
    for seed in range(2):
        sweep.train(seed)
    write_record(sweep.trial(0), replace(read_record(sweep.trial(0)), format=99))
    untold = sweep.tell(0, 1)
    assert list(untold) == [KEYS[0]]
    assert "must be 1 at most, got 99" in untold[KEYS[0]]
    whole(sweep, 1)


def test_one_trial_whose_database_call_never_succeeds_does_not_keep_the_others_from_being_told(sweep):
    for seed in range(2):
        sweep.train(seed)
    error = MlflowException("(sqlite3.IntegrityError) UNIQUE constraint failed", error_code=BAD_REQUEST)
    untold = sweep.tell(0, 1, client=Refusing(sweep.client, error, seed=0), grace_s=3000)
    assert list(untold) == [KEYS[0]]
    whole(sweep, 1)


def test_a_file_that_is_gone_is_not_taken_for_a_server_that_is_away(sweep):
    for seed in range(2):
        sweep.train(seed)
    sweep.trial(0).remove(WEIGHTS)
    untold = sweep.tell(0, 1, grace_s=3000)
    assert list(untold) == [KEYS[0]]
    assert AWAY not in untold[KEYS[0]]
    whole(sweep, 1)


def test_a_trial_that_was_trained_anew_has_the_weights_that_its_version_names(sweep):
    sweep.train(until=4, end="stopped")
    assert sweep.tell(0) == {}
    for name in sweep.trial().names():  # lost, or all of it damaged
        sweep.trial().remove(name)
    sweep.train(bits=0.25)
    assert sweep.tell(0) == {}
    (ref,) = models(sweep.client, "calib")
    np.testing.assert_array_equal(load_checkpoint(sweep.client, ref).weights["w"], np.full(3, 4.25))


class Slow:
    """A client that takes its time to close a run: meanwhile something else happens, once."""

    def __init__(self, client, meanwhile):
        self._client, self._meanwhile = client, [meanwhile]

    def __getattr__(self, name):
        return getattr(self._client, name)

    def set_terminated(self, *arguments, **options):
        self._client.set_terminated(*arguments, **options)
        if self._meanwhile:
            self._meanwhile.pop()()


def test_a_trial_that_is_begun_again_while_its_end_is_told_is_told_again(sweep):
    """Tune repeats it with more memory, as fast as that."""
    sweep.train(until=2, end="failed")

    def again():
        begun.append(sweep.journal())
        projection.watch(KEYS[:1])

    begun = []
    projection = Projection(Slow(sweep.client, again), sweep.run, sweep.storage, sweep.said.append, Clock())
    projection.watch(KEYS[:1])
    projection._round()
    assert sweep.runs()[0].info.status == "FAILED"
    assert not is_told(sweep.trial(), read_record(sweep.trial()))  # of this attempt
    sweep.train(journal=begun[0])
    projection.ended(KEYS[0])
    assert projection.close(1e9) == {}
    whole(sweep)
    assert sweep.said == []


def test_a_trial_whose_earlier_end_is_told_when_it_begins_again_is_told_when_it_ends(sweep):
    sweep.train(until=2, end="stopped")
    assert sweep.tell(0) == {}
    projection = Projection(sweep.client, sweep.run, sweep.storage, sweep.said.append, Clock())
    telling = Telling(projection)
    telling.began(KEYS[0])
    projection._round()  # before its process has written that it goes on
    assert projection._watched == {}
    sweep.train()
    telling.ended(KEYS[0], "finished")
    assert projection.close(0) == {}
    assert sweep.runs()[0].info.status == "FINISHED"
    assert [ref.key for ref in models(sweep.client, "calib")] == [KEYS[0]]
    assert sweep.history() == [(epoch, dice) for epoch, dice in enumerate(DICE, start=1)]
    telling.ended(KEYS[0], "finished")  # told already
    assert projection._watched == {}


def test_who_leaves_tells_nothing_more(sweep, monkeypatch):
    monkeypatch.setattr(module, "POLL_S", 60.0)
    for seed in range(2):
        sweep.train(seed)
    projection = Projection(sweep.client, sweep.run, sweep.storage, sweep.said.append, Clock())
    projection.start(KEYS)
    assert projection.leave() == {}
    assert not projection._thread.is_alive()
    assert (sweep.runs(), sweep.client.search_model_versions(""), sweep.said) == ({}, [], [])
    assert not is_told(sweep.trial(), read_record(sweep.trial()))
    assert sweep.tell(0, 1) == {}  # by whoever took the sweep
    whole(sweep, 0)
    whole(sweep, 1)
