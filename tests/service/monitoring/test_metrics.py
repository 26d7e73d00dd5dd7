"""`/metrics` by hand: what it says of requests, analyses and sweeps, and that nothing that hangs or breaks stops it."""

import json
import os
import threading
import time
from dataclasses import asdict, replace
from types import SimpleNamespace

import prometheus_client
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from segcal.journal.lease import NAME, Lease, holder_of
from segcal.journal.planned import Planned, PlannedTrial, write_plan
from segcal.journal.reading import trial_storage
from segcal.journal.record import RECORD, TrialRecord, read_record, set_told
from segcal.journal.storage import Storage
from segcal.service.app import create_app
from segcal.service.monitoring import metrics, sweep_metrics
from segcal.service.monitoring.metrics import Metrics
from segcal.service.monitoring.sweep_metrics import SETTLED_S, Gpu, SweepReader, families, parse_gpus, read_gpus
from segcal.service.settings import Settings
from tests.sweep.test_status import begin, change, plan

GPUS = "0, NVIDIA H100 80GB HBM3, 87, 40960, 81559\n1, NVIDIA H100 80GB HBM3, [N/A], [N/A], 81559\n"


class Answering:
    """A tracking store's client."""

    def search_experiments(self, max_results):
        return []


def samples(text):
    """Values by name and labels."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text, name, **labels):
    return samples(text).get((name, *sorted(labels.items())))


def told(reader):
    """The samples of one reading, by name and values of labels."""
    reading = reader.read()
    found = [(sample.name, *sample.labels.values(), sample.value) for f in families(reading, 0) for sample in f.samples]
    return {(name, *labels): number for name, *labels, number in found}


@pytest.fixture
def sweep(tmp_path):
    sweep = Storage(str(tmp_path / "mlflow-trials" / "tiny"))
    plan(sweep)
    return sweep


@pytest.fixture
def reader(tmp_path):
    return SweepReader(f"sqlite:///{tmp_path / 'mlflow.db'}")


@pytest.fixture
def app(reader):
    app = FastAPI()
    app.state.client, app.state.settings = Answering(), SimpleNamespace(tracking_uri=reader.uri, storage=None)
    app.include_router(metrics.router)
    metrics.install(app)
    return app


@pytest.fixture
def web(app):
    return TestClient(app, raise_server_exceptions=False)


def scraped(web):
    answer = web.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return answer.text


def test_trials_by_recipe_and_state(sweep, reader):
    lease = Lease.take(sweep, print)  # before its trials, or a new second makes them another driver's
    begin(sweep, "ce", 0, (0.5, 0.7)).finish()
    begin(sweep, "ce", 1, (0.5,))
    begin(sweep, "dice", 0, (0.1,)).end("failed", "ValueError: no")
    begin(sweep, "dice", 1, (0.2,)).end("stopped")
    found = told(reader)
    lease.release()
    trials = {labels[1:]: number for labels, number in found.items() if labels[0] == "segcal_sweep_trials"}
    assert {labels: number for labels, number in trials.items() if number} == {
        ("tiny", "ce", "done"): 1, ("tiny", "ce", "running"): 1, ("tiny", "ce", "waiting"): 1,
        ("tiny", "dice", "failed"): 1, ("tiny", "dice", "stopped"): 1, ("tiny", "dice", "waiting"): 1,
    }  # fmt: skip
    assert len(trials) == 2 * 5
    assert found["segcal_sweep_driver_alive", "tiny"] == 1
    assert told(reader)["segcal_sweep_driver_alive", "tiny"] == 0


def test_pace_and_time_left_are_those_of_segcal_status(sweep, reader):
    lease = Lease.take(sweep, print)
    begin(sweep, "ce", 0, (0.5, 0.6))
    found = told(reader)
    (status,) = (of.status for of in reader.read().sweeps)
    lease.release()
    (running,) = status.running
    assert found["segcal_sweep_epoch_seconds", "tiny"] == pytest.approx(running.epoch_s)
    assert found["segcal_sweep_epochs_per_second", "tiny"] == pytest.approx(1 / running.epoch_s)
    assert found["segcal_sweep_eta_seconds", "tiny"] == pytest.approx(status.eta_s)
    gone = told(reader)
    assert ("segcal_sweep_eta_seconds", "tiny") not in gone
    assert gone["segcal_sweep_trials", "tiny", "ce", "stopped"] == 1


def test_tracking_lag_is_the_age_of_the_first_untold_end(sweep, reader):
    begin(sweep, "ce", 0, (0.5,)).finish()
    begin(sweep, "ce", 1, (0.5,)).end("failed", "no")
    begin(sweep, "ce", 2, (0.5,))  # has not ended
    change(sweep, "ce0", ended_ms=int(time.time() * 1000) - 700_000)
    found = told(reader)
    assert found["segcal_sweep_untold_trials", "tiny"] == 2
    assert found["segcal_sweep_tracking_lag_seconds", "tiny"] == pytest.approx(700, abs=20)
    for key in ("ce0", "ce1"):
        trial = trial_storage(sweep, key)
        set_told(trial, read_record(trial))
    found = told(reader)
    assert (found["segcal_sweep_untold_trials", "tiny"], found["segcal_sweep_tracking_lag_seconds", "tiny"]) == (0, 0)


def test_a_sweep_that_mlflow_was_told_all_of_has_no_lag(trained):
    uri, configs, _ = trained
    found = told(SweepReader(uri))
    done = sum(number for (name, *labels), number in found.items() if labels[-1:] == ["done"])
    assert done == len(configs) == 6
    assert found["segcal_sweep_untold_trials", "tiny"] == 0
    assert found["segcal_sweep_unreadable",] == 0


def test_a_broken_experiment_is_counted_and_the_others_are_told(sweep, reader, web, caplog):
    begin(sweep, "ce", 0, (0.5,)).finish()
    broken = Storage(str(sweep.local.parent / "of%2Flater"))
    record = {**asdict(read_record(trial_storage(sweep, "ce0"))), "format": 99}
    trial_storage(broken, "x").write(RECORD, json.dumps(record).encode())
    trial_storage(sweep, "dice0").write(RECORD, b"{")
    (sweep.local.parent / "notes.txt").write_text("no experiment")
    (sweep.local.parent / "empty").mkdir()
    text = scraped(web)
    assert value(text, "segcal_sweep_unreadable") == 1
    assert value(text, "segcal_sweep_trials", experiment="tiny", recipe="ce", state="done") == 1
    assert value(text, "segcal_sweep_damaged_records", experiment="tiny") == 1
    reader.read()
    reader.read()
    assert sum("of%2Flater" in line.getMessage() for line in caplog.records) == 2  # once by either reader


def test_without_records_nothing_is_told_of_sweeps(reader):
    assert {name for name, *_ in told(reader) if name.startswith("segcal_sweep")} == {
        "segcal_sweep_unreadable", "segcal_sweep_read_seconds", "segcal_sweep_read_age_seconds",
    }  # fmt: skip


def test_storage_that_nothing_opens_is_unreadable(tmp_path):
    assert SweepReader("sqlite:///x.db", "nosuch://bucket").read().unreadable == 1


def test_a_record_is_read_again_only_where_its_folder_changed(sweep, reader, monkeypatch):
    for seed in range(3):
        begin(sweep, "ce", seed, (0.5,)).finish()
        os.utime(trial_storage(sweep, f"ce{seed}").uri, times=(1e9, 1e9))
    asked = []
    monkeypatch.setattr(sweep_metrics, "read_record", lambda trial: asked.append(trial.uri[-3:]) or read_record(trial))
    reader.read()
    reader.read()
    assert sorted(asked) == ["ce0", "ce1", "ce2"]
    change(sweep, "ce1", state="failed", error="no")
    assert told(reader)["segcal_sweep_trials", "tiny", "ce", "failed"] == 1
    assert asked[3:] == ["ce1"]
    reader.read()
    assert asked[3:] == ["ce1", "ce1"]  # it changed less than SETTLED_S ago
    assert SETTLED_S == 2


def test_a_driver_on_another_machine_lives_while_it_renews_its_lease(sweep):
    lease = Lease.take(sweep, print)
    sweep.write(NAME, json.dumps({**asdict(holder_of(sweep)), "host": "elsewhere"}).encode())
    now = [0.0]
    reader = SweepReader("sqlite:///x.db", str(sweep.local.parent), clock=lambda: now[0])

    def alive():
        return told(reader).get(("segcal_sweep_driver_alive", "tiny"))

    assert alive() is None
    now[0] = 30
    assert alive() is None
    os.utime(sweep.local / NAME, times=(1e9, 1e9))
    assert alive() == 1
    now[0] = 60
    assert alive() == 1
    now[0] = 100
    assert alive() == 0
    lease.release()


def test_the_recipes_of_a_large_search_share_a_series(tmp_path, reader):
    sweep = Storage(str(tmp_path / "mlflow-trials" / "search"))
    labels = [f"candidate-{index:03d}" for index in range(60)]
    plan(sweep, labels, seeds=range(2))
    found = told(reader)
    recipes = {key[2] for key in found if key[0] == "segcal_sweep_trials"}
    assert len(recipes) == 51
    assert found["segcal_sweep_trials", "search", "(others)", "waiting"] == 20
    assert found["segcal_sweep_trials", "search", "candidate-049", "waiting"] == 2


def test_two_thousand_trials_take_less_than_a_second(tmp_path, reader):
    sweep = Storage(str(tmp_path / "mlflow-trials" / "large"))
    config = {"label": "ce", "seed": 0, "epochs": 10}
    record = TrialRecord("", config, {}, "1", {}, "a", 1, 1, "finished", 1000, 10, 5, 0.7, "x")
    keys = [f"{index:032x}" for index in range(2000)]
    for key in keys:
        trial = sweep.local / "trials" / key
        trial.mkdir(parents=True)
        (trial / RECORD).write_text(json.dumps(asdict(replace(record, key=key))))
        os.utime(trial, times=(1e9, 1e9))
    write_plan(sweep, Planned("tiny", "blobs", "d", tuple(PlannedTrial(key, "ce", 0, 10) for key in keys)))
    first, second = reader.read(), reader.read()
    assert second.sweeps[0].status.total.done == second.sweeps[0].untold == 2000
    assert min(first.seconds, second.seconds) < 1


def test_gpus_as_nvidia_smi_prints_them():
    assert parse_gpus(GPUS) == (
        Gpu("0", "NVIDIA H100 80GB HBM3", 0.87, 40960 * 2**20, 81559 * 2**20),
        Gpu("1", "NVIDIA H100 80GB HBM3", None, None, 81559 * 2**20),
    )
    assert parse_gpus("No devices were found\n") == parse_gpus("") == ()


def test_gpus_of_this_machine(tmp_path, monkeypatch, reader):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_gpus() == ()
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\ncase $1 in --query-gpu=index,name,*) printf '{GPUS}';; *) exit 2;; esac\n")
    tool.chmod(0o755)
    found = told(reader)
    assert found["segcal_gpu_utilization_ratio", "0", "NVIDIA H100 80GB HBM3"] == 0.87
    assert ("segcal_gpu_utilization_ratio", "1", "NVIDIA H100 80GB HBM3") not in found
    assert found["segcal_gpu_memory_used_bytes", "0", "NVIDIA H100 80GB HBM3"] == 40960 * 2**20
    tool.write_text("#!/bin/sh\necho NVIDIA-SMI has failed; exit 9\n")
    assert read_gpus() == ()
    tool.write_text("no program")
    tool.chmod(0o755)
    assert read_gpus() == ()


def test_disks_of_home_and_records(sweep, reader):
    found = told(reader)
    for place in ("home", "records"):
        assert 0 < found["segcal_disk_free_bytes", place] < found["segcal_disk_size_bytes", place]


def test_requests_are_counted_by_template_and_never_by_path(app, web, tmp_path):
    @app.get("/cases/{case_id}")
    def case(case_id: str):
        return {"case": case_id} if case_id != "bad" else 1 / 0

    @app.get("/events")
    def events():
        return StreamingResponse(iter(["a", "b"]))

    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "a.css").write_text("")
    app.mount("/assets", StaticFiles(directory=tmp_path / "assets"))
    for index in range(20):
        assert web.get(f"/cases/secret-{index}").status_code == 200
        assert web.get(f"/secret-{index}").status_code == 404
        assert web.get(f"/assets/secret-{index}").status_code == 404
    assert web.get("/cases/bad").status_code == 500
    assert web.request("SECRET", "/cases/1").status_code == 405
    assert web.get("/assets/a.css").status_code == 200
    assert web.get("/events").text == "ab"
    text = scraped(web)
    assert "secret" not in text.lower()

    def count(method, route, status):
        return value(text, "segcal_http_requests_total", method=method, route=route, status=status)

    assert count("GET", "/cases/{case_id}", "200") == 20
    assert count("GET", "/cases/{case_id}", "500") == 1
    assert count("other", "/cases/{case_id}", "405") == 1
    assert count("GET", "(none)", "404") == 20
    assert count("GET", "/assets/{path}", "404") == 20
    assert count("GET", "/assets/{path}", "200") == count("GET", "/events", "200") == 1
    assert value(text, "segcal_http_request_seconds_count", method="GET", route="/cases/{case_id}") == 21
    assert value(text, "segcal_http_requests_in_flight") == 1  # the scrape


def test_analyses_on_their_way(app, web):
    recorder = app.state.metrics
    for state in ("queued", "running", "running", "finished", "finished"):
        recorder.analysis("a", state)
    for state in ("queued", "cancelled"):
        recorder.analysis("b", state)
    recorder.analysis("c", "queued")
    recorder.analysis("d", "running")
    recorder.analysis("e", "failed")  # never begun: of an earlier service
    recorder.prediction("failed")
    text = scraped(web)
    ended = {key[1][1]: number for key, number in samples(text).items() if key[0] == "segcal_analyses_ended_total"}
    assert ended == {"finished": 1, "failed": 0, "cancelled": 1}
    assert [value(text, "segcal_analyses", state=state) for state in ("queued", "running")] == [1, 1]
    assert 0 < value(text, "segcal_analysis_oldest_queued_seconds") < 60
    assert value(text, "segcal_analysis_seconds_count") == 1
    assert value(text, "segcal_predictions_total", outcome="failed") == 1
    recorder.analysis("c", "running")
    assert value(scraped(web), "segcal_analysis_oldest_queued_seconds") == 0


def test_a_tracking_store_that_is_away(reader):
    class Away:
        def search_experiments(self, max_results):
            raise ConnectionError("away")

    assert value(Metrics(Answering(), reader).exposition().decode(), "segcal_tracking_up") == 1
    assert value(Metrics(Away(), reader).exposition().decode(), "segcal_tracking_up") == 0


def test_a_scrape_does_not_wait_for_what_hangs(sweep, reader):
    release = threading.Event()

    class Hanging:
        def search_experiments(self, max_results):
            release.wait(30)

    class HangingReader(SweepReader):
        calls = 0

        def read(self):
            type(self).calls += 1
            if self.calls > 1:
                release.wait(30)
            return super().read()

    found = Metrics(Hanging(), HangingReader(reader.uri), every_s=0.0, wait_s=0.3)
    try:
        found.exposition()
        while HangingReader.calls < 2:
            began = time.monotonic()
            text = found.exposition().decode()
            assert time.monotonic() - began < 5
    finally:
        release.set()
    assert value(text, "segcal_tracking_up") == 0
    assert value(text, "segcal_tracking_answer_seconds") > 0.2
    assert value(text, "segcal_sweep_trials", experiment="tiny", recipe="ce", state="waiting") == 3  # as it was last
    assert value(text, "segcal_sweep_read_age_seconds") > 0.2


def test_scrapes_within_some_seconds_share_a_reading(reader, monkeypatch):
    calls = []
    monkeypatch.setattr(SweepReader, "read", lambda self, read=SweepReader.read: calls.append(1) or read(self))
    found = Metrics(Answering(), reader)
    for _ in range(5):
        found.exposition()
    assert len(calls) == 1


def test_every_application_has_a_registry_of_its_own(reader):
    names = {family.name for family in prometheus_client.REGISTRY.collect()}
    one, two = Metrics(Answering(), reader), Metrics(Answering(), reader)
    one.prediction("finished")
    assert value(two.exposition().decode(), "segcal_predictions_total", outcome="finished") == 0
    assert not {name for name in names if name.startswith("segcal")}


def test_the_service_counts_by_its_templates_and_asks_for_its_token(trained):
    token = "0123456789abcdef"
    web = TestClient(create_app(Settings(trained[0], token=token)), "http://127.0.0.1")
    assert (
        web.get("/metrics").status_code == web.get("/metrics", headers={"authorization": "Bearer x"}).status_code == 401
    )
    web.headers["authorization"] = f"Bearer {token}"
    assert web.get("/v1/analyses/0123456789abcdef0123456789abcdef").status_code == 404
    assert web.get("/experiments/tiny").status_code == 200
    assert web.get("/assets/secret").status_code == 404
    text = scraped(web)

    def count(route, status):
        return value(text, "segcal_http_requests_total", method="GET", route=route, status=status)

    assert count("(none)", "401") == 2
    assert count("/v1/analyses/{analysis_id}", "404") == 1
    assert count("/experiments/{experiment:path}", "200") == 1
    assert count("/assets/{path}", "404") == 1
    assert "secret" not in text
    assert value(text, "segcal_tracking_up") == 1
