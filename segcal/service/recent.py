"""Answers that many ask for at the same time, read once."""

__all__ = ["Recent"]

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

T = TypeVar("T")
LIMIT = 1000  # answers


class Recent:
    """Answers by key, each read once and good for `seconds`. What `read` raises is raised and not kept."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._answers: dict[str, tuple[float, Any]] = {}
        self._reading: dict[str, threading.Lock] = {}

    def get(self, key: str, read: Callable[[], T]) -> T:
        """The answer: a recent one, or that of the one reader who asks for it now."""
        with self._lock:
            reading = self._reading.setdefault(key, threading.Lock())
        with reading:
            made, answer = self._answers.get(key, (float("-inf"), None))
            if time.monotonic() - made < self._seconds:
                return cast(T, answer)
            began = time.monotonic()  # what changes while it is read may not be in it
            try:
                answer = read()
            except Exception:
                self._reading.pop(key, None)
                raise
            with self._lock:
                self._answers[key] = began, answer
                while len(self._answers) > LIMIT:
                    oldest = next(iter(self._answers))
                    del self._answers[oldest]
                    self._reading.pop(oldest, None)
            return answer

    def forget(self, key: str) -> None:
        """What has changed is read anew."""
        with self._lock:
            self._answers.pop(key, None)
