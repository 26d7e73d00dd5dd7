"""The run above the trials: one driver an experiment, and who lost the sweep writes nothing more."""

import shutil
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from segcal.errors import SweepHeld
from segcal.journal.lease import Lease, holder_of
from segcal.journal.reading import trial_storage
from segcal.journal.record import is_told, read_record
from segcal.journal.storage import Storage
from segcal.journal.trial import TrialJournal
from segcal.ledger.names import tag
from segcal.ledger.read import finished_keys
from segcal.ledger.sweep_run import end_sweep, start_sweep
from segcal.records import EpochRecord
from segcal.sweep import project
from segcal.sweep.held import records_id
from segcal.sweep.outcome import Outcome
from segcal.sweep.parent import keep_manifest, open_parent, status_of, telling
from segcal.sweep.plan import load_plan, trials
from segcal.sweep.sweep_data import SweepData
from tests.fresh_store import fresh_store


class Driver:
    """One that holds the sweep of some records, and knows an experiment's plan and data."""

    def __init__(self, client, plan, cohort, records):
        self.client, self.plan, self.records, self.said = client, plan, records, []
        self._found = SweepData(Path("data"), cohort)
        self.lease = Lease.take(records, self.said.append)
        self.configs = trials(plan, cohort.digest, cohort.class_voxels)
        keep_manifest(cohort, records)

    def open(self):
        return open_parent(
            self.client, "sweep", self.plan, "recipes: {}", self._found, self.records, self.lease, self.said.append
        )

    def telling(self, sweep, untold=()):
        return telling(self.client, sweep, self.records, self.lease, self.said.append, untold)

    def train(self, index=0):
        """A finished trial of one epoch on record; returns its key."""
        config = self.configs[index]
        journal = TrialJournal(trial_storage(self.records, config.key))
        journal.begin(config.key, asdict(config), asdict(self.plan.task), "1.0", {})
        weights = {"w": np.full(3, index, dtype=np.float32)}
        dice = (0.5,) * len(set(self.plan.task.labels.values()))
        journal.epoch(EpochRecord(1, 0.5, 0.5, dice, 0.005, 1.0, weights, state=lambda: weights))
        journal.finish()
        return config.key

    def status(self, sweep):
        return self.client.get_run(sweep.run_id).info.status

    def of_trials(self, sweep):
        return self.client.search_runs([sweep.experiment_id], f"tags.`{tag('kind')}` = 'trial'")

    def told(self, key):
        trial = trial_storage(self.records, key)
        return is_told(trial, read_record(trial))


