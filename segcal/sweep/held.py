"""Where a sweep's records are, and who works on it."""

__all__ = ["given_storage", "held_sweep", "records_id", "storage_root", "sweep_storage"]

import contextlib
import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from urllib.parse import quote

from segcal.environment import home
from segcal.errors import UsageError
from segcal.journal.lease import Lease
from segcal.journal.storage import Storage
from segcal.ledger.location import anonymous, sqlite_file


def given_storage(named: str | None) -> str | None:
    """The storage that a user names, on the command line or by $SEGCAL_STORAGE: one that other machines see, too."""
    return named or os.environ.get("SEGCAL_STORAGE") or None


def records_id(storage: Storage) -> str:
    """What these records are called in MLflow, whatever path leads to them."""
    name = uuid.uuid4().hex.encode()
    try:
        storage.create("id", name)
    except NotImplementedError:  # an object store that cannot; whoever asks holds the sweep
        if not storage.has("id"):
            storage.write("id", name)
    return storage.read("id").decode()


def storage_root(uri: str, given: str | None = None) -> str:
    """The folder of all experiments of a tracking store: the one given, $SEGCAL_STORAGE, or the one beside the store.

    That is NAME-trials beside NAME.db, and a folder of its own below `home` for a tracking server.
    """
    if named := given_storage(given):
        return named.rstrip("/") if "://" in named else os.path.abspath(named)
    if path := sqlite_file(uri):
        return str(path.absolute().with_name(f"{path.stem}-trials"))
    return str(home() / "trials" / hashlib.sha256(anonymous(uri).encode()).hexdigest()[:12])


def sweep_storage(uri: str, experiment: str, given: str | None = None) -> Storage:
    """The folder of an experiment's records. Raises UsageError for a URI that nothing here can open."""
    storage = Storage(f"{storage_root(uri, given)}/{quote(experiment, safe='')}")
    try:
        storage.names()
    except (ImportError, ValueError) as error:  # a protocol without its package, or without a meaning
        raise UsageError(f"--storage must be a folder or a URI that fsspec opens, got {storage.uri}: {error}") from None
    return storage


@contextlib.contextmanager
def held_sweep(storage: Storage, say: Callable[[str], None]) -> Iterator[Lease]:
    """Hold the sweep within the block. Raises SweepHeld where another driver that lives does."""
    lease = Lease.take(storage, say)
    try:
        yield lease
    finally:
        lease.release()
