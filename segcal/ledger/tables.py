"""Whether a database has the tables of the MLflow that is installed.

MLflow refuses tables of another version, but not before it has added those that are missing altogether: a database that
is a few versions old would be migrated by the first command that looks at it, with no backup. So it is asked first.
"""

__all__ = ["check_tables"]

import contextlib
from importlib.resources import files

import mlflow
import sqlalchemy
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from segcal.errors import StoreUnreachable, needs
from segcal.ledger.location import is_new, shown

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


def check_tables(uri: str) -> None:
    """Raise StoreUnreachable for a database with the tables of another MLflow; a server answers for its own.

    A database that has none yet is left to MLflow. Raises MissingExtra where PostgreSQL's driver is not installed.
    """
    kind = uri.partition(":")[0].partition("+")[0]
    if kind not in _DATABASES or is_new(uri):
        return
    if kind == "postgresql":
        driver = "" if "+" in uri.partition(":")[0] else " (or rather postgresql+psycopg://)"
        with needs("postgres", f"{shown(uri)}{driver}"):
            engine = sqlalchemy.create_engine(uri)
    else:
        engine = sqlalchemy.create_engine(uri)
    try:
        with engine.connect() as connection:
            found = MigrationContext.configure(connection).get_current_revision()
    finally:
        engine.dispose()
    revisions = ScriptDirectory(str(files("mlflow.store.db_migrations")))
    expected = revisions.get_current_head()
    if found is None or found == expected:
        return
    remedy = "a newer MLflow made it: pip install -U mlflow"
    with contextlib.suppress(CommandError):  # of a revision that it does not know
        revisions.get_revision(found)
        remedy = f"take a backup, then: mlflow db upgrade {shown(uri)}"
    raise StoreUnreachable(
        f"the tracking store must have the tables of MLflow {mlflow.__version__} (schema {expected}), got schema "
        f"{found} in {shown(uri)}; {remedy}"
    )
