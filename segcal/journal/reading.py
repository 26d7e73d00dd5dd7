"""How far a sweep's trials are, for others than the processes that train them."""

__all__ = ["Progress", "look", "peek", "records", "trial_storage"]

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from segcal.journal.checkpoint import StateFile, state_files
from segcal.journal.record import RECORD, TrialRecord, read_record, set_aside
from segcal.journal.spool import SPOOL, Line, parse
from segcal.journal.storage import Storage

TRIALS = "trials"


@dataclass(frozen=True)
class Progress:
    """A trial now. `lines` are the epochs that no later attempt will make anew."""

    record: TrialRecord
    lines: tuple[Line, ...]
    state: StateFile | None


def trial_storage(sweep: Storage, key: str) -> Storage:
    """The folder of a trial in that of its sweep."""
    return sweep.at(TRIALS, key)


def look(trial: Storage) -> Progress | None:
    """A trial's record and its safe epochs; None where it has not begun. Raises as `read_record` does."""
    record = read_record(trial)
    if record is None:
        return None
    files = state_files(trial.names())
    try:
        lines = parse(trial.read(SPOOL))
    except FileNotFoundError:
        lines = []
    safe = max([record.epochs, *(file.epoch for file in files)])
    return Progress(record, tuple(lines[:safe]), files[0] if files else None)


def peek(sweep: Storage) -> dict[str, TrialRecord | None]:
    """The records of all trials by their folder, None for a damaged one; writes nothing.

    Raises BadData for a record of a newer version.
    """

    def read(key: str) -> tuple[str, TrialRecord | None] | None:
        try:
            record = read_record(trial_storage(sweep, key))
        except ValueError:
            return key, None
        return (key, record) if record else None

    with ThreadPoolExecutor(16) as readers:
        return dict(found for found in readers.map(read, sweep.at(TRIALS).names()) if found)


def records(sweep: Storage, say: Callable[[str], None] = lambda line: None) -> dict[str, TrialRecord]:
    """The records of all trials by key; a damaged one is set aside and said so, its trial is to be trained again.

    Raises BadData for a record of a newer version.
    """
    found = {}
    for key, record in peek(sweep).items():
        if record:
            found[record.key] = record
        else:
            say(f"trial {key}: its record was damaged: set aside as {set_aside(trial_storage(sweep, key), RECORD)}")
    return found
