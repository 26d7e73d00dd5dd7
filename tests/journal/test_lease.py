"""One driver a sweep: who lives is waited for, who is dead is not."""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import fsspec
import pytest

from segcal.errors import SweepHeld
from segcal.journal import lease as module
from segcal.journal.lease import Lease, holder_of, is_alive
from segcal.journal.storage import Storage


@pytest.fixture
def disk(tmp_path):
    return Storage(str(tmp_path / "sweep"))


@pytest.fixture(params=["disk", "memory://"])
def storage(request, tmp_path):
    if request.param == "disk":
        yield Storage(str(tmp_path / "sweep"))
        return
    root = f"memory://{uuid.uuid4().hex}"
    yield Storage(root)
    if fsspec.filesystem("memory").exists(root):
        fsspec.filesystem("memory").rm(root, recursive=True)


@pytest.fixture
def away(storage):
    """Leaves the lease of a driver on another machine."""
    lease = Lease.take(storage, print)
    mine = holder_of(storage)
    lease.release()
    holder = replace(mine, host="elsewhere", token="t", pid=4711, user="anna", since="2026-01-02 03:04:05")
    storage.write("lease.json", json.dumps(asdict(holder)).encode())
    return holder


def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_says_who_holds_and_leaves_nothing(storage):
    said = []
    lease = Lease.take(storage, said.append)
    holder = holder_of(storage)
    assert (holder.token, holder.pid, holder.host) == (lease.token, os.getpid(), platform.node())
    assert is_alive(holder) is True
    lease.release()
    assert (storage.names(), holder_of(storage), said) == ([], None, [])
    assert not lease.lost.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name == "segcal-lease"]


def test_a_second_driver_is_refused_in_one_line(storage):
    lease = Lease.take(storage, print)
    with pytest.raises(SweepHeld) as caught:
        Lease.take(storage, print)
    message, user = str(caught.value), holder_of(storage).user
    assert f"{storage.uri} is held by process {os.getpid()} of {user} on {platform.node()}, since " in message
    assert "\n" not in message
    assert caught.value.exit_code == 1
    assert holder_of(storage).token == lease.token
    lease.release()
    Lease.take(storage, print).release()


TAKE = """
import sys, time
from segcal.journal.lease import Lease
from segcal.journal.storage import Storage
Lease.take(Storage(sys.argv[1]), print)
print("taken", flush=True)
time.sleep(600)
"""


def test_a_driver_that_was_killed_is_replaced_at_once(disk):
    dead = subprocess.Popen([sys.executable, "-c", TAKE, disk.uri], stdout=subprocess.PIPE, text=True)
    try:
        assert dead.stdout.readline() == "taken\n"
        holder, said = holder_of(disk), []
        assert (holder.pid, is_alive(holder)) == (dead.pid, True)
        with pytest.raises(SweepHeld, match=f"process {dead.pid} of"):
            Lease.take(disk, said.append)
        dead.send_signal(signal.SIGKILL)
        until(lambda: is_alive(holder) is False)  # a zombie is dead too: nobody has waited for it yet
        lease = Lease.take(disk, said.append)
        assert said == [f"the sweep was held by {holder.told}, which is gone: going on"]
        lease.release()
    finally:
        dead.kill()
        dead.communicate()
    assert is_alive(holder) is False


