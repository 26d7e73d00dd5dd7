"""A trial's folder survives a crash at every point, damage, and a full disk."""

import errno
import math
import uuid
from dataclasses import dataclass, replace
from itertools import pairwise

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segcal.errors import BadData
from segcal.journal.checkpoint import WEIGHTS, state_files
from segcal.journal.log import LOG
from segcal.journal.reading import look
from segcal.journal.record import RECORD, read_record, write_record
from segcal.journal.spool import SPOOL, parse
from segcal.journal.storage import Storage
from segcal.journal.trial import SHARE, Superseded, TrialJournal
from segcal.records import EpochRecord

DICE = (0.3, 0.5, 0.4, 0.6, 0.6, 0.2, 0.7, 0.1)
EPOCHS = len(DICE)
CONFIG = {"label": "ce", "seed": 0}


class Clock:
    """Seconds that pass when the test says so; with a tick, by so much whenever it is looked at."""

    def __init__(self, tick=0.0):
        self.now, self.tick = 0.0, tick

    def __call__(self):
        self.now += self.tick
        return self.now


def begun(storage, clock=None, **software):
    """A journal of an attempt that has begun; without a clock it writes after every epoch."""
    journal = TrialJournal(storage, clock or Clock())
    journal.begin("k", CONFIG, {"name": "tiny"}, "1.0", {"host": "here", **software})
    return journal


def weights(epoch):
    return {"w": np.full(4, epoch, dtype=np.float32), "steps": np.array(10 * epoch, dtype=np.int64)}


def training(state):
    """Epochs as `fit` gives them, each a function of its number, going on from a state."""
    done, best, best_epoch, best_weights = 0, -math.inf, 0, {}
    if state is not None:
        done, best_epoch = int(state["training.epoch"][0]), int(state["training.best_epoch"][0])
        best = float(state["training.best"][0])
        best_weights = {name.removeprefix("best."): value for name, value in state.items() if name[:5] == "best."}
    for epoch in range(done + 1, EPOCHS + 1):
        dice = DICE[epoch - 1]
        improved = dice > best
        if improved:
            best, best_epoch, best_weights = dice, epoch, weights(epoch)

        def taken(now=(epoch, best, best_epoch, best_weights)):
            counts = dict(zip(("epoch", "best", "best_epoch"), now, strict=False))
            kept = {f"best.{name}": value for name, value in now[3].items()}
            return {**kept, **{f"training.{name}": np.array([float(value)]) for name, value in counts.items()}}

        yield EpochRecord(
            epoch, 1 / epoch, dice, (dice, math.nan), 0.005, 1.0, best_weights if improved else None, state=taken
        )


def train(storage, clock=None, until=EPOCHS):
    """An attempt from where the last one was, to its end or to an epoch after which its process is gone."""
    journal = begun(storage, clock)
    for record in training(journal.state):
        journal.epoch(record)
        if record.epoch == until < EPOCHS:
            return journal
    return journal.finish()


def facts(storage):
    """All that a finished trial must have, whatever happened on the way."""
    record = read_record(storage)
    assert record.state == "finished"
    lines = parse(storage.read(SPOOL))
    assert storage.read(SPOOL) == b"".join(line.encoded() for line in lines)
    assert storage.has(LOG)
    same = replace(record, attempt="", attempts=0, started_ms=0, ended_ms=0, notes=[])
    return same, [replace(line, time_ms=0) for line in lines], storage.read(WEIGHTS)


def safe_lines(storage):
    """The epochs that MLflow may have been told of."""
    progress = look(storage)
    return list(progress.lines) if progress else []


