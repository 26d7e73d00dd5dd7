"""A trial's process dies, or the trial itself is bad."""

import os
import random
import signal
import threading
import time

import pytest

from segcal.journal.checkpoint import state_files
from segcal.journal.reading import records, trial_storage
from segcal.ledger.names import tag
from segcal.ledger.store import open_store
from tests.faults.sweeps import Sweep, alive, kill_group
from tests.faults.test_driver import check


class Killer(threading.Thread):
    """Kills a trial's process now and then."""

    def __init__(self, sweep, kills, rng):
        super().__init__(daemon=True)
        self.sweep, self.left, self.rng, self.killed = sweep, kills, rng, 0

    def run(self):
        while self.left:
            time.sleep(self.rng.uniform(0.5, 4))
            begun = {int(pid): key for _, key, pid in self.sweep.noted("start")}
            ended = {(int(pid), key) for _, key, pid in self.sweep.noted("end")}
            working = [pid for pid, key in begun.items() if (pid, key) not in ended and alive(pid)]
            if working:
                os.kill(self.rng.choice(working), signal.SIGKILL)
                self.left, self.killed = self.left - 1, self.killed + 1


@pytest.mark.fault
def test_killed_processes_go_on_from_their_checkpoints(sweep, reference, count):
    killer = Killer(sweep, 6, random.Random(3))
    killer.start()
    assert sweep.run() == 0, sweep.said
    killer.left = 0
    assert killer.killed >= 3
    assert "its process died; it goes on from its last checkpoint" in sweep.said
    check(sweep, reference, count, f"SIGKILL of {killer.killed} trials")


@pytest.mark.fault
def test_bad_trials_stop_no_other(tmp_path, tiny_files, blobs, count):
    """NaN, an exception, a process that is killed each time, memory that is not there: each is FAILED and says why."""
    bad = {
        "nan": "{loss: soft_dice, lr: 1.0e30}",
        "raises": "{loss: soft_dice, smooth: 1001}",
        "dies": "{loss: soft_dice, smooth: 1002}",
        "greedy": "{loss: soft_dice, smooth: 1003}",
    }
    settings = ["seeds=1", "epochs=8", "patience=8", *(f"recipes.{name}={recipe}" for name, recipe in bad.items())]
    sweep = Sweep(tmp_path / "bad", tiny_files[1], blobs, settings)
    assert sweep.run("--json") == 3, sweep.said
    reasons = {record.config["label"]: (record.state, record.error) for record in records(sweep.storage).values()}
    assert reasons["ce"] == reasons["dice"] == ("finished", "")
    assert {reasons[name][0] for name in bad} == {"failed"}
    assert "the training loss must stay finite" in reasons["nan"][1]
    assert reasons["raises"][1] == "ValueError: made up by a test"
    assert reasons["dies"][1] == "its process died 4 times: killed, out of memory, or crashed"
    assert "MemoryError" in reasons["greedy"][1]
    client = open_store(sweep.uri)
    where = client.get_experiment_by_name(sweep.experiment).experiment_id
    runs = client.search_runs([where], f"tags.`{tag('kind')}` = 'trial'")
    told = {run.data.tags[tag("label")]: (run.info.status, run.data.tags.get(tag("error"), "")) for run in runs}
    assert told == {name: ("FAILED" if name in bad else "FINISHED", reasons[name][1]) for name in reasons}
    assert len(runs) == len(reasons)
    count(
        8,
        ", ".join(bad),
        f"exit 3; 4 FAILED with their reason, {len(reasons) - 4} of {len(reasons) - 4} others finished",
    )


@pytest.mark.fault
def test_a_damaged_checkpoint_and_a_damaged_record_are_set_aside_and_trained_again(sweep, reference, count):
    process = sweep.start()
    sweep.wait_for(lambda: len(sweep.noted("epoch")) > 30)
    kill_group(process)
    for _, _, pid in sweep.noted("start"):  # they write on until they notice
        sweep.wait_for(lambda pid=pid: not alive(int(pid)), 30)
    begun = [key for key, record in records(sweep.storage).items() if record.state == "running"]
    damaged = []
    for key in begun:
        trial = trial_storage(sweep.storage, key)
        path = trial.local / state_files(trial.names())[0].name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        damaged.append(path)
    (trial_storage(sweep.storage, begun[0]).local / "trial.json").write_text('{"format": 1, "key"')
    assert sweep.run() == 0, sweep.said
    assert f"trial {begun[0]}: its record was damaged: set aside as trial.json." in sweep.said
    for path in damaged:
        (aside,) = path.parent.glob(f"{path.name}.*.damaged")
        assert aside.name in (path.parent / "log.txt").read_text()
    assert sweep.hashes() == sweep.registered() == reference
    assert sweep.metrics() == (0, 0, 0)
    count(2, "damaged checkpoints and a damaged record", f"{len(reference)} of {len(reference)} weight hashes equal")
