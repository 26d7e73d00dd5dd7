"""Versions of registered ensembles: the model segcal-<task>-ensemble, a version an ensemble.

A version is a LoggedModel that plain `mlflow.pyfunc.load_model` loads (models from code, no pickle): the manifest that
names its members, a card, and its scores. It carries no tag `segcal.experiment`, by which members are found.
"""

__all__ = [
    "CANDIDATE", "CARD", "CASES", "CHAMPION", "Draft", "EnsembleVersion", "check_alias", "ensemble_name",
    "find_version", "give_alias", "is_registered", "read_card", "read_manifest", "same_ensemble", "versions_of",
    "write_version",
]  # fmt: skip

import contextlib
import hashlib
import importlib.metadata
import os
import re
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mlflow.artifacts
import mlflow.pyfunc
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import DataType

from segcal.errors import BadData, MissingExtra, StoreUnreachable, UnknownName, UsageError, nearest
from segcal.ledger.names import metric_name, tag
from segcal.ledger.store import check_artifacts, experiment_id, is_away

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # a bar for each small file

CANDIDATE, CHAMPION = "candidate", "champion"
MANIFEST, CARD, CASES = "manifest.json", "MODEL_CARD.md", "scores.csv"
_MANIFEST_PATH = f"artifacts/{MANIFEST}"  # where MLflow puts the files that code is given
_NEEDED = ("segcal", "mlflow", "torch", "numpy")  # to load it; segcal's own requirements name the rest
_KIND = "ensemble"
_PAGE = 1000


@dataclass(frozen=True)
class Draft:
    """An ensemble before it has a version."""

    experiment: str
    task: str
    label: str
    about: Mapping[str, str]  # parameters: recipe, select, members ("name/version, ..."), data_digest, code_version ...
    identity: str  # the same for the same members, data and code
    description: str
    manifest: str = field(repr=False)
    card: str = field(repr=False)
    cases: str = field(repr=False)  # scores by case, CSV
    scores: Mapping[str, float] = field(repr=False)
    code: Path  # of the model: the file that MLflow runs
    image: tuple[int, ...]  # shape (C, Z, Y, X) that it takes; -1: any
    n_classes: int


@dataclass(frozen=True)
class EnsembleVersion:
    """A version, as the registry tells it."""

    name: str
    version: int
    model_id: str
    run_id: str
    experiment: str
    task: str
    recipe: str
    label: str
    select: str
    members: int
    identity: str
    manifest_sha256: str
    created_ms: int
    description: str = ""
    aliases: tuple[str, ...] = ()

    @property
    def uri(self) -> str:
        """Its name for ever."""
        return f"models:/{self.name}/{self.version}"

    @property
    def title(self) -> str:
        """Its name in messages."""
        return f"{self.name} version {self.version}"


def ensemble_name(task: str) -> str:
    """The registered model of a task's ensembles."""
    return f"segcal-{task}-ensemble"


def versions_of(client: MlflowClient, name: str | None = None) -> list[EnsembleVersion]:
    """Every version of one model, or of all, the newest first; none: []."""
    filters = f"tags.`{tag('kind')}` = '{_KIND}'" + (f" and name = '{name}'" if name else "")
    found: list[ModelVersion] = []
    token = None
    while True:
        page = client.search_model_versions(filters, max_results=_PAGE, page_token=token)
        found += page
        token = page.token
        if not token:
            break
    aliases: dict[tuple[str, int], list[str]] = {}  # a search leaves them out
    for model in {version.name for version in found}:
        for alias, version in client.get_registered_model(model).aliases.items():
            aliases.setdefault((model, int(version)), []).append(alias)
    known = [_version(version, aliases.get((version.name, int(version.version)), ())) for version in found]
    return sorted(known, key=lambda version: (version.created_ms, version.name, version.version), reverse=True)


def find_version(client: MlflowClient, uri: str) -> EnsembleVersion:
    """The version of models:/NAME@ALIAS, models:/NAME/VERSION, NAME@ALIAS or NAME/VERSION.

    Raises UnknownName for one that is not there or is no ensemble, with the nearest names.
    """
    plain = uri.strip().removeprefix("models:/")
    parts = re.fullmatch(r"([^@/:]+)([@/])([^@/:]+)", plain)
    version = None
    if parts:
        name, mark, which = parts.groups()
        try:
            by_alias = mark == "@"
            version = (client.get_model_version_by_alias if by_alias else client.get_model_version)(name, which)
        except MlflowException as error:
            if is_away(error):
                raise _away(error) from None
    if version is None or version.tags.get(tag("kind")) != _KIND:
        known = versions_of(client)
        names = [f"{v.name}/{v.version}" for v in known] + [f"{v.name}@{alias}" for v in known for alias in v.aliases]
        hint = nearest(plain, names) if names else "none is registered: `segcal ensemble create` makes one"
        raise UnknownName(f"no ensemble '{uri}'; {hint}")
    return _version(version, version.aliases)


