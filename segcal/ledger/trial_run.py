"""The run of one trial, made from what its record says. Every call may be repeated: what is there is not made twice.

So whoever does not know whether a call arrived, after an outage or in another process, makes a new TrialRun and tells
it everything again.
"""

__all__ = ["TrialRun"]

import json
import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from segcal.ledger.names import CONFIG, LR, SECONDS, TASK, TRAIN_LOSS, VAL_DICE, WEIGHTS, metric_name, model_name, tag
from segcal.ledger.sweep_run import SweepRun, dataset_of
from segcal.records import EpochRecord
from segcal.trial import TrialConfig

_BATCH = 900  # metrics, which MLflow stores all or none; it takes no more than 1,000 entries in one call
_STATUS = {"finished": "FINISHED", "pruned": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}

Told = tuple[EpochRecord, int]  # an epoch, and when it ended: ms since 1970


class TrialRun:
    """A nested run: parameters, metrics an epoch, a LoggedModel a checkpoint, one registered version."""

    def __init__(
        self, client: MlflowClient, sweep: SweepRun, config: TrialConfig, task: Mapping[str, Any],
        manifest: Mapping[str, Any] | None, code_version: str, software: Mapping[str, str],
        started_ms: int | None = None,
    ) -> None:  # fmt: skip
        self._client, self._sweep, self._config, self._task = client, sweep, config, task
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
        self._epochs, self._models = 0, dict[int, LoggedModel]()  # that MLflow has
        if run := self._found():
            self._adopt(run)
        else:
            run = self._create(started_ms)
        self.run_id: str = run.info.run_id
        if manifest and not (run.inputs and run.inputs.dataset_inputs):
            self._client.log_inputs(self.run_id, datasets=[dataset_of(config.task, manifest)])
        missing = {
            name: str(value)
            for name, value in {**_settings(config), **_system(software)}.items()
            if name not in run.data.params
        }
        if missing:
            self._client.log_batch(self.run_id, params=[Param(name, value) for name, value in missing.items()])

    def epochs(self, told: Sequence[Told]) -> None:
        """Metrics of the epochs 1, 2, ...: those that MLflow does not have yet."""
        metrics: list[Metric] = []
        for record, time_ms in told[self._epochs :]:
            of_epoch = self._metrics(record, time_ms)
            if len(metrics) + len(of_epoch) > _BATCH:  # an epoch is never divided
                self._client.log_batch(self.run_id, metrics=metrics)
                metrics = []
            metrics += of_epoch
            if record.epoch == 1:
                self._client.set_tag(self.run_id, tag("step"), record.step)
        if metrics:
            self._client.log_batch(self.run_id, metrics=metrics)
        self._epochs = max(self._epochs, len(told))

    def has(self, epoch: int, digest: str | None = None) -> bool:
        """Whether the checkpoint of an epoch is there, with weights of this sha256 where one is named."""
        model = self._models.get(epoch)
        return model is not None and digest in (None, model.tags[tag("weights_sha256")])

    def checkpoint(self, told: Told, weights: bytes, digest: str) -> None:
        """The weights of an epoch as a LoggedModel, which the epoch's metrics are linked to."""
        record, time_ms = told
        if self.has(record.epoch, digest):
            return
        model = self._client.create_logged_model(
            self._sweep.experiment_id,
            name=f"{self._config.label}-seed-{self._config.seed}",
            source_run_id=self.run_id,
            params={name: str(value) for name, value in _settings(self._config).items()},
            tags={**self._tags, tag("epoch"): str(record.epoch), tag("weights_sha256"): digest},
            model_type="segcal-unet",
        )
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, WEIGHTS).write_bytes(weights)
            Path(folder, CONFIG).write_text(json.dumps(asdict(self._config), indent=1))
            Path(folder, TASK).write_text(json.dumps(self._task, indent=1))
            self._client.log_model_artifacts(model.model_id, folder)
        self._client.log_batch(self.run_id, metrics=self._metrics(record, time_ms, model.model_id))
        self._models[record.epoch] = self._client.finalize_logged_model(model.model_id, "READY")

    def register(self, epoch: int, val_dice: float, digest: str) -> None:
        """The checkpoint of an epoch as a version of the recipe's model."""
        name = model_name(self._config.task, self._config.recipe)
        _ensure_model(self._client, name, self._config)
        if self._client.search_model_versions(f"name = '{name}' and run_id = '{self.run_id}'"):
            return
        model_id = self._models[epoch].model_id
        self._client.create_model_version(
            name,
            f"models:/{model_id}",
            self.run_id,
            model_id=model_id,
            tags={
                **self._tags,
                tag("weights_sha256"): digest,
                tag("val_dice"): f"{val_dice:.6f}",
                tag("epoch"): str(epoch),
            },
            await_creation_for=0,
        )

    def end(self, state: str, error: str, tags: Mapping[str, str], log: str, ended_ms: int | None = None) -> None:
        """Close the run: finished, pruned, failed or stopped, with the reason, other tags and the trial's log."""
        if log:
            self._client.log_text(self.run_id, log, "log.txt")
        given = {
            **tags,
            **({"error": error[:500]} if error else {}),
            **({"pruned": "true"} if state == "pruned" else {}),
        }
        if given:
            self._client.log_batch(self.run_id, tags=[RunTag(tag(name), value) for name, value in given.items()])
        self._client.set_terminated(self.run_id, _STATUS[state], ended_ms)

    def _found(self) -> Run | None:
        """The newest run of this trial in the experiment."""
        filters = f"tags.`{tag('kind')}` = 'trial' and tags.`{tag('key')}` = '{self._config.key}'"
        newest = ["attributes.start_time DESC"]
        runs = self._client.search_runs([self._sweep.experiment_id], filters, max_results=1, order_by=newest)
        return runs[0] if runs else None

    def _create(self, started_ms: int | None) -> Run:
        tags = {**self._parent(), tag("kind"): "trial", tag("storage"): self._sweep.storage, **self._tags}
        name = f"{self._config.label} seed {self._config.seed}"
        return self._client.create_run(self._sweep.experiment_id, started_ms, tags, name)

    def _adopt(self, run: Run) -> None:
        """Go on with a run that was closed or left open, below the sweep that goes on with its trial."""
        run_id = run.info.run_id
        tags = {**self._parent(), tag("storage"): self._sweep.storage}
        self._client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        for old in ("error", "again_with_gpus", "pruned"):
            if tag(old) in run.data.tags:
                self._client.delete_tag(run_id, tag(old))
        if run.info.status != "RUNNING":
            self._client.update_run(run_id, status="RUNNING")
        if TRAIN_LOSS in run.data.metrics:
            self._epochs = max(metric.step for metric in self._client.get_metric_history(run_id, TRAIN_LOSS))
        found = self._client.search_logged_models([self._sweep.experiment_id], f"source_run_id = '{run_id}'")
        for model in found:
            if tag("epoch") not in model.tags:  # not ours
                continue
            if model.status == "READY":
                self._models[int(model.tags[tag("epoch")])] = model
            else:  # its upload was cut short
                self._client.delete_logged_model(model.model_id)

    def _parent(self) -> dict[str, str]:
        return {MLFLOW_PARENT_RUN_ID: self._sweep.run_id} if self._sweep.run_id else {}

    def _metrics(self, record: EpochRecord, time_ms: int, model_id: str | None = None) -> list[Metric]:
        values = {
            TRAIN_LOSS: record.train_loss,
            VAL_DICE: record.val_dice,
            LR: record.lr,
            SECONDS: record.seconds,
        }
        structures = dict.fromkeys(self._task["labels"].values())
        for structure, dice in zip(structures, record.val_dice_by_structure, strict=True):
            if np.isfinite(dice):
                values[metric_name(VAL_DICE, structure)] = dice
        return [Metric(key, value, time_ms, record.epoch, model_id=model_id) for key, value in values.items()]


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


def _settings(config: TrialConfig) -> dict[str, Any]:
    """Every resolved field; the options of a plug-in's loss one by one, so that MLflow can sort and plot by them."""
    settings = config.identity()
    options = settings.pop("loss_options", {})
    return settings | {f"loss_options.{name}": value for name, value in options.items()}


def _system(software: Mapping[str, str]) -> dict[str, str]:
    facts = {"python": platform.python_version(), "platform": platform.platform(), **software}
    return {f"system.{name}": value for name, value in facts.items()}
