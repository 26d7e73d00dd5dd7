"""Ray Tune runs the trials: one single-threaded trial a CPU core, or a share of a GPU where there are any."""

__all__ = ["run_all"]

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from segcal.cluster import ray_cluster, scratch  # sets what Ray reads when it is imported
from segcal.journal.trial import Superseded
from segcal.records import EpochRecord
from segcal.sweep.interrupts import Interrupts
from segcal.sweep.outcome import DEATHS, DIED, Outcome
from segcal.sweep.run_trial import Assignment, OutOfGpuMemory, larger_share, run_trial
from segcal.sweep.stopping import Stopped, ask_to_stop, forget_stop
from segcal.sweep.view import LinesView, SweepView

if TYPE_CHECKING:  # workers need not import what reads files
    from segcal.sweep.plan import Resources

# Seconds between two reports of a trial, each of which waits for the driver: a twentieth of its age within these.
_SHORTEST_S, _LONGEST_S = 1.0, 60.0

Run = Callable[[Assignment, Callable[[EpochRecord], None]], None]


def run_all(
    assignments: Sequence[Assignment],
    resources: "Resources",
    say: Callable[[str], None],
    run: Run = run_trial,
    *,
    address: str | None = None,
    views: Sequence[SweepView] = (),
    lost: threading.Event | None = None,
) -> Outcome:
    """Run every trial; a failed one does not stop the others. `views` are told what happens, lines by default.

    A trial whose process died goes on from its checkpoint in another, `DEATHS` times. Those whose share of a GPU has
    too little memory are run again after the others, half as many on each GPU, until they have a whole one.
    lost: set from outside where this driver must stop.
    """
    interrupts, outcome = Interrupts(say), Outcome()
    told = list(views) or [LinesView(assignments, say)]
    with ray_cluster(say, address), interrupts.listening(), scratch("tune") as folder:  # Ray's start sets handlers too
        try:
            gpus = resources.gpus if ray.cluster_resources().get("GPU") else 0.0
            threads = max(1, int(resources.cpus))
            indices = list(range(len(assignments)))
            while indices and not interrupts.asked.is_set():
                given = [replace(assignment, threads=threads, gpus=gpus) for assignment in assignments]
                events = _Events(given, told, interrupts, lost)
                share = {"cpu": resources.cpus, "gpu": gpus, **resources.custom}
                tuner = tune.Tuner(
                    tune.with_resources(tune.with_parameters(_trainable, assignments=given, run=run), share),
                    param_space={"index": tune.grid_search(indices)},
                    tune_config=tune.TuneConfig(reuse_actors=True),
                    run_config=tune.RunConfig(
                        storage_path=str(folder), name=f"{gpus:g}", callbacks=[events], verbose=0, stop=events.stopper,
                        failure_config=tune.FailureConfig(max_failures=DEATHS),
                    ),
                )  # fmt: skip
                indices = _sort(indices, tuner.fit(), given, outcome)
                gpus = larger_share(gpus)
            outcome.unfinished += [assignments[index].config.key for index in indices]
        finally:
            for view in told:
                view.close()
            if assignments and assignments[0].lease:
                with contextlib.suppress(OSError):
                    forget_stop(assignments[0].storage, assignments[0].lease)
    return outcome


def _sort(
    indices: Sequence[int], results: tune.ResultGrid, assignments: Sequence[Assignment], outcome: Outcome
) -> list[int]:
    """Put the trials into the outcome; returns those to run again."""
    again = []
    ended = {result.config["index"]: result for result in results if result.config}  # others never began
    for index in indices:
        result = ended.get(index)
        key, metrics = assignments[index].config.key, (result.metrics if result else None) or {}
        if metrics.get("again"):
            again.append(index)
        elif metrics.get("failed"):
            outcome.failed[key] = metrics["failed"]
        elif result and result.error:
            outcome.failed[key] = DIED
        elif metrics.get("finished"):
            outcome.finished.append(key)
        else:
            outcome.unfinished.append(key)
    return again


def _trainable(config: dict[str, Any], assignments: list[Assignment], run: Run) -> None:
    epoch, best, started, due = 0, 0.0, time.monotonic(), 0.0

    def report(record: EpochRecord) -> None:
        nonlocal epoch, best, due
        epoch, best, now = record.epoch, max(best, record.val_dice), time.monotonic()
        if record.state is not None and now >= due:  # of a trial that goes on, epochs on record are only counted
            due = now + min(max((now - started) / 20, _SHORTEST_S), _LONGEST_S)
            tune.report({"epoch": epoch, "val_dice": record.val_dice, "best_dice": best, "step": record.step})

    ended: dict[str, Any] = {"finished": True}
    try:
        run(assignments[config["index"]], report)
    except (Stopped, Superseded):
        ended = {"stopped": True}
    except Exception as error:  # its record has it; Tune need not print it again
        if isinstance(error, OutOfGpuMemory) and error.again:
            ended = {"again": str(error)}
        else:
            ended = {"failed": f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"}
    tune.report({"epoch": epoch, "best_dice": best, **ended})


class _Events(tune.Callback):  # type: ignore[misc]
    """Tells the views what happens to the trials, and Tune when all of it is to stop."""

    def __init__(
        self, assignments: Sequence[Assignment], views: Sequence[SweepView], interrupts: Interrupts,
        lost: threading.Event | None,
    ) -> None:  # fmt: skip
        self._assignments, self._views, self._interrupts, self._lost = assignments, views, interrupts, lost
        self._running: set[int] = set()
        self._leaving: set[int] | None = None  # those that were running when all were asked to stop
        self.stopper = _Stopper(self._is_over)

    def __getstate__(self) -> dict[str, Any]:  # Tune keeps a copy for a restore that nobody asks for
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        index = trial.config["index"]
        self._running.add(index)
        for view in self._views:
            view.began(self._key(index))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        index = trial.config["index"]
        how = next((name for name in ("finished", "failed", "stopped", "again") if result.get(name)), None)
        if how is not None:
            self._gone(index)
        for view in self._views:
            if how is None:
                view.epoch(self._key(index), result["epoch"], result["val_dice"], result["step"], result["best_dice"])
            else:
                why = result[how]
                text = why if isinstance(why, str) else ""
                view.ended(self._key(index), how, text, result["epoch"], result["best_dice"])

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._gone(trial.config["index"])
        for view in self._views:
            view.ended(self._key(trial.config["index"]), "died")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._gone(trial.config["index"])
        for view in self._views:
            view.ended(self._key(trial.config["index"]), "failed", DIED)

    def _gone(self, index: int) -> None:
        self._running.discard(index)
        if self._leaving is not None:
            self._leaving.discard(index)

    def _is_over(self) -> bool:
        """Whether Tune is to end everything now: it was asked to, and no trial has anything left to put away."""
        if self._lost is not None and self._lost.is_set():
            self._interrupts.ask("another driver took the sweep")
        if not self._interrupts.asked.is_set():
            return False
        if self._leaving is None:
            self._leaving = set(self._running)
            first = self._assignments[0]
            with contextlib.suppress(OSError):
                ask_to_stop(first.storage, first.lease)
        return not self._leaving or self._interrupts.waited

    def _key(self, index: int) -> str:
        return self._assignments[index].config.key


class _Stopper(tune.Stopper):  # type: ignore[misc]
    def __init__(self, is_over: Callable[[], bool]) -> None:
        self._is_over = is_over

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._is_over()
