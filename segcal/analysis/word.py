"""Who computes a report, told to its run for as long as he lives: how far it is, and that it is not left.

The command line and the service say the same, so that neither computes what the other does, and what a dead one left
is found.
"""

__all__ = ["Word", "me", "progress_of"]

import json
import threading
import time
from dataclasses import asdict
from typing import Any

from segcal.journal import lease
from segcal.ledger.report_run import tell_report
from segcal.ledger.store import Store, is_away

TELL_S, ALIVE_S = 1.0, 15.0  # between two words, at least; and at most, as a sign of life


class Word:
    """Tells a run how far its report is: the newest word, once a second at most, and that it lives."""

    def __init__(self, client: Store, run_id: str, holder: str) -> None:
        self._client, self._run_id, self._holder = client, run_id, holder
        self._lock, self._changed, self._over = threading.Lock(), threading.Event(), threading.Event()
        self._word: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._tell, name="segcal-word", daemon=True)

    def __enter__(self) -> "Word":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._changed.set()
        self._thread.join(5)

    def say(self, line: str) -> None:
        """A line of what it does."""
        with self._lock:
            self._word["line"] = line
        self._changed.set()

    def progress(self, what: str, done: int, total: int, name: str) -> None:
        """See segcal.progress."""
        with self._lock:
            self._word |= {"what": what, "done": done, "total": total, "name": name}
        self._changed.set()

    def _tell(self) -> None:
        while not self._over.is_set():
            with self._lock:
                word = dict(self._word)
            self._changed.clear()
            try:
                tell_report(self._client, self._run_id, word | progress_of(self._holder, "running"))
            except Exception as error:  # of a store that is away: the next word may be heard
                if not is_away(error):
                    raise
            self._over.wait(TELL_S)
            self._changed.wait(ALIVE_S)


def me() -> str:
    """This process, in the words of a lease."""
    return json.dumps(asdict(lease.this_process()))


def progress_of(holder: str, state: str) -> dict[str, Any]:
    """What is told with every word: who computes it, and when that was said."""
    return {"state": state, "holder": holder, "at": round(time.time(), 1)}
