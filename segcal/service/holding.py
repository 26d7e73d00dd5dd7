"""Which service works on a run: a line in the run's progress, renewed as long as that service lives."""

__all__ = ["FREE", "Holding", "is_alive", "is_gone"]

import json
import time
from typing import Any

from segcal.journal import lease
from segcal.ledger.report_run import ReportRun

STALE_S = 60.0
FREE = ""  # said by a service that stopped in peace


class Holding:
    """Whose runs are. It is watched with this machine's clock whether a holder elsewhere still speaks."""

    def __init__(self, holder: str, stale_s: float = STALE_S) -> None:
        self.holder, self._stale_s = holder, stale_s
        self._heard: dict[str, tuple[Any, float]] = {}  # run id -> what was said when, and when it was heard

    def is_mine(self, run: ReportRun) -> bool:
        """Whether this service works on it."""
        return holder_of(run) == self.holder

    def is_left(self, run: ReportRun) -> bool:
        """Whether its holder is gone. Runs without a holder are none of ours: an earlier version's."""
        holder = holder_of(run)
        if holder is None or holder == self.holder:
            return False
        if holder == FREE:
            return True
        alive = is_alive(holder)
        if alive is not None:
            return not alive
        said, since = self._heard.setdefault(run.run_id, (run.progress.get("at"), time.monotonic()))
        if said != run.progress.get("at"):
            self._heard[run.run_id] = run.progress.get("at"), time.monotonic()
            return False
        return time.monotonic() - since > self._stale_s


def is_gone(holder: str) -> bool:
    """Whether it is known here that a holder's process is no more."""
    return holder == FREE or is_alive(holder) is False


def holder_of(run: ReportRun) -> str | None:
    """Who said last that he works on it, else who began it; None: nobody that can be asked."""
    if "holder" in run.progress:
        return str(run.progress["holder"])
    return run.holder or None


def is_alive(holder: str) -> bool | None:
    """Whether a holder's process lives; None where it cannot be asked from here."""
    try:
        return lease.is_alive(lease.Holder(**json.loads(holder)))
    except (ValueError, TypeError):  # of another version, or not ours
        return None
