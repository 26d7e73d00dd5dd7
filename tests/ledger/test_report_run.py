import pytest

from segcal.ledger.names import tag
from segcal.ledger.report_run import log_report
from tests.fresh_store import fresh_store


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return fresh_store(tmp_path)


def test_a_report_is_a_finished_run_with_its_files(store, tmp_path):
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "report.html").write_text("<html>")
    params = {"seed": "0", "members": "m" * 9000}
    metrics = {"box.NLL.ce": 0.5, "nan": float("nan"), "ECE % = é": 1}
    run = store.get_run(log_report(store, "calib", "report", folder, params, metrics))
    assert (run.info.status, run.info.run_name, run.data.tags[tag("kind")]) == ("FINISHED", "report", "report")
    assert run.data.metrics == {"box.NLL.ce": 0.5, "ECE _ _ é": 1.0}
    assert run.data.params == {"seed": "0", "members": "m" * 6000}
    assert [file.path for file in store.list_artifacts(run.info.run_id)] == ["report.html"]


def test_a_report_whose_files_cannot_be_kept_is_a_failed_run(store, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "log_artifacts", full)
    with pytest.raises(OSError, match="No space left"):
        log_report(store, "calib", "report", tmp_path, {}, {"NLL": 0.5})
    (run,) = store.search_runs([store.get_experiment_by_name("calib").experiment_id])
    assert (run.info.status, run.data.metrics) == ("FAILED", {"NLL": 0.5})