def test_a_driver_in_another_container_of_this_machine_is_not_taken_for_dead(disk):
    apart = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable]
    if shutil.which("unshare") is None or subprocess.run([*apart, "-c", ""], capture_output=True).returncode:
        pytest.skip("no right to make a pid namespace")
    other = subprocess.Popen([*apart, "-c", TAKE, disk.uri], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "taken\n"
        assert is_alive(holder_of(disk)) is not False
    finally:
        other.kill()
        other.communicate()


def test_a_process_id_that_was_given_again_is_not_the_holder(disk):
    lease = Lease.take(disk, print)
    me = holder_of(disk)
    lease.release()
    assert is_alive(replace(me, born="1")) is False
    assert is_alive(replace(me, boot="another")) is None  # started anew since then, or a clone of this name
    assert is_alive(replace(me, host="elsewhere")) is None


def test_a_driver_elsewhere_that_renews_its_lease_is_left_alone(storage, away):
    said, stop = [], threading.Event()

    def renew():
        while not stop.wait(0.02):
            storage.touch("lease.json")

    renewing = threading.Thread(target=renew)
    renewing.start()
    try:
        with pytest.raises(SweepHeld, match="held by process 4711 of anna on elsewhere, since 2026-01-02 03:04:05"):
            Lease.take(storage, said.append, stale_s=30)
    finally:
        stop.set()
        renewing.join()
    assert said == [f"the sweep is held by {away.told}: watching for up to 30 s whether it lives"]
    assert holder_of(storage) == away


def test_a_driver_elsewhere_that_renews_nothing_is_replaced(storage, away):
    said = []
    lease = Lease.take(storage, said.append, stale_s=0.2)
    assert holder_of(storage).token == lease.token
    assert said[-1] == "it does not: going on in its place"
    lease.release()
    assert storage.names() == []


def test_a_driver_elsewhere_that_lets_go_is_waited_for_no_longer(storage, away):
    said = []
    letting_go = threading.Timer(0.1, storage.remove, ["lease.json"])
    letting_go.start()
    lease = Lease.take(storage, said.append, stale_s=30)
    letting_go.join()
    lease.release()
    assert len(said) == 1


def test_of_many_who_replace_the_same_driver_one_does(tmp_path):
    disk = Storage(str(tmp_path))
    disk.write("lease.json", json.dumps(asdict(replace(module.this_process(), host="elsewhere", token="t"))).encode())

    def take(_):
        try:
            return Lease.take(disk, lambda line: None, stale_s=0.3)
        except SweepHeld:
            return None

    with ThreadPoolExecutor(8) as pool:
        taken = [lease for lease in pool.map(take, range(8)) if lease]
    assert len(taken) == 1
    assert holder_of(disk).token == taken[0].token
    taken[0].release()


@pytest.mark.parametrize("content", [b"", b"no lease", b"[]", b"null", b"{}", b'{"token": 1}', b"\xff\xfe"])
def test_a_file_that_is_no_lease_is_watched_as_one_of_another_version(disk, content):
    disk.write("lease.json", content)
    said = []
    lease = Lease.take(disk, said.append, stale_s=0.1)
    assert "process 0 of unknown on unknown" in said[0]
    lease.release()
    assert disk.names() == []


def test_it_is_renewed_as_long_as_it_is_held(storage):
    lease = Lease.take(storage, print, beat_s=0.02)
    before = storage.modified("lease.json")
    until(lambda: storage.modified("lease.json") != before)
    lease.release()
    assert storage.names() == []


@pytest.mark.parametrize("how", ["taken", "removed"])
def test_it_is_lost_where_somebody_else_took_it(storage, how):
    lease = Lease.take(storage, print, beat_s=0.02)
    if how == "taken":
        other = replace(holder_of(storage), token="another")
        storage.write("lease.json", json.dumps(asdict(other)).encode())
    else:
        storage.remove("lease.json")
    assert lease.lost.wait(20)
    lease.release()
    assert storage.names() == (["lease.json"] if how == "taken" else [])  # what is another's stays


def test_a_storage_that_is_away_for_a_while_loses_nothing(disk, monkeypatch):
    beats = []

    def away(storage):
        beats.append(storage)
        if len(beats) < 4:
            raise OSError("away")
        return holder

    lease = Lease.take(disk, print, beat_s=0.01)
    holder = holder_of(disk)
    monkeypatch.setattr(module, "holder_of", away)
    until(lambda: len(beats) > 5)
    assert not lease.lost.is_set()
    monkeypatch.undo()
    lease.release()
    assert disk.names() == []


def test_a_store_that_cannot_create_is_written_and_looked_at(disk, monkeypatch):
    def cannot(self, name, data):
        raise NotImplementedError

    monkeypatch.setattr(Storage, "create", cannot)
    lease = Lease.take(disk, print)
    assert holder_of(disk).token == lease.token
    with pytest.raises(SweepHeld):
        Lease.take(disk, print)
    lease.release()


def test_a_driver_on_another_machine_of_this_name_that_lives_is_left_alone(storage, away):
    """As of nodes that all call themselves localhost: only the kernel's start tells them apart."""
    other, said, stop = replace(module.this_process(), boot="another kernel", token="t"), [], threading.Event()
    storage.write("lease.json", json.dumps(asdict(other)).encode())
    assert is_alive(other) is None

    def renew():
        while not stop.wait(0.02):
            storage.touch("lease.json")

    renewing = threading.Thread(target=renew)
    renewing.start()
    try:
        with pytest.raises(SweepHeld, match=f"held by process {other.pid} of"):
            Lease.take(storage, said.append, stale_s=30)
    finally:
        stop.set()
        renewing.join()
    assert said == [f"the sweep is held by {other.told}: watching for up to 30 s whether it lives"]
    assert holder_of(storage) == other


def test_a_driver_that_this_machine_was_started_anew_after_is_replaced_when_it_renews_nothing(storage, away):
    other, said = replace(module.this_process(), boot="before the last one", token="t"), []
    storage.write("lease.json", json.dumps(asdict(other)).encode())
    lease = Lease.take(storage, said.append, stale_s=0.2)
    assert (holder_of(storage).token, said[-1]) == (lease.token, "it does not: going on in its place")
    lease.release()
