"""The tracking server goes away: for longer than a client retries, in the middle of a batch, for good."""

import random
import time

import pytest

from tests.faults.sweeps import Sweep

SETTINGS = ["seeds=4", "epochs=60", "patience=60"]


@pytest.fixture
def server(request, tracking_server):
    """The server, running again after the test."""
    yield tracking_server
    tracking_server.start()


@pytest.fixture
def served(tmp_path, tiny_files, blobs, server):
    return Sweep(tmp_path / "served", tiny_files[1], blobs, SETTINGS, uri=server.uri)


def told_once(sweep, count, fault, kind):
    hashes = sweep.hashes()
    assert len(hashes) == 8
    assert sweep.registered() == hashes
    missing, doubled, wrong = sweep.metrics()
    assert (missing, doubled, wrong) == (0, 0, 0)
    assert set(sweep.statuses()) <= {"FINISHED", "KILLED"}
    values = sum(len(sweep.noted(word)) for word in ("epoch",)) * 7
    count(4, f"{kind}: {fault}", f"{missing} of some {values} values missing, {doubled} doubled")


def kind_of(server):
    return "PostgreSQL" if "postgres" in server.database else "SQLite"


@pytest.mark.fault
def test_away_for_a_while_and_back(served, server, count):
    driver = served.start()
    served.wait_for(lambda: len(served.noted("epoch")) > 40)
    server.stop()
    ended = len(served.noted("end"))
    time.sleep(20)
    assert len(served.noted("end")) > ended  # trials go on, begin and end while nothing answers
    server.start()
    _, said = driver.communicate(timeout=300)
    assert driver.returncode == 0, said
    assert "the tracking store does not answer" in said
    assert "the tracking store answers again" in said
    told_once(served, count, "stopped for 20 s", kind_of(server))


@pytest.mark.fault
def test_killed_again_and_again_in_the_middle_of_what_it_does(served, server, count):
    rng, kills = random.Random(8), 0
    driver = served.start()
    served.wait_for(lambda: len(served.noted("epoch")) > 10)
    while driver.poll() is None and kills < 6:
        time.sleep(rng.uniform(0.2, 3))
        server.stop()
        kills += 1
        server.start()
    _, said = driver.communicate(timeout=300)
    assert driver.returncode == 0, said
    told_once(served, count, f"killed {kills} times at random", kind_of(server))


@pytest.mark.fault
def test_away_until_all_is_trained_and_told_another_day(served, server, count):
    served.environment["SEGCAL_TEST_GRACE"] = "3"
    driver = served.start()
    served.wait_for(lambda: len(served.noted("epoch")) > 40)
    server.stop()
    _, said = driver.communicate(timeout=300)
    assert driver.returncode == 5, said
    assert "call `segcal sweep --reconcile` when that is over" in said
    assert len(served.hashes()) == 8
    assert served.run() == 5  # nothing is begun without a server
    server.start()
    assert served.run("--reconcile") == 0, served.said
    told_once(served, count, "away to the end, then --reconcile", kind_of(server))
    assert served.run() == 0
    assert len(served.noted("end")) == 8
