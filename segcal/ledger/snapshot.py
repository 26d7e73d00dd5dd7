"""An experiment's registered versions out of a file, brought up to date by asking only for what is new.

A full listing of 2,000 versions takes MLflow seconds where the store is far or busy; a version never changes by
itself, so the file keeps them, and each listing proves the file against the store with a few small queries:

1. The versions are put into groups that share a model and the tags of GROUPED. For each group the store is asked for
   its rows by version number, from the last known one on. MLflow numbers a model's versions upwards in the order in
   which they are committed, so what follows that row is new; that the row stands at its place proves that no known
   version before it is gone.
2. Versions with the experiment's tag under models that are not known yet are asked for.
3. The last row of the experiment must be the last of as many as are then known.

Where any of these fails, and where the groups are so many or so small that it takes as long, everything is listed
anew. So a listing holds exactly the versions with the experiment's tag,
as of its queries: new, deleted, renamed, tagged or untagged ones are never missed, and neither is an edit of a tag of
GROUPED. Two things are seen only after OLDEST_S, when the file is listed anew anyway: an edit by hand of the tags
that are a version's own (seed, key, val_dice, epoch, weights_sha256; segcal never does it, and weights are checked
when they are loaded), and two edits by hand that take one version out of a group and put another, older one into it.
"""

__all__ = ["Snapshot", "Version", "kept", "keep", "registered", "snapshot_file", "snapshot_folder", "versions"]

import contextlib
import gc
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.search_utils import SearchUtils

from segcal.environment import home
from segcal.ledger.names import tag

FORMAT = 1
OLDEST_S = 24 * 3600.0
GROUPED = tuple(map(tag, ("experiment", "task", "recipe", "label", "data_digest", "code_version")))
_PAGE = 10_000  # in one page: nothing can move between pages while it is read
_ROWS_A_QUERY = 50  # a query for one row takes as long as so many rows of a long one (35 over HTTP, 55 on SQLite)


@dataclass(frozen=True)
class Version:
    """A registered version, as a listing tells it."""

    name: str
    version: int
    created: int  # ms since 1970
    source: str
    run_id: str
    tags: Mapping[str, str] = field(hash=False)

    @property
    def group(self) -> tuple[str | None, ...]:
        """The model, and the tags that it shares with others."""
        return (self.name, *(self.tags.get(name) for name in GROUPED))


@dataclass(frozen=True)
class Snapshot:
    """The versions of an experiment when they were last listed."""

    store: str  # which experiment of which store
    listed: float  # when all of them were listed, in seconds since 1970
    versions: tuple[Version, ...]


def registered(client: MlflowClient, experiment: str, folder: Path, now: float | None = None) -> list[Version]:
    """Every version with the experiment's tag, oldest first; folder keeps the snapshot. See the module for what holds.

    A folder that cannot be written costs time, nothing else. now: seconds since 1970.
    """
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return versions(client, _tagged(experiment))
    now = time.time() if now is None else now
    store = f"{found.experiment_id} {found.creation_time}"
    path = snapshot_file(folder, client.tracking_uri, experiment)
    known = kept(path, store)
    fresh = known is not None and 0 <= now - known.listed < OLDEST_S
    current = _refreshed(client, experiment, known.versions) if known and fresh else None
    if current is None:
        current = versions(client, _tagged(experiment))
        if _pays(current):
            keep(path, Snapshot(store, now, tuple(current)))
    elif known and len(current) > len(known.versions):
        keep(path, replace(known, versions=tuple(current)))
    return sorted(current, key=_age)


def versions(client: MlflowClient, filters: str = "") -> list[Version]:
    """All versions that pass MLflow's filter, oldest first."""
    found = {(version.name, version.version): version for version in _pages(client, filters, 0)}
    return sorted(found.values(), key=_age)


def snapshot_folder() -> Path:
    """Where listings are kept: snapshots/ below $SEGCAL_HOME, or ~/.cache/segcal."""
    return home() / "snapshots"