@pytest.fixture
def disk(tmp_path):
    return Storage(str(tmp_path / "k"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    storage = Storage(str(tmp_path_factory.mktemp("undisturbed") / "k"))
    train(storage)
    return facts(storage)


def test_an_undisturbed_trial(disk, undisturbed):
    record = train(disk)
    assert (record.best_epoch, record.val_dice, record.epochs, record.attempts) == (7, 0.7, EPOCHS, 1)
    assert read_record(disk) == record
    assert facts(disk) == undisturbed
    assert state_files(disk.names()) == []
    assert disk.names() == sorted([LOG, SPOOL, RECORD, WEIGHTS])
    assert record.ended_ms >= record.started_ms > 0
    log = disk.read(LOG).decode()
    assert "attempt 1 on here: from the beginning\n" in log
    assert "epoch 4: loss 0.25000, validation Dice 0.6000, rate 0.005, 1.00 s\n" in log
    assert log.endswith("finished after 8 epochs\n")


class Crash(BaseException):
    """The process is gone."""


@dataclass
class Crashing:
    """A storage whose process is gone at its n-th change: before it, after it, or in the middle of an append."""

    real: Storage
    at: int
    how: str
    done: int = 0

    def __getattr__(self, name):
        call = getattr(self.real, name)
        if name not in ("write", "append", "remove", "rename"):
            return call

        def change(*arguments):
            self.done += 1
            if self.done != self.at:
                return call(*arguments)
            if self.how == "torn" and name == "append":
                call(arguments[0], arguments[1][: len(arguments[1]) // 2])
            if self.how == "after":
                call(*arguments)
            raise Crash

        return change


@pytest.mark.parametrize("how", ["before", "after", "torn"])
@pytest.mark.parametrize("tick", [0.0, 1.0])  # with a tick only some epochs are written as they come
def test_a_trial_goes_on_from_a_crash_at_any_point(tmp_path, undisturbed, tick, how):
    at = 0
    while True:
        at += 1
        storage = Storage(str(tmp_path / f"{at}"))
        crashing = Crashing(storage, at, how)
        try:
            train(crashing, Clock(tick))
        except Crash:
            pass
        else:
            break
        told, record = safe_lines(storage), read_record(storage)
        if not (record and record.state == "finished"):
            again = train(storage, Clock(tick))
            assert again.attempts == (record.attempts + 1 if record else 1)
            assert again.notes == []  # a crash damages nothing
        assert (facts(storage)[0], facts(storage)[2]) == (undisturbed[0], undisturbed[2])
        lines = parse(storage.read(SPOOL))
        assert [replace(line, time_ms=0) for line in lines] == undisturbed[1]
        assert lines[: len(told)] == told  # with their times: what was told is not made anew
    assert at > (10 if tick else 30)


@given(st.lists(st.tuples(st.integers(1, 30), st.sampled_from(["before", "after", "torn"])), max_size=6))
@settings(max_examples=80)
def test_a_trial_goes_on_from_any_number_of_crashes(undisturbed, crashes):
    root = f"memory://{uuid.uuid4().hex}"
    storage, told = Storage(root), []
    try:
        for at, how in crashes:
            try:
                train(Crashing(storage, at, how))
            except Crash:
                pass
            else:
                break
            now = safe_lines(storage)
            assert now[: len(told)] == told
            told = now
            if (record := read_record(storage)) and record.state == "finished":
                break
        else:
            train(storage)
        assert facts(storage)[0] == undisturbed[0]
        assert facts(storage)[2] == undisturbed[2]
        lines = parse(storage.read(SPOOL))
        assert [replace(line, time_ms=0) for line in lines] == undisturbed[1]
        assert lines[: len(told)] == told
    finally:
        if fsspec.filesystem("memory").exists(root):
            fsspec.filesystem("memory").rm(root, recursive=True)


def test_a_line_that_was_cut_is_never_appended_to(disk, undisturbed):
    """The file as a crash leaves it: whole up to the state's epoch, then half of the next."""
    train(disk, until=4)
    disk.append(SPOOL, parse(disk.read(SPOOL))[0].encoded()[:20])
    told = safe_lines(disk)
    again = train(disk)
    assert again.notes == []
    assert facts(disk) == undisturbed
    assert parse(disk.read(SPOOL))[:4] == told


def test_epochs_after_the_newest_state_are_those_of_the_attempt_that_made_them_last(disk, undisturbed):
    """On a GPU the last bits of a loss may differ: metrics must be of the training that ends in the weights."""
    train(disk, until=4)
    lost = replace(parse(disk.read(SPOOL))[3], epoch=5, train_loss=99.0)
    disk.append(SPOOL, lost.encoded())  # before its state was written
    train(disk)
    assert facts(disk) == undisturbed


def test_it_goes_on_after_its_newest_state_with_the_epochs_before_it(disk):
    train(disk, until=5)
    journal = begun(disk)
    assert [record.epoch for record in journal.epochs] == [1, 2, 3, 4, 5]
    assert [record.val_dice for record in journal.epochs] == list(DICE[:5])
    assert int(journal.state["training.epoch"][0]) == 5
    assert read_record(disk).attempts == 2
    assert "attempt 2 on here: goes on after epoch 5\n" in journal.log.text
    assert "epoch 5: " in journal.log.text  # what the first attempt said is kept


def damage(storage, name):
    content = bytearray(storage.read(name))
    content[len(content) // 2] ^= 1
    storage.write(name, bytes(content))


def test_a_damaged_state_is_set_aside_and_the_one_before_it_taken(disk, undisturbed):
    train(disk, until=3)
    (older,) = state_files(disk.names())
    content = disk.read(older.name)
    train(disk, until=5)
    disk.write(older.name, content)  # as a crash between a new state and the removal of the old one leaves it
    (newest, _) = state_files(disk.names())
    damage(disk, newest.name)
    told = safe_lines(disk)
    journal = begun(disk)
    assert len(journal.epochs) == 3
    (note,) = read_record(disk).notes
    assert note.startswith(f"its checkpoint after epoch 5 was damaged: set aside as {newest.name}.")
    assert note.endswith(".damaged")
    assert note.rpartition(" ")[2] in disk.names()
    assert note in journal.log.text
    record = train(disk)
    assert (record.attempts, record.notes) == (4, [note])
    assert facts(disk) == undisturbed
    assert parse(disk.read(SPOOL))[:5] == told


def test_where_its_only_state_is_damaged_it_begins_again(disk, undisturbed):
    train(disk, until=5)
    damage(disk, state_files(disk.names())[0].name)
    told = safe_lines(disk)
    journal = begun(disk)
    assert (journal.state, journal.epochs) == (None, [])
    assert "attempt 2 on here: from the beginning again\n" in journal.log.text
    record = train(disk)
    assert len(record.notes) == 1
    assert [name for name in disk.names() if name.endswith(".damaged")] != []
    assert facts(disk) == undisturbed
    assert parse(disk.read(SPOOL))[:5] == told  # they were told, and stay as they were told


@pytest.mark.parametrize("line", [1, 3, 5])
def test_damaged_metrics_are_set_aside_and_their_epochs_trained_again(disk, undisturbed, line):
    train(disk, until=5)
    content = disk.read(SPOOL).split(b"\n")
    content[line - 1] = b'{"epoch": ' + content[line - 1]
    disk.write(SPOOL, b"\n".join(content))
    journal = begun(disk)
    assert (journal.state, journal.epochs) == (None, [])
    notes = read_record(disk).notes
    assert notes[0].startswith(f"metrics.jsonl was damaged after epoch {line - 1}: set aside as metrics.jsonl.")
    assert notes[1] == "its metrics end before its checkpoint after epoch 5: trained again"
    aside = notes[0].rpartition(" ")[2]
    assert disk.read(aside) == b"\n".join(content)
    assert train(disk).notes == notes
    assert facts(disk) == undisturbed


def test_epochs_before_damaged_metrics_stay_as_they_were_told(disk):
    train(disk, until=5)
    told = safe_lines(disk)
    content = disk.read(SPOOL).split(b"\n")
    content[3] = b"damaged"
    disk.write(SPOOL, b"\n".join(content))
    train(disk)
    assert parse(disk.read(SPOOL))[:3] == told[:3]


def test_metrics_that_are_gone_are_made_again(disk, undisturbed):
    train(disk, until=5)
    disk.remove(SPOOL)
    assert len(train(disk).notes) == 1
    assert facts(disk) == undisturbed


def test_a_damaged_record_is_set_aside_and_the_training_goes_on(disk, undisturbed):
    train(disk, until=5)
    disk.write(RECORD, b'{"key": "k", "conf')
    journal = begun(disk)
    assert len(journal.epochs) == 5
    (note,) = read_record(disk).notes
    assert note.startswith("its record was damaged: set aside as trial.json.")
    train(disk)
    assert facts(disk) == undisturbed


def test_a_record_of_a_newer_version_is_refused_and_nothing_touched(disk):
    train(disk, until=5)
    write_record(disk, replace(read_record(disk), format=99))
    before = {name: disk.read(name) for name in disk.names()}
    with pytest.raises(BadData, match="got 99"):
        begun(disk)
    assert {name: disk.read(name) for name in disk.names()} == before


def test_it_is_noted_where_other_software_goes_on(disk, undisturbed):
    begun(disk, torch="2.5", threads="1").end("stopped")
    begun(disk, torch="2.6", threads="1", host="there").end("stopped")
    assert read_record(disk).notes == ["goes on with other software: torch 2.6, before 2.5"]
    begun(disk, torch="2.6", threads="1").end("stopped")
    assert len(read_record(disk).notes) == 1  # a host is no software


def test_an_attempt_that_another_took_for_dead_writes_nothing(disk):
    first = begun(disk)
    epochs = training(None)
    first.epoch(next(epochs))
    second = begun(disk)
    before = {name: disk.read(name) for name in disk.names()}
    with pytest.raises(Superseded, match="another process goes on with ce seed 0"):
        first.epoch(next(epochs))
    for call in (first.commit, first.finish, lambda: first.end("failed", "E: late"), lambda: first.end("stopped")):
        with pytest.raises(Superseded):
            call()
    assert {name: disk.read(name) for name in disk.names()} == before
    second.end("stopped")
    assert read_record(disk).state == "stopped"


class Full(Crashing):
    """A storage without space from its n-th change on, until there is some again."""

    full = False

    def __getattr__(self, name):
        call = getattr(self.real, name)
        if name not in ("write", "append"):
            return call

        def change(*arguments):
            if not self.full:
                return call(*arguments)
            if name == "append":
                call(arguments[0], arguments[1][:30])
            raise OSError(errno.ENOSPC, "No space left on device")

        return change


def test_a_full_disk_does_not_stop_the_training(disk, undisturbed):
    storage, clock = Full(disk, 0, ""), Clock()
    journal = begun(storage, clock)
    for record in training(None):
        storage.full = 3 <= record.epoch <= 5
        clock.now += 20
        journal.epoch(record)
        if record.epoch in (2, 6):
            assert look(disk).state.epoch == record.epoch
            assert [line.epoch for line in look(disk).lines] == list(range(1, record.epoch + 1))
        if storage.full:
            assert [line.epoch for line in look(disk).lines] == [1, 2]
    journal.finish()
    assert facts(disk) == undisturbed
    assert "nothing could be written after epoch 4: [Errno 28] No space left on device\n" in disk.read(LOG).decode()


def test_a_full_disk_at_the_end_is_an_error_and_the_trial_is_not_finished(disk, undisturbed):
    storage = Full(disk, 0, "")
    journal = begun(storage)
    for record in training(None):
        journal.epoch(record)
    storage.full = True
    with pytest.raises(OSError, match="No space left"):
        journal.finish()
    with pytest.raises(OSError, match="No space left"):
        journal.end("failed", "full")
    assert (read_record(disk).state, disk.has(WEIGHTS)) == ("running", False)
    storage.full = False
    assert begun(storage).finish().state == "finished"
    assert facts(disk) == undisturbed


@pytest.mark.parametrize("state", ["failed", "stopped"])
def test_a_trial_that_ended_early_has_all_its_epochs_on_record_and_can_go_on(disk, undisturbed, state):
    clock = Clock()
    journal = begun(disk, clock)
    for record in training(None):
        clock.now += 1
        journal._due = 3 if record.epoch <= 3 else 1000  # one state, after the third epoch
        journal.epoch(record)
        if record.epoch == 5:
            break
    ended = journal.end(state, "E: why" if state == "failed" else "", {"again_with_gpus": "0.5"})
    assert (ended.state, ended.epochs, ended.best_epoch, ended.val_dice) == (state, 5, 4, 0.6)
    assert ended.tags == {"again_with_gpus": "0.5"}
    assert [line.epoch for line in safe_lines(disk)] == [1, 2, 3, 4, 5]
    assert [file.epoch for file in state_files(disk.names())] == [3]
    told = safe_lines(disk)
    train(disk)
    same = facts(disk)
    assert same == undisturbed
    assert same[0].tags == {}
    assert parse(disk.read(SPOOL))[:5] == told


def test_a_pruned_trial_can_go_on(disk, undisturbed):
    journal = begun(disk)
    journal.epoch(next(training(None)))
    assert journal.end("pruned").state == "pruned"
    assert read_record(disk).epochs == 1
    train(disk)
    assert facts(disk) == undisturbed


def test_a_trial_that_has_learnt_nothing_is_not_finished(disk):
    with pytest.raises(ValueError, match="trial ce seed 0 has no checkpoint"):
        begun(disk).finish()


class Slow(Crashing):
    """A storage that takes a second for a state, and counts them."""

    def __getattr__(self, name):
        call = getattr(self.real, name)
        if name != "write":
            return call

        def write(file, data):
            if file.startswith("state-"):
                self.at.now += 1.0
                self.done += 1
            call(file, data)

        return write


@pytest.mark.parametrize("epoch_s", [1.0, 7.0, 20.0, 30.0, 100.0])
def test_a_state_waits_many_times_as_long_as_one_takes(disk, epoch_s):
    """Written after the first epoch that ends SHARE s after a state that took 1 s."""
    clock = Clock()
    storage = Slow(disk, clock, "")
    journal = begun(storage, clock)
    written, due = [], 0.0
    for record in training(None):
        clock.now += epoch_s
        before, ended = storage.done, clock.now
        journal.epoch(record)
        assert storage.done - before == (ended >= due)
        if storage.done > before:
            written.append(clock.now)
            due = clock.now + SHARE
    assert all(later - earlier > SHARE for earlier, later in pairwise(written))
    assert written[0] == epoch_s + 1
    assert len(written) == {1.0: 1, 100.0: EPOCHS}.get(epoch_s, len(written))


def test_a_commit_without_anything_new_writes_nothing(disk):
    journal = begun(disk)
    journal.commit()
    assert state_files(disk.names()) == []
    journal.epoch(next(training(None)))
    before = {name: disk.modified(name) for name in disk.names()}
    journal.commit()
    assert {name: disk.modified(name) for name in disk.names()} == before


class Meddled(Crashing):
    """A storage where something else happens once, just before or after a call: `at` names it, `how` is done."""

    def __getattr__(self, name):
        call = getattr(self.real, name)
        if self.done or name != self.at:
            return call

        def meddled(*arguments):
            self.done = 1
            found = call(*arguments)
            self.how()
            return found

        return meddled


def test_an_attempt_is_claimed_before_anything_is_looked_at(disk, undisturbed):
    """The process that was taken for dead commits while the next one looks what it left."""
    first = train(disk, until=2)
    first._due = math.inf
    for record in training({name: np.array(value) for name, value in first._last.state().items()}):
        first.epoch(record)
        break

    def late():
        with pytest.raises(Superseded):
            first.commit()

    meddled = Meddled(disk, "names", late)
    second = begun(meddled)
    assert meddled.done
    assert (len(second.epochs), read_record(disk).notes) == (2, [])
    second.end("stopped")
    train(disk)
    assert facts(disk) == undisturbed


def test_a_state_that_vanishes_between_listing_and_reading_is_no_error(disk, undisturbed):
    train(disk, until=3)
    (file,) = state_files(disk.names())
    again = begun(Meddled(disk, "names", lambda: disk.remove(file.name)))
    assert (again.state, again.epochs, read_record(disk).notes) == (None, [], [])
    assert len(safe_lines(disk)) == 3  # MLflow may know them
    again.end("stopped")
    train(disk)
    assert facts(disk) == undisturbed


def test_a_late_append_of_an_attempt_that_was_taken_for_dead_doubles_lines_and_no_epoch(disk):
    """Its append was under way, past its check, when the next one began, and reaches the disk now."""
    train(disk, until=2)
    second, epochs = begun(disk), None
    late = [replace(parse(disk.read(SPOOL))[0], epoch=epoch, train_loss=99.0) for epoch in (3, 4)]
    disk.append(SPOOL, b"".join(line.encoded() for line in late))
    epochs = training(second.state)
    for _ in range(3):
        second.epoch(next(epochs))
    assert [(line.epoch, line.train_loss) for line in safe_lines(disk)] == [
        (1, 1.0), (2, 0.5), (3, 99.0), (4, 99.0), (5, 0.2),
    ]  # fmt: skip
    for record in epochs:
        second.epoch(record)
    assert second.finish().epochs == EPOCHS
    content = disk.read(SPOOL)
    assert content.count(b"\n") == EPOCHS  # whole, and of the training that ends in the weights
    assert [line.train_loss for line in parse(content)] == [1 / epoch for epoch in range(1, EPOCHS + 1)]
    assert len(safe_lines(disk)) == EPOCHS


def test_doubled_lines_are_no_damage(disk):
    train(disk, until=3)
    disk.append(SPOOL, parse(disk.read(SPOOL))[2].encoded())
    assert len(begun(disk).epochs) == 3
    assert read_record(disk).notes == []
