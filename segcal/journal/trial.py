"""One trial's folder, as the process that trains it writes it: killed at any moment, what is there can be gone on from.

trial.json                    the record (segcal.journal.record)
metrics.jsonl                 a line an epoch, only appended (segcal.journal.spool)
state-EPOCH-SHA256.safetensors   all that the training needs to go on after that epoch
weights.safetensors           of the best epoch, once the trial is finished
log.txt
"""

__all__ = ["Superseded", "TrialJournal"]

import contextlib
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from segcal.journal.checkpoint import WEIGHTS, StateFile, pack, read_state, state_files, write_state
from segcal.journal.log import LOG, TrialLog
from segcal.journal.record import RECORD, Ended, TrialRecord, read_record, set_aside, write_record
from segcal.journal.spool import SPOOL, Line, is_damaged, line_of, parse
from segcal.journal.storage import Storage
from segcal.records import EpochRecord

RETRY_S = 10.0
SHARE = 50  # times as long as a state took to write passes before the next: at most a fiftieth is spent on it


class Superseded(Exception):
    """Another process goes on with the trial: this one was taken for dead, and must not write any more."""


class TrialJournal:
    """Begin, epoch after epoch, and one of finish, end."""

    def __init__(self, storage: Storage, clock: Callable[[], float] = time.monotonic) -> None:
        self._storage, self._clock = storage, clock
        self.log = TrialLog()
        self.state: dict[str, np.ndarray] | None = None  # to go on from; None: from the beginning
        self.epochs: list[EpochRecord] = []  # that lie before the state
        self._lines: list[Line] = []
        self._pending: list[Line] = []  # not written yet
        self._torn = False  # whether the last append may have been cut short
        self._last: EpochRecord | None = None
        self._best: tuple[int, float, Mapping[str, np.ndarray]] | None = None  # epoch, validation Dice, weights
        self._file: StateFile | None = None
        self._due = self._clock()

    def begin(
        self, key: str, config: dict[str, Any], task: dict[str, Any], code_version: str, software: dict[str, str]
    ) -> None:
        """Find what an earlier attempt left, and claim the trial. What is damaged is set aside and noted.

        Raises BadData where the record is of a newer version.
        """
        notes: list[str] = []
        before = self._earlier(notes)
        self._record = TrialRecord(
            key=key,
            config=config,
            task=task,
            code_version=code_version,
            software=software,
            attempt=uuid.uuid4().hex,
            attempts=before.attempts + 1 if before else 1,
            started_ms=before.started_ms if before else _now_ms(),
            epochs=before.epochs if before else 0,
        )
        write_record(self._storage, self._record)  # from here on nobody else may write
        notes += _other_software(before, code_version, software) if before else []
        names = self._storage.names()
        with contextlib.suppress(FileNotFoundError):
            self.log = TrialLog(self._storage.read(LOG).decode(errors="replace"))
        self._lines = self._spooled(notes)
        self._take_state(names, notes)
        known = self._file.epoch if self._file else 0
        # What MLflow may have been told of stays as it was told; the rest is made anew.
        told = max([known, before.epochs if before else 0, *(f.epoch for f in state_files(names, damaged=True))])
        if len(self._lines) > told or not self._lines:
            self._lines = self._lines[:told]
            self._storage.write(SPOOL, b"".join(line.encoded() for line in self._lines))
        self.epochs = [line.record for line in self._lines[:known]]
        noted = [*(before.notes if before else []), *notes]
        self._record = replace(self._record, epochs=len(self._lines), notes=noted)
        write_record(self._storage, self._record)
        self.log.say(f"attempt {self._record.attempts} on {software.get('host', '?')}: {self._where(known)}")
        for note in notes:
            self.log.say(note)

    def epoch(self, record: EpochRecord) -> None:
        """Take an epoch, and write what waits where that is worth its time."""
        if record.epoch > len(self._lines):
            line = line_of(record, _now_ms())
            self._lines.append(line)
            self._pending.append(line)
        self._last = record
        if record.weights is not None:
            self._best = record.epoch, record.val_dice, record.weights
        self.log.say(
            f"epoch {record.epoch}: loss {record.train_loss:.5f}, validation Dice {record.val_dice:.4f}, "
            f"rate {record.lr:g}, {record.seconds:.2f} s"
        )
        if self._clock() >= self._due:
            try:
                self.commit()
            except OSError as error:  # a full disk, a storage that is away: later epochs may be luckier
                self._due = self._clock() + RETRY_S
                self.log.say(f"nothing could be written after epoch {record.epoch}: {error}")

    def commit(self) -> None:
        """Write the epochs since the last time and the state to go on from. Call it before the next epoch begins."""
        if self._last is None or self._last.state is None or (self._file and self._file.epoch >= self._last.epoch):
            return
        began = self._clock()
        self._check()
        self._write_lines()
        file = write_state(self._storage, self._last.epoch, self._last.state())
        if self._file:
            self._storage.remove(self._file.name)
        self._file = file
        self._storage.write(LOG, self.log.text.encode())
        ended = self._clock()
        self._due = ended + SHARE * (ended - began)

    def finish(self) -> TrialRecord:
        """The best weights, then the record that says so; what was needed to go on is removed."""
        if self._best is None:
            raise ValueError(f"trial {self._record.name} has no checkpoint")
        epoch, dice, weights = self._best
        self._check()
        self._storage.write(SPOOL, b"".join(line.encoded() for line in self._lines))  # whole, whatever happened to it
        self._pending.clear()
        data, digest = pack(weights)
        self._storage.write(WEIGHTS, data)
        return self._end("finished", best_epoch=epoch, val_dice=dice, weights_sha256=digest)

    def end(self, state: Ended, error: str = "", tags: Mapping[str, str] | None = None) -> TrialRecord:
        """Failed, stopped or pruned. Every epoch that was taken stays on record."""
        self._check()
        self._write_lines()
        best = {"best_epoch": self._best[0], "val_dice": self._best[1]} if self._best else {}
        return self._end(state, error=error, tags=dict(tags or {}), **best)

    def _end(self, state: Ended, **fields: Any) -> TrialRecord:
        self.log.say(f"{state} after {len(self._lines)} epochs{': ' + fields['error'] if fields.get('error') else ''}")
        self._storage.write(LOG, self.log.text.encode())
        self._record = replace(self._record, state=state, ended_ms=_now_ms(), epochs=len(self._lines), **fields)
        write_record(self._storage, self._record)
        if state == "finished":  # any other may be gone on with
            for file in state_files(self._storage.names()):
                self._storage.remove(file.name)
        return self._record

    def _earlier(self, notes: list[str]) -> TrialRecord | None:
        try:
            return read_record(self._storage)
        except ValueError:
            notes.append(f"its record was damaged: set aside as {set_aside(self._storage, RECORD)}")
            return None

    def _spooled(self, notes: list[str]) -> list[Line]:
        try:
            data = self._storage.read(SPOOL)
        except FileNotFoundError:
            return []
        lines = parse(data)
        self._torn = data != b"".join(line.encoded() for line in lines)
        if is_damaged(data):
            kept = f"{SPOOL} was damaged after epoch {len(lines)}"
            notes.append(f"{kept}: set aside as {set_aside(self._storage, SPOOL)}")
            self._storage.write(SPOOL, b"".join(line.encoded() for line in lines))
        return lines

    def _take_state(self, names: list[str], notes: list[str]) -> None:
        """The newest state that is whole and whose epochs are all on record."""
        for file in state_files(names):
            try:
                state = read_state(self._storage, file)
            except FileNotFoundError:  # the process before this one had just put a newer one in its place
                continue
            except ValueError:
                aside = set_aside(self._storage, file.name)
                notes.append(f"its checkpoint after epoch {file.epoch} was damaged: set aside as {aside}")
                continue
            if file.epoch > len(self._lines):
                notes.append(f"its metrics end before its checkpoint after epoch {file.epoch}: trained again")
                self._storage.remove(file.name)
                continue
            if self.state is None:
                self.state, self._file = state, file
                self._resume_best(state)
            else:
                self._storage.remove(file.name)

    def _resume_best(self, state: Mapping[str, np.ndarray]) -> None:
        weights = {name.removeprefix("best."): value for name, value in state.items() if name.startswith("best.")}
        if weights:
            epoch = int(state["training.best_epoch"][0])
            self._best = epoch, float(state["training.best"][0]), weights

    def _check(self) -> None:
        record = read_record(self._storage)
        if record is None or record.attempt != self._record.attempt:
            raise Superseded(f"another process goes on with {self._record.name}")

    def _write_lines(self) -> None:
        if not self._pending:
            return
        if self._torn:
            self._storage.write(SPOOL, b"".join(line.encoded() for line in self._lines))
        else:
            self._torn = True
            self._storage.append(SPOOL, b"".join(line.encoded() for line in self._pending))
        self._torn = False
        self._pending.clear()

    def _where(self, epoch: int) -> str:
        if epoch:
            return f"goes on after epoch {epoch}"
        return "from the beginning" if self._record.attempts == 1 else "from the beginning again"


def _other_software(before: TrialRecord, code_version: str, software: Mapping[str, str]) -> list[str]:
    """What differs from the attempt before that the last bits of weights may depend on."""
    old = {"segcal": before.code_version, **before.software}
    new = {"segcal": code_version, **software}
    names = [name for name in ("segcal", "torch", "device", "threads") if old.get(name) != new.get(name)]
    return [f"goes on with other software: {name} {new.get(name)}, before {old.get(name)}" for name in names]


def _now_ms() -> int:
    return int(time.time() * 1000)
