"""What an experiment keeps in MLflow that no ensemble and no report needs: superseded versions and checkpoints.

Needed are: of every trial the newest version (what `models()` gives), a version with an alias, one that a report of
the experiment or a registered ensemble names, and one that another version is a copy of; and the checkpoint of each
version that stays, whoever registered it. (A report whose run was deleted in MLflow needs nothing.) Nothing is garbage
without segcal's tags, of another experiment, of a run that has not ended, or before it has been unneeded for a while: a
checkpoint since it and its run were last written, a version since the one that replaced it was registered.
"""

__all__ = ["KINDS", "Garbage", "Holdings", "delete", "find_garbage", "unneeded_checkpoints", "unneeded_versions"]

import contextlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import mlflow.artifacts
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from segcal.errors import BadData, SegcalError, UsageError, nearest
from segcal.ledger.ensemble_version import read_manifest, versions_of
from segcal.ledger.names import tag
from segcal.ledger.snapshot import Version, versions
from segcal.progress import Progress, silent

VERSION = "superseded versions"
SUPERSEDED = "checkpoints of superseded versions"
UNREGISTERED = "checkpoints that were surpassed"
FAILED = "checkpoints of failed or killed trials"
KINDS = (VERSION, SUPERSEDED, UNREGISTERED, FAILED)
_ENDED = ("FINISHED", "FAILED", "KILLED")
_PAGE = 1000
_LONGEST_PARAM = 6000  # `log_report` cuts parameters there


@dataclass(frozen=True)
class Garbage:
    """A registered version, or a LoggedModel with its files, that nothing needs."""

    kind: str  # one of KINDS
    name: str  # of the registered model; of a checkpoint, its model id
    version: int = 0  # 0: a checkpoint
    run_id: str = ""  # that wrote the checkpoint
    location: str = ""  # of a checkpoint's files
    bytes: int = 0  # of a checkpoint's files


@dataclass(frozen=True)
class Holdings:
    """What an experiment holds, and what the rest of the store says of it."""

    runs: Mapping[str, Run]  # deleted ones too
    ended: frozenset[str]  # ids of the runs that are over
    checkpoints: tuple[LoggedModel, ...]
    versions: tuple[Version, ...]  # the experiment's, oldest first
    others: tuple[Version, ...]  # all others of the store
    pinned: frozenset[Version]  # have an alias, or a report or an ensemble names them


def find_garbage(
    client: MlflowClient, experiment: str, now_ms: int, older_than_s: float, progress: Progress = silent
) -> list[Garbage]:
    """What nothing has needed for so long: versions, then checkpoints.

    progress is called after each checkpoint whose files were measured. Raises UsageError for an unknown experiment.
    """
    before_ms = now_ms - int(older_than_s * 1000)
    holdings = _holdings(client, experiment)
    gone = unneeded_versions(holdings, before_ms)
    checkpoints = unneeded_checkpoints(holdings, gone, before_ms)
    items = [Garbage(VERSION, version.name, version.version) for version in gone]
    replaced = {version.source for version in gone}
    for index, model in enumerate(checkpoints, start=1):
        kind = SUPERSEDED if _source(model) in replaced else _kind(holdings.runs.get(model.source_run_id))
        size = sum(_sizes(_files(client, model.artifact_location, model.model_id)))
        items.append(Garbage(kind, model.model_id, 0, model.source_run_id, model.artifact_location, size))
        progress("looking at checkpoints", index, len(checkpoints), model.model_id)
    return items


def unneeded_versions(holdings: Holdings, before_ms: int) -> list[Version]:
    """Versions of trials that were registered again before then."""
    sources = {version.source for version in (*holdings.versions, *holdings.others)}
    newest: dict[str, Version] = {}
    replaced = {}
    for version in holdings.versions:
        key = version.tags[tag("key")]
        if key in newest:
            replaced[newest[key]] = version.created
        newest[key] = version
    return [
        version
        for version, since_ms in replaced.items()
        if since_ms < before_ms
        and version not in holdings.pinned
        and version.run_id in holdings.ended
        and f"models:/{version.name}/{version.version}" not in sources
    ]


