"""What is trained, by the records and the registry."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from segcal.errors import BadData
from segcal.journal.checkpoint import WEIGHTS
from segcal.journal.reading import trial_storage
from segcal.journal.record import RECORD, read_record, set_told, write_record
from segcal.journal.storage import Storage
from segcal.journal.trial import TrialJournal
from segcal.ledger.store import open_store
from segcal.records import EpochRecord
from segcal.sweep.trained import find_trained
from segcal.trial import TrialConfig
from tests.fresh_store import fresh_store


def config(seed):
    return TrialConfig(
        task="tiny", label="ce", data_digest="d1", in_channels=3, n_classes=4, dims=2, seed=seed, loss="cross_entropy",
        head="softmax", weights="none", class_weights=(1.0, 1.0, 1.0, 1.0), batch=4,
    )  # fmt: skip


def trial(storage, seed, end="finish", told=False):
    """A trial of one epoch on record; end: finish, failed, stopped, or "" for one that was cut short."""
    key = config(seed).key
    folder = trial_storage(storage, key)
    journal = TrialJournal(folder)
    journal.begin(key, asdict(config(seed)), {}, "1.0", {})
    weights = {"w": np.full(3, seed, dtype=np.float32)}
    journal.epoch(EpochRecord(1, 0.5, 0.5, (0.5,), 0.005, 1.0, weights, state=lambda: weights))
    if end == "finish":
        journal.finish()
    elif end:
        journal.end(end)
    if told:
        set_told(folder, read_record(folder))
    return key


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGCAL_HOME", str(tmp_path / "home"))
    return fresh_store(tmp_path)


@pytest.fixture
def storage(tmp_path):
    return Storage(str(tmp_path / "records"))


def find(store, storage):
    said = []
    return find_trained(store, "calib", storage, said.append), said


def test_nothing_is_trained(store, storage):
    found, said = find(store, storage)
    assert (found.done, found.untold, said) == (frozenset(), frozenset(), [])


def test_only_what_is_finished_is_done_and_what_was_not_told_is_to_be(store, storage):
    finished = trial(storage, 0)
    untold = [trial(storage, seed, end) for seed, end in enumerate(("failed", "stopped", "pruned", ""), 1)]
    trial(storage, 5, "failed", told=True)
    found, said = find(store, storage)
    assert (found.done, found.untold, said) == ({finished}, {finished, *untold}, [])


def test_what_began_again_after_it_was_told_is_to_be_told_again(store, storage):
    trial(storage, 0, "failed", told=True)
    key = trial(storage, 0, "failed")
    assert find(store, storage)[0].untold == {key}


def test_either_the_registry_or_the_records_make_a_trial_done(trained, tmp_path):
    uri, configs, sweep = trained
    keys = {config.key for config in configs}
    found = find_trained(open_store(uri), "tiny", Storage(str(tmp_path)), print)
    assert (found.done, found.untold) == (keys, frozenset())  # the records are gone
    found = find_trained(open_store(uri), "tiny", Storage(sweep.storage), print)
    assert (found.done, found.untold) == (keys, frozenset())
    found = find_trained(open_store(uri), "another", Storage(sweep.storage), print, keys)
    assert (found.done, found.untold) == (keys, keys)  # the registry is


def test_weights_that_only_a_record_has_must_be_what_they_were(store, storage):
    good, bad, gone = (trial(storage, seed) for seed in range(3))
    folder = trial_storage(storage, bad)
    content = bytearray(folder.read(WEIGHTS))
    content[-1] ^= 1
    folder.write(WEIGHTS, bytes(content))
    trial_storage(storage, gone).remove(WEIGHTS)
    found, said = find(store, storage)
    assert found.done == found.untold == {good}
    assert sorted(said)[0].startswith(f"ce seed 1: its weights were damaged: set aside as {WEIGHTS}.")
    assert sorted(said)[1].startswith("ce seed 2: a file of it is gone: ")
    assert sorted(said)[1].endswith(f"{WEIGHTS}; it is to be trained again")
    assert folder.read(next(name for name in folder.names() if name.endswith(".damaged"))) == bytes(content)
    assert read_record(folder).state == read_record(trial_storage(storage, gone)).state == "failed"
    again, said = find(store, storage)
    assert (again.done, again.untold, said) == ({good}, {good, bad, gone}, [])


def test_a_damaged_record_is_set_aside_and_its_trial_trained_again(store, storage):
    key = trial(storage, 0)
    trial_storage(storage, key).write(RECORD, b"{")
    found, said = find(store, storage)
    assert (found.done, found.untold) == (frozenset(), frozenset())
    assert said[0].startswith(f"trial {key}: its record was damaged: set aside as trial.json.")


def test_a_record_of_a_newer_version_stops_the_sweep(store, storage):
    folder = trial_storage(storage, trial(storage, 0))
    write_record(folder, replace(read_record(folder), format=2))
    with pytest.raises(BadData, match="use the segcal that wrote it"):
        find(store, storage)


@pytest.fixture
def registry(monkeypatch):
    """Keys that MLflow has a version of."""
    keys = set()
    monkeypatch.setattr("segcal.sweep.trained.finished_keys", lambda client, experiment: set(keys))
    return keys


def test_what_is_registered_and_was_not_told_to_the_end_is_to_be_told(store, storage, registry):
    """The driver was killed between the version and the end of its run."""
    half, whole = trial(storage, 0), trial(storage, 1, told=True)
    registry |= {half, whole, "of a folder that is gone"}
    found, said = find(store, storage)
    assert (found.done, found.untold, said) == (registry, {half}, [])


@pytest.mark.parametrize("damage", [b"", b"{}\n", None])
def test_metrics_that_only_a_record_has_must_be_whole(store, storage, registry, damage):
    folders = [trial_storage(storage, trial(storage, seed)) for seed in range(2)]
    registry.add(read_record(folders[1]).key)
    for folder in folders:
        if damage is None:
            folder.remove("metrics.jsonl")
        else:
            folder.write("metrics.jsonl", damage)
    found, said = find(store, storage)
    assert found.done == found.untold == registry  # MLflow has all of that one
    (line,) = said
    if damage is None:
        assert line.startswith("ce seed 0: a file of it is gone: ")
    else:
        assert line.startswith("ce seed 0: its metrics were damaged: set aside as metrics.jsonl.")
        (aside,) = [name for name in folders[0].names() if name.endswith(".damaged")]
        assert folders[0].read(aside) == damage
    assert line.endswith("; it is to be trained again")
    assert (read_record(folders[0]).state, read_record(folders[1]).state) == ("failed", "finished")
    key = trial(storage, 0)
    assert find(store, storage)[0].done == {key, *registry}


def test_a_version_that_was_deleted_comes_back_only_where_its_trial_is_asked_for(store, storage, registry):
    key, other = (trial(storage, seed, told=True) for seed in range(2))
    assert find(store, storage)[0].untold == frozenset()
    found = find_trained(store, "calib", storage, pytest.fail, asked={key, "another"})
    assert (found.done, found.untold) == ({key, other}, {key})
    registry.add(key)
    assert find_trained(store, "calib", storage, pytest.fail, asked={key}).untold == frozenset()


def test_one_that_cannot_come_back_is_trained_again(store, storage, registry):
    key = trial(storage, 0, told=True)
    trial_storage(storage, key).remove(WEIGHTS)
    assert find(store, storage)[0].done == {key}  # nobody needs it
    said = []
    found = find_trained(store, "calib", storage, said.append, asked={key})
    assert (found.done, found.untold) == (frozenset(), frozenset())
    assert said[0].startswith("ce seed 0: a file of it is gone: ")
