"""How far a sweep's trials are, for others than the processes that train them."""

__all__ = ["Progress", "look", "records", "trial_storage"]

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


def records(sweep: Storage, say: Callable[[str], None] = lambda line: None) -> dict[str, TrialRecord]:
    """The records of all trials by key; a damaged one is set aside and said so, its trial is to be trained again.

    Raises BadData for a record of a newer version.
    """

    def read(key: str) -> TrialRecord | None:
        trial = trial_storage(sweep, key)
        try:
            return read_record(trial)
        except ValueError:
            say(f"trial {key}: its record was damaged: set aside as {set_aside(trial, RECORD)}")
            return None

    with ThreadPoolExecutor(16) as readers:
        found = readers.map(read, sweep.at(TRIALS).names())
        return {record.key: record for record in found if record}