def unneeded_checkpoints(holdings: Holdings, gone: Collection[Version], before_ms: int) -> list[LoggedModel]:
    """Checkpoints that no version has, once some are gone, and that were last written before then."""
    stay = {version.source for version in holdings.versions if version not in set(gone)}
    needed = stay | {version.source for version in holdings.others}
    return [
        model
        for model in holdings.checkpoints
        if not {_source(model), model.artifact_location} & needed
        and model.source_run_id in holdings.ended
        and _last_written_ms(model, holdings.runs) < before_ms
    ]


def delete(client: MlflowClient, items: Sequence[Garbage], progress: Progress = silent) -> list[Garbage]:
    """Delete versions, files and LoggedModels; returns those that were deleted.

    What came to be needed since it was found stays. A checkpoint's files go before its LoggedModel, so that what an
    interrupted call leaves is found again. progress is called after each item. Raises SegcalError for what cannot be
    deleted.
    """
    done = []
    for index, item in enumerate(sorted(items, key=lambda item: not item.version), start=1):
        try:
            deleted = _delete_version(client, item) if item.version else _delete_checkpoint(client, item)
        except (MlflowException, OSError) as error:  # requests' errors are OSErrors
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            what = f"{item.name} version {item.version}" if item.version else f"checkpoint {item.name}"
            raise SegcalError(
                f"{what} must let itself be deleted, got: {reason}; call the same command again"
            ) from None
        done += [item] if deleted else []
        progress("deleting", index, len(items), item.name)
    return done


def _delete_version(client: MlflowClient, item: Garbage) -> bool:
    with _absent_is_fine():
        if client.get_model_version(item.name, str(item.version)).aliases:
            return False
        client.delete_model_version(item.name, str(item.version))
    return True


def _delete_checkpoint(client: MlflowClient, item: Garbage) -> bool:
    if not _ended(client, item.run_id, {}):  # a trial that goes on in its run may register what the run holds
        return False
    if client.search_model_versions(f"source_path = 'models:/{item.name}'", max_results=1):
        return False
    _files(client, item.location, item.name).delete_artifacts()
    with _absent_is_fine():
        client.delete_logged_model(item.name)
    return True


def _holdings(client: MlflowClient, experiment: str) -> Holdings:
    found = client.get_experiment_by_name(experiment)
    if found is None:
        known = [other.name for other in client.search_experiments()]
        raise UsageError(f"no experiment named '{experiment}'; {nearest(experiment, known)}")
    # In this order: a run that had ended when it was read has registered its version before the versions are read.
    runs = _runs(client, found.experiment_id)
    models = [model for model in _logged_models(client, found.experiment_id) if _is_ours(model.tags, experiment)]
    every = versions(client)
    ours = [version for version in every if _is_ours(version.tags, experiment)]
    trials = {model.source_run_id for model in models} | {version.run_id for version in ours}
    return Holdings(
        runs,
        frozenset(run_id for run_id in trials if _ended(client, run_id, runs)),
        tuple(models),
        tuple(ours),
        tuple(version for version in every if not _is_ours(version.tags, experiment)),
        frozenset(_aliased(client, ours) | _reported(client, runs.values(), ours) | _in_ensembles(client, ours)),
    )


def _aliased(client: MlflowClient, ours: Iterable[Version]) -> set[Version]:
    """Versions with an alias; a search leaves aliases out."""
    by_name: dict[str, list[Version]] = {}
    for version in ours:
        by_name.setdefault(version.name, []).append(version)
    named = {name: {int(v) for v in client.get_registered_model(name).aliases.values()} for name in by_name}
    return {version for name, members in by_name.items() for version in members if version.version in named[name]}


def _reported(client: MlflowClient, runs: Iterable[Run], ours: Iterable[Version]) -> set[Version]:
    """Versions that a report names; where its list is cut off and its files are gone, all that are older than it."""
    names, until_ms = set(), 0
    for run in runs:
        if run.data.tags.get(tag("kind")) != "report" or run.info.lifecycle_stage == "deleted":
            continue
        listed = run.data.params.get("members", "")
        if 0 < len(listed) < _LONGEST_PARAM:
            names |= set(listed.split(", "))
        elif (in_file := _members_of(client, run)) is not None:
            names |= in_file
        elif listed or run.info.status not in ("FAILED", "KILLED"):  # else it ended before it named any
            until_ms = max(until_ms, run.info.end_time or run.info.start_time)
    return {v for v in ours if f"{v.name}/{v.version}" in names or v.created <= until_ms}