def snapshot_file(folder: Path, uri: str, experiment: str) -> Path:
    """The file of an experiment's snapshot: named by the store, without its credentials, and the experiment."""
    parts = urlsplit(uri)
    where = (parts.scheme, parts.netloc.rpartition("@")[2], parts.path, experiment)
    return folder / f"{hashlib.sha256(json.dumps(where).encode()).hexdigest()[:24]}.json"


def kept(path: Path, store: str) -> Snapshot | None:
    """The snapshot of a file; None where it is absent, torn, of another format or of another store."""
    try:
        digest, _, body = path.read_bytes().partition(b"\n")
        if hashlib.sha256(body).hexdigest() != digest.decode():
            return None
        content = json.loads(body)
        if content["format"] != FORMAT or content["store"] != store:
            return None
        return Snapshot(store, content["listed"], tuple(Version(**entry) for entry in content["versions"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(path: Path, snapshot: Snapshot) -> None:
    """Write a snapshot whole or not at all."""
    body = json.dumps({"format": FORMAT, **asdict(snapshot)}).encode()
    with contextlib.suppress(OSError):  # a full or read-only disk: the next listing takes longer
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            Path(partial).unlink(missing_ok=True)


def _refreshed(client: MlflowClient, experiment: str, known: Sequence[Version]) -> list[Version] | None:
    """The known versions and the new ones; None where the store holds other versions than that."""
    groups = _groups(known)
    names = sorted({version.name for version in known})
    if not _pays(known) or not all(map(_quotable, groups)):
        return None
    current = list(known)
    try:
        for group, members in groups.items():
            rows = list(_pages(client, _of_group(group), len(members) - 1))
            if rows[:1] != members[-1:]:
                return None
            current += rows[1:]
        elsewhere = f"{_tagged(experiment)} and name NOT IN ({', '.join(map(_quote, names))})"
        current += _pages(client, elsewhere, 0)
        at_the_end = list(_pages(client, _tagged(experiment), len(current) - 1))
    except MlflowException:  # a server that knows other filters or page tokens; one that is away fails again
        return None
    return current if len(at_the_end) == 1 and at_the_end[0] in current else None


def _pays(known: Sequence[Version]) -> bool:
    """Whether to ask for the end of each group is quicker than to list everything."""
    return 0 < len(_groups(known)) * _ROWS_A_QUERY <= len(known)


def _groups(known: Sequence[Version]) -> dict[tuple[str | None, ...], list[Version]]:
    """Versions by group, in the order of their numbers."""
    groups: dict[tuple[str | None, ...], list[Version]] = {}
    for version in sorted(known, key=lambda version: version.version):
        groups.setdefault(version.group, []).append(version)
    return groups


def _pages(client: MlflowClient, filters: str, offset: int) -> Iterator[Version]:
    """Versions that pass the filter by name and number, from the row at offset on."""
    token = SearchUtils.create_page_token(offset).decode() if offset else None
    while True:
        with _uncollected():
            page = client.search_model_versions(
                filters, max_results=_PAGE, order_by=["name ASC", "version_number ASC"], page_token=token
            )
        yield from map(_version, page)
        token = page.token
        if not token:
            return


def _version(version: ModelVersion) -> Version:
    created = int(version.creation_timestamp)
    return Version(version.name, int(version.version), created, version.source, version.run_id, dict(version.tags))


def _age(version: Version) -> tuple[int, str, int]:
    return version.created, version.name, version.version


def _tagged(experiment: str) -> str:
    return f"tags.`{tag('experiment')}` = {_quote(experiment)}"


def _of_group(group: tuple[str | None, ...]) -> str:
    name, *values = group
    tags = [f"tags.`{key}` = {_quote(value)}" for key, value in zip(GROUPED, values, strict=True) if value is not None]
    return " and ".join([f"name = {_quote(str(name))}", *tags])


def _quotable(group: tuple[str | None, ...]) -> bool:
    """Whether MLflow's filters can hold all of a group's texts, all of which are there."""
    return all(value is not None and not set(value) & set("'\"\\`") for value in group)


def _quote(text: str) -> str:
    return f'"{text}"' if "'" in text else f"'{text}'"  # MLflow knows no way to write both in one text


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """A page of versions is a few hundred thousand objects, no garbage: looking for some took longer than the query."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
