import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segcal.journal.checkpoint import StateFile, pack, read_state, state_files, write_state
from segcal.journal.storage import Storage

STATE = {
    "net.w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "best.w": np.array([[np.nan, np.inf, -0.0]], dtype=np.float32),
    "generator.shuffling": np.arange(5, dtype=np.uint8),
    "training.best_epoch": np.array([3.0]),
    "net.steps": np.array(7, dtype=np.int64),
}


class Memory:
    """As much of a storage as a state needs."""

    def __init__(self):
        self.files = {}

    def write(self, name, data):
        self.files[name] = data

    def read(self, name):
        if name not in self.files:
            raise FileNotFoundError(name)
        return self.files[name]


def test_a_state_comes_back_bit_for_bit(tmp_path):
    storage = Storage(str(tmp_path))
    file = write_state(storage, 12, STATE)
    assert storage.names() == [file.name]
    assert file.name.startswith("state-000012-")
    assert state_files(storage.names()) == [file]
    found = read_state(storage, file)
    assert found.keys() == STATE.keys()
    for name, value in STATE.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
        assert found[name].tobytes() == value.tobytes()


@given(st.data())
def test_a_bit_that_is_flipped_anywhere_is_seen(data):
    storage = Memory()
    file = write_state(storage, 1, STATE)
    content = bytearray(storage.read(file.name))
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    storage.write(file.name, bytes(content))
    with pytest.raises(ValueError, match=f"{file.name} is damaged"):
        read_state(storage, file)


@given(st.data())
def test_a_state_that_is_cut_anywhere_is_seen(data):
    storage = Memory()
    file = write_state(storage, 1, STATE)
    content = storage.read(file.name)
    storage.write(file.name, content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(ValueError, match="is damaged"):
        read_state(storage, file)


def test_a_file_that_hashes_right_and_is_no_state():
    import hashlib

    digest = hashlib.sha256(b"something else").hexdigest()[:16]
    file = StateFile(f"state-000001-{digest}.safetensors", 1, digest)
    storage = Memory()
    storage.write(file.name, b"something else")
    with pytest.raises(ValueError):  # noqa: PT011  safetensors' own words
        read_state(storage, file)


def test_a_state_that_was_replaced():
    with pytest.raises(FileNotFoundError):
        read_state(Memory(), StateFile("state-000001-0123456789abcdef.safetensors", 1, "0123456789abcdef"))


def test_the_newest_comes_first_and_damaged_ones_only_where_asked_for():
    names = [f"state-{epoch:06d}-0123456789abcdef.safetensors" for epoch in (2, 10, 9)]
    aside = "state-000011-0123456789abcdef.safetensors.20260102T030405.damaged"
    others = ["trial.json", "weights.safetensors", "state-1-0123456789abcdef.safetensors", f".{names[0]}.1a2b3c4d"]
    assert [file.epoch for file in state_files([*names, *others, aside])] == [10, 9, 2]
    assert [file.epoch for file in state_files([*names, *others, aside], damaged=True)] == [11, 10, 9, 2]


def test_the_same_arrays_give_the_same_bytes():
    data, digest = pack(STATE)
    shuffled = dict(reversed(STATE.items()))
    assert pack({name: value.copy() for name, value in shuffled.items()}) == (data, digest)
    assert len(digest) == 64
    assert pack(STATE | {"net.steps": np.array(8, dtype=np.int64)})[1] != digest
