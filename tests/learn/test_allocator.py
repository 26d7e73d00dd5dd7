import os
import subprocess
import sys

import pytest

from segcal.learn.allocator import ALLOCATOR, handed_on


@pytest.fixture
def nothing_set(monkeypatch):
    for name in ALLOCATOR:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def libc(monkeypatch):
    """Says that the C library is another."""

    def choose(version):
        monkeypatch.setattr(os, "confstr", lambda name: version)

    return choose


def inherited():
    code = f"import os; print([os.environ.get(name) for name in {list(ALLOCATOR)}])"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_processes_started_meanwhile_inherit_it_and_the_user_comes_first(nothing_set, libc, monkeypatch):
    libc("glibc 2.36")
    monkeypatch.setenv("MALLOC_ARENA_MAX", "7")
    with handed_on():
        assert inherited() == str([*{**ALLOCATOR, "MALLOC_ARENA_MAX": "7"}.values()])
    assert inherited() == str(["7", None, None])


@pytest.mark.parametrize("version", ["glibc 2.31", "musl 1.2", None])
def test_a_library_that_would_refuse_it_gets_nothing(nothing_set, libc, version):
    libc(version)
    with handed_on():
        assert not any(name in os.environ for name in ALLOCATOR)
