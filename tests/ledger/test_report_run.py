"""Reports in MLflow: opened, told, filled, found, and read again from here or from afar."""

import json

import pytest

from segcal.environment import home
from segcal.errors import BadData, UsageError
from segcal.ledger.names import tag
from segcal.ledger.report_run import (
    begin_report,
    describe_report,
    end_report,
    find_reports,
    keep_report,
    report_file,
    tell_report,
)
from segcal.ledger.store import open_store
from tests.fresh_store import fresh_store


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return fresh_store(tmp_path)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "report"
    (made / "tables").mkdir(parents=True)
    (made / "report.html").write_text("<html>")
    (made / "tables" / "box.csv").write_text("a,b")
    return made


def test_a_report_is_one_run_from_its_beginning_to_its_end(store, folder):
    spec = {"experiment": "calib", "tasks": ["brain"]}
    run_id = begin_report(store, "calib", "report brain", "abc", spec, holder="me")
    (begun,) = find_reports(store, "calib")
    assert (begun.run_id, begun.status, begun.analysis_id, begun.holder) == (run_id, "RUNNING", "abc", "me")
    assert (begun.spec, begun.tasks, begun.progress, begun.ended_ms) == (spec, {}, {}, None)

    tell_report(store, run_id, {"what": "scored", "done": 3, "total": 24})
    assert find_reports(store, "calib")[0].progress == {"what": "scored", "done": 3, "total": 24}

    params = {"seed": "0", "members": "m" * 9000}
    keep_report(store, run_id, folder, {"brain": ""}, params, {"box.NLL.ce": 0.5, "nan": float("nan"), "ECE % = é": 1})
    describe_report(store, run_id, "see **this**")
    end_report(store, run_id, "FINISHED")
    (done,) = find_reports(store, analysis_id="abc")
    assert (done.status, done.tasks, done.experiment) == ("FINISHED", {"brain": ""}, "calib")
    assert done.ended_ms >= done.started_ms > 1.6e12

    run = store.get_run(run_id)
    assert (run.info.run_name, run.data.tags[tag("kind")]) == ("report brain", "report")
    assert run.data.tags["mlflow.note.content"] == "see **this**"
    assert run.data.metrics == {"box.NLL.ce": 0.5, "ECE _ _ é": 1.0}
    assert run.data.params == {"seed": "0", "members": "m" * 6000}
    assert report_file(store, run_id, "tables/box.csv").read_text() == "a,b"
    assert report_file(store, run_id, "tables").is_dir()


def test_reports_are_found_by_experiment_question_and_status_newest_first(store):
    first = begin_report(store, "a", "r", "same", {})
    second = begin_report(store, "b", "r", "same", {})
    third = begin_report(store, "a", "r", "other", {})
    store.create_run(store.get_experiment_by_name("a").experiment_id)  # somebody's own run
    end_report(store, first, "FAILED", "the disk is full")
    assert [r.run_id for r in find_reports(store)] == [third, second, first]
    assert [r.run_id for r in find_reports(store, "a")] == [third, first]
    assert [r.run_id for r in find_reports(store, analysis_id="same")] == [second, first]
    assert [(r.run_id, r.error) for r in find_reports(store, statuses=["FAILED"])] == [(first, "the disk is full")]
    assert find_reports(store, "none") == []


def test_a_report_of_an_earlier_version_names_its_task_by_its_parameter(store):
    experiment = store.create_experiment("old")
    run = store.create_run(experiment, tags={tag("kind"): "report"})
    store.log_param(run.info.run_id, "task", "brain")
    store.set_terminated(run.info.run_id)
    (found,) = find_reports(store, "old")
    assert (found.tasks, found.analysis_id, found.spec) == ({"brain": ""}, "", {})


def test_tags_that_were_edited_by_hand_say_nothing(store):
    run_id = begin_report(store, "calib", "r", "abc", {})
    store.set_tag(run_id, tag("progress"), "{half")
    store.set_tag(run_id, tag("spec"), json.dumps([1]))
    (found,) = find_reports(store)
    assert (found.progress, found.spec) == ({}, {})


@pytest.mark.parametrize("path", ["../mlflow.db", "tables/../../x", "/etc/passwd", "a\\..\\b", "a\0b"])
def test_no_path_leads_out_of_a_report(store, path):
    run_id = begin_report(store, "calib", "r", "abc", {})
    with pytest.raises(UsageError, match="must lie in its folder"):
        report_file(store, run_id, path)


def test_a_file_that_is_gone_is_named(store):
    run_id = begin_report(store, "calib", "r", "abc", {})
    with pytest.raises(BadData, match=r"got no 'report.json'; make the report again"):
        report_file(store, run_id, "report.json")


@pytest.mark.parametrize("tracking_server", ["sqlite"], indirect=True)
def test_files_that_lie_with_a_server_are_fetched_once(tracking_server, folder):
    client = open_store(tracking_server.uri)
    run_id = begin_report(client, "fetched", "r", "abc", {})
    keep_report(client, run_id, folder, {"brain": ""}, {}, {})
    here = report_file(client, run_id, "tables/box.csv")
    assert here.read_text() == "a,b"
    assert home() in here.parents
    here.write_text("kept")
    assert report_file(client, run_id, "tables/box.csv").read_text() == "kept"
    with pytest.raises(BadData, match="got no 'none'"):
        report_file(client, run_id, "none")
    assert not list(here.parent.glob(".download-*"))