def _members_of(client: MlflowClient, run: Run) -> set[str] | None:
    """Members as each task's report.json names them; None where one cannot be read."""
    found = set()
    try:
        for folder in json.loads(run.data.tags.get(tag("tasks"), '{"": ""}')).values():
            location = "/".join(part for part in (run.info.artifact_uri, folder, "report.json") if part)
            path = mlflow.artifacts.download_artifacts(artifact_uri=location, tracking_uri=client.tracking_uri)
            found |= {f"{ref['name']}/{ref['version']}" for ref in json.loads(Path(path).read_text())["members"]}
    except Exception:  # each kind of artifact store raises its own
        return None
    return found


def _in_ensembles(client: MlflowClient, ours: Iterable[Version]) -> set[Version]:
    """Versions that a registered ensemble's manifest names; where it cannot be read, all that are older than it."""
    names, until_ms = set(), 0
    for ensemble in versions_of(client):
        try:
            members = json.loads(read_manifest(client, ensemble))["members"]
            names |= {f"{member['name']}/{member['version']}" for member in members}
        except (BadData, ValueError, KeyError, TypeError):
            until_ms = max(until_ms, ensemble.created_ms)
    return {v for v in ours if f"{v.name}/{v.version}" in names or v.created <= until_ms}


def _ended(client: MlflowClient, run_id: str | None, runs: Mapping[str, Run]) -> bool:
    """Whether a trial's run is over. One that is gone for good is; one without a name is no trial's."""
    if not run_id:
        return False
    if run_id not in runs:
        try:
            return client.get_run(run_id).info.status in _ENDED
        except MlflowException as error:
            return bool(error.error_code == "RESOURCE_DOES_NOT_EXIST")
    return runs[run_id].info.status in _ENDED


def _last_written_ms(model: LoggedModel, runs: Mapping[str, Run]) -> int:
    run = runs.get(model.source_run_id)
    return max(int(model.last_updated_timestamp), int(run.info.end_time or 0) if run else 0)


def _kind(run: Run | None) -> str:
    return UNREGISTERED if run is not None and run.info.status == "FINISHED" else FAILED


def _is_ours(tags: Mapping[str, str], experiment: str) -> bool:
    return tags.get(tag("experiment")) == experiment and tag("key") in tags


def _source(model: LoggedModel) -> str:
    """What a version of it has as its source."""
    return f"models:/{model.model_id}"


def _runs(client: MlflowClient, experiment_id: str) -> dict[str, Run]:
    """All runs of the experiment, deleted ones too, by id."""
    found: dict[str, Run] = {}
    token = None
    while True:
        page = client.search_runs([experiment_id], "", ViewType.ALL, _PAGE, page_token=token)
        found |= {run.info.run_id: run for run in page}
        token = page.token
        if not token:
            return found


def _logged_models(client: MlflowClient, experiment_id: str) -> list[LoggedModel]:
    """All LoggedModels of the experiment, each once."""
    found: dict[str, LoggedModel] = {}
    token = None
    while True:
        page = client.search_logged_models([experiment_id], max_results=_PAGE, page_token=token)
        found |= {model.model_id: model for model in page}
        token = page.token
        if not token:
            return list(found.values())


def _files(client: MlflowClient, location: str, model_id: str) -> ArtifactRepository:
    """The files of a LoggedModel: its own folder where MLflow gave it one, else no more than its artifacts."""
    folder = str(location).rstrip("/")
    parent, _, last = folder.rpartition("/")
    own = last == "artifacts" and PurePosixPath(urlsplit(parent).path).name == model_id
    return get_artifact_repository(parent if own else folder, tracking_uri=client.tracking_uri)


def _sizes(files: ArtifactRepository, path: str | None = None) -> Iterator[int]:
    """Bytes of each file."""
    for info in files.list_artifacts(path):
        if info.is_dir:
            yield from _sizes(files, info.path)
        else:
            yield info.file_size or 0


@contextlib.contextmanager
def _absent_is_fine() -> Iterator[None]:
    """Another process was quicker."""
    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
