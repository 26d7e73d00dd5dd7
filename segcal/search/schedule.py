"""Ray Tune runs the candidates of a search: as many side by side as the machine has room for, each with all its seeds.

Which candidate is next and which is hopeless is the study's to say (segcal.search.study): its file outlives a driver,
as the state of Tune's own searchers and schedulers does not.
"""

__all__ = ["run_candidates"]

import contextlib
import dataclasses
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.tune.search import Searcher

from segcal.cluster import ray_cluster, scratch  # sets what Ray reads when it is imported
from segcal.search.candidate import CandidateTraining, Round, Searching, why_left
from segcal.search.view import Ending, SearchView
from segcal.sweep.interrupts import Interrupts
from segcal.sweep.outcome import DEATHS, DIED
from segcal.sweep.run_trial import OutOfGpuMemory
from segcal.sweep.stopping import Stopped, ask_to_stop, forget_stop

if TYPE_CHECKING:  # workers need not import what reads the study
    from segcal.search.study import Candidate, Study
    from segcal.sweep.plan import Resources


def run_candidates(
    study: "Study",
    searching: Searching,
    resources: "Resources",
    say: Callable[[str], None],
    view: SearchView,
    *,
    address: str | None = None,
    lost: threading.Event | None = None,
) -> dict[str, Ending]:
    """Train candidates until the study asks for no more; returns those that it must ask for again, by label.

    A candidate's process takes the cores of one trial, and the GPU memory of as many as it has seeds, one GPU at
    most. lost: set from outside where this driver must stop.
    """
    interrupts = Interrupts(say)
    with ray_cluster(say, address), interrupts.listening(), scratch("tune") as folder:  # Ray's start sets handlers too
        seeds = len(searching.plan.seeds)
        gpus = min(1.0, resources.gpus * seeds) if ray.cluster_resources().get("GPU") else 0.0
        share = {"cpu": resources.cpus, "gpu": gpus, **resources.custom}
        given = dataclasses.replace(searching, threads=max(1, int(resources.cpus)), gpus=gpus)
        driver = _Driver(study, given, view, interrupts, lost, share)
        try:
            tune.Tuner(
                tune.with_resources(tune.with_parameters(_Trainable, searching=given), share),
                tune_config=tune.TuneConfig(
                    search_alg=_Asking(driver), num_samples=-1, reuse_actors=True,
                    trial_dirname_creator=lambda trial: trial.trial_id,
                ),
                run_config=tune.RunConfig(
                    storage_path=str(folder), name="search", verbose=0, stop=_Judging(driver),
                    failure_config=tune.FailureConfig(max_failures=DEATHS),
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # the journals are better
                ),
            ).fit()  # fmt: skip
        finally:
            view.close()
            if searching.lease:
                with contextlib.suppress(OSError):
                    forget_stop(searching.storage, searching.lease)
    return driver.left


