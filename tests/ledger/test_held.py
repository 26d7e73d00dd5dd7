"""What a plan reads of an experiment, and that reading leaves no trace."""

from segcal.ledger.read import Held, finished_keys, held
from segcal.ledger.store import open_store


def test_a_store_that_is_not_there_is_not_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.db").touch()
    for name in ("absent.db", "empty.db"):
        assert held(f"sqlite:///{tmp_path / name}", "calib") == Held(artifacts=str(tmp_path / "mlruns"))
    assert [(path.name, path.stat().st_size) for path in tmp_path.iterdir()] == [("empty.db", 0)]


def test_an_experiment_that_is_not_there_is_not_made(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert held(trained[0], "other") == Held(artifacts=str(tmp_path / "mlruns"))
    assert open_store(trained[0]).get_experiment_by_name("other") is None
    assert list(tmp_path.iterdir()) == []


def test_members_and_the_folder_of_their_checkpoints(trained):
    found = held(trained[0], "tiny")
    assert {ref.key for ref in found.members} == finished_keys(open_store(trained[0]), "tiny")
    assert len(found.members) == 6
    assert "mlruns" in found.artifacts
