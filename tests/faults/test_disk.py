"""The disk is full: in a small file system of the test's own."""

import contextlib
import os
import shutil
import subprocess

import pytest

from segcal.journal.reading import records
from tests.faults.conftest import SETTINGS
from tests.faults.sweeps import Sweep


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 12 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", folder]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small file system needs the right to mount one: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder):
    """Take all that is left."""
    with contextlib.suppress(OSError), (folder / "ballast").open("wb") as file:
        while True:
            file.write(os.urandom(4096))
            file.flush()


@pytest.mark.fault
@pytest.mark.parametrize("what", ["records", "records and mlflow.db"])
def test_a_full_disk_leaves_nothing_that_looks_complete(
    tmp_path, small_disk, tiny_files, blobs, reference, count, what
):
    uri = f"sqlite:///{small_disk / 'mlflow.db'}" if "mlflow" in what else None
    sweep = Sweep(tmp_path / "sweep", tiny_files[1], blobs, SETTINGS, uri=uri)
    sweep.records = small_disk / "records"
    sweep.argv[sweep.argv.index("--storage") + 1] = str(sweep.records)
    sweep.environment["SEGCAL_TEST_GRACE"] = "3"
    driver = sweep.start()
    sweep.wait_for(lambda: len(sweep.noted("end")) >= 1 and len(sweep.noted("epoch")) > 60)
    fill(small_disk)
    assert shutil.disk_usage(small_disk).free < 8192
    _, said = driver.communicate(timeout=300)
    assert driver.returncode in (3, 5), said
    assert "Traceback" not in said
    whole = sweep.hashes()  # verifies each against its file
    assert whole.items() < reference.items()
    (small_disk / "ballast").unlink()
    assert sweep.run() == 0, sweep.said
    assert sweep.hashes() == sweep.registered() == reference
    assert sweep.metrics() == (0, 0, 0)
    assert sweep.retrained() == 0
    assert {record.state for record in records(sweep.storage).values()} == {"finished"}
    assert sweep.statuses()["RUNNING"] == 0
    count(5, f"disk of {what} full", f"{len(whole)} looked complete and were; {len(reference)} finished afterwards")
