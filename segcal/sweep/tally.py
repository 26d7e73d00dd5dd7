"""What a running sweep's views are told, kept as the course of each trial."""

__all__ = ["Tally"]

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from segcal.sweep.course import Course, State, better, eta_s
from segcal.sweep.run_trial import Assignment

_AFTER: dict[str, State] = {"finished": "finished", "failed": "failed", "stopped": "stopped"}


class Tally:
    """Takes what a SweepView takes. Courses are replaced, never changed: another thread may read a copy of them."""

    def __init__(self, assignments: Sequence[Assignment], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.courses = {
            config.key: Course(f"{config.label} seed {config.seed}", config.label, config.epochs)
            for config in (given.config for given in assignments)
        }
        self.at_once = 0  # trials, the most so far
        self.started = clock()
        self._running: set[str] = set()
        self._began: dict[str, float] = {}
        self._marks: dict[
            str, tuple[float, int, int]
        ] = {}  # when measuring began, at which epoch, after how many words

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first trial began."""
        return self._clock() - self.started

    def began(self, key: str) -> None:
        """A trial runs."""
        if not self.at_once:
            self.started = self._clock()
        self._running.add(key)
        self.at_once = max(self.at_once, len(self._running))
        self._began[key] = self._clock()
        self._marks[key] = self._clock(), 0, 0
        self._put(key, state="running", epoch_s=None)

    def epoch(self, key: str, epoch: int, val_dice: float, best_dice: float = math.nan) -> None:
        """best_dice: of all epochs so far, where more is known than is told here."""
        best = better(better(self.courses[key].best_dice, val_dice), best_dice)
        self._put(
            key, epochs=epoch, best_dice=best, last_dice=better(None, val_dice), epoch_s=self._measured(key, epoch)
        )  # fmt: skip

    def ended(self, key: str, how: str, epoch: int = 0, best_dice: float = math.nan) -> None:
        """A trial runs no longer; how: finished, failed, stopped, died, or again (from its beginning)."""
        self._running.discard(key)
        if how == "again":  # from the beginning
            self._put(key, state="waiting", epochs=0, best_dice=None, last_dice=None, epoch_s=None)
            return
        best = better(self.courses[key].best_dice, best_dice)
        if how == "finished":
            whole_s = (self._clock() - self._began.get(key, self._clock())) / max(epoch, 1)
            epoch_s = self._measured(key, epoch) or whole_s or None
            self._put(key, state="finished", epochs=epoch, epoch_s=epoch_s, best_dice=best)
        else:  # a process that died goes on from its checkpoint
            self._put(key, state=_AFTER.get(how, "waiting"), best_dice=best)

    def eta_s(self) -> float | None:
        """As `eta_s`, on as many slots as there were trials at once."""
        return eta_s(list(self.courses.copy().values()), self.at_once)

    def _measured(self, key: str, epoch: int) -> float | None:
        """Seconds of an epoch since the trial's second word: by then, one that goes on has said what is on record."""
        now = self._clock()
        since, first, words = self._marks.get(key, (now, epoch, 0))
        self._marks[key] = (now, epoch, words + 1) if words < 2 else (since, first, words)
        if words == 0 or epoch <= first or now <= since:  # the first word's time is also that of a process's start
            return self.courses[key].epoch_s
        return (now - since) / (epoch - first)

    def _put(self, key: str, **changes: object) -> None:
        self.courses[key] = replace(self.courses[key], **changes)  # type: ignore[arg-type]
