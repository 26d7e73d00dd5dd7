import json
from dataclasses import replace

import pytest

from segcal.errors import BadData
from segcal.journal.record import (
    RECORD,
    TrialRecord,
    close_record,
    is_told,
    read_record,
    set_aside,
    set_told,
    write_record,
)
from segcal.journal.storage import Storage

RUNNING = TrialRecord(
    key="k", config={"label": "ce", "seed": 3, "kernels": [4, 8]}, task={"name": "tiny"}, code_version="1.0",
    software={"host": "h"}, attempt="a1", attempts=1, started_ms=1_700_000_000_000,
)  # fmt: skip
FINISHED = replace(
    RUNNING, state="finished", ended_ms=1_700_000_001_000, epochs=7, best_epoch=5, val_dice=1 / 3,
    weights_sha256="ab", tags={"again_with_gpus": "0.5"}, notes=["its record was damaged"],
)  # fmt: skip


@pytest.fixture
def trial(tmp_path):
    return Storage(str(tmp_path))


@pytest.mark.parametrize("record", [RUNNING, FINISHED])
def test_a_record_comes_back_as_it_was(trial, record):
    assert read_record(trial) is None
    write_record(trial, record)
    assert read_record(trial) == record
    assert record.name == "ce seed 3"


def test_a_record_of_a_newer_version_is_refused_and_stays(trial):
    write_record(trial, RUNNING)
    content = json.loads(trial.read(RECORD)) | {"format": 2, "something": "new"}
    trial.write(RECORD, json.dumps(content).encode())
    with pytest.raises(BadData, match="the format of a trial's record must be 1 at most, got 2; use the segcal that"):
        read_record(trial)
    assert trial.names() == [RECORD]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[1]", b"{}", b'{"format": "1"}', b'{"format": 1}', b'{"format": 1, "other": 2}', b"\xff"],
)
def test_a_damaged_record_is_no_record(trial, content):
    trial.write(RECORD, content)
    with pytest.raises(ValueError):  # noqa: PT011  json's own, ours or that of an encoding
        read_record(trial)


def test_every_cut_of_a_record_is_seen(trial):
    write_record(trial, FINISHED)
    whole = trial.read(RECORD)
    for length in range(0, len(whole), 7):
        trial.write(RECORD, whole[:length])
        with pytest.raises(ValueError):  # noqa: PT011
            read_record(trial)


def test_what_is_set_aside_keeps_its_content_under_another_name(trial):
    trial.write("x", b"1")
    name = set_aside(trial, "x")
    assert name.startswith("x.")
    assert name.endswith(".damaged")
    assert trial.names() == [name]
    assert trial.read(name) == b"1"


def test_what_is_set_aside_twice_in_a_second_is_kept_twice(trial):
    for content in (b"1", b"2"):
        trial.write("x", content)
        set_aside(trial, "x")
    assert {trial.read(name) for name in trial.names()} == {b"1", b"2"}


def test_a_trial_is_closed_where_its_state_is_one_of_those(trial):
    close_record(trial, "stopped", "why")  # no record: nothing
    assert trial.names() == []
    write_record(trial, RUNNING)
    close_record(trial, "failed", "other", of=("finished", "stopped"))
    assert read_record(trial) == RUNNING
    close_record(trial, "stopped", "why")
    closed = read_record(trial)
    assert closed == replace(RUNNING, state="stopped", error="why", ended_ms=closed.ended_ms)
    assert closed.ended_ms > RUNNING.started_ms
    close_record(trial, "failed", "later")
    assert read_record(trial) == closed
    write_record(trial, FINISHED)
    close_record(trial, "failed", "its weights are gone", of=("finished",))
    assert read_record(trial).state == "failed"


def test_what_mlflow_was_told_is_of_an_attempt_and_its_end(trial):
    assert not is_told(trial, FINISHED)
    set_told(trial, RUNNING)
    assert is_told(trial, RUNNING)
    assert not is_told(trial, FINISHED)
    set_told(trial, FINISHED)
    assert is_told(trial, FINISHED)
    assert not is_told(trial, replace(FINISHED, attempt="a2"))
    assert not is_told(trial, replace(FINISHED, state="failed"))


def test_what_was_told_no_longer_holds_when_epochs_were_added(trial):
    """A worker that outlives its driver writes on after a reconciliation told its end."""
    stopped = replace(RUNNING, state="stopped", epochs=2, ended_ms=1_700_000_001_000)
    set_told(trial, stopped)
    assert is_told(trial, stopped)
    assert not is_told(trial, replace(stopped, epochs=3))
    assert not is_told(trial, replace(stopped, ended_ms=stopped.ended_ms + 1))
