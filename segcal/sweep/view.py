"""How far a running sweep is: a line every few seconds, for logs and `mlflow run`."""

__all__ = ["LinesView", "SweepView"]

import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from segcal.sweep.course import clock_time
from segcal.sweep.run_trial import Assignment
from segcal.sweep.tally import Tally


class SweepView(Protocol):
    """Takes what happens to the trials of a sweep, each by its key."""

    def began(self, key: str) -> None: ...
    def epoch(self, key: str, epoch: int, val_dice: float, step: str, best_dice: float = math.nan) -> None: ...
    def ended(self, key: str, how: str, why: str = "", epoch: int = 0, best_dice: float = math.nan) -> None:
        """how: finished, failed, stopped, again (to be run again, with more memory), or died (its process)."""

    def close(self) -> None: ...


class LinesView:
    """A line for every trial that ends, and every few seconds one of a trial that goes on."""

    def __init__(
        self, assignments: Sequence[Assignment], say: Callable[[str], None], every_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._tally, self._say, self._every_s, self._clock = Tally(assignments, clock), say, every_s, clock
        self._ended: set[str] = set()
        self._told = False
        self._last = clock()

    def began(self, key: str) -> None:
        self._tally.began(key)

    def epoch(self, key: str, epoch: int, val_dice: float, step: str, best_dice: float = math.nan) -> None:
        self._tally.epoch(key, epoch, val_dice)
        course = self._tally.courses[key]
        if ":" in step and not self._told:  # once: the others will do the same
            self._told = True
            self._say(f"{course.name}: a step is {step}")
        if self._clock() - self._last >= self._every_s:
            self._line(key, f"epoch {epoch}/{course.most}, validation Dice {val_dice:.3f}, {self._eta()}")

    def ended(self, key: str, how: str, why: str = "", epoch: int = 0, best_dice: float = math.nan) -> None:
        self._tally.ended(key, how, epoch)
        if how == "again":
            self._line(key, why)
            return
        if how == "died":
            self._line(key, "its process died; it goes on from its last checkpoint")
            return
        if how == "stopped":  # to go on another day
            return
        self._ended.add(key)
        if how == "failed":
            self._line(key, f"FAILED, {why}")
        elif how == "finished":
            self._line(key, f"done after {epoch} epochs, {self._eta()}")

    def close(self) -> None:
        pass

    def _line(self, key: str, text: str) -> None:
        self._say(f"[{len(self._ended)}/{len(self._tally.courses)} trials] {self._tally.courses[key].name}: {text}")
        self._last = self._clock()

    def _eta(self) -> str:
        return f"ETA {clock_time(self._tally.eta_s())}" if len(self._ended) < len(self._tally.courses) else "finishing"
