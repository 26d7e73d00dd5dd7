"""Ray Tune runs the trials: one single-threaded trial a CPU core, or a share of a GPU where there are any."""

__all__ = ["Outcome", "run_all"]

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

# Before Ray is imported. Workers keep the folder the sweep was started in; trial results are MLflow's to keep.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_DEDUP_LOGS", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")  # a trial without a share sees no GPU

import ray
from ray import tune

from segcal.learn.allocator import handed_on
from segcal.records import EpochRecord
from segcal.sweep.run_trial import Assignment, OutOfGpuMemory, larger_share, run_trial

if TYPE_CHECKING:  # workers need not import what reads files
    from segcal.sweep.plan import Resources

# Seconds between two reports of a trial, each of which waits for the driver: a twentieth of its age within these.
_SHORTEST_S, _LONGEST_S = 1.0, 60.0


@dataclass
class Outcome:
    """How the trials ended: names and reasons."""

    finished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)  # stopped by an interrupt


def run_all(
    assignments: Sequence[Assignment],
    resources: "Resources",
    say: Callable[[str], None],
    run: Callable[[Assignment, Callable[[EpochRecord], None]], None] = run_trial,
) -> Outcome:
    """Run every trial; a failed one does not stop the others. `say` takes progress, one line at a time.

    Those whose share of a GPU has too little memory are run again after the others, half as many on each GPU, until
    they have a whole one.
    """
    say("starting Ray")
    started_here = not ray.is_initialized()
    if started_here:
        with handed_on():
            ray.init(
                address=os.environ.get("RAY_ADDRESS"), include_dashboard=False, log_to_driver=False,
                logging_level="ERROR",
            )  # fmt: skip
    folder = tempfile.mkdtemp(prefix="segcal-tune-")
    try:
        gpus = resources.gpus if ray.cluster_resources().get("GPU") else 0.0
        threads = max(1, int(resources.cpus))
        progress, outcome = Progress(assignments, say), Outcome()
        indices = list(range(len(assignments)))
        while indices:
            share = {"cpu": resources.cpus, "gpu": gpus}
            given = [replace(assignment, threads=threads, gpus=gpus) for assignment in assignments]
            tuner = tune.Tuner(
                tune.with_resources(tune.with_parameters(_trainable, assignments=given, run=run), share),
                param_space={"index": tune.grid_search(indices)},
                tune_config=tune.TuneConfig(reuse_actors=True),
                run_config=tune.RunConfig(storage_path=folder, name=f"{gpus:g}", callbacks=[progress], verbose=0),
            )
            indices = _sort(tuner.fit(), assignments, outcome)
            gpus = larger_share(gpus)
        return outcome
    finally:
        if started_here:
            ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _sort(results: tune.ResultGrid, assignments: Sequence[Assignment], outcome: Outcome) -> list[int]:
    """Put the trials that ended into the outcome; returns those to run again, none after an interrupt."""
    again = []
    for result in results:
        index = (result.config or {})["index"]
        name, metrics = trial_name(assignments[index]), result.metrics or {}
        if metrics.get("again"):
            again.append(index)
        elif metrics.get("failed") or result.error:
            outcome.failed[name] = metrics.get("failed") or str(result.error).strip().splitlines()[-1]
        elif metrics.get("finished"):
            outcome.finished.append(name)
        else:
            outcome.unfinished.append(name)
    if outcome.unfinished:
        outcome.unfinished += [trial_name(assignments[index]) for index in again]
        return []
    return again


def trial_name(assignment: Assignment) -> str:
    """What people call a trial."""
    return f"{assignment.config.label} seed {assignment.config.seed}"


def _trainable(config: dict[str, Any], assignments: list[Assignment], run: Callable[..., None]) -> None:
    epoch, started, due = 0, time.monotonic(), 0.0

    def report(record: EpochRecord) -> None:
        nonlocal epoch, due
        epoch, now = record.epoch, time.monotonic()
        if now >= due:
            due = now + min(max((now - started) / 20, _SHORTEST_S), _LONGEST_S)
            tune.report({"epoch": epoch, "val_dice": record.val_dice, "step": record.step})

    assignment = assignments[config["index"]]
    # A worker of a cluster that was there before has another folder, and to register a model MLflow asks this variable.
    os.environ["MLFLOW_TRACKING_URI"] = assignment.tracking_uri
    ended: dict[str, Any] = {"finished": True}
    try:
        run(assignment, report)
    except Exception as error:  # MLflow has it; Tune need not print it again
        if isinstance(error, OutOfGpuMemory) and error.again:
            ended = {"again": str(error)}
        else:
            reason = str(error).strip().splitlines() or ["no message"]
            ended = {"failed": f"{type(error).__name__}: {reason[0]}"}
    tune.report({"epoch": epoch, **ended})


class Progress(tune.Callback):  # type: ignore[misc]
    """A line every few seconds: the trial that reported, what is done, and when it will end."""

    def __init__(self, assignments: Sequence[Assignment], say: Callable[[str], None], every_s: float = 5.0) -> None:
        self._assignments, self._say, self._every_s = assignments, say, every_s
        self._epochs: dict[int, int] = {}
        self._ended: set[int] = set()
        self._told = False
        self._started = self._last = time.monotonic()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        index = trial.config["index"]
        assignment = self._assignments[index]
        name = trial_name(assignment)
        if not self._epochs:
            self._started = time.monotonic() - result.get("time_this_iter_s", 0.0)
        self._epochs[index] = result["epoch"]
        if ":" in result.get("step", "") and not self._told:  # once: the others will do the same
            self._told = True
            self._say(f"{name}: a step is {result['step']}")
        if result.get("again"):
            self._epochs[index] = 0
            self._say(f"[{self._counts()}] {name}: {result['again']}")
        elif result.get("failed"):
            self._ended.add(index)
            self._say(f"[{self._counts()}] {name}: FAILED, {result['failed']}")
        elif result.get("finished"):
            self._ended.add(index)
            self._say(f"[{self._counts()}] {name}: done after {self._epochs[index]} epochs, {self._eta()}")
        elif time.monotonic() - self._last >= self._every_s:
            self._say(
                f"[{self._counts()}] {name}: epoch {result['epoch']}/{assignment.config.epochs}, "
                f"validation Dice {result['val_dice']:.3f}, {self._eta()}"
            )
        else:
            return
        self._last = time.monotonic()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._ended.add(trial.config["index"])
        self._say(f"[{self._counts()}] {trial_name(self._assignments[trial.config['index']])}: its process died")

    def _counts(self) -> str:
        return f"{len(self._ended)}/{len(self._assignments)} trials"

    def _eta(self) -> str:
        left = sum(
            assignment.config.epochs - self._epochs.get(index, 0)
            for index, assignment in enumerate(self._assignments)
            if index not in self._ended
        )
        done = sum(self._epochs.values())
        seconds = round((time.monotonic() - self._started) / max(done, 1) * left)
        return f"ETA {seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}" if left else "finishing"
