"""What of an experiment is trained already, and what MLflow does not know of yet."""

__all__ = ["Trained", "find_trained"]

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from segcal.journal.checkpoint import WEIGHTS
from segcal.journal.reading import records, trial_storage
from segcal.journal.record import TrialRecord, close_record, is_told, set_aside
from segcal.journal.storage import Storage
from segcal.ledger.read import finished_keys
from segcal.ledger.store import Store


@dataclass(frozen=True)
class Trained:
    """Keys of trials."""

    done: frozenset[str]  # finished: never to be trained again
    untold: frozenset[str]  # with something on record that MLflow was not told


def find_trained(client: Store, experiment: str, storage: Storage, say: Callable[[str], None]) -> Trained:
    """Ask the records and the registry; either is enough for a trial to be done.

    Weights that MLflow does not have must hash to what their record says; damaged ones are set aside and said so.
    Raises BadData for a record of a newer version.
    """
    registered = finished_keys(client, experiment)
    done, untold = set(registered), set()
    for key, record in records(storage, say).items():
        trial = trial_storage(storage, key)
        if record.state == "finished":
            if key in registered:
                continue
            if not _whole(trial, record, say):
                continue
            done.add(key)
            untold.add(key)
        elif not is_told(trial, record):
            untold.add(key)
    return Trained(frozenset(done), frozenset(untold))


def _whole(trial: Storage, record: TrialRecord, say: Callable[[str], None]) -> bool:
    """Whether a finished trial's weights are what they were; one whose are not is no longer finished."""
    try:
        if hashlib.sha256(trial.read(WEIGHTS)).hexdigest() == record.weights_sha256:
            return True
        what = f"its weights were damaged: set aside as {set_aside(trial, WEIGHTS)}"
    except FileNotFoundError:
        what = f"its weights ({WEIGHTS}) are gone"
    close_record(trial, "failed", what, of=("finished",))
    say(f"{record.name}: {what}; it is trained again")
    return False
