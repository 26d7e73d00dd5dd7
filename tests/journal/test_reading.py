"""What is seen of a trial from outside, at each stage."""

import math
from dataclasses import replace

import numpy as np
import pytest

from segcal.errors import BadData
from segcal.journal.reading import look, records, trial_storage
from segcal.journal.record import RECORD, read_record, write_record
from segcal.journal.spool import SPOOL, line_of
from segcal.journal.storage import Storage
from segcal.journal.trial import TrialJournal
from segcal.records import EpochRecord


def epoch(number, dice=0.5):
    """An epoch that can be gone on from."""
    state = {"best.w": np.ones(2, np.float32), "training.best_epoch": np.ones(1), "training.best": np.ones(1)}
    return EpochRecord(number, 0.5, dice, (dice, math.nan), 0.005, 1.0, {"w": np.ones(2, np.float32)}, "plain",
                       lambda: state)  # fmt: skip


def begun(trial):
    journal = TrialJournal(trial)
    journal.begin("k", {"label": "ce", "seed": 0}, {}, "1.0", {})
    return journal


@pytest.fixture
def sweep(tmp_path):
    return Storage(str(tmp_path / "sweep"))


def seen(trial):
    progress = look(trial)
    state = progress.state.epoch if progress.state else None
    return progress.record.state, [line.epoch for line in progress.lines], state


def test_a_trial_at_each_stage(sweep):
    trial = trial_storage(sweep, "k")
    assert look(trial) is None
    journal = begun(trial)
    assert seen(trial) == ("running", [], None)
    journal.epoch(epoch(1))
    assert seen(trial) == ("running", [1], 1)
    journal.epoch(epoch(2))  # not worth the time of a state yet
    assert seen(trial) == ("running", [1], 1)
    journal.commit()
    assert seen(trial) == ("running", [1, 2], 2)
    trial.append(SPOOL, line_of(epoch(3), 5).encoded())  # written, and lost with its process before the state was
    assert seen(trial) == ("running", [1, 2], 2)
    trial.append(SPOOL, b'{"epoch": 4, "ti')
    assert seen(trial) == ("running", [1, 2], 2)
    journal = begun(trial)
    assert seen(trial) == ("running", [1, 2], 2)
    journal.epoch(epoch(3))
    journal.end("stopped")
    assert seen(trial)[:2] == ("stopped", [1, 2, 3])
    journal = begun(trial)
    assert seen(trial)[:2] == ("running", [1, 2, 3])
    journal.epoch(epoch(4))
    journal.finish()
    assert seen(trial) == ("finished", [1, 2, 3, 4], None)


def test_records_of_all_trials_and_the_damaged_set_aside(sweep):
    assert records(sweep) == {}
    for key in ("a", "b", "c"):
        begun(trial_storage(sweep, key))
        write_record(trial_storage(sweep, key), replace(read_record(trial_storage(sweep, key)), key=key))
    trial_storage(sweep, "b").write(RECORD, b"damaged")
    trial_storage(sweep, "empty").write("log.txt", b"")  # begun, but without a record yet
    said = []
    found = records(sweep, said.append)
    assert sorted(found) == ["a", "c"]
    (line,) = said
    assert line.startswith("trial b: its record was damaged: set aside as trial.json.")
    assert trial_storage(sweep, "b").read(line.rpartition(" ")[2]) == b"damaged"
    assert records(sweep, said.append) == found
    assert len(said) == 1


def test_a_record_of_a_newer_version_stops_all(sweep):
    begun(trial := trial_storage(sweep, "a"))
    write_record(trial, replace(read_record(trial), format=2))
    with pytest.raises(BadData, match="must be 1 at most, got 2"):
        records(sweep)
    with pytest.raises(BadData):
        look(trial)
