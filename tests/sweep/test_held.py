import os

import pytest

from segcal.errors import SweepHeld, UsageError
from segcal.journal.storage import Storage
from segcal.sweep.held import given_storage, held_sweep, records_id, storage_root, sweep_storage


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGCAL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SEGCAL_STORAGE", raising=False)


def test_records_lie_beside_a_sqlite_store(tmp_path):
    assert storage_root("sqlite:////srv/mlflow.db") == "/srv/mlflow-trials"
    assert storage_root("sqlite:///sub/other.db") == f"{tmp_path}/sub/other-trials"


def test_those_of_a_server_have_a_folder_at_home_whatever_its_password(tmp_path):
    root = storage_root("http://anna:secret@server:5000")
    assert os.path.dirname(root) == f"{tmp_path}/home/trials"
    assert storage_root("http://server:5000") == storage_root("http://anna:changed@server:5000") == root
    assert "secret" not in root
    assert "anna" not in root
    others = {storage_root(uri) for uri in ("http://server:5001", "https://server:5000", "postgresql://u:p@server/a")}
    assert len(others | {root}) == 4


def test_what_is_named_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGCAL_STORAGE", "s3://bucket/segcal/")
    assert storage_root("sqlite:///mlflow.db") == "s3://bucket/segcal"
    assert storage_root("sqlite:///mlflow.db", "sub/") == f"{tmp_path}/sub"
    assert storage_root("http://server:5000", "gs://other/x") == "gs://other/x"
    monkeypatch.setenv("SEGCAL_STORAGE", "here")
    assert storage_root("http://server:5000") == f"{tmp_path}/here"
    monkeypatch.setenv("SEGCAL_STORAGE", "")
    assert storage_root("sqlite:///mlflow.db") == f"{tmp_path}/mlflow-trials"


def test_each_experiment_has_a_folder_of_its_own(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert sweep_storage(uri, "calib").uri == f"{tmp_path}/mlflow-trials/calib"
    assert sweep_storage(uri, "../a/b c").uri == f"{tmp_path}/mlflow-trials/..%2Fa%2Fb%20c"
    assert not (tmp_path / "mlflow-trials").exists()  # asking writes nothing
    names = {sweep_storage(uri, name).uri for name in ("a/b", "a%2Fb", "a b", "a+b")}
    assert len(names) == 4


def test_a_place_that_nothing_can_open_is_named():
    with pytest.raises(UsageError, match="--storage must be a folder or a URI that fsspec opens, got ") as caught:
        sweep_storage("sqlite:///mlflow.db", "calib", "nonsense://x/y")
    assert "\n" not in str(caught.value)
    assert "nonsense://x/y/calib" in str(caught.value)


def test_a_sweep_is_held_within_the_block():
    storage = sweep_storage("sqlite:///mlflow.db", "calib")

    def fail():
        with held_sweep(storage, print) as lease:
            with pytest.raises(SweepHeld), held_sweep(storage, print):
                pass
            with held_sweep(sweep_storage("sqlite:///mlflow.db", "other"), print) as other:
                assert other.token != lease.token
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with held_sweep(storage, print):
        pass
    assert storage.names() == []


def test_what_a_user_names_is_a_storage_that_others_see(monkeypatch):
    assert given_storage(None) is None
    assert given_storage("here") == "here"
    monkeypatch.setenv("SEGCAL_STORAGE", "s3://bucket/segcal")
    assert given_storage(None) == "s3://bucket/segcal"
    assert given_storage("here") == "here"
    monkeypatch.setenv("SEGCAL_STORAGE", "")
    assert given_storage(None) is None


def test_records_keep_their_name():
    storage = sweep_storage("sqlite:///mlflow.db", "calib")
    name = records_id(storage)
    assert len(name) == 32
    assert records_id(storage) == name == storage.read("id").decode()


def test_a_store_that_cannot_create_has_a_name_too(monkeypatch):
    def cannot(self, name, data):
        raise NotImplementedError

    monkeypatch.setattr(Storage, "create", cannot)
    storage = sweep_storage("sqlite:///mlflow.db", "calib")
    assert records_id(storage) == records_id(storage)
