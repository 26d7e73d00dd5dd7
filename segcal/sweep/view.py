"""How far a running sweep is: a line every few seconds, for logs and `mlflow run`."""

__all__ = ["LinesView", "SweepView"]

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from segcal.sweep.run_trial import Assignment


class SweepView(Protocol):
    """Takes what happens to the trials of a sweep, each by its key."""

    def began(self, key: str) -> None: ...
    def epoch(self, key: str, epoch: int, val_dice: float, step: str) -> None: ...
    def ended(self, key: str, how: str, why: str = "", epoch: int = 0) -> None:
        """how: finished, failed, stopped, again (to be run again, with more memory), or died (its process)."""

    def close(self) -> None: ...


class LinesView:
    """A line for every trial that ends, and every few seconds one of a trial that goes on."""

    def __init__(
        self, assignments: Sequence[Assignment], say: Callable[[str], None], every_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._assignments: Mapping[str, Assignment] = {given.config.key: given for given in assignments}
        self._say, self._every_s, self._clock = say, every_s, clock
        self._epochs: dict[str, int] = {}
        self._first: dict[str, int] = {}  # epoch that a trial was at when it was first heard of
        self._ended: set[str] = set()
        self._told = False
        self._started = self._last = clock()

    def began(self, key: str) -> None:
        if not self._epochs:
            self._started = self._clock()

    def epoch(self, key: str, epoch: int, val_dice: float, step: str) -> None:
        self._first.setdefault(key, epoch - 1)
        self._epochs[key] = epoch
        if ":" in step and not self._told:  # once: the others will do the same
            self._told = True
            self._say(f"{self._name(key)}: a step is {step}")
        if self._clock() - self._last >= self._every_s:
            most = self._assignments[key].config.epochs
            self._line(key, f"epoch {epoch}/{most}, validation Dice {val_dice:.3f}, {self._eta()}")

    def ended(self, key: str, how: str, why: str = "", epoch: int = 0) -> None:
        if how == "again":
            self._epochs.pop(key, None)
            self._line(key, why)
            return
        if how == "died":
            self._line(key, "its process died; it goes on from its last checkpoint")
            return
        self._ended.add(key)
        if how == "failed":
            self._line(key, f"FAILED, {why}")
        elif how == "finished":
            self._epochs[key] = epoch
            self._line(key, f"done after {epoch} epochs, {self._eta()}")

    def close(self) -> None:
        pass

    def _line(self, key: str, text: str) -> None:
        self._say(f"[{len(self._ended)}/{len(self._assignments)} trials] {self._name(key)}: {text}")
        self._last = self._clock()

    def _name(self, key: str) -> str:
        config = self._assignments[key].config
        return f"{config.label} seed {config.seed}"

    def _eta(self) -> str:
        left = sum(
            given.config.epochs - self._epochs.get(key, 0)
            for key, given in self._assignments.items()
            if key not in self._ended
        )
        done = sum(epoch - self._first.get(key, 0) for key, epoch in self._epochs.items())
        seconds = round((self._clock() - self._started) / max(done, 1) * left)
        return f"ETA {seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}" if left else "finishing"
