import os
import subprocess
import sys

from segcal.learn.allocator import ALLOCATOR, hand_on


def test_processes_started_later_inherit_it_and_the_user_comes_first(monkeypatch):
    for name in ALLOCATOR:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MALLOC_ARENA_MAX", "7")
    hand_on()
    code = f"import os; print([os.environ[name] for name in {list(ALLOCATOR)}])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == str([{**ALLOCATOR, "MALLOC_ARENA_MAX": "7"}[name] for name in ALLOCATOR])
    for name in ALLOCATOR:
        os.environ.pop(name)
