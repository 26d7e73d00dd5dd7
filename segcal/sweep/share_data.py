"""Prepared data for machines that do not see the driver's folder: through the sweep's storage."""

__all__ = ["obtain", "publish"]

import fcntl
import json
import shutil
from pathlib import Path

from segcal.data.prepared import MANIFEST, PreparedCohort, open_prepared
from segcal.environment import home
from segcal.errors import BadData
from segcal.journal.storage import Storage


def publish(cohort: PreparedCohort, shared: Storage) -> None:
    """Copy a prepared cohort to where every machine can fetch it; its manifest comes last: all is there."""
    folder = shared.at("prepared", cohort.digest)
    if folder.has(MANIFEST):
        return
    for path in sorted(cohort.folder.iterdir()):
        if path.name != MANIFEST:
            folder.upload(path, path.name)
    folder.write(MANIFEST, (cohort.folder / MANIFEST).read_bytes())


def obtain(digest: str, prepared: Path | None, sweep: Storage) -> PreparedCohort:
    """The prepared cohort of a digest: where the driver has it, in this machine's own folder, or fetched into that."""
    own = home() / "prepared" / digest
    for folder in (prepared, own):
        if folder and (folder / MANIFEST).exists():
            return open_prepared(folder)
    own.parent.mkdir(parents=True, exist_ok=True)
    with (own.parent / f"{digest}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # trials that start together fetch once
        if not (own / MANIFEST).exists():
            _fetch(sweep.at("prepared", digest), own)
    return open_prepared(own)


def _fetch(shared: Storage, own: Path) -> None:
    try:
        manifest = shared.read(MANIFEST)
    except FileNotFoundError:
        raise BadData(
            f"prepared data must be seen by every machine that trains, got none in {own} and {shared.uri}; give a "
            "--storage that all machines see"
        ) from None
    partial = own.with_name(f"{own.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for entry in json.loads(manifest)["cases"]:
        for name in ("image", "truth"):
            file = f"{entry['case_id']}.{name}.npy"
            shared.download(file, partial / file)
    (partial / MANIFEST).write_bytes(manifest)
    open_prepared(partial)  # raises BadData where what lies there is not whole
    shutil.rmtree(own, ignore_errors=True)  # what a crash left, without a manifest
    partial.rename(own)
