"""Reads members out of the model registry: another process, another day, nothing but the tracking URI."""

__all__ = [
    "Checkpoint", "Held", "checkpoint_is_there", "finished_keys", "held", "load_checkpoint", "models", "ood_digest",
]  # fmt: skip

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow.artifacts
import numpy as np
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri
from safetensors.numpy import load

from segcal.errors import BadData, MissingExtra, UnknownName, nearest
from segcal.ledger.location import is_new, sqlite_file
from segcal.ledger.names import CONFIG, TASK, WEIGHTS, tag
from segcal.ledger.snapshot import Version, registered, snapshot_folder
from segcal.ledger.store import check_artifacts, is_away, open_store
from segcal.records import ModelRef

_PAGE = 1000


@dataclass(frozen=True)
class Checkpoint:
    """A member's files."""

    config: dict[str, Any]
    task: dict[str, Any]
    weights: dict[str, np.ndarray]


@dataclass(frozen=True)
class Held:
    """What an experiment holds before a sweep begins."""

    members: tuple[ModelRef, ...] = ()
    artifacts: str | None = None  # where its checkpoints go; None: the server decides


def models(client: MlflowClient, experiment: str) -> list[ModelRef]:
    """Every registered member of an experiment, by recipe and seed; of a trial registered twice, the newest.

    Raises UnknownName for an unknown experiment and BadData for one without models.
    """
    if client.get_experiment_by_name(experiment) is None:
        known = [found.name for found in client.search_experiments()]
        raise UnknownName(f"no experiment named '{experiment}'; {nearest(experiment, known)}")
    refs = {ref.key: ref for ref in map(_ref, _versions(client, experiment))}
    if not refs:
        raise BadData(f"experiment '{experiment}' must hold registered models, got none; run `segcal sweep` first")
    return sorted(refs.values(), key=lambda ref: (ref.recipe, ref.seed))


def finished_keys(client: MlflowClient, experiment: str) -> set[str]:
    """Keys of the trials whose model is registered in the experiment."""
    return {version.tags[tag("key")] for version in _versions(client, experiment)}


def held(uri: str, experiment: str) -> Held:
    """What an experiment holds, read without creating anything: neither a store that is not there nor the experiment.

    Raises StoreUnreachable where there is a store that does not answer.
    """
    here = str(Path("mlruns").absolute()) if sqlite_file(uri) else None  # MLflow's own choice for a new experiment
    if is_new(uri):
        return Held(artifacts=here)
    client = open_store(uri)
    found = client.get_experiment_by_name(experiment)
    refs = {ref.key: ref for ref in map(_ref, _versions(client, experiment))}
    return Held(tuple(refs.values()), found.artifact_location if found else here)


def ood_digest(client: MlflowClient, experiment: str, data_digest: str) -> str | None:
    """Digest of the out-of-distribution cohort of the newest sweep on these data that had one."""
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return None
    filters = f"tags.`{tag('kind')}` = 'sweep' and params.`sweep.data_digest` = '{data_digest}'"
    newest_first = ["attributes.start_time DESC"]
    for run in client.search_runs([found.experiment_id], filters, max_results=_PAGE, order_by=newest_first):
        if digest := run.data.params.get("sweep.ood_digest"):
            return str(digest)
    return None


def load_checkpoint(client: MlflowClient, ref: ModelRef) -> Checkpoint:
    """Weights and settings of a member. Raises BadData where a file is absent or its hash differs."""
    who = f"{ref.name} version {ref.version}"
    try:
        location = client.get_logged_model(ref.model_id).artifact_location
        check_artifacts(location)
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=location, tracking_uri=client.tracking_uri))
        weights = (folder / WEIGHTS).read_bytes()
        config, task = (json.loads((folder / name).read_text()) for name in (CONFIG, TASK))
    except MissingExtra:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadData(f"{who}: the checkpoint's files must be there, got: {reason}; train it again") from None
    digest = hashlib.sha256(weights).hexdigest()
    if digest != ref.weights_sha256:
        raise BadData(
            f"{who}: the weights' sha256 must be {ref.weights_sha256[:12]}…, got {digest[:12]}…; restore the file"
        )
    return Checkpoint(config, task, load(weights))


def checkpoint_is_there(client: MlflowClient, ref: ModelRef) -> bool:
    """Whether a member's weights are where they were put; they are not read."""
    try:
        location = client.get_logged_model(ref.model_id).artifact_location
        if is_local_uri(location):
            return (Path(local_file_uri_to_path(location)) / WEIGHTS).is_file()
        found = mlflow.artifacts.list_artifacts(artifact_uri=location, tracking_uri=client.tracking_uri)
    except MlflowException as error:
        if is_away(error):
            raise
        return False
    return any(Path(file.path).name == WEIGHTS for file in found)


def _versions(client: MlflowClient, experiment: str) -> list[Version]:
    """Oldest first."""
    return registered(client, experiment, snapshot_folder())


def _ref(version: Version) -> ModelRef:
    tags = version.tags
    return ModelRef(
        name=version.name,
        version=version.version,
        model_id=version.source.removeprefix("models:/"),  # a search leaves model_id empty
        run_id=version.run_id,
        task=tags[tag("task")],
        recipe=tags[tag("recipe")],
        label=tags[tag("label")],
        seed=int(tags[tag("seed")]),
        data_digest=tags[tag("data_digest")],
        code_version=tags[tag("code_version")],
        key=tags[tag("key")],
        weights_sha256=tags[tag("weights_sha256")],
        val_dice=float(tags[tag("val_dice")]),
        epoch=int(tags[tag("epoch")]),
        created=version.created,
    )
