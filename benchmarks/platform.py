"""What the platform costs beside the training: starting a sweep, a trial's bookkeeping, a question to the registry.

Real sweeps through Ray with networks and images so small that little else is left, in temporary folders with a new
SQLite store. All times are read from what the trials log. The plain way is MLflow's fluent API, as its tutorials use
it: one call a metric, and `mlflow.pytorch.log_model` for the network that is registered.
"""

__all__ = ["measure"]

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.tracking import fluent

from benchmarks.table import Row
from benchmarks.timing import interleaved
from segcal.data.phantom.embedded import write_cohort
from segcal.environment import environment
from segcal.learn.fit import build
from segcal.ledger.names import SECONDS, TRAIN_LOSS, tag
from segcal.ledger.read import finished_keys, models
from segcal.ledger.snapshot import versions
from segcal.ledger.store import experiment_id, open_store
from segcal.sweep.plan import load_plan, trials
from segcal.sweep.run_sweep import run_sweep
from segcal.trial import TrialConfig

EXPERIMENT = "platform"
TRIALS_PER_CORE = {1: 12, 30: 8, 300: 4}  # epochs of a trial -> trials
VERSIONS, RECIPES = 2000, 4
METRICS = 7  # an epoch's, for a task of three structures
SWEEP = {
    "task": "brain",
    "experiment": EXPERIMENT,
    "task_fields": {
        "spacing_mm": [8.0, 6.0, 6.0], "crop": [32, 32], "batch": 64,
        "split_counts": {"train": 3, "val": 1, "test": 2},
    },
    "training": {"kernels": [2, 2, 2, 2], "patience": 1000},
    "recipes": {"ce": {"loss": "cross_entropy"}},
}  # fmt: skip


def measure() -> list[Row]:
    """All rows."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_cohort("brain", root / "cohort", cases=6, size=32)
        (root / "sweep.yaml").write_text(yaml.safe_dump(SWEEP))
        rows = [_start_up(root)]
        for epochs, per_core in TRIALS_PER_CORE.items():
            rows.append(_trials(root, epochs, per_core * len(os.sched_getaffinity(0))))
        return [*rows, *_registry(root)]


def _start_up(root: Path) -> Row:
    """From the command to the first batch of any trial; the first call prepares the embedded data."""
    command = [sys.executable, "-m", "segcal", "sweep", "--set", "epochs=1", "--set", "seeds=1"]
    with _store(root, "start-up") as client:
        for experiment in ("first", EXPERIMENT):
            started = time.time()
            subprocess.run([*command, "--experiment", experiment], check=True, capture_output=True)
        whole = time.time() - started
        runs = _runs(client)
        first = min(_started(client, run) for run in runs)
    return Row("sweep start-up: command to first step", first - started, goal="20 s",
               note=f"{len(runs)} trials of an epoch in {whole:.1f} s; embedded data, prepared before")  # fmt: skip


def _trials(root: Path, epochs: int, n: int) -> Row:
    """Seconds of a core from the end of one trial to that of the next, on average, less the seconds of its epochs."""
    plan = load_plan(root / "sweep.yaml", settings=[f"epochs={epochs}", f"seeds={n}"])
    cores = len(os.sched_getaffinity(0))
    with _store(root, f"trials-{epochs}") as client:
        result = run_sweep(plan, str(root / "cohort"), lambda line: None)
        if len(result.finished) != n:
            raise RuntimeError(f"all {n} trials must finish, got {result}")
        runs = _runs(client)
        starts = sorted(run.info.start_time for run in runs)[:cores]
        ends = sorted(run.info.end_time for run in runs)[-cores:]  # a core that has no trial left costs nothing
        wall_s = (sum(ends) - sum(starts)) / 1000
        fit_s = sum(_history(client, run, SECONDS) for run in runs)
        checkpoints = len(client.search_logged_models([runs[0].info.experiment_id], max_results=100))
    what = f"trial beyond training, {epochs} {'epoch' if epochs == 1 else 'epochs'}"
    note = f"{n} trials on {cores} cores, {fit_s / n:.1f} s of training each, {checkpoints / n:.1f} checkpoints each"
    plain_s = _plain(root, trials(plan, "0" * 16, [1] * 4)[0], epochs)
    return Row(what, (wall_s - fit_s) / n, plain_s, goal="1.5 s", note=note)


def _plain(root: Path, config: TrialConfig, epochs: int) -> float:
    """Seconds of one trial's bookkeeping with the fluent API; nothing is trained."""
    net = build(config)
    with _store(root, f"plain-{epochs}"):
        fluent.set_experiment(EXPERIMENT)
        example = np.zeros((1, config.in_channels, 32, 32), dtype=np.float32)
        started = time.perf_counter()
        with fluent.start_run():
            fluent.log_params(config.identity())
            for epoch in range(1, epochs + 1):
                for index in range(METRICS):
                    fluent.log_metric(f"metric_{index}", 0.5, step=epoch)
            mlflow.pytorch.log_model(net, name="net", registered_model_name=EXPERIMENT, input_example=example)
        return time.perf_counter() - started


