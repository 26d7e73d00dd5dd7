"""A sweep's status from journals on disk: what its trials themselves wrote, no driver and no tracking store."""

import json
import math
import os
import time
from dataclasses import asdict, replace

import numpy as np
import pytest

from segcal.errors import BadData, UsageError
from segcal.journal.lease import Lease, holder_of
from segcal.journal.planned import Planned, PlannedTrial, write_plan
from segcal.journal.reading import peek, records, trial_storage
from segcal.journal.record import RECORD, read_record, write_record
from segcal.journal.spool import SPOOL, line_of
from segcal.journal.storage import Storage
from segcal.journal.trial import TrialJournal
from segcal.records import EpochRecord
from segcal.sweep.status import LastError, find_status, status_of


def epoch(number, dice, best=False):
    weights = {"w": np.ones(2, np.float32)}
    return EpochRecord(number, 0.5, dice, (dice,), 0.005, 2.0, weights if best else None, "plain", lambda: weights)


def begin(sweep, label, seed, dice=()):
    """An attempt of a trial with these epochs, all of them on disk."""
    journal = TrialJournal(trial_storage(sweep, f"{label}{seed}"))
    journal.begin(f"{label}{seed}", {"label": label, "seed": seed, "epochs": 10}, {"name": "tiny"}, "1.0", {})
    for number, value in enumerate(dice, 1):
        journal.epoch(epoch(number, value, best=all(value > before for before in dice[: number - 1])))
        journal.commit()
    return journal


def change(sweep, key, **fields):
    """Rewrite a record: the clock is not the test's."""
    trial = trial_storage(sweep, key)
    write_record(trial, replace(read_record(trial), **fields))


def plan(sweep, labels=("ce", "dice"), seeds=range(3), task="tiny"):
    trials = tuple(PlannedTrial(f"{label}{seed}", label, seed, 10) for label in labels for seed in seeds)
    write_plan(sweep, Planned(task, "blobs", "d", trials))


@pytest.fixture
def sweep(tmp_path):
    sweep = Storage(str(tmp_path / "mlflow-trials" / "tiny"))
    plan(sweep)
    return sweep


@pytest.fixture
def driver(sweep):
    lease = Lease.take(sweep, print)
    yield lease
    lease.release()


def status(sweep):
    return find_status("sqlite:///away.db", "tiny", os.path.dirname(sweep.uri))


def counts(of):
    return of.done, of.running, of.failed, of.stopped, of.to_do


def files(sweep):
    return {path: path.stat().st_mtime_ns for path in sweep.local.rglob("*")}


def test_a_sweep_that_has_trained_nothing(sweep):
    found = status(sweep)
    assert [(of.label, of.planned, counts(of)) for of in (*found.recipes, found.total)] == [
        ("ce", 3, (0, 0, 0, 0, 3)), ("dice", 3, (0, 0, 0, 0, 3)), ("total", 6, (0, 0, 0, 0, 6)),
    ]  # fmt: skip
    assert (found.driver, found.eta_s, found.errors, found.running) == (None, None, (), ())


def test_of_a_search_which_has_no_plan_those_count_that_were_begun(tmp_path):
    sweep = Storage(str(tmp_path / "mlflow-trials" / "tiny"))
    begin(sweep, "candidate-000", 0, (0.5, 0.7)).finish()
    begin(sweep, "candidate-000", 1, (0.5,)).end("pruned")
    begin(sweep, "candidate-001", 0, (0.5,)).end("stopped")
    found = status(sweep)
    assert [(of.label, of.planned, counts(of)) for of in found.recipes] == [
        ("candidate-000", 2, (2, 0, 0, 0, 0)), ("candidate-001", 1, (0, 0, 0, 1, 0)),
    ]  # fmt: skip
    assert found.kept == ()


def test_a_trial_in_each_state(sweep, driver):
    begin(sweep, "ce", 0, (0.5, 0.7, 0.6)).finish()
    begin(sweep, "ce", 1, (0.5, math.nan))
    begin(sweep, "dice", 0, (0.1,)).end("failed", "ValueError: no\nmore")
    begin(sweep, "dice", 1, (0.2, 0.4)).end("stopped")
    found = status(sweep)
    assert [(of.label, counts(of), of.best_dice) for of in (*found.recipes, found.total)] == [
        ("ce", (1, 1, 0, 0, 1), 0.7), ("dice", (0, 0, 1, 1, 1), 0.4), ("total", (1, 1, 1, 1, 2), 0.7),
    ]  # fmt: skip
    (running,) = found.running
    assert (running.name, running.epochs, running.most) == ("ce seed 1", 2, 10)
    assert (running.best_dice, running.last_dice) == (0.5, None)
    (error,) = found.errors
    assert (error.trial, error.error) == ("dice seed 0", "ValueError: no\nmore")
    assert (found.driver.pid, found.driver.alive) == (os.getpid(), True)
    json.dumps(asdict(found), allow_nan=False)


