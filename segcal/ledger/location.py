"""Where the tracking store is. To know that takes no MLflow, which takes seconds to import."""

__all__ = ["sqlite_file", "tracking_uri"]

import os
from pathlib import Path

_SQLITE = "sqlite:///"


def tracking_uri() -> str:
    """$MLFLOW_TRACKING_URI, or mlflow.db in this folder; absolute, because trials run in folders of their own."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}mlflow.db"
    path = sqlite_file(uri)
    return f"{_SQLITE}{path.absolute()}" if path else uri


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite store; None for any other store."""
    return Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else None
