"""Ensembles registered in a copy of the experiment that the tests train."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from segcal.ensemble.create import EnsembleRequest, create_ensemble
from segcal.environment import environment


def copy_store(uri: str, folder: Path) -> str:
    """A copy of a SQLite store with its artifacts: what is done to it touches no other test's. Returns its URI."""
    source = Path(uri.removeprefix("sqlite:///"))
    shutil.copytree(source.parent / "mlruns", folder / "mlruns")
    with sqlite3.connect(source) as old, sqlite3.connect(folder / "mlflow.db") as new:
        old.backup(new)
        for table, column in (
            ("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"),
            ("model_versions", "storage_location"),
        ):  # fmt: skip
            new.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(source.parent), str(folder)))
    return f"sqlite:///{folder / 'mlflow.db'}"


@pytest.fixture(scope="session")
def registered(trained, tmp_path_factory):
    """(tracking URI, what create said, its lines): the two best of recipe dice."""
    uri, lines = copy_store(trained[0], tmp_path_factory.mktemp("registered")), []
    with environment({"MLFLOW_TRACKING_URI": uri}):
        result = create_ensemble(EnsembleRequest("tiny", "dice", 2, n_resamples=200), lines.append)
    return uri, result, lines