def test_where_the_driver_is_gone_what_ran_was_cut_short(sweep):
    begin(sweep, "ce", 0, (0.5,))
    found = status(sweep)
    assert (counts(found.total), found.eta_s, found.epochs_per_s, found.driver) == ((0, 0, 0, 1, 5), None, None, None)

    lease = Lease.take(sweep, print)
    dead = {**asdict(holder_of(sweep)), "born": "another"}  # its process id is another process's now
    lease.release()
    sweep.write("lease.json", json.dumps(dead).encode())
    found = status(sweep)
    assert (counts(found.total), found.driver.alive) == ((0, 0, 0, 1, 5), False)


def test_a_driver_on_another_machine_is_believed(sweep, driver):
    begin(sweep, "ce", 0, (0.5,))
    sweep.write("lease.json", json.dumps({**asdict(holder_of(sweep)), "host": "elsewhere"}).encode())
    found = status(sweep)
    assert (counts(found.total), found.driver.host, found.driver.alive) == ((0, 1, 0, 0, 5), "elsewhere", None)


def test_a_trial_that_an_earlier_driver_left_runs_when_it_has_begun_again(sweep):
    begin(sweep, "ce", 0, (0.5,))
    hour_ms = 3_600_000
    change(sweep, "ce0", started_ms=read_record(trial_storage(sweep, "ce0")).started_ms - hour_ms)
    trial, now = trial_storage(sweep, "ce0"), int(time.time() * 1000)
    trial.write(SPOOL, line_of(epoch(1, 0.5), now - hour_ms).encoded())
    lease = Lease.take(sweep, print)
    try:
        assert counts(status(sweep).total) == (0, 0, 0, 1, 5)
        trial.append(SPOOL, line_of(epoch(2, 0.5), now + 1000).encoded())
        change(sweep, "ce0", epochs=2)
        assert counts(status(sweep).total) == (0, 1, 0, 0, 5)
    finally:
        lease.release()


def test_eta_from_what_was_measured(sweep, driver):
    """ce's trials take 4 epochs, of 3 s; dice's are known to take 10 at most, of 5 s; two run."""
    begin(sweep, "ce", 0, (0.5,) * 4).finish()
    record = read_record(trial_storage(sweep, "ce0"))
    change(sweep, "ce0", ended_ms=record.started_ms + 12_000)
    for label, pace_ms, epochs in (("ce", 3000, 2), ("dice", 5000, 7)):
        begin(sweep, label, 1)
        change(sweep, f"{label}1", epochs=epochs)
        times = [record.started_ms + pace_ms * number for number in range(epochs)]
        lines = [line_of(epoch(number, 0.5), at).encoded() for number, at in enumerate(times, 1)]
        trial_storage(sweep, f"{label}1").write(SPOOL, b"".join(lines))
    found = status(sweep)
    assert [course.epoch_s for course in found.running] == [3.0, 5.0]
    assert found.epochs_per_s == pytest.approx(1 / 3 + 1 / 5)
    # Slots are free at 2 x 3 and 3 x 5 s: ce 2 until 6 + 12, dice 0 until 15 + 50, dice 2 until 18 + 50.
    assert found.eta_s == pytest.approx(68.0)


def test_a_pause_is_no_pace(sweep, driver):
    begin(sweep, "ce", 0)
    change(sweep, "ce0", epochs=4)
    now = int(time.time() * 1000)
    times = (now - 9_000_000, now + 1000, now + 3000, now + 5000)
    lines = [line_of(epoch(number, 0.5), at).encoded() for number, at in enumerate(times, 1)]
    trial_storage(sweep, "ce0").write(SPOOL, b"".join(lines))
    assert status(sweep).running[0].epoch_s == 2.0


def test_failed_trials_that_the_driver_tries_again_take_time(sweep):
    plan(sweep, labels=("ce",), seeds=range(2))
    begin(sweep, "ce", 0, (0.5,)).end("failed", "ValueError: no")
    ended_ms = read_record(trial_storage(sweep, "ce0")).ended_ms
    lease = Lease.take(sweep, print)
    try:
        begin(sweep, "ce", 1, (0.5,))  # one epoch of 2 s: nine are left
        assert status(sweep).eta_s == 18.0  # failed in this call
        change(sweep, "ce0", ended_ms=ended_ms - 3_600_000)
        assert status(sweep).eta_s == 38.0  # in an earlier one
        change(sweep, "ce0", ended_ms=ended_ms, tags={"again_with_gpus": "0.5"})
        assert status(sweep).eta_s == 38.0
        assert counts(status(sweep).total) == (0, 1, 1, 0, 0)
    finally:
        lease.release()


