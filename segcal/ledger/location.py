"""Where the tracking store is. To know that takes no MLflow, which takes seconds to import."""

__all__ = ["anonymous", "is_new", "shown", "sqlite_file", "tracking_uri"]

import os
import re
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


def is_new(uri: str) -> bool:
    """Whether it is a SQLite file that is not there, or empty: to connect would set it up."""
    path = sqlite_file(uri)
    return path is not None and not (path.is_file() and path.stat().st_size)


def shown(uri: str) -> str:
    """The URI for a message, or a message with URIs in it: without passwords, and without tokens in their place.

    A password reaches to the last @ before the query: those that were not encoded may have a / or an @ in them.
    """
    uri = re.sub(r"([?&](?:password|pwd|token)=)[^&\s]*", r"\1***", uri, flags=re.IGNORECASE)
    uri = re.sub(r"(//[^/:@\s]*):[^?\s]*@", r"\1:***@", uri)
    return re.sub(r"(https?://)[^/:@\s]+@", r"\1***@", uri)


def anonymous(uri: str) -> str:
    """The URI as a place: without the account and the password that one gets there with."""
    return re.sub(r"//(?:[^/@\s]*|[^/:@\s]*:[^?\s]*)@", "//", uri)
