"""What surrounds Ray, without starting it."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from segcal.cluster import ray_cluster, scratch
from segcal.errors import SegcalError


def test_a_scratch_folder_lasts_as_long_as_its_block():
    @scratch("test")
    def fail():
        raise KeyError

    with scratch("test") as folder:
        assert folder.is_dir()
        assert len(str(folder)) < 40  # sockets need a short path
    with pytest.raises(KeyError):
        fail()
    assert not folder.exists()
    assert not list(Path("/tmp").glob(f"segcal-test-{os.getpid()}-*"))


def test_folders_of_processes_that_are_gone_are_removed_and_others_stay():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left, other = (Path(tempfile.mkdtemp(prefix=f"segcal-test-{pid}-", dir="/tmp")) for pid in (gone.pid, os.getpid()))
    (left / "file").write_text("left by a process that was killed")
    try:
        with scratch("test"):
            assert not left.exists()
            assert other.exists()
    finally:
        other.rmdir()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (None, "Ray must start here, got: no memory; see the free memory and disk"),
        ("10.0.0.1:6379", "Ray must answer at 10.0.0.1:6379, got: no memory; see its address and RAY_AUTH_TOKEN_PATH"),
    ],
)
def test_a_ray_that_does_not_start_is_one_line_and_leaves_nothing(monkeypatch, address, message):
    import ray

    folders = []

    def fail(**options):
        folders.append(options.get("_temp_dir"))
        raise RuntimeError("no memory\nand many lines of its own")

    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    said = []
    with pytest.raises(SegcalError) as caught, ray_cluster(said.append, address):
        pass
    assert str(caught.value) == message
    assert said == [f"joining Ray at {address}" if address else "starting Ray"]
    assert not any(folder and Path(folder).exists() for folder in folders)
