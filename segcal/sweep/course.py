"""How far trials are, and when all of them will have ended."""

__all__ = ["Course", "State", "better", "clock_time", "epochs_per_s", "eta_s"]

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from segcal.sweep.estimate import makespan

State = Literal["waiting", "running", "finished", "failed", "stopped"]  # stopped: to go on another day


@dataclass(frozen=True)
class Course:
    """A trial on its way."""

    name: str
    recipe: str
    most: int  # epochs at most
    state: State = "waiting"
    epochs: int = 0
    best_dice: float | None = None
    last_dice: float | None = None
    epoch_s: float | None = None  # measured


def better(best: float | None, dice: float) -> float | None:
    """The best of what was and what is now; NaN, of a case without structures, counts for nothing."""
    return best if math.isnan(dice) else dice if best is None else max(best, dice)


def epochs_per_s(courses: Iterable[Course]) -> float | None:
    """Epochs of all running trials in a second; None where none of them is measured."""
    paces = [1 / course.epoch_s for course in courses if course.state == "running" and course.epoch_s]
    return sum(paces) if paces else None


def eta_s(courses: Iterable[Course], at_once: int) -> float | None:
    """Seconds until the last running or waiting trial ends on `at_once` slots; None where no epoch is measured.

    A trial is expected to take as many epochs as its recipe's finished ones on average, the most where none has
    finished; an epoch, what its recipe's trials were measured at, or all trials where none of them was. None left: 0.

    >>> eta_s([Course("a", "ce", 10, "running", 4, epoch_s=2.0), Course("b", "ce", 10)], at_once=1)
    32.0
    """
    given = list(courses)
    ahead = sorted((c for c in given if c.state in ("running", "waiting")), key=lambda c: c.state != "running")
    if not ahead:
        return 0.0
    epochs = _means((c.recipe, float(c.epochs)) for c in given if c.state == "finished")
    paces = _means((c.recipe, c.epoch_s) for c in given if c.epoch_s)
    if not paces or at_once < 1:
        return None
    usual_s = fmean(paces.values())

    def left_s(course: Course) -> float:
        epochs_left = epochs.get(course.recipe, course.most) - course.epochs
        epoch_s = course.epoch_s or paces.get(course.recipe, usual_s)
        return max(epochs_left, min(1, course.most - course.epochs)) * epoch_s  # one that exceeds the mean is not done

    return makespan(map(left_s, ahead), at_once)


def clock_time(seconds: float | None) -> str:
    """1:02:03; "unknown" for None."""
    if seconds is None:
        return "unknown"
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _means(pairs: Iterable[tuple[str, float]]) -> Mapping[str, float]:
    values: dict[str, list[float]] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    return {name: fmean(of) for name, of in values.items()}