class _Trainable(tune.Trainable):  # type: ignore[misc]
    """A candidate in its process; Tune calls `step` for a round, and `cleanup` or `reset_config` when it is left."""

    def setup(self, config: dict[str, Any], searching: Searching) -> None:
        self._searching = searching
        self._begin(config)

    def _begin(self, config: dict[str, Any]) -> None:
        self._label, self._drawn = config["label"], config["drawn"]
        self._last: dict[str, Any] = {"epoch": 0}
        self._training: CandidateTraining | None = None  # made in the first step, where it can fail properly

    def step(self) -> dict[str, Any]:
        try:
            self._training = self._training or CandidateTraining.of(self._searching, self._label, self._drawn)
            done = self._training.round()
        except Stopped:
            return self._ended("stopped", "")
        except Exception as error:  # a trial's record has it; Tune need not print it again
            reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"
            if isinstance(error, OutOfGpuMemory):
                reason = f"all seeds must fit into a GPU share of {self._searching.gpus:g}: raise resources.gpus"
            return self._ended("diverged" if isinstance(error, FloatingPointError) else "failed", reason)
        self._last = {"epoch": done.epoch, "best": {str(seed): dice for seed, dice in done.best.items()}}
        return self._ended("finished", "") if done.finished else {"label": self._label, **self._last}

    def _ended(self, how: str, why: str) -> dict[str, Any]:
        return {"label": self._label, **self._last, "how": how, "why": why, "done": True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        if self._training:
            self._training.end(why_left(self._searching))
            self._training = None


class _Driver:
    """What the driver knows of the candidates that are being trained."""

    def __init__(
        self, study: "Study", searching: Searching, view: SearchView, interrupts: Interrupts,
        lost: threading.Event | None, share: dict[str, float],
    ) -> None:  # fmt: skip
        self._study, self._searching, self._view, self._share = study, searching, view, share
        self._interrupts, self._lost = interrupts, lost
        self._running: dict[str, Candidate] = {}
        self._trials: dict[str, str] = {}  # label of each of Tune's trials
        self._asked_to_stop = False
        self.left: dict[str, Ending] = {}

    def next(self, trial_id: str) -> "dict[str, Any] | str | None":
        """The next candidate's configuration; None: not yet."""
        if self._interrupts.asked.is_set():
            return str(Searcher.FINISHED)
        if len(self._running) >= self._slots():
            return None  # one that is drawn later knows more
        candidate = self._study.ask()
        if candidate is None:
            return str(Searcher.FINISHED)
        self._running[candidate.label], self._trials[trial_id] = candidate, candidate.label
        self._view.began(candidate)
        return {"label": candidate.label, "drawn": dict(candidate.drawn)}

    def heard(self, result: dict[str, Any]) -> bool:
        """Take a round; returns whether the candidate is hopeless."""
        candidate = self._running.get(result.get("label", ""))
        if candidate is None:  # it has ended, but its process was lost before Tune knew
            return True
        best = {int(seed): dice for seed, dice in result.get("best", {}).items()}
        state = Round(result["epoch"], best)
        candidate = dataclasses.replace(
            candidate, seeds=best or None, epochs=state.epoch, score=state.score if best else None
        )
        how, why = result.get("how", ""), result.get("why", "")
        if how in ("stopped", "failed"):
            self._gone(candidate, Ending(how, why))
            return False
        if how == "diverged":
            self._end(dataclasses.replace(candidate, state="diverged", error=why))
        elif self._study.report(candidate.number, state.epoch, state.score) and how != "finished":
            self._end(dataclasses.replace(candidate, state="pruned"))
            return True
        elif how == "finished":
            self._end(dataclasses.replace(candidate, state="finished"))
        else:
            self._running[candidate.label] = candidate
            self._view.round(candidate)
        return False

    def died(self, trial_id: str) -> None:
        """A candidate's process died too often."""
        candidate = self._running.get(self._trials.get(trial_id, ""))
        if candidate:
            self._gone(candidate, Ending("failed", DIED))

    def is_over(self) -> bool:
        """Whether Tune is to end everything now: it was asked to, and no candidate has anything left to put away."""
        if self._lost is not None and self._lost.is_set():
            self._interrupts.ask("another driver took the search")
        if not self._interrupts.asked.is_set():
            return False
        if not self._asked_to_stop:
            self._asked_to_stop = True
            with contextlib.suppress(OSError):
                ask_to_stop(self._searching.storage, self._searching.lease)
        if self._interrupts.waited:
            for candidate in list(self._running.values()):
                self._gone(candidate, Ending("stopped", ""))
        return not self._running

    def _end(self, candidate: "Candidate") -> None:
        del self._running[candidate.label]
        self._study.end(candidate)
        self._view.ended(candidate, Ending(candidate.state, candidate.error))

    def _gone(self, candidate: "Candidate", ending: Ending) -> None:
        """Left as it is in the study, which asks for it again."""
        del self._running[candidate.label]
        self.left[candidate.label] = ending
        self._view.ended(candidate, ending)

    def _slots(self) -> int:
        there = ray.cluster_resources()
        rooms = [there.get(name.upper() if name in ("cpu", "gpu") else name, 0) / need
                 for name, need in self._share.items() if need]  # fmt: skip
        return max(1, int(min(rooms) + 1e-9))


class _Asking(Searcher):  # type: ignore[misc]
    """Tune's way to ask for the next candidate."""

    def __init__(self, driver: _Driver) -> None:
        super().__init__(metric="epoch", mode="max")
        self._driver = driver

    def __getstate__(self) -> dict[str, Any]:  # Tune keeps a copy for a restore that nobody asks for
        return {}

    def suggest(self, trial_id: str) -> Any:
        return self._driver.next(trial_id)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if error:
            self._driver.died(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """The study has it all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nobody asks for it."""


class _Judging(tune.Stopper):  # type: ignore[misc]
    """Tune's way to hear of a round, and to ask whether the candidate is hopeless, or all is over."""

    def __init__(self, driver: _Driver) -> None:
        self._driver = driver

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self._driver.heard(result)

    def stop_all(self) -> bool:
        return self._driver.is_over()
