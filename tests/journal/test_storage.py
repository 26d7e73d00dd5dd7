"""A folder on a disk and one behind an fsspec URI keep the same promises."""

import errno
import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from segcal.journal.storage import Storage


@pytest.fixture(params=["local", "file://", "memory://"])
def storage(request, tmp_path):
    if request.param != "memory://":
        yield Storage(f"{request.param.removeprefix('local')}{tmp_path}/a/b")
        return
    root = f"memory://{uuid.uuid4().hex}"
    yield Storage(f"{root}/a/b")
    fsspec.filesystem("memory").rm(root, recursive=True)


@pytest.fixture
def disk(tmp_path):
    return Storage(str(tmp_path / "a"))


def test_what_is_written_is_read_and_replaced(storage):
    storage.write("x", b"first")
    storage.write("x", b"\x00second")
    storage.at("deeper").write("y", b"")
    assert (storage.read("x"), storage.at("deeper").read("y")) == (b"\x00second", b"")
    assert storage.names() == ["deeper", "x"]
    assert (storage.has("x"), storage.has("deeper"), storage.has("z")) == (True, True, False)


def test_what_is_not_there(storage):
    storage.write("x", b"")
    for folder in (storage, storage.at("none")):
        with pytest.raises(FileNotFoundError):
            folder.read("none")
        with pytest.raises(FileNotFoundError):
            folder.touch("none")
        with pytest.raises(FileNotFoundError):
            folder.modified("none")
        folder.remove("none")
        assert not folder.has("none")
    assert storage.at("none").names() == []


def test_a_file_is_created_once(storage):
    assert storage.create("x", b"mine")
    assert not storage.create("x", b"yours")
    assert storage.read("x") == b"mine"
    storage.remove("x")
    assert storage.create("x", b"yours")
    assert storage.names() == ["x"]


def test_files_are_lengthened_renamed_and_removed(storage):
    storage.write("x", b"1\n")
    storage.append("x", b"2\n")
    storage.append("new", b"3\n")
    storage.rename("x", "y")
    assert (storage.names(), storage.read("y"), storage.read("new")) == (["new", "y"], b"1\n2\n", b"3\n")
    storage.remove("y")
    assert storage.names() == ["new"]


def test_a_touched_file_has_another_time_and_the_same_content(storage):
    storage.write("x", b"content")
    before = storage.modified("x")
    assert storage.modified("x") == before
    storage.touch("x")
    assert storage.modified("x") != before
    assert storage.read("x") == b"content"


