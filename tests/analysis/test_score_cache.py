import random
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from segcal.analysis.score_cache import ScoreCache
from segcal.measure.case import CaseScores, columns

FULL = [False, True, True]


@pytest.fixture
def cache(tmp_path, gland):
    return ScoreCache(tmp_path, gland, "cpu")


@pytest.fixture
def computed(gland):
    rng = np.random.default_rng(0)
    metrics = {name: rng.random(3) for name in columns(gland)}
    return CaseScores(
        metrics, rng.random((2, 2, 10, 3)), rng.random((2, 2, 2, 10, 3)), rng.integers(0, 9, (2, 1, 60)).astype(float)
    )


@pytest.fixture
def keys(cache):
    return [cache.key([f"m{i}"], "", full, False) for i, full in enumerate(FULL)]


def files(cache, tmp_path):
    return sorted(path for path in tmp_path.rglob("*") if path.is_file())


def same(a, b):
    parts = ("metrics", "top", "classwise", "segments")
    return all(np.array_equal(getattr(a, part), getattr(b, part)) for part in parts)


def test_what_was_written_is_read(cache, computed, keys, tmp_path):
    cache.write("c", keys, FULL, computed)
    found = cache.read("c")
    assert list(found) == keys
    for s, key in enumerate(keys):
        np.testing.assert_array_equal(found[key].metrics, [values[s] for values in computed.metrics.values()])
    assert (found[keys[0]].top, found[keys[0]].classwise, found[keys[0]].segments) == (None, None, None)
    for row, key in enumerate(keys[1:]):  # bins are of the full subsets, in their order
        np.testing.assert_array_equal(found[key].top, computed.top[row])
        np.testing.assert_array_equal(found[key].classwise, computed.classwise[row])
        np.testing.assert_array_equal(found[key].segments, computed.segments[row])
    assert [path.suffix for path in files(cache, tmp_path)] == [".npz"]
    assert cache.read("another case") == {}


def test_several_computations_of_a_case_are_read_together(cache, computed, keys):
    cache.write("c", keys, FULL, computed)
    more = cache.key(["m9"], "", False, False)
    part = CaseScores(
        {k: v[:1] for k, v in computed.metrics.items()}, computed.top[:0], computed.classwise[:0], computed.segments[:0]
    )
    cache.write("c", [more], [False], part)
    assert set(cache.read("c")) == {*keys, more}


def test_a_key_is_of_the_members_in_any_order_the_reading_and_what_is_asked_for(cache):
    key = cache.key(["a", "b"], "", True, False)
    assert cache.key(["b", "a"], "", True, False) == key
    others = [
        cache.key(["a"], "", True, False), cache.key(["a", "b", "b"], "", True, False),
        cache.key(["a", "b"], "raw_sum", True, False), cache.key(["a", "b"], "", False, False),
        cache.key(["a", "b"], "", True, True), cache.key(["a b"], "", True, False),
    ]  # fmt: skip
    assert len({key, *others}) == 7


def test_scores_of_other_rules_are_left_alone(cache, computed, keys, tmp_path, gland):
    cache.write("c", keys, FULL, computed)
    for changed in ({"box_margin_mm": 9.0}, {"box_margin_slices": 3}, {"labels": {1: "other"}}):
        other = ScoreCache(tmp_path, replace(gland, **changed), "cpu")
        assert other.read("c") == {}
        assert other.key(["m0"], "", True, False) != cache.key(["m0"], "", True, False)
    assert ScoreCache(tmp_path, gland, "cuda").read("c") == {}
    assert set(cache.read("c")) == set(keys)


def test_a_change_of_the_code_that_scores_is_seen(cache, computed, keys, tmp_path, gland, monkeypatch):
    cache.write("c", keys, FULL, computed)
    monkeypatch.setattr("segcal.analysis.score_cache.scoring_version", lambda: "another")
    assert ScoreCache(tmp_path, gland, "cpu").read("c") == {}


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"garbage" * 99, b"PK\x03\x04" + b"x" * 300, None])
def test_a_damaged_file_counts_as_absent(cache, computed, keys, tmp_path, content):
    cache.write("c", keys, FULL, computed)
    (path,) = files(cache, tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert cache.read("c") == {}
    cache.write("c", keys, FULL, computed)
    assert list(cache.read("c")) == keys


def test_an_archive_without_all_arrays_counts_as_absent(cache, computed, keys, tmp_path):
    cache.write("c", keys, FULL, computed)
    (path,) = files(cache, tmp_path)
    with np.load(path) as file:
        parts = dict(file)
    for lost in parts:
        with path.open("wb") as file:
            np.savez(file, **{name: array for name, array in parts.items() if name != lost})
        assert cache.read("c") == {}, lost
    for short in ("metrics", "top"):  # rows are lost
        with path.open("wb") as file:
            np.savez(file, **{name: array[:1] if name == short else array for name, array in parts.items()})
        assert cache.read("c") == {}, short
    with path.open("wb") as file:  # not an archive at all, though numpy reads it
        np.save(file, parts["metrics"])
    assert cache.read("c") == {}


def test_no_flipped_bit_is_trusted(cache, computed, keys, tmp_path):
    cache.write("c", keys, FULL, computed)
    (path,) = files(cache, tmp_path)
    whole, expected, rng = path.read_bytes(), cache.read("c"), random.Random(0)
    tail = len(whole) - 600  # the archive's directory is where a reader stumbles most
    for where in [rng.randrange(len(whole)) for _ in range(150)] + [
        rng.randrange(tail, len(whole)) for _ in range(350)
    ]:
        flipped = bytearray(whole)
        flipped[where] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        found = cache.read("c")
        assert not found or all(same(found[key], expected[key]) for key in keys), where


def test_an_interrupted_write_leaves_nothing(cache, computed, keys, tmp_path, monkeypatch):
    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("segcal.analysis.score_cache.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        cache.write("c", keys, FULL, computed)
    assert files(cache, tmp_path) == []


def test_a_picture_is_drawn_once(cache, tmp_path):
    drawn = []

    def draw():
        drawn.append(1)
        return np.arange(6.0).reshape(2, 3)

    first = cache.picture("c", ["a", "b"], 3, draw)
    again = cache.picture("c", ["b", "a"], 3, draw)
    np.testing.assert_array_equal(again, first)
    assert len(drawn) == 1
    for question in ((["a"], 3), (["a", "b"], 4)):
        cache.picture("c", *question, draw)
    cache.picture("d", ["a", "b"], 3, draw)
    assert len(drawn) == 4
    assert cache.read("c") == {}


def test_a_damaged_picture_is_drawn_again(cache, tmp_path):
    def draw():
        return np.full((40, 40), 0.25)

    cache.picture("c", ["a"], 0, draw)
    (path,) = files(cache, tmp_path)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for content in (b"", whole[:100], bytes(flipped), b"\0" * 100):
        path.write_bytes(content)
        np.testing.assert_array_equal(cache.picture("c", ["a"], 0, draw), draw())
        assert path.read_bytes() == whole
