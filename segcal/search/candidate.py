"""One candidate of a search: its seeds are trained in turns, an epoch each, and scored together."""

__all__ = ["CandidateTraining", "Round", "Searching", "why_left"]

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segcal.journal.reading import look, trial_storage
from segcal.journal.storage import Storage
from segcal.records import EpochRecord
from segcal.search.space import SearchPlan
from segcal.sweep.run_trial import Assignment, train
from segcal.sweep.stopping import Pruned, Stopped, StopRequest


@dataclass(frozen=True)
class Searching:
    """What all candidates of a search have in common; all a worker needs."""

    plan: SearchPlan
    data_digest: str
    class_voxels: tuple[int, ...]
    storage: Storage  # of the sweep
    code_version: str
    prepared: Path | None = None
    lease: str = ""
    registered: Mapping[str, float] = dataclasses.field(default_factory=dict)  # Dice of what MLflow has, by key
    threads: int = 1
    gpus: float = 1.0  # share of a GPU's memory that a candidate may take

    def assignments(self, label: str, drawn: Mapping[str, Any]) -> list[Assignment]:
        """The trials of a candidate, one a seed."""
        configs = self.plan.candidate(label, drawn, self.data_digest, self.class_voxels)
        return [
            Assignment(
                config, self.plan.plan.task, self.storage, self.code_version, self.prepared, self.lease, self.threads,
                self.gpus,
            )
            for config in configs
        ]  # fmt: skip


@dataclass(frozen=True)
class Round:
    """All seeds after an epoch. One that stopped early keeps its best: no later epoch of it can take it away."""

    epoch: int
    best: Mapping[int, float]  # validation Dice of each seed's best epoch so far
    finished: bool = False  # every seed is trained to its end

    @property
    def score(self) -> float:
        """The mean over seeds: a recipe's score, not a lucky seed's."""
        return math.fsum(self.best.values()) / len(self.best)


class CandidateTraining:
    """Call `round` until it says that all is finished, or leave it with `end`."""

    def __init__(self, trainings: Mapping[int, Iterator[EpochRecord]]) -> None:
        self._left, self._best, self._epoch = dict(trainings), dict[int, float](), 0

    @classmethod
    def of(cls, searching: Searching, label: str, drawn: Mapping[str, Any]) -> "CandidateTraining":
        """Its seeds go on from what is on record."""
        given = searching.assignments(label, drawn)
        return cls({one.config.seed: _epochs(one, searching.registered) for one in given})

    def round(self) -> Round:
        """One epoch of every seed that is not finished. What fails one seed ends all: the error is raised again."""
        epoch = self._epoch + 1
        for seed, training in list(self._left.items()):
            try:
                record = next(training)
            except StopIteration:
                del self._left[seed]
            except Exception as error:
                del self._left[seed]
                self.end(Pruned() if isinstance(error, FloatingPointError) else Stopped())
                raise
            else:
                self._best[seed] = max(self._best.get(seed, 0.0), record.val_dice)
                self._epoch = epoch
        return Round(self._epoch, dict(self._best), not self._left)

    def end(self, reason: Pruned | Stopped) -> None:
        """Put away what is not finished: pruned, or stopped; either may be gone on with."""
        for training in self._left.values():
            with contextlib.suppress(Pruned, Stopped, StopIteration):
                training.throw(reason)  # type: ignore[attr-defined]
        self._left.clear()


def why_left(searching: Searching) -> Pruned | Stopped:
    """Why a candidate is left before its end: the search was asked to stop, or has found better ones."""
    try:
        StopRequest(searching.storage, searching.lease).check()
    except Stopped as reason:
        return reason
    return Pruned()


def _epochs(assignment: Assignment, registered: Mapping[str, float]) -> Iterator[EpochRecord]:
    """Those of `train`; of a trial that is finished, those on record: it is not begun again."""
    key = assignment.config.key
    with contextlib.suppress(ValueError):  # a damaged record: training sets it aside
        progress = look(trial_storage(assignment.storage, key))
        if progress and progress.record.state == "finished":
            yield from (line.record for line in progress.lines)
            return
        if progress is None and key in registered:
            yield EpochRecord(1, math.nan, registered[key], (), math.nan, 0.0)
            return
    yield from train(assignment)
