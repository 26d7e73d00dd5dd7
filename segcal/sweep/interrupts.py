"""Ctrl-C and SIGTERM, as wishes first and orders then."""

__all__ = ["Interrupts"]

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator

GRACE_S = 15.0  # for trials that are asked to stop: an epoch that takes longer is lost


class Interrupts:
    """Ctrl-C or SIGTERM asks the trials to stop; a second one does not wait for them."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self.asked, self._since = say, threading.Event(), 0.0

    def ask(self, why: str) -> None:
        """Ask once."""
        if not self.asked.is_set():
            self._since = time.monotonic()
            self.asked.set()
            self._say(f"{why}: trials stop after their epoch, {GRACE_S:.0f} s at most; once more: at once")

    @property
    def waited(self) -> bool:
        """Whether trials have had the time to stop."""
        return self.asked.is_set() and time.monotonic() - self._since > GRACE_S

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals in this block; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def give_back() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        def heard(number: int, frame: object) -> None:
            give_back()
            for again in before:
                signal.signal(again, signal.default_int_handler)
            self.ask(f"{signal.Signals(number).name} received")

        for number in before:
            signal.signal(number, heard)
        try:
            yield
        finally:
            give_back()
