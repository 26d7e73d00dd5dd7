import csv
import io
import json

import pandas as pd
import pytest

from segcal.ledger.report_run import begin_report, end_report, tell_report
from segcal.ledger.store import open_store

NOBODY = "0" * 32


@pytest.fixture
def here(reported):
    """Path of the finished analysis."""
    return f"/v1/analyses/{reported['analysis_id']}"


@pytest.fixture
def under_way(trained, app):
    """Path of an analysis that somebody computes."""
    client, name = open_store(trained[0]), "1" * 32
    run_id = begin_report(client, "tiny", "report tiny", name, {"experiment": "tiny"}, "somebody")
    tell_report(client, run_id, {"state": "running", "holder": "somebody", "what": "scored", "done": 2, "total": 6})
    app.state.jobs._recent.forget("")  # a list is good for a second
    yield f"/v1/analyses/{name}"
    client.delete_run(run_id)


def error_of(answer):
    """Status, code, and the nearest names."""
    return answer.status_code, answer.json()["error"]["code"], answer.json()["error"].get("nearest")


def test_what_the_command_line_computed_is_known(client, reported, here):
    answer = client.post("/v1/analyses", json={"experiment": "tiny", "resamples": 50})
    assert (answer.status_code, answer.headers["location"]) == (200, here)
    content = answer.json()
    assert (content["id"], content["status"], content["tasks"]) == (reported["analysis_id"], "finished", ["tiny"])
    assert content["run_id"] == reported["run_id"]
    assert content["links"]["explorer"] == f"/reports/{reported['run_id']}/tiny"
    assert client.get(here).json() == content
    assert content in client.get("/v1/analyses").json()["analyses"]


def test_links_lead_to_mlflow_where_it_is(make_client, reported, here):
    links = make_client(mlflow_url="http://mlflow.example:5000/").get(here).json()["links"]
    assert links["mlflow"] == f"http://mlflow.example:5000/#/experiments/1/runs/{reported['run_id']}"


def test_the_result_is_the_report_in_numbers(client, here):
    result = client.get(f"{here}/result").json()
    assert (result["experiment"], result["task"], result["n_resamples"]) == ("tiny", "tiny", 50)
    assert len(result["members"]) == 6
    table = client.get(f"{here}/tables/box.csv")
    rows = list(csv.reader(io.StringIO(table.text)))
    assert table.headers["content-type"] == "text/csv; charset=utf-8"
    box = next(table for table in result["tables"] if table["key"] == "box")
    assert len(rows) == 1 + len(box["rows"])
    assert float(rows[1][1]) == pytest.approx(box["rows"][0][1][0]["point"], rel=1e-2)  # three digits
    assert client.get(f"{here}/tables/box.tex").text.startswith(("\\begin", "%", "\\"))


def test_figures_and_pages_are_served(client, here):
    assert client.get(f"{here}/figures/figure_2.png").content.startswith(b"\x89PNG")
    assert client.get(f"{here}/figures/figure_2.pdf").content.startswith(b"%PDF")
    assert client.get(f"{here}/report").text.startswith("<!doctype html>")
    assert client.get(f"{here}/laws.html?task=tiny").text.startswith("<!doctype html>")
    scores = pd.read_parquet(io.BytesIO(client.get(f"{here}/cases.parquet").content))
    assert set(scores.label) == {"ce", "dice"}


@pytest.mark.parametrize(
    "name",
    ["../report.json", "..%2freport.json", "%2e%2e%2freport.json", "..%5creport.json", "....//report.json",
     "figure_2.png%00.pdf", "%2fetc%2fpasswd", "figure_2.svg", "figure_2", "", ".", "%2e%2e", "table.csv"],
)  # fmt: skip
@pytest.mark.parametrize("folder", ["figures", "tables"])
def test_nothing_else_is_served(client, here, folder, name):
    answer = client.get(f"{here}/{folder}/{name}")
    assert answer.status_code in (404, 405, 422), answer.text[:80]
    assert answer.json()["error"]["message"]


def test_a_name_that_is_nearly_one_is_told(client, here):
    assert error_of(client.get(f"{here}/tables/bax.csv")) == (404, "not_found", ["box.csv"])
    assert error_of(client.get(f"{here}/result?task=tinny")) == (404, "not_found", ["tiny"])
    assert error_of(client.get("/v1/recipes?experiment=tinny")) == (404, "not_found", ["tiny"])
    assert error_of(client.get("/v1/cases?experiment=tiny&task=tini")) == (404, "not_found", ["tiny"])
    assert error_of(client.post("/v1/analyses", json={"experiment": "tinny"})) == (404, "not_found", ["tiny"])
    wrong = {"experiment": "tiny", "methods": ["dise"]}
    assert error_of(client.post("/v1/analyses", json=wrong)) == (404, "not_found", ["dice"])


