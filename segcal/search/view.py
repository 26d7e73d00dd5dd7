"""How far a running search is: a line for each candidate that ends, and every few seconds one of those that go on."""

__all__ = ["Ending", "SearchLines", "SearchView"]

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # workers need no Optuna
    from segcal.search.study import Candidate


@dataclass(frozen=True)
class Ending:
    """how: finished, pruned, diverged; or failed, stopped: to be trained on when the search is called again."""

    how: str
    why: str = ""


class SearchView(Protocol):
    """Takes what happens to the candidates of a search."""

    def began(self, candidate: "Candidate") -> None: ...
    def round(self, candidate: "Candidate") -> None: ...
    def ended(self, candidate: "Candidate", ending: Ending) -> None: ...
    def close(self) -> None: ...


class SearchLines:
    """Lines for logs and `mlflow run`."""

    def __init__(
        self, trials: int, before: Iterable["Candidate"], epochs: int, say: Callable[[str], None],
        every_s: float = 5.0, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._trials, self._epochs, self._say, self._every_s, self._clock = trials, epochs, say, every_s, clock
        self._best: Candidate | None = None
        self._ended, self._last = 0, clock()
        for candidate in before:
            if candidate.state != "running":
                self._count(candidate)

    def began(self, candidate: "Candidate") -> None:
        pass

    def round(self, candidate: "Candidate") -> None:
        if self._clock() - self._last >= self._every_s:
            at = f"epoch {candidate.epochs}/{self._epochs}"
            self._line(candidate, f"{at}, mean validation Dice {candidate.score:.3f}")

    def ended(self, candidate: "Candidate", ending: Ending) -> None:
        if ending.how in ("finished", "pruned", "diverged"):
            self._count(candidate)
        score = "" if candidate.score is None else f", mean validation Dice {candidate.score:.3f}"
        told = {
            "finished": f"done after {candidate.epochs} epochs{score}: {candidate.told}",
            "pruned": f"pruned after {candidate.epochs} epochs{score}",
            "diverged": f"scored 0: {ending.why}",
            "failed": f"FAILED, {ending.why}",
            "stopped": f"stopped after {candidate.epochs} epochs",
        }
        self._line(candidate, told[ending.how])

    def close(self) -> None:
        pass

    def _count(self, candidate: "Candidate") -> None:
        self._ended += 1
        if candidate.state == "finished" and (self._best is None or candidate.score > self._best.score):  # type: ignore[operator]
            self._best = candidate

    def _line(self, candidate: "Candidate", text: str) -> None:
        best = f" (best {self._best.score:.3f}, {self._best.label})" if self._best else ""
        self._say(f"[{self._ended}/{self._trials} candidates] {candidate.label}: {text}{best}")
        self._last = self._clock()
