"""Writes sweeps, trials, checkpoints and reports to MLflow, with explicit run ids only.

The fluent API would adopt the parent's run in every worker, because a local Ray cluster hands MLFLOW_RUN_ID on.
"""

__all__ = ["SweepRun", "TrialRun", "end_sweep", "log_report", "start_sweep"]

import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from safetensors.numpy import save

from segcal.ledger.names import CONFIG, LR, SECONDS, TASK, TRAIN_LOSS, VAL_DICE, WEIGHTS, metric_name, model_name, tag
from segcal.ledger.pace import wait_s
from segcal.ledger.store import experiment_id
from segcal.records import EpochRecord
from segcal.tasks import TaskSpec
from segcal.trial import TrialConfig

_BATCH = 1000  # metrics; MLflow takes no more in one call


@dataclass(frozen=True)
class SweepRun:
    """The parent run of a sweep's trials."""

    experiment: str
    experiment_id: str
    run_id: str
    adopted: bool  # `mlflow run` made it, and will end it


def start_sweep(
    client: MlflowClient,
    experiment: str,
    name: str,
    params: Mapping[str, Any],
    plan: str,
    manifest: Mapping[str, Any] | None = None,
    task: str = "",
) -> SweepRun:
    """Open the sweep's run: the one of `mlflow run` where there is one in this experiment, or a new one.

    plan (YAML) and the manifest of the prepared data, a task's, are kept with it as files. The data are registered
    here, once: of trials that start together and each register them first, all but one would die.
    """
    where = experiment_id(client, experiment)
    launcher = os.environ.get("MLFLOW_RUN_ID")
    try:
        adopted = bool(launcher) and client.get_run(launcher).info.experiment_id == where
    except MlflowException:  # a left-over variable that names a run of another store
        launcher, adopted = None, False
    if adopted and launcher:
        run_id = launcher
        client.update_run(run_id, name=name)
    else:
        run_id = client.create_run(where, run_name=name).info.run_id
        if launcher:  # opened in another experiment by --experiment-name: leave a way from there to here
            client.set_tag(launcher, tag("sweep_run"), run_id)
    client.log_batch(
        run_id,
        params=[Param(f"sweep.{key}", str(value)) for key, value in params.items()],
        tags=[RunTag(tag("kind"), "sweep"), RunTag(tag("experiment"), experiment)],
    )
    client.log_text(run_id, plan, "sweep.yaml")
    if manifest:
        client.log_text(run_id, json.dumps(manifest, indent=1), "manifest.json")
        client.log_inputs(run_id, datasets=[_dataset(task, manifest)])
    return SweepRun(experiment, where, run_id, adopted)


def end_sweep(client: MlflowClient, sweep: SweepRun, status: str) -> None:
    """Close the sweep's run and any trial's run that a killed worker left open. `mlflow run` closes its own."""
    filters = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{sweep.run_id}' and attributes.status = 'RUNNING'"
    while left := client.search_runs([sweep.experiment_id], filters, max_results=1000):
        for run in left:
            client.set_tag(run.info.run_id, tag("error"), "its process ended before the trial did")
            client.set_terminated(run.info.run_id, "KILLED")
    if not sweep.adopted:
        client.set_terminated(sweep.run_id, status)


