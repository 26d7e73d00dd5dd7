"""The driver dies."""

import random
import signal
import time

import pytest

from segcal.journal.lease import NAME
from tests.faults.sweeps import alive, kill_group


def check(sweep, reference, count, fault):
    """What must hold once a disturbed sweep has ended well."""
    assert sweep.hashes() == reference
    assert sweep.registered() == reference
    assert sweep.retrained() == 0
    assert sweep.executed() <= 1.5
    assert sweep.metrics() == (0, 0, 0)
    assert set(sweep.statuses()) <= {"FINISHED", "KILLED"}
    assert not sweep.storage.has(NAME)
    count(1, fault, f"{sweep.retrained()} of {len(reference)} finished trials retrained, 0 lost")
    count(2, fault, f"{len(reference)} of {len(reference)} weight hashes equal")
    count(3, fault, f"{sweep.executed():.2f}x the epochs")
    count(7, fault, f"{sweep.statuses()['RUNNING']} runs RUNNING")


def killed_at_random(sweep, kills, rng, longest_s):
    """Start the driver and kill it after a random time; each time its helpers and workers must be gone soon."""
    began = 0
    for _ in range(kills):
        process = sweep.start()
        time.sleep(rng.uniform(0.5, longest_s))
        kill_group(process)
        starts = sweep.noted("start")
        for _, _, pid in starts[began:]:
            sweep.wait_for(lambda pid=pid: not alive(int(pid)), 30)
        began = len(starts)


def test_killed_in_the_middle_once(sweep, reference, count):
    process = sweep.start()
    sweep.wait_for(lambda: len(sweep.noted("end")) >= 2 and len(sweep.noted("start")) > len(sweep.noted("end")))
    kill_group(process)
    assert sweep.statuses()["RUNNING"] >= 1
    assert sweep.run("--reconcile") == 0, sweep.said
    assert sweep.statuses()["RUNNING"] == 0
    assert sweep.metrics() == (0, 0, 0)
    assert sweep.run() == 0, sweep.said
    check(sweep, reference, count, "SIGKILL of the driver, then --reconcile")


@pytest.mark.fault
def test_killed_at_20_random_moments(sweep, reference, count):
    killed_at_random(sweep, 20, random.Random(6), 24.0)
    assert sweep.run() == 0, sweep.said
    check(sweep, reference, count, "SIGKILL of the driver at 20 random moments")


@pytest.mark.fault
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_puts_everything_away_and_says_how_to_go_on(sweep, reference, count, number):
    process = sweep.start()
    sweep.wait_for(lambda: len(sweep.noted("epoch")) > 20)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "the same command goes on where it stopped" in said
    assert sweep.statuses()["RUNNING"] == 0
    assert sweep.metrics() == (0, 0, 0)
    assert sweep.run() == 0, sweep.said
    assert sweep.executed() == 1  # not one epoch is trained twice
    check(sweep, reference, count, f"{number.name} of the driver")
