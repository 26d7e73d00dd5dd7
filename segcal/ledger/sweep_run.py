"""Opens and closes a sweep's run, with explicit run ids only.

The fluent API would adopt the parent's run in every process that inherits MLFLOW_RUN_ID.
"""

__all__ = ["SweepRun", "close_left", "dataset_of", "elsewhere", "end_sweep", "names_before", "start_sweep"]

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from segcal.ledger.names import tag
from segcal.ledger.store import experiment_id


@dataclass(frozen=True)
class SweepRun:
    """The parent run of a sweep's trials."""

    experiment: str
    experiment_id: str
    run_id: str
    adopted: bool  # `mlflow run` made it, and will end it
    storage: str = ""  # names its records


def start_sweep(
    client: MlflowClient,
    experiment: str,
    name: str,
    params: Mapping[str, Any],
    plan: str,
    manifest: Mapping[str, Any] | None = None,
    task: str = "",
    storage: str = "",
) -> SweepRun:
    """Open the sweep's run: the one of `mlflow run` where there is one in this experiment, or a new one.

    plan (YAML) and the manifest of the prepared data, a task's, are kept with it as files. The data are registered
    here, once: of trials that start together and each register them first, all but one would die.
    """
    where = experiment_id(client, experiment)
    tags = {tag("kind"): "sweep", tag("experiment"): experiment, tag("storage"): storage}
    launcher = os.environ.get("MLFLOW_RUN_ID")
    try:
        adopted = bool(launcher) and client.get_run(launcher).info.experiment_id == where
    except MlflowException:  # a left-over variable that names a run of another store
        launcher, adopted = None, False
    if adopted and launcher:
        run_id = launcher
        client.update_run(run_id, name=name)
    else:
        run_id = client.create_run(where, tags=tags, run_name=name).info.run_id
        if launcher:  # opened in another experiment by --experiment-name: leave a way from there to here
            client.set_tag(launcher, tag("sweep_run"), run_id)
    client.log_batch(
        run_id,
        params=[Param(f"sweep.{key}", str(value)) for key, value in params.items()],
        tags=[RunTag(key, value) for key, value in tags.items()],
    )
    client.log_text(run_id, plan, "sweep.yaml")
    if manifest:
        client.log_text(run_id, json.dumps(manifest, indent=1), "manifest.json")
        client.log_inputs(run_id, datasets=[dataset_of(task, manifest)])
    return SweepRun(experiment, where, run_id, adopted, storage)


def end_sweep(client: MlflowClient, sweep: SweepRun, status: str, *, alone: bool = True) -> None:
    """Close the sweep's run and whatever is still open below it. `mlflow run` closes its own.

    alone: nobody else works on the same records; where another driver has taken them, what is open is his.
    """
    if alone:
        close_left(client, sweep.experiment_id, sweep.storage, {sweep.run_id})
    if not sweep.adopted:
        client.set_terminated(sweep.run_id, status)


def elsewhere(client: MlflowClient, experiment: str, storage: str, place: str) -> str | None:
    """Who trains this experiment with records in another place, in words; None where nobody does."""
    for run in _open_sweeps(client, experiment):
        params = run.data.params
        if run.data.tags.get(tag("storage"), storage) != storage and params.get("sweep.records") != place:
            return f"{params.get('sweep.driver', 'somebody')}, with records in {params.get('sweep.records', '?')}"
    return None


def names_before(client: MlflowClient, experiment: str, place: str) -> set[str]:
    """What the records in this place were called by sweeps that are still open: they may have been deleted since."""
    runs = [run for run in _open_sweeps(client, experiment) if run.data.params.get("sweep.records") == place]
    return {run.data.tags.get(tag("storage"), "") for run in runs} - {""}


def close_left(client: MlflowClient, experiment: str, storage: str, keep: Collection[str] = ()) -> int:
    """Close the runs of sweeps and trials on these records that a killed process left RUNNING; returns how many.

    To be called by the one who holds the sweep: nobody else works on what these records say.
    """
    running = client.search_runs([experiment], "attributes.status = 'RUNNING'", max_results=10_000)
    left = [r for r in running if r.data.tags.get(tag("storage")) == storage and r.info.run_id not in keep]
    for run in left:
        client.set_tag(run.info.run_id, tag("error"), "its process ended before it did")
        client.set_terminated(run.info.run_id, "KILLED")
    return len(left)


def _open_sweeps(client: MlflowClient, experiment: str) -> list[Run]:
    filters = f"attributes.status = 'RUNNING' and tags.`{tag('kind')}` = 'sweep'"
    return list(client.search_runs([experiment], filters, max_results=1000))


def dataset_of(task: str, manifest: Mapping[str, Any]) -> DatasetInput:
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