class TrialRun:
    """The nested run of one trial: parameters, metrics an epoch, a LoggedModel a checkpoint, one registered version.

    Finished epochs are kept and written together every few seconds, up to a minute in a long trial, and at its end.
    """

    def __init__(
        self, client: MlflowClient, sweep: SweepRun, config: TrialConfig, task: TaskSpec, manifest: Mapping[str, Any],
        code_version: str, facts: Mapping[str, str], clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._client, self._sweep, self._config, self._task = client, sweep, config, task
        self._best: tuple[str, EpochRecord, str] | None = None  # model id, its epoch, sha256 of its weights
        self._clock, self._started, self._written = clock, clock(), clock()
        self._metrics: list[Metric] = []  # not written yet
        self._better: EpochRecord | None = None  # better than the best that is written
        self._tags = {
            tag("experiment"): sweep.experiment,
            tag("task"): config.task,
            tag("recipe"): config.recipe,
            tag("label"): config.label,
            tag("loss"): config.loss,
            tag("seed"): str(config.seed),
            tag("key"): config.key,
            tag("data_digest"): config.data_digest,
            tag("code_version"): code_version,
        }
        run = client.create_run(
            sweep.experiment_id,
            run_name=f"{config.label} seed {config.seed}",
            tags={MLFLOW_PARENT_RUN_ID: sweep.run_id, tag("kind"): "trial", **self._tags},
        )
        self.run_id: str = run.info.run_id
        params = {**config.identity(), **{f"system.{name}": value for name, value in _system(facts).items()}}
        client.log_batch(self.run_id, params=[Param(name, str(value)) for name, value in params.items()])
        client.log_inputs(self.run_id, datasets=[_dataset(config.task, manifest)])

    def epoch(self, record: EpochRecord) -> None:
        """Take an epoch's metrics, and its weights where they are the best so far; write what waited long enough."""
        values = {
            TRAIN_LOSS: record.train_loss,
            VAL_DICE: record.val_dice,
            LR: record.lr,
            SECONDS: record.seconds,
        }
        for structure, dice in zip(self._task.structures, record.val_dice_by_structure, strict=True):
            if np.isfinite(dice):
                values[metric_name(VAL_DICE, structure)] = dice
        now = int(time.time() * 1000)
        self._metrics += [Metric(key, value, now, record.epoch) for key, value in values.items()]
        if record.weights is not None:
            self._better = record  # one that still waits is superseded: it is never written
        if record.epoch == 1:
            self._client.set_tag(self.run_id, tag("step"), record.step)
        if self._clock() - self._written >= wait_s(self._written - self._started):
            self._write()

    def finish(self) -> None:
        """Write what waits, register the best checkpoint as a version of the recipe's model and end the run."""
        self._write()
        if self._best is None:
            raise ValueError(f"trial {self._config.label} seed {self._config.seed} has no checkpoint to register")
        model_id, record, digest = self._best
        name = model_name(self._config.task, self._config.recipe)
        _ensure_model(self._client, name, self._config)
        self._client.create_model_version(
            name,
            f"models:/{model_id}",
            self.run_id,
            model_id=model_id,
            tags={
                **self._tags,
                tag("weights_sha256"): digest,
                tag("val_dice"): f"{record.val_dice:.6f}",
                tag("epoch"): str(record.epoch),
            },
            await_creation_for=0,
        )
        self._client.set_terminated(self.run_id, "FINISHED")

    def fail(self, reason: str, status: str = "FAILED", **tags: str) -> None:
        """Write what waits and end the run as FAILED or KILLED, with the reason and other tags."""
        try:
            self._write()
        finally:  # a store that takes no files may still take the reason
            for name, value in {"error": reason, **tags}.items():
                self._client.set_tag(self.run_id, tag(name), value)
            self._client.set_terminated(self.run_id, status)

    def _write(self) -> None:
        """The best checkpoint and all metrics that wait; those of the checkpoint's epoch are linked to its model."""
        better, self._better = self._better, None
        try:
            if better is not None:
                model_id = self._checkpoint(better)
                self._metrics = [
                    Metric(m.key, m.value, m.timestamp, m.step, model_id=model_id) if m.step == better.epoch else m
                    for m in self._metrics
                ]
        finally:  # a store that takes no files may still take numbers
            while self._metrics:
                self._client.log_batch(self.run_id, metrics=self._metrics[:_BATCH])
                del self._metrics[:_BATCH]
            self._written = self._clock()

    def _checkpoint(self, record: EpochRecord) -> str:
        assert record.weights is not None
        weights = save(dict(record.weights))
        digest = hashlib.sha256(weights).hexdigest()
        model = self._client.create_logged_model(
            self._sweep.experiment_id,
            name=f"{self._config.label}-seed-{self._config.seed}",
            source_run_id=self.run_id,
            params={name: str(value) for name, value in self._config.identity().items()},
            tags={**self._tags, tag("epoch"): str(record.epoch), tag("weights_sha256"): digest},
            model_type="segcal-unet",
        )
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, WEIGHTS).write_bytes(weights)
            Path(folder, CONFIG).write_text(json.dumps(asdict(self._config), indent=1))
            Path(folder, TASK).write_text(json.dumps(asdict(self._task), indent=1))
            self._client.log_model_artifacts(model.model_id, folder)
        self._client.finalize_logged_model(model.model_id, "READY")
        self._best = (model.model_id, record, digest)
        return str(model.model_id)


def log_report(
    client: MlflowClient,
    experiment: str,
    name: str,
    folder: Path,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
) -> str:
    """Log a rendered report as a finished run of the experiment; returns the run id."""
    run = client.create_run(experiment_id(client, experiment), run_name=name, tags={tag("kind"): "report"})
    run_id: str = run.info.run_id
    now = int(time.time() * 1000)
    status = "FAILED"
    try:
        client.log_batch(
            run_id,
            params=[Param(key, str(value)[:6000]) for key, value in params.items()],
            metrics=[Metric(metric_name(key), value, now, 0) for key, value in metrics.items() if np.isfinite(value)],
        )
        client.log_artifacts(run_id, str(folder))
        status = "FINISHED"
    finally:
        client.set_terminated(run_id, status)
    return run_id


def _ensure_model(client: MlflowClient, name: str, config: TrialConfig) -> None:
    try:
        client.create_registered_model(
            name,
            tags={tag("task"): config.task, tag("recipe"): config.recipe, tag("label"): config.label},
            description=f"U-Nets of one recipe ({config.label}: {config.loss}), one version a seed.",
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _dataset(task: str, manifest: Mapping[str, Any]) -> DatasetInput:
    """The manifest as an MLflow dataset: which cases, never their voxels."""
    splits = {entry["case_id"]: entry["split"] for entry in manifest["cases"]}
    counts = {split: list(splits.values()).count(split) for split in ("train", "val", "test")}
    return DatasetInput(
        Dataset(
            name=f"segcal-{task}",
            digest=manifest["digest"],
            source_type="local",
            source=json.dumps({"root": manifest["root"]}),
            profile=json.dumps({"cases": counts, "splits": splits})[:16_000],
        )
    )


def _system(facts: Mapping[str, str]) -> dict[str, str]:
    return {"python": platform.python_version(), "platform": platform.platform(), "host": platform.node(), **facts}