def same_ensemble(client: MlflowClient, name: str, identity: str) -> EnsembleVersion | None:
    """The newest version of the same members, data and code; None: there is none."""
    return next((version for version in versions_of(client, name) if version.identity == identity), None)


def check_alias(alias: str) -> None:
    """Raises UsageError for an alias that MLflow takes for something else, or refuses."""
    if not re.fullmatch(r"(?!latest$|v\d+$)[a-z0-9_.-]{1,255}", alias, re.IGNORECASE):
        raise UsageError(
            f"an alias must be of letters, digits, _, - and ., neither latest nor v1, got '{alias}'; use {CANDIDATE} "
            f"or {CHAMPION}"
        )


def give_alias(client: MlflowClient, version: EnsembleVersion, alias: str) -> EnsembleVersion:
    """Name a version candidate or champion; another one loses the name. Raises UsageError as `check_alias` does."""
    check_alias(alias)
    for last in (False, True):
        try:
            client.set_registered_model_alias(version.name, alias, str(version.version))
            break
        except MlflowException as error:
            if error.error_code == "BAD_REQUEST" and not last:
                continue  # another gave it at this moment, and the database takes one row: it is there now
            if is_away(error):
                raise _away(error) from None
            raise
    found = client.get_model_version(version.name, str(version.version))
    return _version(found, found.aliases)


def read_manifest(client: MlflowClient, version: EnsembleVersion) -> str:
    """The manifest's text. Raises BadData where it is gone or altered."""
    text = _read(client, version, _MANIFEST_PATH)
    digest = hashlib.sha256(text.encode()).hexdigest()
    if digest != version.manifest_sha256:
        raise BadData(
            f"{version.title}: the manifest's sha256 must be {version.manifest_sha256[:12]}…, got {digest[:12]}…; "
            "restore the file, or create the ensemble again"
        )
    return text


def is_registered(client: MlflowClient, manifest: str) -> bool:
    """Whether some version's manifest has this text, to the byte."""
    digest = hashlib.sha256(manifest.encode()).hexdigest()
    return bool(client.search_model_versions(f"tags.`{tag('manifest_sha256')}` = '{digest}'", max_results=1))


def read_card(client: MlflowClient, version: EnsembleVersion) -> str:
    """The model card, Markdown. Raises BadData where it is gone."""
    return _read(client, version, CARD)


def write_version(client: MlflowClient, draft: Draft) -> EnsembleVersion:
    """A new version, in a finished run of kind "ensemble" in the experiment; what fails leaves a failed run at most."""
    name = ensemble_name(draft.task)
    _ensure_model(client, name, draft.task)
    where = experiment_id(client, draft.experiment)
    tags = {tag("kind"): _KIND, tag("task"): draft.task, tag("label"): draft.label}
    tags |= {tag(key): draft.about[key] for key in ("recipe", "select", "data_digest", "code_version")}
    run_tags = {**tags, tag("experiment"): draft.experiment}
    run_id = client.create_run(where, run_name=f"ensemble {draft.task} {draft.label}", tags=run_tags).info.run_id
    status = "FAILED"
    try:
        params = [Param(key, str(value)[:6000]) for key, value in draft.about.items()]
        client.log_batch(run_id, params=params)
        model_id = _log_model(client, draft, where, run_id, tags)
        count = len(draft.about["members"].split(", "))
        version = client.create_model_version(
            name, f"models:/{model_id}", run_id, model_id=model_id, description=draft.description,
            tags={
                **tags, tag("source_experiment"): draft.experiment, tag("members"): str(count),
                tag("identity"): draft.identity,
                tag("manifest_sha256"): hashlib.sha256(draft.manifest.encode()).hexdigest(),
            },
            await_creation_for=0,
        )  # fmt: skip
        status = "FINISHED"
    finally:
        client.set_terminated(run_id, status)
    return _version(version, ())


