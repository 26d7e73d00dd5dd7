"""Two drivers on one sweep."""

import os
import random
import time

import pytest

from segcal.journal.lease import holder_of
from tests.faults.sweeps import kill_group


@pytest.mark.fault
def test_the_second_says_who_holds_it_and_exits(sweep, count):
    first = sweep.start()
    sweep.wait_for(lambda: holder_of(sweep.storage))
    assert sweep.run() == 1
    (line,) = [line for line in sweep.said.splitlines() if line.startswith("segcal: ")]
    assert f"is held by process {first.pid} of " in line
    assert "Traceback" not in sweep.said
    kill_group(first)
    assert holder_of(sweep.storage) is not None  # the dead one still says that he holds it
    assert sweep.run("--reconcile") == 0, sweep.said
    assert f"process {first.pid} " in sweep.said
    assert "which is gone: going on" in sweep.said
    assert holder_of(sweep.storage) is None
    count(6, "a second driver is started", "exit 1, names process, user and host of the first")


@pytest.mark.fault
def test_of_drivers_that_start_together_one_works(sweep, reference, count):
    drivers = []
    for _ in range(3):
        drivers.append(sweep.start())
        time.sleep(random.Random(os.getpid()).uniform(0, 0.3))
    codes = []
    for driver in drivers:
        driver.communicate(timeout=600)
        codes.append(driver.returncode)
    assert sorted(codes) == [0, 1, 1]
    assert sweep.hashes() == sweep.registered() == reference
    assert len(sweep.noted("start")) == len(reference)
    assert sweep.metrics() == (0, 0, 0)
    count(6, "three drivers at once", f"exit {sorted(codes)}, {len(reference)} trainings of {len(reference)} trials")
