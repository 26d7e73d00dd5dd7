"""The tracking store: where it is, whether it answers, and whether it is of this MLflow's kind."""

__all__ = [
    "IMPATIENT", "Store", "answers", "check_artifacts", "experiment_id", "is_away", "open_store", "patiently",
]  # fmt: skip

import contextlib
import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from requests import RequestException

from segcal.environment import environment
from segcal.errors import SegcalError, StoreUnreachable, first_line, needs
from segcal.ledger.location import is_new, shown, sqlite_file, tracking_uri
from segcal.ledger.tables import check_tables

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
# A server before an S3 store offers its clients URLs of that store, which they need not reach: files go through it.
os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "false")
logging.getLogger("alembic").setLevel(logging.WARNING)  # one line for each of the tables of a new database
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # errors are raised as well

T = TypeVar("T")
Store = MlflowClient  # what other rooms call a client they only pass on

# By default MLflow asks a silent server for four minutes. Without retries a request is sent once: what makes a run or
# a version is not made twice by a client that could not wait.
IMPATIENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def open_store(uri: str | None = None, *, new: bool = True) -> MlflowClient:
    """A client of a store that answers. A new SQLite file is set up here, once: workers that race to do it fail.

    new: whether one may be. Raises StoreUnreachable within seconds where nothing answers, for a database with the
    tables of another MLflow, and for a SQLite file that is not there and may not be set up.
    """
    uri = uri or tracking_uri()
    if not new and is_new(uri):
        raise StoreUnreachable(
            f"the tracking store must be there, got nothing at {sqlite_file(uri)}; call it in the folder of the sweep, "
            "or set MLFLOW_TRACKING_URI"
        )
    try:
        with environment({**IMPATIENT, "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}), _alone(sqlite_file(uri)):
            check_tables(uri)
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            client.search_experiments(max_results=1)
        if path := sqlite_file(uri):
            # Readers do not wait for writers; the mode stays with the file.
            with contextlib.closing(sqlite3.connect(path)) as database:
                database.execute("PRAGMA journal_mode=WAL")
    except SegcalError:
        raise
    except Exception as error:  # MLflow, SQLAlchemy, requests and sqlite3 each raise their own
        reason = _reason(error)
        refused = isinstance(error, MlflowException) and error.get_http_status_code() in (401, 403)
        remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or see its --allowed-hosts"
        if path := sqlite_file(uri):
            remedy = f"{path} and its folder must be there and writable; or set MLFLOW_TRACKING_URI to another"
        elif not refused:
            remedy = "start it, or set MLFLOW_TRACKING_URI to one that does"
        raise StoreUnreachable(
            f"the tracking store must answer, got no answer from {shown(uri)} ({reason}); {remedy}"
        ) from None
    return client


@contextlib.contextmanager
def _alone(path: Path | None) -> Iterator[None]:
    """One process at a time opens the SQLite stores of a folder: those that race to set up a new one die."""
    if path is None or not path.parent.is_dir():
        yield
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def is_away(error: Exception) -> bool:
    """Whether a call failed because the store is away, overloaded or full: the same call may succeed later.

    Measured on MLflow 3.17.2: an answer of 5xx, none at all, a full or locked database; BAD_REQUEST is what it makes
    of a database's refusals, such as of two equal requests at once.
    """
    if isinstance(error, MlflowException):
        return int(error.get_http_status_code()) >= 500 or error.error_code == "BAD_REQUEST"
    return isinstance(error, OSError | RequestException)


def patiently(call: Callable[[], T], wait: Callable[[float], None] = time.sleep) -> T:
    """What the call gives; a store that is away for less than a minute is asked again.

    Raises StoreUnreachable where it is away for longer.
    """
    for pause_s in (1.0, 3.0, 10.0, 30.0, None):
        try:
            return call()
        except Exception as error:
            if not is_away(error):
                raise
            if pause_s is None:
                raise StoreUnreachable(
                    f"the tracking store must answer, got none for a minute ({_reason(error)}); all is on disk: call "
                    "the same command again when it does"
                ) from None
        wait(pause_s)
    raise AssertionError("not reached")


def _reason(error: Exception) -> str:
    """The first line of what an error says, without the password of a URI in it."""
    return shown(first_line(error))[:200]


def answers(client: MlflowClient) -> bool:
    """Whether the store is there to be asked, be it to refuse."""
    try:
        client.search_experiments(max_results=1)
    except Exception as error:
        return not is_away(error)
    return True


def check_artifacts(location: str) -> None:
    """Raise MissingExtra for files in an object store that nothing here can reach."""
    if location.startswith("s3://"):
        with needs("s3", f"the artifact store {location}"):
            import boto3  # noqa: F401


def experiment_id(client: MlflowClient, name: str) -> str:
    """Id of an experiment, created where it does not exist. Raises MissingExtra where its files are out of reach."""
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            found = client.get_experiment(client.create_experiment(name))
        except MlflowException:  # another process was quicker
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    check_artifacts(found.artifact_location)
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)
