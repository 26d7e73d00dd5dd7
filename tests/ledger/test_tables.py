"""Databases of another MLflow are refused and left as they are. Real ones: migrated by MLflow up to a revision."""

import hashlib

import alembic.command
import pytest
import sqlalchemy
from alembic.script import ScriptDirectory
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base

from segcal.cli import main
from segcal.errors import StoreUnreachable
from segcal.ledger.location import anonymous, shown
from segcal.ledger.store import open_store
from segcal.ledger.tables import check_tables

OLD = "4465047574b1"  # of MLflow 2: whole tables of today's are missing, and MLflow adds them unasked


def revisions() -> list[str]:
    """Newest first."""
    return [each.revision for each in ScriptDirectory.from_config(_get_alembic_config("")).walk_revisions()]


def at(uri: str, revision: str) -> str:
    """A database as that MLflow left it."""
    engine = sqlalchemy.create_engine(uri)
    Base.metadata.create_all(engine)
    alembic.command.upgrade(_get_alembic_config(uri), revision)
    engine.dispose()
    return uri


def set_revision(uri: str, revision: str) -> None:
    engine = sqlalchemy.create_engine(uri)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text(f"UPDATE alembic_version SET version_num = '{revision}'"))
    engine.dispose()


def bytes_of(folder) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A file of MLflow 2, and its bytes."""
    folder = tmp_path_factory.mktemp("old")
    uri = at(f"sqlite:///{folder}/mlflow.db", OLD)
    return uri, folder, bytes_of(folder)


def test_an_old_file_is_refused_with_the_upgrade_command_and_not_touched(old):
    uri, folder, before = old
    with pytest.raises(StoreUnreachable) as caught:
        open_store(uri)
    message = str(caught.value)
    assert f"(schema {revisions()[0]}), got schema {OLD} in {uri}; " in message
    assert message.endswith(f"take a backup, then: mlflow db upgrade {uri}")
    assert "\n" not in message
    assert bytes_of(folder) == before


@pytest.mark.parametrize("argv", [["report"], ["doctor"], ["ensemble", "list"]])
def test_every_command_says_so_and_exits_5(old, argv, capsys, monkeypatch, tmp_path):
    uri, folder, before = old
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert main(argv) == 5
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("segcal: ")]
    assert len(said) == 1
    assert f"mlflow db upgrade {uri}" in said[0]
    assert bytes_of(folder) == before


def test_the_command_that_is_said_mends_it(tmp_path):
    uri = at(f"sqlite:///{tmp_path}/mlflow.db", revisions()[1])
    with pytest.raises(StoreUnreachable, match=revisions()[1]):
        open_store(uri)
    alembic.command.upgrade(_get_alembic_config(uri), "heads")  # what `mlflow db upgrade` does
    assert open_store(uri).search_experiments() is not None


def test_a_file_of_a_newer_mlflow_is_not_to_be_upgraded(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    open_store(uri)
    set_revision(uri, "of the future")
    with pytest.raises(StoreUnreachable, match=r"got schema of the future .*; a newer MLflow made it: pip install -U"):
        open_store(uri)


def test_a_database_without_tables_is_left_to_mlflow(tmp_path):
    (tmp_path / "mlflow.db").touch()
    check_tables(f"sqlite:///{tmp_path}/mlflow.db")
    check_tables(f"sqlite:///{tmp_path}/none.db")
    check_tables("http://127.0.0.1:9")
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_an_old_postgresql_is_refused_without_its_password(postgres):
    uri = at(postgres.new_database("old"), OLD)
    with pytest.raises(StoreUnreachable, match=f"got schema {OLD} in .*; take a backup, then: mlflow db upgrade"):
        open_store(uri)
    engine = sqlalchemy.create_engine(uri)
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version")).scalar() == OLD
    engine.dispose()


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("postgresql+psycopg://me:a%40b@host:5432/x", "postgresql+psycopg://me:***@host:5432/x"),
        ("postgresql+psycopg://me@host/x", "postgresql+psycopg://me@host/x"),
        ("http://me:secret@host:5000", "http://me:***@host:5000"),
        ("postgresql+psycopg://me:p/ss@w@host/x?sslmode=require", "postgresql+psycopg://me:***@host/x?sslmode=require"),
        ("postgresql+psycopg://me@host/x?password=secret&a=1", "postgresql+psycopg://me@host/x?password=***&a=1"),
        ("https://a-token@host/x", "https://***@host/x"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////a/b@c:d.db", "sqlite:////a/b@c:d.db"),
    ],
)
def test_no_password_is_shown(uri, expected):
    assert shown(uri) == expected


@pytest.mark.parametrize("account", ["", "me@", "me:secret@", "me:p/ss@w@", "a-token@"])
def test_a_place_is_the_same_whoever_goes_there(account):
    assert anonymous(f"https://{account}host:5000/x") == "https://host:5000/x"
