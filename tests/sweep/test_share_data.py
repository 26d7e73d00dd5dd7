"""Prepared data reach a machine that shares nothing with the driver but the sweep's storage."""

import shutil

import numpy as np
import pytest

from segcal.data.prepared import MANIFEST
from segcal.errors import BadData
from segcal.journal.storage import Storage
from segcal.sweep.share_data import obtain, publish


@pytest.fixture
def shared(tmp_path):
    return Storage(f"file://{tmp_path}/shared/calib")


@pytest.fixture
def own(tmp_path, monkeypatch, cohort):
    """Where the prepared data come to lie on a machine that has none yet."""
    monkeypatch.setenv("SEGCAL_HOME", str(tmp_path / "elsewhere"))
    return tmp_path / "elsewhere" / "prepared" / cohort.digest


def same(found, cohort):
    assert (found.digest, found.counts()) == (cohort.digest, cohort.counts())
    for split in ("train", "val", "test"):
        for mine, theirs in zip(found.cases(split), cohort.cases(split), strict=True):
            assert mine.case_id == theirs.case_id
            np.testing.assert_array_equal(mine.image, theirs.image)
            np.testing.assert_array_equal(mine.truth, theirs.truth)


def test_what_the_driver_published_is_fetched_once(shared, own, cohort, monkeypatch):
    publish(cohort, shared)
    found = obtain(cohort.digest, None, shared)
    assert found.folder == own
    same(found, cohort)
    assert [path.name for path in own.parent.iterdir() if path.is_dir()] == [cohort.digest]
    monkeypatch.setattr(Storage, "download", None)
    same(obtain(cohort.digest, None, shared), cohort)


def test_where_the_drivers_folder_is_seen_nothing_is_fetched(shared, own, cohort):
    assert obtain(cohort.digest, cohort.folder, shared).folder == cohort.folder
    assert not own.exists()


def test_a_drivers_folder_that_is_not_seen_here_does_not_matter(shared, own, cohort, tmp_path):
    publish(cohort, shared)
    assert obtain(cohort.digest, tmp_path / "only there", shared).folder == own


def test_data_that_are_nowhere_are_asked_for_in_one_line(shared, own, cohort):
    with pytest.raises(BadData, match="give a --storage that all machines see") as caught:
        obtain(cohort.digest, None, shared)
    assert "\n" not in str(caught.value)
    assert not own.exists()


def test_what_was_published_in_part_is_not_there_and_published_again(shared, own, cohort, monkeypatch):
    uploads = []
    upload = Storage.upload

    def cut_short(self, source, name):
        if len(uploads) == 3:
            raise OSError(28, "No space left on device")
        uploads.append(name)
        upload(self, source, name)

    monkeypatch.setattr(Storage, "upload", cut_short)
    with pytest.raises(OSError, match="No space left"):
        publish(cohort, shared)
    with pytest.raises(BadData, match="must be seen by every machine"):
        obtain(cohort.digest, None, shared)
    monkeypatch.setattr(Storage, "upload", upload)
    publish(cohort, shared)
    same(obtain(cohort.digest, None, shared), cohort)
    monkeypatch.setattr(Storage, "upload", None)
    publish(cohort, shared)  # it is there: nothing is copied


def test_what_was_fetched_in_part_is_not_trusted_and_fetched_again(shared, own, cohort, monkeypatch):
    publish(cohort, shared)
    download, done = Storage.download, []

    def cut_short(self, name, target):
        download(self, name, target)
        done.append(name)
        if len(done) == 3:
            target.write_bytes(target.read_bytes()[:-7])
            raise OSError("the connection was lost")

    monkeypatch.setattr(Storage, "download", cut_short)
    with pytest.raises(OSError, match="connection was lost"):
        obtain(cohort.digest, None, shared)
    assert not own.exists()
    monkeypatch.setattr(Storage, "download", download)
    same(obtain(cohort.digest, None, shared), cohort)
    assert not own.with_name(f"{own.name}.partial").exists()


def test_damaged_shared_data_are_refused_and_fetched_again_once_they_are_whole(shared, own, cohort):
    publish(cohort, shared)
    prepared = shared.at("prepared", cohort.digest)
    name = next(name for name in prepared.names() if name.endswith(".image.npy"))
    content = prepared.read(name)
    prepared.write(name, content[:-7])
    with pytest.raises(BadData, match="damaged files"):
        obtain(cohort.digest, None, shared)
    prepared.write(name, content)
    same(obtain(cohort.digest, None, shared), cohort)


def test_own_data_that_lack_their_manifest_are_replaced(shared, own, cohort):
    publish(cohort, shared)
    shutil.copytree(cohort.folder, own)
    (own / MANIFEST).unlink()
    same(obtain(cohort.digest, None, shared), cohort)
