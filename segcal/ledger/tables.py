"""Whether a database has the tables of the MLflow that is installed.

MLflow refuses tables of another version, but not before it has added those that are missing altogether: a database that
is a few versions old would be migrated by the first command that looks at it, with no backup. So it is asked first.
"""

__all__ = ["check_tables"]

import contextlib

import mlflow
import sqlalchemy
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from mlflow.store.db.utils import _get_alembic_config, _get_latest_schema_revision, _get_schema_version

from segcal.errors import StoreUnreachable, needs
from segcal.ledger.location import shown, sqlite_file

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


def check_tables(uri: str) -> None:
    """Raise StoreUnreachable for a database with the tables of another MLflow; a server answers for its own.

    A database that has none yet is left to MLflow. Raises MissingExtra where PostgreSQL's driver is not installed.
    """
    kind = uri.partition(":")[0].partition("+")[0]
    file = sqlite_file(uri)
    if kind not in _DATABASES or (file is not None and not file.is_file()):
        return
    if kind == "postgresql":
        driver = "" if "+" in uri.partition(":")[0] else " (or rather postgresql+psycopg://)"
        with needs("postgres", f"{shown(uri)}{driver}"):
            engine = sqlalchemy.create_engine(uri)
    else:
        engine = sqlalchemy.create_engine(uri)
    try:
        found = _get_schema_version(engine)
    finally:
        engine.dispose()
    expected = _get_latest_schema_revision()
    if found is None or found == expected:
        return
    remedy = (
        f"take a backup, then: mlflow db upgrade {shown(uri)}"
        if _is_known(found)
        else ("a newer MLflow made it: pip install -U mlflow")
    )
    raise StoreUnreachable(
        f"the tracking store must have the tables of MLflow {mlflow.__version__} (schema {expected}), got schema "
        f"{found} in {shown(uri)}; {remedy}"
    )


def _is_known(revision: str) -> bool:
    with contextlib.suppress(CommandError):
        return ScriptDirectory.from_config(_get_alembic_config("")).get_revision(revision) is not None
    return False
