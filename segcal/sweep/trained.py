"""What of an experiment is trained already, and what MLflow does not know of yet."""

__all__ = ["Trained", "find_trained"]

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass

from segcal.journal.checkpoint import WEIGHTS
from segcal.journal.reading import records, trial_storage
from segcal.journal.record import TrialRecord, close_record, is_told, set_aside
from segcal.journal.spool import SPOOL, parse
from segcal.journal.storage import Storage
from segcal.ledger.read import finished_keys
from segcal.ledger.store import Store, patiently


@dataclass(frozen=True)
class Trained:
    """Keys of trials."""

    done: frozenset[str]  # finished: never to be trained again
    untold: frozenset[str]  # with something on record that MLflow was not told


def find_trained(
    client: Store, experiment: str, storage: Storage, say: Callable[[str], None], asked: Collection[str] = ()
) -> Trained:
    """Ask the records and the registry; either is enough for a trial to be done.

    What MLflow does not have must be whole; what is damaged is set aside and said so. A version that was deleted in
    MLflow comes back where its trial is still asked for (a key in `asked`). Raises BadData for a record of a newer
    version, and StoreUnreachable.
    """
    registered = patiently(lambda: finished_keys(client, experiment))
    done, untold = set(registered), set()
    for key, record in records(storage, say).items():
        trial = trial_storage(storage, key)
        if record.state != "finished":
            if not is_told(trial, record):
                untold.add(key)
            continue
        needed = key not in registered and (key in asked or not is_told(trial, record))
        if needed and not _whole(trial, record, say):
            continue
        done.add(key)
        if needed or (key in registered and not is_told(trial, record)):
            untold.add(key)
    return Trained(frozenset(done), frozenset(untold))


def _whole(trial: Storage, record: TrialRecord, say: Callable[[str], None]) -> bool:
    """Whether all of a finished trial is as it was; one that is not is no longer finished."""
    what = ""
    try:
        if hashlib.sha256(trial.read(WEIGHTS)).hexdigest() != record.weights_sha256:
            what = f"its weights were damaged: set aside as {set_aside(trial, WEIGHTS)}"
        elif len(parse(trial.read(SPOOL))) < record.epochs:
            what = f"its metrics were damaged: set aside as {set_aside(trial, SPOOL)}"
    except FileNotFoundError as error:
        what = f"a file of it is gone: {error.filename or WEIGHTS}"
    if what:
        close_record(trial, "failed", what, of=("finished",))
        say(f"{record.name}: {what}; it is to be trained again")
    return not what
