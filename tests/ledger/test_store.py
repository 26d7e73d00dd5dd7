import sqlite3

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from requests import ConnectionError as RequestConnectionError

from segcal.errors import StoreUnreachable, SweepHeld
from segcal.ledger.location import tracking_uri
from segcal.ledger.store import experiment_id, is_away, open_store, patiently


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
    assert ("must be there and writable" in message) == uri.startswith("sqlite")
    assert "\n" not in message


def test_what_is_said_of_a_store_holds_no_password():
    with pytest.raises(StoreUnreachable) as caught:
        open_store("http://me:secret@127.0.0.1:9")
    assert "me:***@127.0.0.1:9" in str(caught.value)
    assert "secret" not in str(caught.value)
    refusal = ConnectionError("no answer from http://me:secret@127.0.0.1:9/api; who@there?")
    call, _ = answering(*[refusal] * 5)
    with pytest.raises(StoreUnreachable, match=r"http://me:\*\*\*@127.0.0.1:9/api; who@there"):
        patiently(call, lambda pause_s: None)


def answering(*answers):
    """A call that gives or raises one of these after the other."""
    left = list(answers)

    def call():
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return call, left


BUSY = MlflowException("database is locked")  # 500
GONE = RequestConnectionError("refused\nand more")


def test_a_store_that_is_away_for_a_while_is_asked_again():
    call, left = answering(BUSY, GONE, 5, 6)
    waited = []
    assert patiently(call, waited.append) == 5
    assert (left, waited) == ([6], [1.0, 3.0])


def test_a_store_that_answers_at_once_is_asked_once():
    call, left = answering(None, 6)
    assert patiently(call, pytest.fail) is None
    assert left == [6]


def test_a_store_that_stays_away_is_said_so_in_one_line():
    call, left = answering(*[BUSY] * 4, GONE, 6)
    waited = []
    with pytest.raises(StoreUnreachable, match=r"got none for a minute \(refused\); all is on disk") as caught:
        patiently(call, waited.append)
    assert "\n" not in str(caught.value)
    assert (left, waited) == ([6], [1.0, 3.0, 10.0, 30.0])


@pytest.mark.parametrize(
    "refusal", [MlflowException("no", error_code=INVALID_PARAMETER_VALUE), SweepHeld("held"), ValueError("no")]
)
def test_a_refusal_is_not_repeated(refusal):
    call, left = answering(refusal, 6)
    with pytest.raises(type(refusal), match=str(refusal)):
        patiently(call, pytest.fail)
    assert left == [6]


@pytest.mark.parametrize("error", [ConnectionError("refused"), TimeoutError("no answer")])
def test_what_is_taken_for_an_outage_is_waited_for(error):
    assert is_away(error)
    call, _ = answering(error, 5)
    assert patiently(call, lambda seconds: None) == 5