def test_what_nobody_asked_is_not_there(client):
    for path in ("", "/events", "/result", "/report", "/tables/box.csv", "/figures/figure_2.png", "/laws.html"):
        assert error_of(client.get(f"/v1/analyses/{NOBODY}{path}"))[0] == 404
    assert error_of(client.post(f"/v1/analyses/{NOBODY}/cancel"))[0] == 404


def test_what_is_under_way_has_no_result_yet(client, under_way):
    content = client.get(under_way).json()
    assert (content["status"], content["progress"]["done"], content["progress"]["total"]) == ("running", 2, 6)
    assert "result" not in content["links"]
    answer = client.get(f"{under_way}/result")
    assert error_of(answer) == (409, "conflict", None)
    assert "running" in answer.json()["error"]["message"]


def test_what_another_computes_is_not_cancelled_here(client, under_way):
    assert error_of(client.post(f"{under_way}/cancel")) == (409, "conflict", None)


def test_what_is_finished_is_not_cancelled(client, here):
    assert error_of(client.post(f"{here}/cancel")) == (409, "conflict", None)


def test_why_it_failed_is_told(client, trained):
    store, name = open_store(trained[0]), "2" * 32
    run_id = begin_report(store, "tiny", "report tiny", name, {"experiment": "tiny"}, "somebody")
    end_report(store, run_id, "FAILED", "memory must be at least 9 GB")
    content = client.get(f"/v1/analyses/{name}").json()
    store.delete_run(run_id)
    assert (content["status"], content["error"]) == ("failed", "memory must be at least 9 GB")


def test_events_end_with_the_analysis(client, here, reported):
    answer = client.get(f"{here}/events", headers={"Last-Event-ID": "17"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = answer.text.splitlines()
    assert lines[:2] == ["event: end", "id: 1"]
    assert json.loads(lines[2].removeprefix("data: "))["id"] == reported["analysis_id"]


def test_the_list_is_cut_into_pages(client, here, under_way):
    everything = client.get("/v1/analyses?limit=500").json()
    assert everything["total"] == len(everything["analyses"]) >= 2
    assert client.get("/v1/analyses?limit=1&offset=1").json()["analyses"] == everything["analyses"][1:2]
    created = [analysis["created_ms"] for analysis in everything["analyses"]]
    assert created == sorted(created, reverse=True)


@pytest.mark.parametrize(
    "spec",
    [{}, {"experiment": ""}, {"experiment": "tiny", "M": [0]}, {"experiment": "tiny", "M": [1001]},
     {"experiment": "tiny", "n": 0}, {"experiment": "tiny", "n": 1001}, {"experiment": "tiny", "resamples": 100_001},
     {"experiment": "tiny", "seed": -1}, {"experiment": "tiny", "colour": "blue"}, {"experiment": 3}, [], "tiny",
     {"experiment": "tiny", "memory_gb": 1000}],
)  # fmt: skip
def test_a_spec_out_of_bounds_is_refused(client, spec):
    assert error_of(client.post("/v1/analyses", json=spec))[:2] == (422, "invalid")


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"experiment": "tiny"} x', b"null"])
def test_a_body_that_is_no_spec_is_refused(client, body):
    answer = client.post("/v1/analyses", content=body, headers={"Content-Type": "application/json"})
    assert error_of(answer)[:2] == (422, "invalid")


def test_more_members_than_there_are_says_how_many_there_are(client):
    answer = client.post("/v1/analyses", json={"experiment": "tiny", "M": [2, 50]})
    assert answer.status_code == 422
    assert "ce 3, dice 3" in answer.json()["error"]["message"]


def test_a_member_whose_files_are_gone_is_named(client, monkeypatch):
    monkeypatch.setattr("segcal.service.jobs.missing_checkpoints", lambda *_: ["segcal-tiny-ce version 2"])
    answer = client.post("/v1/analyses", json={"experiment": "tiny", "resamples": 51})
    assert error_of(answer) == (409, "conflict", None)
    assert "segcal-tiny-ce version 2" in answer.json()["error"]["message"]


def test_what_there_is_is_listed(client, reported):
    names = [entry["name"] for entry in client.get("/v1/experiments").json()["experiments"]]
    assert "tiny" in names
    recipes = client.get("/v1/recipes?experiment=tiny").json()["recipes"]
    assert [(recipe["label"], recipe["members"]) for recipe in recipes] == [("ce", 3), ("dice", 3)]
    cases = client.get("/v1/cases?experiment=tiny&task=tiny").json()
    assert len(cases["cases"]) == 3
    assert {case["split"] for case in cases["cases"]} == {"test"}
    assert client.get("/v1/ensembles").status_code == 200
