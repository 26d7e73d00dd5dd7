"""Optuna draws the candidates of a search, says which are hopeless, and keeps what became of each: in a file.

Whoever opens the file again goes on: no candidate is drawn twice, and those that were cut short come first.
"""

__all__ = ["Candidate", "Study", "open_study"]

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from segcal.journal.storage import Storage
from segcal.search.space import Dimension, Search, is_whole, round_drawn

FILE = "study.db"
WORST = 0.0  # the score of a candidate whose training diverged: no Dice at all
TRIES, RANDOM_TRIES = 10, 200  # draws of a candidate that is there already, before the space counts as used up
_STATES: dict[TrialState, Literal["running", "finished", "pruned"]] = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
}


@dataclass(frozen=True)
class Candidate:
    """A recipe of the search and what became of it. Diverged: its loss did not stay finite; that counts as no Dice."""

    number: int
    drawn: Mapping[str, Any]  # settings by name
    state: Literal["running", "finished", "pruned", "diverged"] = "running"
    score: float | None = None  # mean over seeds, of what was trained
    seeds: Mapping[int, float] | None = None  # best validation Dice of each seed
    epochs: int = 0
    error: str = ""

    @property
    def label(self) -> str:
        """Its name in MLflow and on the terminal."""
        return f"candidate-{self.number:03d}"

    @property
    def told(self) -> str:
        """For people: the settings that were drawn."""
        return " ".join(f"{name}={value}" for name, value in self.drawn.items())


@contextlib.contextmanager
def open_study(search: Search, name: str, storage: Storage) -> Iterator["Study"]:
    """The study of that name in the sweep's storage, a new one where there is none.

    Optuna's file lies there where the storage is a folder; for a URI it is a copy, put back after every change.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="segcal-study-") as folder:
        file = (storage.local or Path(folder)) / FILE
        if storage.local is None:
            with contextlib.suppress(FileNotFoundError):
                storage.download(FILE, file)
        file.parent.mkdir(parents=True, exist_ok=True)
        database = RDBStorage(f"sqlite:///{file}", engine_kwargs={"connect_args": {"timeout": 60}})
        try:
            yield Study(search, name, database, None if storage.local else (storage, file))
        finally:
            database.engine.dispose()


class Study:
    """`ask` for a candidate, `report` each of its epochs, and say how it ended; not ended, it is asked for again."""

    def __init__(
        self, search: Search, name: str, database: RDBStorage, copied: tuple[Storage, Path] | None = None
    ) -> None:
        self._search, self._copied = search, copied
        self._space = {name: _distribution(name, dimension) for name, dimension in search.space.items()}
        self._study = optuna.create_study(
            storage=database, study_name=name, direction="maximize", load_if_exists=True, pruner=_pruner(search)
        )
        self._asked: dict[int, optuna.Trial] = {}

    def ask(self) -> Candidate | None:
        """The next candidate: one that was cut short, or a new one; None where there are enough, or no more."""
        for frozen in self._trials(TrialState.RUNNING):
            if frozen.number not in self._asked:
                if set(frozen.params) == set(self._space):
                    self._asked[frozen.number] = optuna.Trial(self._study, frozen._trial_id)
                    return self._candidate(frozen)
                self._study.tell(frozen.number, state=TrialState.FAIL)  # cut short while it was drawn
        if len(self.candidates()) >= self._search.trials:
            return None
        return self._new()

    def report(self, number: int, epoch: int, score: float) -> bool:
        """Take a candidate's score; returns whether it is hopeless. Epochs that are known already are not judged."""
        trial = self._asked[number]
        if epoch <= max(self._frozen(number).intermediate_values, default=0):
            return False
        trial.report(score, epoch)
        return trial.should_prune()

    def end(self, candidate: Candidate) -> None:
        """Keep how a candidate ended."""
        trial = self._asked.pop(candidate.number)
        trial.set_user_attr("seeds", {str(seed): dice for seed, dice in (candidate.seeds or {}).items()})
        trial.set_user_attr("epochs", candidate.epochs)
        if candidate.error:
            trial.set_user_attr("error", candidate.error)
        if candidate.state == "pruned":
            self._study.tell(candidate.number, state=TrialState.PRUNED)
        else:
            self._study.tell(candidate.number, WORST if candidate.state == "diverged" else candidate.score)
        self._put_back()

    def candidates(self) -> list[Candidate]:
        """All of them, in the order in which they were drawn."""
        return [self._candidate(frozen) for frozen in self._trials(*_STATES)]

    def _new(self) -> Candidate | None:
        """Draw until one comes that is not there already."""
        known = [candidate.drawn for candidate in self.candidates()]
        for attempt in range(TRIES + RANDOM_TRIES):
            # Of the seed and the number alone: a search that is resumed draws what it would have drawn.
            seed = int(np.random.SeedSequence([self._search.seed, len(self._trials())]).generate_state(1)[0])
            self._study.sampler = _sampler(self._search, seed, attempt)
            trial = self._study.ask(fixed_distributions=self._space)
            frozen = self._frozen(trial.number)
            if self._drawn(frozen) not in known:
                self._asked[trial.number] = trial
                self._put_back()
                return self._candidate(frozen)
            self._study.tell(trial, state=TrialState.FAIL)
        return None

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)

    def _frozen(self, number: int) -> FrozenTrial:
        return self._trials()[number]

    def _drawn(self, frozen: FrozenTrial) -> dict[str, Any]:
        return {
            name: _value(frozen.params[name], dimension)
            for name, dimension in self._search.space.items()
            if name in frozen.params
        }

    def _candidate(self, frozen: FrozenTrial) -> Candidate:
        kept = frozen.user_attrs
        diverged = frozen.state == TrialState.COMPLETE and bool(kept.get("error"))
        seeds = {int(seed): float(dice) for seed, dice in kept.get("seeds", {}).items()}
        return Candidate(
            frozen.number,
            self._drawn(frozen),
            "diverged" if diverged else _STATES[frozen.state],
            WORST if diverged else float(np.mean(list(seeds.values()))) if seeds else None,
            seeds or None,
            kept.get("epochs", 0),
            kept.get("error", ""),
        )

    def _put_back(self) -> None:
        if self._copied:
            storage, file = self._copied
            storage.upload(file, FILE)


def _distribution(name: str, dimension: Dimension) -> BaseDistribution:
    if dimension.choices is not None:  # as texts: Optuna takes no lists, and kernels are some
        return CategoricalDistribution([json.dumps(choice) for choice in dimension.choices])
    low, high = float(dimension.low or 0), float(dimension.high or 0)
    if is_whole(name):
        return IntDistribution(int(low), int(high), log=dimension.log)
    return FloatDistribution(low, high, log=dimension.log)


def _value(given: Any, dimension: Dimension) -> Any:
    if dimension.choices is not None:
        return json.loads(given)
    return given if isinstance(given, int) else round_drawn(given, dimension)


def _sampler(search: Search, seed: int, attempt: int) -> BaseSampler:
    if attempt >= TRIES:
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed, n_startup_trials=search.startup)


def _pruner(search: Search) -> BasePruner:
    if search.pruner == "asha":
        return SuccessiveHalvingPruner(min_resource=search.grace, reduction_factor=search.reduction)
    if search.pruner == "median":
        return MedianPruner(n_startup_trials=min(5, search.startup), n_warmup_steps=search.grace)
    return NopPruner()
