"""A trial's own log: what it says and what it warns of, bounded, whatever happens."""

__all__ = ["LOG", "TrialLog"]

import contextlib
import io
import logging
import time
import warnings
from collections import deque
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")

LOG = "log.txt"
HEAD, TAIL = 64_000, 192_000  # characters kept of the beginning and of the end


class TrialLog(io.TextIOBase):
    """Takes text; gives it back with its middle left out where it grew too long."""

    def __init__(self, before: str = "") -> None:
        self._head, self._tail, self._tail_length, self._left_out = "", deque[str](), 0, 0
        self.write(before)

    def write(self, text: str) -> int:
        """Keep a text, as a stream does; the middle of what is too long is left out. Returns its length."""
        room = HEAD - len(self._head)
        self._head += text[:room]
        rest = text[room:]
        if rest:
            self._tail.append(rest[-TAIL:])
            self._tail_length += len(self._tail[-1])
            self._left_out += len(rest) - len(self._tail[-1])
        while self._tail_length - len(self._tail[0] if self._tail else "") >= TAIL:
            gone = self._tail.popleft()
            self._tail_length -= len(gone)
            self._left_out += len(gone)
        return len(text)

    def say(self, text: str) -> None:
        """A line with the time."""
        self.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    @property
    def text(self) -> str:
        """What was kept, and how much was left out."""
        middle = f"\n... {self._left_out} characters left out ...\n" if self._left_out else ""
        return self._head + middle + "".join(self._tail)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """What is printed, logged and warned of in this block is kept here."""
        handler = logging.StreamHandler(self)
        root = logging.getLogger()
        root.addHandler(handler)
        try:
            with contextlib.redirect_stdout(self), contextlib.redirect_stderr(self), warnings.catch_warnings():
                warnings.showwarning = lambda message, category, file, line, *more: self.say(
                    f"{category.__name__}: {message} ({file}:{line})"
                )
                yield
        finally:
            root.removeHandler(handler)

    def during(self, steps: Iterator[T]) -> Iterator[T]:
        """The same steps; what is printed, logged and warned of in each of them is kept here.

        Nothing is redirected between two of them: several trainings of one process may take turns.
        """
        while True:
            with self.listening():
                try:
                    step = next(steps)
                except StopIteration:
                    return
            yield step