def _registry(root: Path) -> list[Row]:
    """Reading the members of an experiment, and the keys that a sweep skips."""
    plan = load_plan(root / "sweep.yaml")
    (config, *_) = trials(plan, "0" * 16, [1] * 4)
    with _store(root, "registry") as client:
        where = experiment_id(client, EXPERIMENT)
        run = client.create_run(where).info.run_id
        model = client.create_logged_model(where, source_run_id=run).model_id
        for index in range(RECIPES):
            client.create_registered_model(f"recipe-{index}")
        for index in range(VERSIONS):
            client.create_model_version(f"recipe-{index % RECIPES}", f"models:/{model}", run, model_id=model,
                                        tags=_tags(config, index), await_creation_for=0)  # fmt: skip
        seconds = interleaved({
            "members": lambda: models(client, EXPERIMENT), "keys": lambda: finished_keys(client, EXPERIMENT),
            "anew": lambda: versions(client, f"tags.`{tag('experiment')}` = '{EXPERIMENT}'"),
        })  # fmt: skip
    plain, note = seconds["anew"], "from the snapshot, proved; plain: listed anew"
    return [
        Row(f"registry: members of {VERSIONS} versions", seconds["members"], plain, goal="1 s", note=note),
        Row(f"registry: keys of {VERSIONS} versions", seconds["keys"], plain, goal="1 s", note="what a sweep skips"),
    ]


def _tags(config: TrialConfig, index: int) -> dict[str, str]:
    values = {
        "experiment": EXPERIMENT, "task": config.task, "recipe": f"recipe-{index % RECIPES}", "label": config.label,
        "loss": config.loss, "seed": index // RECIPES, "key": f"{index:016x}", "data_digest": config.data_digest,
        "code_version": "0", "weights_sha256": f"{index:064x}", "val_dice": 0.5, "epoch": 1,
    }  # fmt: skip
    return {tag(name): str(value) for name, value in values.items()}


def _runs(client: MlflowClient) -> list[Run]:
    """The trials of the experiment."""
    where = experiment_id(client, EXPERIMENT)
    return list(client.search_runs([where], f"tags.`{tag('kind')}` = 'trial'", max_results=1000))


def _started(client: MlflowClient, run: Run) -> float:
    """When the first epoch began, in seconds since 1970."""
    (first, *_) = client.get_metric_history(run.info.run_id, TRAIN_LOSS)
    (took, *_) = client.get_metric_history(run.info.run_id, SECONDS)
    return float(first.timestamp / 1000 - took.value)


def _history(client: MlflowClient, run: Run, metric: str) -> float:
    return float(sum(value.value for value in client.get_metric_history(run.info.run_id, metric)))


@contextlib.contextmanager
def _store(root: Path, name: str) -> Iterator[MlflowClient]:
    """A new store in a folder of its own, which is also where this process then is."""
    folder = root / name
    folder.mkdir()
    changed = {"SEGCAL_HOME": str(root / "home"), "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"}
    with environment(changed), contextlib.chdir(folder):
        yield open_store()
