import sqlite3

import pytest

from segcal.errors import StoreUnreachable
from segcal.ledger.location import tracking_uri
from segcal.ledger.store import experiment_id, open_store


def test_default_store_is_a_file_here_with_an_absolute_uri(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///sub/other.db")
    assert tracking_uri() == f"sqlite:///{tmp_path}/sub/other.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere:5000")
    assert tracking_uri() == "http://somewhere:5000"


def test_a_new_database_is_set_up_once_with_write_ahead_log(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    client = open_store()
    assert experiment_id(client, "calib") == experiment_id(client, "calib")
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_deleted_experiment_is_taken_up_again(trained):
    client = open_store(trained[0])
    client.delete_experiment(experiment_id(client, "gone"))
    assert client.get_experiment(experiment_id(client, "gone")).lifecycle_stage == "active"


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:///{here}/file/mlflow.db", "nonsense://x"])
def test_a_store_that_does_not_answer_is_named_in_one_line(uri, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    uri = uri.format(here=tmp_path)
    with pytest.raises(StoreUnreachable) as caught:
        open_store(uri)
    message = str(caught.value)
    assert uri in message
    assert "MLFLOW_TRACKING_URI" in message
    assert "\n" not in message