def test_what_was_stopped_takes_time_and_the_night_between_two_attempts_does_not(sweep, driver):
    plan(sweep, labels=("ce",), seeds=range(3))
    begin(sweep, "ce", 0, (0.5,))  # one epoch of 2 s
    begin(sweep, "ce", 1, (0.5,) * 3).end("stopped")
    assert status(sweep).eta_s == 18.0 + 14.0 + 20.0
    begin(sweep, "ce", 2, (0.5,) * 10).finish()
    change(sweep, "ce2", attempts=2, started_ms=0)
    assert status(sweep).eta_s == 18.0 + 14.0


def test_the_newest_errors_first_and_five_of_them(sweep):
    plan(sweep, labels=("ce",), seeds=range(7))
    for seed in range(7):
        begin(sweep, "ce", seed).end("failed", f"error {seed}")
        change(sweep, f"ce{seed}", ended_ms=1000 * (seed * 3 % 7))
    assert status(sweep).errors == tuple(
        LastError(f"ce seed {seed}", 1000 * at, f"error {seed}")
        for at, seed in ((6, 2), (5, 4), (4, 6), (3, 1), (2, 3))
    )


def test_trials_that_are_no_longer_asked_for_are_named_and_not_counted(sweep, driver):
    begin(sweep, "wce", 10, (0.9,)).finish()
    begin(sweep, "wce", 9, (0.9,)).end("failed", "ValueError: no")
    found = status(sweep)
    assert found.kept == ("wce seed 9", "wce seed 10")
    assert (counts(found.total), found.total.best_dice, found.errors) == ((0, 0, 0, 0, 6), None, ())


def test_two_tasks_of_an_experiment_are_told_apart(sweep):
    write_plan(sweep, Planned("other", "blobs", "d", (PlannedTrial("o", "ce", 0, 10),)))
    found = status(sweep)
    assert [(of.label, of.planned) for of in found.recipes] == [("other ce", 1), ("tiny ce", 3), ("tiny dice", 3)]


def test_a_damaged_record_is_named_and_nothing_is_written(sweep):
    begin(sweep, "ce", 0, (0.5,)).finish()
    begin(sweep, "ce", 1, (0.5,))
    trial_storage(sweep, "ce0").write(RECORD, b"damaged")
    trial_storage(sweep, "ce1").append(SPOOL, b'{"epoch": 2, "ti')
    before = files(sweep)
    found = status(sweep)
    assert (found.damaged, counts(found.total)) == (("ce0",), (0, 0, 0, 1, 5))
    assert files(sweep) == before
    assert peek(sweep) == {"ce0": None, "ce1": read_record(trial_storage(sweep, "ce1"))}
    assert files(sweep) == before
    said = []
    assert list(records(sweep, said.append)) == ["ce1"]
    assert len(said) == 1
    assert files(sweep) != before


def test_metrics_of_trials_that_ended_are_not_read(sweep, monkeypatch):
    begin(sweep, "ce", 0, (0.5,)).finish()
    begin(sweep, "ce", 1, (0.5,))
    read, opened = Storage.read, []
    monkeypatch.setattr(Storage, "read", lambda self, name: opened.append((self.uri[-3:], name)) or read(self, name))
    status(sweep)
    assert ("ce1", SPOOL) in opened
    assert ("ce0", SPOOL) not in opened


def test_an_experiment_without_records_is_a_wrong_request(sweep):
    root = os.path.dirname(sweep.uri)
    with pytest.raises(UsageError, match=f"no experiment named 'tinny' has records in {root}; did you mean 'tiny'"):
        find_status("sqlite:///away.db", "tinny", root)
    with pytest.raises(UsageError, match="no other has any there; call `segcal sweep`, or name its --storage"):
        find_status("sqlite:///away.db", "tiny", f"{root}-of-nobody")
    assert not os.path.exists(f"{root}-of-nobody")


def test_a_record_of_a_newer_version_is_refused(sweep):
    begin(sweep, "ce", 0)
    change(sweep, "ce0", format=2)
    with pytest.raises(BadData, match="must be 1 at most, got 2"):
        status(sweep)


def test_nothing_on_record_is_nothing():
    found = status_of("tiny", "here", {}, {}, {})
    assert (found.recipes, found.total.planned, found.eta_s) == ((), 0, None)