def test_large_files_are_carried_to_and_fro(storage, tmp_path):
    content = os.urandom(100_000)
    (tmp_path / "source").write_bytes(content)
    storage.upload(tmp_path / "source", "x")
    storage.download("x", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == content == storage.read("x")
    with pytest.raises(FileNotFoundError):
        storage.download("none", tmp_path / "other")


def test_what_another_process_wrote_is_seen(disk):
    other = Storage(disk.uri)
    assert disk.names() == []
    other.write("x", b"1")
    assert (disk.names(), disk.has("x"), disk.read("x")) == (["x"], True, b"1")


def test_it_can_be_handed_to_another_process(storage):
    import pickle

    storage.write("x", b"1")
    again = pickle.loads(pickle.dumps(storage))
    assert again == storage
    assert again.read("x") == b"1"


def test_where_it_is(tmp_path):
    assert Storage(str(tmp_path)).local == Storage(f"file://{tmp_path}/").local == tmp_path
    assert Storage("memory://a").local is None
    assert Storage("s3://bucket/a/").at("b", "c").uri == "s3://bucket/a/b/c"


@pytest.mark.parametrize("call", ["write", "create"])
def test_nothing_is_there_where_the_disk_is_full(disk, monkeypatch, call):
    disk.write("old", b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        getattr(disk, call)("new", b"half of it")
    with pytest.raises(OSError, match="No space left"):
        disk.write("old", b"new")
    monkeypatch.undo()
    assert os.listdir(disk.uri) == ["old"]  # what was being written is gone too
    assert disk.read("old") == b"old"


def test_a_file_has_its_name_when_it_has_reached_the_disk(disk, monkeypatch):
    """In this order: the content is synced, the name is given, the folder is synced."""
    disk.write("x", b"old")
    steps = []
    sync, replace = os.fsync, os.replace

    def synced(descriptor):
        steps.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).is_dir(), disk.read("x")))
        sync(descriptor)

    def replaced(source, target):
        steps.append(("name", Path(source).read_bytes(), Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    disk.write("x", b"new")
    assert steps == [("sync", False, b"old"), ("name", b"new", "x"), ("sync", True, b"new")]


def test_of_many_who_create_a_file_at_once_one_does(disk):
    together = Barrier(16)

    def create(index):
        together.wait()
        return disk.create("x", f"{index}".encode() * 1000)

    for _ in range(5):
        with ThreadPoolExecutor(16) as pool:
            done = list(pool.map(create, range(16)))
        assert done.count(True) == 1
        assert disk.read("x") == f"{done.index(True)}".encode() * 1000
        assert os.listdir(disk.uri) == ["x"]
        disk.remove("x")


def test_a_reader_never_sees_half_a_file(disk):
    contents = {bytes([value]) * 200_000 for value in range(20)}
    disk.write("x", next(iter(contents)))
    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(lambda: [disk.write("x", content) for content in contents])
        while not writing.done():
            assert disk.read("x") in contents
        writing.result()


class Overwriting(MemoryFileSystem):
    """An object store whose files cannot be lengthened: as in gcsfs, "ab" puts a new one in their place."""

    protocol = "overwriting"
    store, pseudo_dirs = {}, [""]

    def _open(self, path, mode="rb", **options):
        return super()._open(path, mode.replace("a", "w"), **options)


class Sulking(MemoryFileSystem):
    """An object store whose library raises errors of its own kind, where `error` is set."""

    protocol = "sulking"
    store, pseudo_dirs, error = {}, [""], None

    def __getattribute__(self, name):
        calls = ("ls", "cat_file", "pipe_file", "exists", "rm_file", "mv", "modified", "put_file", "get_file")
        if name in calls and (error := type(self).error):
            raise error
        return super().__getattribute__(name)


@pytest.fixture
def elsewhere():
    """A folder behind a file system of this test, by its class."""

    def at(system):
        fsspec.register_implementation(system.protocol, system, clobber=True)
        systems.append(system)
        return Storage(f"{system.protocol}://{uuid.uuid4().hex}")

    systems = []
    yield at
    for system in systems:
        system.error = None
        system.store.clear()


def test_a_store_that_overwrites_instead_of_appending_keeps_all(elsewhere):
    storage = elsewhere(Overwriting)
    with fsspec.open(f"{storage.uri}/direct", "wb") as file:
        file.write(b"1\n")
    with fsspec.open(f"{storage.uri}/direct", "ab") as file:
        file.write(b"2\n")
    assert storage.read("direct") == b"2\n"  # so does this one
    for line in (b"1\n", b"2\n", b"3\n"):
        storage.append("x", line)
    assert storage.read("x") == b"1\n2\n3\n"


class LibraryError(Exception):
    pass


def test_an_error_of_a_storages_own_library_is_an_os_error(elsewhere, tmp_path):
    storage = elsewhere(Sulking)
    storage.write("x", b"1")
    (tmp_path / "source").write_bytes(b"2")
    calls = [
        lambda: storage.names(),
        lambda: storage.read("x"),
        lambda: storage.has("x"),
        lambda: storage.write("x", b""),
        lambda: storage.create("y", b""),
        lambda: storage.append("x", b""),
        lambda: storage.remove("x"),
        lambda: storage.rename("x", "y"),
        lambda: storage.touch("x"),
        lambda: storage.modified("x"),
        lambda: storage.upload(tmp_path / "source", "y"),
        lambda: storage.download("x", tmp_path / "target"),
    ]
    for call in calls:
        Sulking.error = LibraryError("503")
        with pytest.raises(OSError, match="LibraryError: 503") as caught:
            call()
        assert isinstance(caught.value.__cause__, LibraryError)
        Sulking.error = NotImplementedError()  # what the store cannot do at all stays what it is
        with pytest.raises(NotImplementedError):
            call()
    Sulking.error = None
    assert storage.read("x") == b"1"
    with pytest.raises(FileNotFoundError):
        storage.read("none")
