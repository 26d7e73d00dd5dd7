"""Ways that run in processes of their own, because their environment and their threads are their own.

segcal's ways get the environment that its sweeps and reports give to their processes (`segcal.learn.allocator`); the
plain ways get what a user's shell would give them.
"""

__all__ = ["Way", "opened"]

import contextlib
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from segcal.learn.allocator import ALLOCATOR

PROJECT = Path(__file__).parents[1]
PLAIN = "plain"  # names that begin so are ways a user would write


class Way:
    """A process that does one thing as often as it is asked to, on these cores.

    maker: "module:function" whose result, for these arguments, is what is done once.
    """

    def __init__(self, name: str, maker: str, arguments: Mapping[str, Any], cores: Sequence[int]) -> None:
        words = [sys.executable, "-m", "benchmarks.processes", maker, json.dumps(arguments), json.dumps(list(cores))]
        environment = os.environ | ({} if name.startswith(PLAIN) else ALLOCATOR)
        self._process = subprocess.Popen(
            words, cwd=PROJECT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if self._read() != "ready":
            self.close()
            raise SystemExit(f"the process of '{name}' must say ready, ended with {self._process.returncode}")

    def __call__(self, times: int = 1) -> float:
        """Do it some times; seconds."""
        self.begin(times)
        return self.end()

    def begin(self, times: int = 1) -> None:
        """Start and return at once."""
        assert self._process.stdin is not None
        print(times, file=self._process.stdin, flush=True)

    def end(self) -> float:
        """Wait for what was begun; seconds."""
        return float(self._read())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextlib.contextmanager
def opened(
    names: Sequence[str], maker: str, arguments: Mapping[str, Any], cores: Sequence[int] | None = None
) -> Iterator[dict[str, Way]]:
    """A process for each name, which is the maker's first argument; all on these cores, or on the same one."""
    cores = cores or [min(os.sched_getaffinity(0))]
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(contextlib.closing(Way(name, maker, {"way": name, **arguments}, cores)))
            for name in names
        }


def main() -> None:
    """Does it when a line says how often, answers with the seconds, until there are no more lines."""
    maker, arguments, cores = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(len(cores))
    module, _, function = maker.partition(":")
    once = getattr(importlib.import_module(module), function)(**arguments)
    once()
    print("ready", flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        for _ in range(int(line)):
            once()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main()
