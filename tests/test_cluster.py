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


def lost_by_ray():
    from ray.exceptions import OutOfMemoryError

    raise RuntimeError("the actor manager's own words") from OutOfMemoryError(
        "1 worker(s) were killed\nand a page more"
    )


def raised_by_a_task():
    from ray.exceptions import RayTaskError

    raise RayTaskError("score", "Traceback", ValueError("a defect"))


@pytest.mark.parametrize(
    ("happens", "error", "message"),
    [
        (
            lost_by_ray,
            SegcalError,
            r"keep its processes, got: 1 worker\(s\) were killed; what was done is kept",
        ),
        (raised_by_a_task, Exception, "Traceback"),
    ],
)
def test_processes_that_ray_loses_are_one_line_and_a_defect_is_not(monkeypatch, happens, error, message):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with pytest.raises(error, match=message) as raised, ray_cluster(lambda line: None):
        happens()
    assert isinstance(raised.value, SegcalError) == (happens is lost_by_ray)
    assert "\n" not in str(raised.value) or happens is raised_by_a_task
