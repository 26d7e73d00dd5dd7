"""A new SQLite tracking store in milliseconds: setting one up takes MLflow seconds, a copy of an empty one does not."""

import contextlib
import functools
import sqlite3
import tempfile
from pathlib import Path

from mlflow import MlflowClient

from segcal.ledger.store import open_store


def fresh_store(folder: Path) -> MlflowClient:
    """A client of FOLDER/mlflow.db, which has no experiment of its own."""
    path = folder / "mlflow.db"
    path.write_bytes(_empty())
    return open_store(f"sqlite:///{path}")


@functools.cache
def _empty() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        open_store(f"sqlite:///{folder}/mlflow.db")
        with contextlib.closing(sqlite3.connect(f"{folder}/mlflow.db")) as database:
            return database.serialize()
