"""How a driver asks its trials to stop, on whatever machine they run: by a file where their records are."""

__all__ = ["Pruned", "StopRequest", "Stopped", "ask_to_stop", "forget_stop"]

import platform
import time

from segcal.errors import BadData
from segcal.journal.lease import holder_of
from segcal.journal.storage import Storage

LOCAL_S, REMOTE_S = 0.5, 5.0  # between two looks of a trial


class Stopped(Exception):
    """The trial was told to stop, or must: it has put away all it needs to go on."""


class Pruned(Exception):
    """A search has found better recipes than the trial's; thrown into its training between two epochs."""


def ask_to_stop(sweep: Storage, lease: str) -> None:
    """Ask the trials of this driver to stop at the end of their epoch."""
    sweep.write(_name(lease), b"")


def forget_stop(sweep: Storage, lease: str) -> None:
    """Tidy up after the trials have ended."""
    sweep.remove(_name(lease))


class StopRequest:
    """A trial's side: `check` between two epochs."""

    def __init__(self, sweep: Storage, lease: str) -> None:
        self._sweep, self._lease, self._due = sweep, lease, 0.0
        self._every_s = LOCAL_S if sweep.local else REMOTE_S

    def check(self) -> None:
        """Raises Stopped where the driver asks for it, or another driver has taken the sweep.

        Raises BadData where this machine does not see the sweep's records.
        """
        if not self._lease or time.monotonic() < self._due:
            return
        self._due = time.monotonic() + self._every_s
        try:
            asked, holder = self._sweep.has(_name(self._lease)), holder_of(self._sweep)
            seen = holder is not None or bool(self._sweep.names())
        except OSError:  # a storage that is away for a while: looked at again later
            return
        if not seen:
            raise BadData(
                f"the sweep's records must be seen by every machine that trains, got nothing in {self._sweep.uri} on "
                f"{platform.node()}; give a --storage that all machines see"
            )
        if asked:
            raise Stopped("the sweep was stopped")
        if holder is None or holder.token != self._lease:
            raise Stopped("the sweep has another driver")


def _name(lease: str) -> str:
    return f"stop-{lease}"