def _log_model(client: MlflowClient, draft: Draft, where: str, run_id: str, tags: Mapping[str, str]) -> str:
    """The LoggedModel with its files and scores; returns its id."""
    model = client.create_logged_model(
        where, name=f"{draft.label}-ensemble", source_run_id=run_id, tags=dict(tags), model_type="segcal-ensemble",
        params={key: str(value)[:500] for key, value in draft.about.items()},
    )  # fmt: skip
    try:
        _put_files(client, draft, model.model_id)
    except BaseException:
        with contextlib.suppress(Exception):  # the store may be away: what failed first is what is told
            client.finalize_logged_model(model.model_id, "FAILED")
        raise
    client.finalize_logged_model(model.model_id, "READY")
    now = int(time.time() * 1000)
    metrics = [
        Metric(metric_name(key), value, now, 0, model_id=model.model_id)
        for key, value in draft.scores.items()
        if np.isfinite(value)
    ]
    for start in range(0, len(metrics), 900):
        client.log_batch(run_id, metrics=metrics[start : start + 900])
    return str(model.model_id)


def _put_files(client: MlflowClient, draft: Draft, model_id: str) -> None:
    """What plain MLflow needs to load it, the card, and the scores by case."""
    with tempfile.TemporaryDirectory() as folder:
        manifest, saved = Path(folder, MANIFEST), Path(folder, "model")
        manifest.write_text(draft.manifest)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*input example was not provided")  # the signature says what it takes
            mlflow.pyfunc.save_model(
                saved, python_model=str(draft.code), artifacts={"manifest": str(manifest)},
                signature=_signature(draft), pip_requirements=[_pinned(package) for package in _NEEDED],
            )  # fmt: skip
        (saved / CARD).write_text(draft.card)
        (saved / CASES).write_text(draft.cases)
        client.log_model_artifacts(model_id, str(saved))


def _signature(draft: Draft) -> ModelSignature:
    """What it takes and gives; the confidence of each structure, a dict of numbers, is given besides."""
    grid = draft.image[1:]
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), draft.image)]),
        outputs=Schema([
            TensorSpec(np.dtype(np.float32), (draft.n_classes, *grid), "probabilities"),
            TensorSpec(np.dtype(np.uint8), grid, "labels"),
            TensorSpec(np.dtype(np.float32), grid, "entropy"),
        ]),
        params=ParamSchema([ParamSpec("case_id", DataType.string, "")]),
    )  # fmt: skip


def _pinned(package: str) -> str:
    version = importlib.metadata.version(package)
    return f"{package}=={version.partition('+')[0]}"  # torch's +cpu is no release of an index


def _ensure_model(client: MlflowClient, name: str, task: str) -> None:
    try:
        client.create_registered_model(
            name,
            tags={tag("task"): task, tag("kind"): _KIND},
            description=f"Ensembles of U-Nets for task {task}: a version names its members, and what is known of it.",
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _read(client: MlflowClient, version: EnsembleVersion, path: str) -> str:
    try:
        location = client.get_logged_model(version.model_id).artifact_location
        check_artifacts(location)
        with tempfile.TemporaryDirectory() as folder:
            found = mlflow.artifacts.download_artifacts(
                artifact_uri=f"{location}/{path}", dst_path=folder, tracking_uri=client.tracking_uri
            )
            return Path(found).read_text()
    except MissingExtra:
        raise
    except Exception as error:  # each kind of artifact store raises its own
        raise BadData(f"{version.title}: its {path} must be there, got: {_line(error)}; create it again") from None


def _away(error: Exception) -> StoreUnreachable:
    return StoreUnreachable(
        f"the tracking store must answer, got: {_line(error)}; start it, and call the same command again"
    )


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _version(version: ModelVersion, aliases: Sequence[str]) -> EnsembleVersion:
    tags = version.tags
    return EnsembleVersion(
        name=version.name,
        version=int(version.version),
        model_id=version.source.removeprefix("models:/"),  # a search leaves model_id empty
        run_id=version.run_id or "",
        experiment=tags.get(tag("source_experiment"), ""),
        task=tags.get(tag("task"), ""),
        recipe=tags.get(tag("recipe"), ""),
        label=tags.get(tag("label"), ""),
        select=tags.get(tag("select"), ""),
        members=int(tags.get(tag("members"), 0)),
        identity=tags.get(tag("identity"), ""),
        manifest_sha256=tags.get(tag("manifest_sha256"), ""),
        created_ms=int(version.creation_timestamp),
        description=version.description or "",
        aliases=tuple(sorted(aliases)),
    )