@pytest.fixture
def drivers(tmp_path, monkeypatch, tiny_files, cohort):
    """Makes drivers of one experiment, by the folder of their records."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(project, "POLL_S", 0.02)
    client, plan, made = fresh_store(tmp_path), load_plan(tiny_files[1]), []

    def driver(folder="records"):
        made.append(Driver(client, plan, cohort, Storage(str(tmp_path / folder))))
        return made[-1]

    yield driver
    for driver_ in made:
        driver_.lease.release()


def test_an_experiment_that_is_trained_with_other_records_is_refused(drivers):
    first, second = drivers("mine"), drivers("yours")
    held = first.open()
    with pytest.raises(SweepHeld) as caught:
        second.open()
    message = str(caught.value)
    assert message.startswith("experiment 'tiny' must have one driver, got a second: ")
    assert f"{holder_of(first.records).told}, with records in {first.records.uri}; wait for it" in message
    assert "\n" not in message
    assert first.status(held) == "RUNNING"
    assert len(first.client.search_runs([held.experiment_id])) == 1
    end_sweep(first.client, held, "FINISHED")
    assert second.status(second.open()) == "RUNNING"
    assert first.status(held) == "FINISHED"


def test_records_that_a_symlink_leads_to_are_the_same(drivers, tmp_path):
    first = drivers("mine")
    left = first.open()
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    first.lease.release()  # killed
    second = drivers("link")
    assert records_id(second.records) == records_id(first.records) == left.storage
    assert second.status(second.open()) == "RUNNING"
    assert first.status(left) == "KILLED"
    assert second.said == ["1 runs were left open by a process that is gone: closed"]


def test_records_that_were_deleted_after_a_kill_hold_nobody_up(drivers, tmp_path):
    first = drivers("mine")
    left = first.open()
    first.lease.release()  # killed
    shutil.rmtree(tmp_path / "mine")
    second = drivers("mine")
    assert second.status(second.open()) == "RUNNING"
    assert first.status(left) == "KILLED"


def test_other_records_have_another_name(tmp_path):
    storages = [Storage(str(tmp_path / name)) for name in ("a", "b")]
    assert len({records_id(storage) for storage in storages for _ in range(2)}) == 2


def test_what_the_run_says(drivers):
    driver = drivers()
    sweep = driver.open()
    run = driver.client.get_run(sweep.run_id)
    assert run.info.run_name == "sweep tiny"
    assert run.data.params["sweep.records"] == driver.records.uri
    assert run.data.params["sweep.driver"] == holder_of(driver.records).told
    assert run.data.tags[tag("storage")] == records_id(driver.records)


def test_all_that_is_on_record_is_told_and_the_run_closed(drivers):
    driver = drivers()
    before, sweep = driver.train(0), driver.open()
    with driver.telling(sweep, [before]) as told:
        key = driver.train(1)
        told.projection.watch([key])
        told.status = status_of(Outcome(finished=[key]))
    assert finished_keys(driver.client, "tiny") == {before, key}
    assert (told.untold, driver.status(sweep)) == ({}, "FINISHED")


@pytest.mark.parametrize("error", [KeyboardInterrupt, KeyError])
def test_what_is_interrupted_is_told_and_closed_too(drivers, error):
    driver = drivers()
    sweep = driver.open()

    def interrupted():
        with driver.telling(sweep) as told:
            told.projection.watch([driver.train()])
            raise error

    with pytest.raises(error):
        interrupted()
    assert driver.status(sweep) == "KILLED"
    assert finished_keys(driver.client, "tiny") == {driver.configs[0].key}


def test_who_has_lost_the_sweep_tells_nothing_and_closes_only_its_own_run(drivers, monkeypatch):
    monkeypatch.setattr(project, "POLL_S", 60.0)
    driver = drivers()
    sweep = driver.open()
    with driver.telling(sweep) as told:
        other = start_sweep(driver.client, "tiny", "other", {}, "", storage=sweep.storage)
        tags = {tag("kind"): "trial", tag("key"): "k", tag("storage"): sweep.storage}
        theirs = driver.client.create_run(sweep.experiment_id, tags=tags).info.run_id
        key = driver.train()
        told.projection.watch([key])
        told.status = "FINISHED"
        driver.lease.lost.set()
    assert told.untold == {}
    assert driver.status(sweep) == "FINISHED"
    assert driver.status(other) == "RUNNING"
    assert [run.info.run_id for run in driver.of_trials(sweep)] == [theirs]
    assert driver.of_trials(sweep)[0].info.status == "RUNNING"
    assert tag("error") not in driver.of_trials(sweep)[0].data.tags
    assert not driver.told(key)
    assert finished_keys(driver.client, "tiny") == set()


def test_who_loses_the_sweep_tells_nothing_from_then_on(drivers):
    driver = drivers()
    sweep = driver.open()
    with driver.telling(sweep) as told:
        driver.lease.lost.set()
        time.sleep(0.1)
        key = driver.train()  # as another driver's worker would
        told.projection.watch([key])
        time.sleep(1.0)  # while trials are asked to stop
    assert driver.of_trials(sweep) == []
    assert not driver.told(key)


def test_how_a_sweep_ended_in_the_words_of_mlflow():
    assert status_of(Outcome(finished=["a"])) == "FINISHED"
    assert status_of(Outcome(finished=["a"], failed={"b": "why"})) == "FAILED"
    assert status_of(Outcome(failed={"b": "why"}, unfinished=["c"])) == "KILLED"
