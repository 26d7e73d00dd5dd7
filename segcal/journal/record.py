"""A trial's record: what it is, how far it came, how it ended. The truth of what is done."""

__all__ = [
    "CUT_SHORT", "Ended", "TrialRecord", "close_record", "is_told", "read_record", "set_aside", "set_told",
    "write_record",
]  # fmt: skip

import json
import time
import uuid
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from segcal.errors import BadData
from segcal.journal.storage import Storage

RECORD, TOLD, FORMAT = "trial.json", "told", 1
CUT_SHORT = "its process ended before the trial did"
Ended = Literal["finished", "failed", "stopped", "pruned"]


@dataclass(frozen=True)
class TrialRecord:
    """State "running" is written when an attempt begins: where its process is gone, it was cut short.

    Stopped: told to, between two epochs, to go on another day. Pruned: a search found better ones.
    """

    key: str
    config: dict[str, Any]  # every field of the TrialConfig
    task: dict[str, Any]
    code_version: str
    software: dict[str, str]  # of the newest attempt: libraries, device, host
    attempt: str  # names the newest: an older one that still lives must not write
    attempts: int
    started_ms: int  # since 1970, of the first attempt
    state: Literal["running"] | Ended = "running"
    ended_ms: int = 0
    epochs: int = 0  # that are on record for good
    best_epoch: int = 0
    val_dice: float = 0.0  # of the best epoch
    weights_sha256: str = ""  # of the best epoch's file; a finished trial has one
    error: str = ""
    tags: dict[str, str] = field(default_factory=dict)  # for MLflow
    notes: list[str] = field(default_factory=list)  # what was set aside on the way
    format: int = FORMAT

    @property
    def name(self) -> str:
        """What people call the trial."""
        return f"{self.config['label']} seed {self.config['seed']}"


def read_record(storage: Storage) -> TrialRecord | None:
    """The record in a trial's folder; None where there is none.

    Raises BadData for one of a newer version, and ValueError for one that is damaged.
    """
    try:
        content = json.loads(storage.read(RECORD))
    except FileNotFoundError:
        return None
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise ValueError("not a trial's record")
    if content["format"] > FORMAT:
        raise BadData(
            f"{storage.uri}/{RECORD}: the format of a trial's record must be {FORMAT} at most, "
            f"got {content['format']}; use the segcal that wrote it, or another experiment"
        )
    try:
        return TrialRecord(**content)
    except TypeError as error:
        raise ValueError(str(error)) from None


def write_record(storage: Storage, record: TrialRecord) -> None:
    """Put a record in place of the one before it."""
    storage.write(RECORD, json.dumps(asdict(record), indent=1).encode())


def close_record(trial: Storage, state: Ended, error: str, of: Collection[str] = ("running",)) -> None:
    """End a trial whose process cannot do it any more; nothing where its state is not one of these."""
    record = read_record(trial)
    if record and record.state in of:
        write_record(trial, replace(record, state=state, error=error, ended_ms=int(time.time() * 1000)))


def is_told(trial: Storage, record: TrialRecord) -> bool:
    """Whether MLflow was told how this attempt ended."""
    try:
        return trial.read(TOLD).decode() == _ending(record)
    except FileNotFoundError:
        return False


def set_told(trial: Storage, record: TrialRecord) -> None:
    """Note that MLflow was told all of this record."""
    trial.write(TOLD, _ending(record).encode())


def _ending(record: TrialRecord) -> str:
    return f"{record.attempt} {record.state} {record.epochs} {record.ended_ms}"


def set_aside(storage: Storage, name: str) -> str:
    """Give a damaged file another name, for people to look at; returns the name."""
    new = f"{name}.{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:4]}.damaged"
    storage.rename(name, new)
    return new
