"""A service that is killed in the middle of an analysis loses nothing."""

import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from segcal.ledger.report_run import find_reports
from segcal.ledger.store import open_store
from tests.service.serving import Serving


@pytest.fixture
def serve(trained, tmp_path):
    made = []

    def start(*arguments):
        made.append(Serving(trained[0], tmp_path, *arguments))
        return made[-1]

    yield start
    for service in made:
        service.close()


def ask(service, resamples):
    answer = service.client.post("/v1/analyses", json={"experiment": "tiny", "resamples": resamples})
    assert answer.status_code == 202, answer.text
    return answer.json()


def heard(service, analysis_id):
    """Events of an analysis until the stream ends."""
    with service.client.stream("GET", f"/v1/analyses/{analysis_id}/events", timeout=120) as answer:
        return [line.removeprefix("event: ") for line in answer.iter_lines() if line.startswith("event: ")]


def test_a_killed_service_is_followed_by_one_that_finishes_its_work(serve, trained):
    client = open_store(trained[0])
    first = serve()
    with ThreadPoolExecutor(2) as pool:  # the same question twice, at the same moment
        asked = list(pool.map(lambda _: ask(first, 61), range(2)))
    assert asked[0]["id"] == asked[1]["id"]
    assert asked[0]["run_id"] == asked[1]["run_id"]
    waiting = ask(first, 62)
    first.wait(asked[0]["id"], "running")
    first.stop(signal.SIGKILL)
    for name in (asked[0]["id"], waiting["id"]):
        assert [run.status for run in find_reports(client, analysis_id=name)] == ["RUNNING"]

    second = serve()
    events = heard(second, asked[0]["id"])
    assert events[-1] == "end"
    assert set(events[:-1]) == {"progress"}
    assert second.wait(asked[0]["id"], "finished")["run_id"] == asked[0]["run_id"]
    assert second.client.get(f"/v1/analyses/{asked[0]['id']}/result").json()["n_resamples"] == 61
    cancelled = ask(second, 63)
    second.wait(waiting["id"], "finished")
    second.wait(cancelled["id"], "running")
    assert second.client.post(f"/v1/analyses/{cancelled['id']}/cancel").status_code == 202
    assert second.wait(cancelled["id"], "cancelled")["error"] is None
    left = ask(second, 64)
    listening = threading.Thread(target=heard, args=(second, left["id"]))
    listening.start()
    second.wait(left["id"], "running")
    assert second.stop(signal.SIGTERM) == 0
    listening.join(10)
    assert not listening.is_alive()

    runs = {name["id"]: find_reports(client, analysis_id=name["id"]) for name in (asked[0], waiting, cancelled, left)}
    assert [[run.status for run in found] for found in runs.values()] == [
        ["FINISHED"], ["FINISHED"], ["KILLED"], ["RUNNING"],
    ]  # fmt: skip
    client.delete_run(runs[left["id"]][0].run_id)
